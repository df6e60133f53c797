"""Pre-train a masked autoencoder on images, and keep its encoder.

    python scripts/pretrain.py
    python scripts/pretrain.py --dataset=folder:photos --preset=mae_vit_base_patch16 --epochs=400

Without flags: 5,000 embedded images of digits, some minutes on two cores. Flags can be kept in a
file, one a line, and given by --flagfile=FILE.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Its matrix products are the fastest; TensorFlow leaves them off on CPUs without AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from absl import app, flags, logging

import keras_mae
from keras_mae.data import TooManyBadImages
from keras_mae.settings.pretrain import PRECISIONS, RESUME, PretrainSettings
from keras_mae.tasks.pretrain import pretrain
from keras_mae.training import NonFiniteLossError
from keras_mae.training.checkpoints import CheckpointError, Interrupted
from keras_mae.training.devices import STRATEGIES
from keras_mae.training.workers import WorkerLostError

FLAGS = {
    flag.name: flag
    for flag in (
        flags.DEFINE_string(
            "dataset",
            "mnist5k",
            "Images: mnist5k, photos, folder:PATH, tfds:NAME[:SPLIT], tfrecord:GLOB.",
        ),
        flags.DEFINE_enum(
            "preset", "mae_vit_mini_patch4", keras_mae.list_presets(), "Architecture."
        ),
        flags.DEFINE_list("image_size", None, "SIDE or HEIGHT,WIDTH. Default: the preset's."),
        flags.DEFINE_list(
            "mask_ratio", ["0.75"], "Share of patches removed; START,END moves it over training."
        ),
        flags.DEFINE_enum("masking", "random", ["random", "block", "grid"], "Which are removed."),
        flags.DEFINE_bool("norm_pix_loss", True, "Predict patches that are normalised each."),
        flags.DEFINE_enum(
            "decoder_attention", "self", ["self", "masked", "cross"], "What the decoder attends to."
        ),
        flags.DEFINE_integer(
            "decoder_num_layers", None, "Blocks of the decoder. Default: the preset's."
        ),
        flags.DEFINE_integer("batch_size", None, "Global batch. Default: the preset's recipe."),
        flags.DEFINE_float("epochs", None, "Passes over the data. Default: the preset's recipe."),
        flags.DEFINE_integer("steps", None, "Length of the run in steps, instead of --epochs."),
        flags.DEFINE_float(
            "base_learning_rate", None, "Peak for 256 images; it is scaled with the batch."
        ),
        flags.DEFINE_float(
            "warmup_epochs", None, "Default: the preset's recipe, at most a tenth of the run."
        ),
        flags.DEFINE_float("weight_decay", 0.05, "AdamW's, of weight matrices only."),
        flags.DEFINE_enum("precision", "float32", list(PRECISIONS), "Of the computation."),
        flags.DEFINE_bool("jit", True, "Compile with XLA: the first step is slow, others faster."),
        flags.DEFINE_integer(
            "accumulate_steps", 1, "Parts a batch goes through in: as many times less memory."
        ),
        flags.DEFINE_bool("recompute", False, "Compute blocks again for gradients: less memory."),
        flags.DEFINE_integer("seed", 0, "Fixes weights, order, crops and masks."),
        flags.DEFINE_string("output_dir", None, "Default: saved_models/mae_DATASET."),
        flags.DEFINE_bool("overwrite", False, "Empty the output directory first."),
        flags.DEFINE_enum(
            "strategy",
            "auto",
            list(STRATEGIES),
            "one_device; mirrored: all GPUs; multi_worker: processes named by TF_CONFIG; tpu; "
            "auto: mirrored where there are several GPUs.",
        ),
        flags.DEFINE_string("tpu", None, "For --strategy=tpu: a name, an address, or local."),
        flags.DEFINE_integer(
            "logical_devices", None, "Split the CPU, to try --strategy=mirrored without GPUs."
        ),
        flags.DEFINE_enum("resize", "bilinear", ["bilinear", "bicubic"], "Of the random crops."),
        flags.DEFINE_integer("crops_per_image", 1, "Crops taken of each decoded image."),
        flags.DEFINE_float(
            "max_bad_fraction", 0.1, "Share of images that cannot be read at which a run stops."
        ),
        flags.DEFINE_enum(
            "resume",
            "auto",
            list(RESUME),
            "auto: a run that was cut goes on where it was. never: the directory must be empty.",
        ),
        flags.DEFINE_integer("checkpoint_steps", None, "Steps between two checkpoints."),
        flags.DEFINE_float("checkpoint_minutes", 10.0, "Minutes between two checkpoints."),
        flags.DEFINE_integer("keep", 2, "How many checkpoints are kept."),
        flags.DEFINE_bool("tensorboard", False, "Curves in OUTPUT_DIR/tensorboard, too."),
        flags.DEFINE_bool("probe", True, "Of labelled images, print accuracies at the end."),
        flags.DEFINE_integer("probe_images", 10_000, "Images, at most, for losses and table."),
    )
}


ERRORS = (
    *(ValueError, ImportError, NonFiniteLossError, TooManyBadImages, CheckpointError),
    *(WorkerLostError, OSError),
)


def main(argv):
    logging.set_verbosity(logging.WARNING)
    try:
        if argv[1:]:
            raise ValueError(f"Arguments must be flags (--name=value). Received: {argv[1:]}")
        values = {name: flag.value for name, flag in FLAGS.items()}
        values["mask_ratio"] = [float(ratio) for ratio in values["mask_ratio"]]
        if values["image_size"] is not None:
            values["image_size"] = [int(side) for side in values["image_size"]]
        pretrain(PretrainSettings(**values))
    except Interrupted as stop:
        print(f"\n{stop} The same command goes on from there.")
    except ERRORS as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main)
