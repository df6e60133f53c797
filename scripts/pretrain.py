"""Pre-train a masked autoencoder on images, and keep its encoder.

    python scripts/pretrain.py
    python scripts/pretrain.py --dataset=folder:photos --preset=mae_vit_base_patch16 --epochs=400

Without flags: 5,000 embedded images of digits, some minutes on two cores. Flags can be kept in a
file, one a line, and given by --flagfile=FILE.
"""

from keras_mae.commands import run

if __name__ == "__main__":
    run("pretrain")
