"""Turn a checkpoint of one library into another's, and check what was written.

    python scripts/convert.py --source=downloads/vit-mae-base --target=mae.keras --format=keras
    python scripts/convert.py --source=saved_models/mae_mnist5k --target=mae_hf --format=hf

The source is any file or folder that `keras_mae.load_pretrained` knows. Files of PyTorch, read or
written, need `pip install "keras_mae[interop]"`.
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("convert")
