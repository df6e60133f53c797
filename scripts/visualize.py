"""Look inside a model, on your own pictures: attention, components, reconstructions.

    python scripts/visualize.py --model=saved_models/mae_mnist5k --image=mnist5k

Writes a figure of each into a directory.
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("visualize")
