"""Hide patches of your own pictures, and see what a pre-trained model makes of the rest.

    python scripts/reconstruct.py --model=saved_models/mae_mnist5k --image=a.png --image=b.jpg

Writes one figure: each picture, masked, and rebuilt.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import keras_mae
from keras_mae.data import evaluation_transform, load_image
from keras_mae.plots.figures import reconstruction_figure

MODEL = flags.DEFINE_string(
    "model", None, "A directory that scripts/pretrain.py wrote, or a .keras file.", required=True
)
IMAGE = flags.DEFINE_multi_string("image", [], "A picture; can be given several times.")
OUTPUT = flags.DEFINE_string("output", "reconstructions.png", "The figure to write.")
SEED = flags.DEFINE_integer("seed", 0, "Fixes which patches are hidden.")
ORACLE = flags.DEFINE_bool(
    "oracle", False, "Use the hidden patches' true mean and deviation; the figure says so."
)


def load_model(path):
    """Return the `MaskedAutoencoder` of a `.keras` file, or of a directory with `mae.keras`."""
    path = Path(path)
    file = path / "mae.keras" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"`model` must be a .keras file or a directory with mae.keras. Got: {path}"
        )
    model = keras.models.load_model(file, compile=False)
    if not isinstance(model, keras_mae.MaskedAutoencoder):
        raise ValueError(
            f"`model` must hold a MaskedAutoencoder, encoder and decoder. Received: {file}, which "
            f"holds a {type(model).__name__}"
        )
    return model


def main(argv):
    try:
        paths = IMAGE.value + argv[1:]
        if not paths:
            raise ValueError("`image` must name at least one picture.")
        model = load_model(MODEL.value)
        pixels = [
            evaluation_transform(load_image(path, model.encoder.channels), model.image_size)
            for path in paths
        ]
        images = ((np.stack(pixels) - model.mean) / model.std).astype("float32")
        statistics = "oracle" if ORACLE.value else "visible"
        reconstruction_figure(model, images, OUTPUT.value, SEED.value, statistics)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"Wrote {OUTPUT.value}")


if __name__ == "__main__":
    app.run(main)
