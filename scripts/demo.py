"""Serve a page on this machine: hide patches of pictures, and look inside a model.

    python scripts/demo.py --model=saved_models/mae_mnist5k

It needs `pip install "keras_mae[demo]"`.
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("demo")
