"""Put a pre-trained encoder to work on labelled images: fine-tune, probe, neighbours.

    python scripts/finetune.py --encoder=saved_models/mae_mnist5k
    python scripts/finetune.py --encoder=saved_models/mae_mnist5k --protocol=linear
    python scripts/finetune.py --encoder=saved_models/mae_mnist5k --train_examples=500
    python scripts/finetune.py --encoder=mae_pretrain_vit_base.pth --dataset=folder:photos

Flags that are not given follow the recipe of the protocol, which is printed; docs/recipes.md says
where the recipes come from. Flags can be kept in a file, one a line, and given by --flagfile=FILE.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Its matrix products are the fastest; TensorFlow leaves them off on CPUs without AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from absl import app, flags, logging

import keras_mae
from keras_mae.data import TooManyBadImages
from keras_mae.settings.finetune import (
    AUGMENTATIONS,
    POOLINGS,
    PROTOCOLS,
    RECIPES,
    STRATEGIES,
    FinetuneSettings,
)
from keras_mae.settings.pretrain import PRECISIONS, RESUME
from keras_mae.tasks.classify import finetune
from keras_mae.training import NonFiniteLossError
from keras_mae.training.checkpoints import CheckpointError, Interrupted

FLAGS = {
    flag.name: flag
    for flag in (
        flags.DEFINE_string(
            "encoder",
            None,
            "A run's directory, a .keras file, another library's checkpoint, or a SavedModel's "
            "directory. None: a new encoder of --preset, for scratch, linear and knn.",
        ),
        flags.DEFINE_string(
            "dataset", "mnist5k", "Images with labels: mnist5k, folder:PATH, tfds:NAME, ..."
        ),
        flags.DEFINE_enum("protocol", "full", PROTOCOLS, "What is trained."),
        flags.DEFINE_enum(
            "preset",
            "mae_vit_mini_patch4",
            keras_mae.list_presets(),
            "Architecture where there is no encoder.",
        ),
        flags.DEFINE_enum(
            "recipe", None, list(RECIPES), "Default: small for images of at most 64 pixels a side."
        ),
        flags.DEFINE_integer(
            "train_examples", None, "Train on so many images, equally many a class."
        ),
        flags.DEFINE_float(
            "trainable_blocks", None, "For partial: 0, 0.5 (the MLP of the last block), 1, 2, ..."
        ),
        flags.DEFINE_integer("num_classes", None, "Outputs of the head. Default: the data's."),
        flags.DEFINE_list("image_size", None, "SIDE or HEIGHT,WIDTH. Default: the encoder's."),
        flags.DEFINE_integer("batch_size", None, "Global batch."),
        flags.DEFINE_float("epochs", None, "Passes over the training images."),
        flags.DEFINE_integer("steps", None, "Length of the run in steps, instead of --epochs."),
        flags.DEFINE_float(
            "base_learning_rate", None, "Peak for 256 images; it is scaled with the batch."
        ),
        flags.DEFINE_float("warmup_epochs", None, "Default: the recipe's share of the run."),
        flags.DEFINE_float("weight_decay", None, "Of weight matrices only."),
        flags.DEFINE_float(
            "layer_decay", None, "Each block's learning rate is so many times the next one's."
        ),
        flags.DEFINE_float("beta_2", None, "AdamW's second."),
        flags.DEFINE_float("drop_path", None, "Rate of the last block."),
        flags.DEFINE_float("label_smoothing", None, "Share of a label spread over all classes."),
        flags.DEFINE_float("mixup", None, "Alpha; 0: off."),
        flags.DEFINE_float("cutmix", None, "Alpha; 0: off."),
        flags.DEFINE_list("randaugment", None, "OPERATIONS,MAGNITUDE (0-10); 0: off."),
        flags.DEFINE_float("erasing", None, "Chance that a box of an image is erased."),
        flags.DEFINE_float("ema", None, "Decay of the averaged weights, which are kept; 0: off."),
        flags.DEFINE_enum("pooling", None, list(POOLINGS), "Class token, mean of patches, both."),
        flags.DEFINE_integer(
            "pooled_blocks", None, "So many last blocks' tokens are pooled, side by side."
        ),
        flags.DEFINE_enum("augmentation", None, AUGMENTATIONS, "source: the data set's own."),
        flags.DEFINE_enum("resize", "bicubic", ["bilinear", "bicubic"], "Of the random crops."),
        flags.DEFINE_integer(
            "feature_views", None, "Linear: augmented views of an image, computed once; 0: anew."
        ),
        flags.DEFINE_integer("validation_epochs", None, "Epochs between two validations."),
        flags.DEFINE_list("knn", ["20", "1", "5", "10", "50", "100"], "Numbers of neighbours."),
        flags.DEFINE_integer("seed", 0, "Fixes weights, order, augmentation and --train_examples."),
        flags.DEFINE_string("output_dir", None, "Default: saved_models/PROTOCOL_DATASET."),
        flags.DEFINE_bool("overwrite", False, "Empty the output directory first."),
        flags.DEFINE_enum("resume", "auto", list(RESUME), "auto: a run that was cut goes on."),
        flags.DEFINE_integer("checkpoint_steps", None, "Steps between two checkpoints."),
        flags.DEFINE_float("checkpoint_minutes", 10.0, "Minutes between two checkpoints."),
        flags.DEFINE_integer("keep", 2, "How many checkpoints are kept."),
        flags.DEFINE_enum("precision", "float32", list(PRECISIONS), "Of the computation."),
        flags.DEFINE_bool("jit", True, "Compile with XLA: the first step is slow, others faster."),
        flags.DEFINE_enum("strategy", "auto", list(STRATEGIES), "As in pretrain.py."),
        flags.DEFINE_integer("logical_devices", None, "Split the CPU, to try --strategy=mirrored."),
        flags.DEFINE_float(
            "max_bad_fraction", 0.1, "Share of images that cannot be read at which a run stops."
        ),
        flags.DEFINE_bool(
            "dry_run", False, "Print each variable's learning rate and decay; train nothing."
        ),
    )
}
ERRORS = (ValueError, ImportError, OSError, NonFiniteLossError, TooManyBadImages, CheckpointError)
LISTS = {"image_size": int, "randaugment": float, "knn": int}


def main(argv):
    logging.set_verbosity(logging.WARNING)
    try:
        if argv[1:]:
            raise ValueError(f"Arguments must be flags (--name=value). Received: {argv[1:]}")
        values = {name: flag.value for name, flag in FLAGS.items()}
        for name, kind in LISTS.items():
            if values[name] is not None:
                values[name] = [kind(value) for value in values[name]]
        finetune(FinetuneSettings(**values))
    except Interrupted as stop:
        print(f"\n{stop} The same command goes on from there.")
    except ERRORS as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main)
