"""Export an encoder or a classifier for use without this library, and check what was written.

    python scripts/export.py --model=saved_models/mae_mnist5k --output=exported/encoder
    python scripts/export.py --model=encoder.keras --format=litert --output=exported/encoder_litert

The model is a file or folder that `keras_mae.load_pretrained` knows. Every format needs
`pip install "keras_mae[export]"`, a SavedModel only for its warm-up requests (--nowarmup).
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json

from absl import app, flags, logging

import keras_mae
from keras_mae.export import FORMATS, ExportError
from keras_mae.export.card import format_card

COMMON = {
    flag.name: flag
    for flag in (
        flags.DEFINE_string("model", None, "The model: a file or a folder.", required=True),
        flags.DEFINE_string(
            "output",
            None,
            "Directory. A SavedModel goes to its next free version, OUTPUT/1 at first; for other "
            "formats it must be new.",
            required=True,
        ),
        flags.DEFINE_enum("format", "saved_model", list(FORMATS), "What to write."),
        flags.DEFINE_list("image_size", None, "SIDE or HEIGHT,WIDTH; positions follow."),
        flags.DEFINE_string(
            "check_dataset",
            None,
            "Images compared: mnist5k, photos, folder:PATH, tfds:NAME[:SPLIT], tfrecord:GLOB. "
            "Default: embedded digits or photographs, by the model's channels.",
        ),
        flags.DEFINE_integer("num_check_images", 16, "How many of them."),
        flags.DEFINE_integer("loads", 1, "New processes that each load the file and compare."),
    )
}
# Given on only where they are set: which ones a format has, it says itself.
OF_THE_FORMAT = {
    flag.name: flag
    for flag in (
        flags.DEFINE_bool("dense", None, "saved_model: a signature of feature maps."),
        flags.DEFINE_bool("warmup", None, "saved_model: warm-up requests. Default: yes."),
        flags.DEFINE_bool(
            "whole", None, "saved_model: files are resized whole, their edges not cut off."
        ),
        flags.DEFINE_enum(
            "resize", None, ["bilinear", "bicubic"], "saved_model: of files. Default: bicubic."
        ),
        flags.DEFINE_string("quantize", None, "litert, onnx: see docs/export.md. Default: none."),
        flags.DEFINE_string(
            "representative",
            None,
            "litert, onnx: images, as --check_dataset, that set int8 scales.",
        ),
        flags.DEFINE_integer("num_representative", None, "litert, onnx: how many of those."),
        flags.DEFINE_integer("batch_size", None, "litert: the file's fixed batch. Default: 1."),
        flags.DEFINE_bool("fuse", None, "onnx: operators of ONNX Runtime alone."),
    )
}


def main(argv):
    logging.set_verbosity(logging.WARNING)
    try:
        if argv[1:]:
            raise ValueError(f"Arguments must be flags (--name=value). Received: {argv[1:]}")
        values = {name: flag.value for name, flag in COMMON.items()}
        options = {n: flag.value for n, flag in OF_THE_FORMAT.items() if flag.value is not None}
        if values["image_size"] is not None:
            sides = [int(side) for side in values["image_size"]]
            values["image_size"] = sides[0] if len(sides) == 1 else tuple(sides)
        path = keras_mae.export_encoder(
            values.pop("model"), values.pop("output"), **values, **options
        )
    except (ValueError, ImportError, OSError, ExportError) as error:
        sys.exit(f"error: {error}")
    directory = path if path.is_dir() else path.parent
    print(format_card(json.loads((directory / "card.json").read_text())))
    print(f"Written: {path}")


if __name__ == "__main__":
    app.run(main)
