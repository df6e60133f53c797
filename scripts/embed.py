"""Write the features of images with their names; find neighbours, copies and outliers.

The same command goes on where it was cut. Images that cannot be read are listed apart.

    python scripts/embed.py --model=saved_models/mine --dataset=folder:photos --output=photos.npz
    python scripts/embed.py --model=saved_models/mine photos --whiten=64 --neighbors=5 --outliers
    python scripts/embed.py --model=hf://facebook/vit-mae-base photos --duplicates=0.98
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("embed")
