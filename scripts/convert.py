"""Turn a checkpoint of one library into another's, and check what was written.

    python scripts/convert.py --source=downloads/vit-mae-base --target=mae.keras --format=keras
    python scripts/convert.py --source=saved_models/mae_mnist5k --target=mae_hf --format=hf

The source is any file or folder that `keras_mae.load_pretrained` knows. Files of PyTorch, read or
written, need `pip install "keras_mae[interop]"`.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import app, flags

import keras_mae
from keras_mae.files import save_model
from keras_mae.models.weights import get_weights

FLAGS = flags.FLAGS
flags.DEFINE_string("source", None, "The checkpoint: a file or a folder.", required=True)
flags.DEFINE_string(
    "target", None, "What to write: a new folder, or for keras a new .keras file.", required=True
)
flags.DEFINE_enum(
    "format",
    "hf",
    ["hf", "meta", "keras"],
    "hf: a folder for transformers; meta: a folder with a PyTorch file of Meta's and timm's names.",
)
flags.DEFINE_list("image_size", None, "SIDE or HEIGHT,WIDTH; positions follow.")
flags.DEFINE_integer("num_heads", None, "Of the encoder, where the source does not tell.")
flags.DEFINE_integer("decoder_num_heads", None, "Of the decoder, where the source does not tell.")


def overrides():
    """Return the flags that `load_pretrained` takes."""
    values = {"num_heads": FLAGS.num_heads, "decoder_num_heads": FLAGS.decoder_num_heads}
    if FLAGS.image_size is not None:
        sides = [int(side) for side in FLAGS.image_size]
        values["image_size"] = sides[0] if len(sides) == 1 else tuple(sides)
    return {name: value for name, value in values.items() if value is not None}


def write(model, target, format):
    if format != "keras":
        return keras_mae.save_pretrained(model, target, format)
    if not target.endswith(".keras"):
        raise ValueError(f"`target` must end in .keras for --format=keras. Received: {target}")
    if os.path.exists(target):
        raise FileExistsError(f"`target` must be new. Received: {target}")
    return save_model(model, target)


def largest_differences(model, other):
    """Return the largest absolute difference of weights, and of outputs for one random image."""
    weights, others = get_weights(model), get_weights(other)
    if set(weights) != set(others):
        raise ValueError(f"Written and read back, names differ: {set(weights) ^ set(others)}")
    encoder = getattr(model, "encoder", model)
    image = np.random.default_rng(0).normal(size=(1, *encoder.image_size, encoder.channels))
    outputs = [m(image.astype("float32")) for m in (model, other)]
    if isinstance(outputs[0], dict):
        outputs = [output["prediction"] for output in outputs]
    outputs = [np.asarray(output) for output in outputs]
    in_weights = max(float(np.abs(weights[n] - others[n]).max()) for n in weights)
    return in_weights, float(np.abs(outputs[0] - outputs[1]).max())


def main(argv):
    try:
        if argv[1:]:
            raise ValueError(f"Arguments must be flags (--name=value). Received: {argv[1:]}")
        model = keras_mae.load_pretrained(FLAGS.source, **overrides())
        print(f"{FLAGS.source}: {type(model).__name__}, {model.count_params():,} parameters")
        write(model, FLAGS.target, FLAGS.format)
        weights, outputs = largest_differences(model, keras_mae.load_pretrained(FLAGS.target))
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {error}")
    print(
        f"{FLAGS.target}: written and read back; largest difference of a weight {weights:g}, "
        f"of an output for a random image {outputs:g}"
    )
    if max(weights, outputs) > 1e-5:
        sys.exit("error: what was written is not what was read")


if __name__ == "__main__":
    app.run(main)
