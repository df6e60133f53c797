"""Hide patches of your own pictures, and see what a pre-trained model makes of the rest.

    python scripts/reconstruct.py --model=saved_models/mae_mnist5k --image=a.png --image=b.jpg

Writes one figure: each picture, masked, and rebuilt.
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("reconstruct")
