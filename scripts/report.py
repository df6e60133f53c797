"""Measure what an encoder is good for, for several seeds, and write a page with charts.

    python scripts/report.py --encoder=saved_models/mae_mnist5k/encoder.keras --dataset=mnist5k
    python scripts/report.py --encoder='saved_models/mae_{seed}/encoder.keras' --seeds=0,1,2
    python scripts/report.py --sweep=mask_ratio=.25,.5,.6,.75,.9 --sweep=masking=random,block,grid

Without --encoder, one is pre-trained for each seed. The page has linear probes, nearest neighbours,
full and partial fine-tuning, training from scratch, and raw pixels. The same command goes on where
it was cut; other settings add to what is there.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Its matrix products are the fastest; TensorFlow leaves them off on CPUs without AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from absl import app, flags, logging

from keras_mae.commands.report import report
from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.settings.pretrain import PRECISIONS, PretrainSettings
from keras_mae.settings.report import PARTS, ReportSettings, parse_fields, parse_sweep
from keras_mae.training.checkpoints import Interrupted

PARTS_HELP = "; ".join(f"{name}: {what}" for name, what in PARTS.items())
FLAGS = {
    flag.name: flag
    for flag in (
        flags.DEFINE_string(
            "encoder",
            None,
            "Path of an encoder; with {seed} in it, one for each seed. Default: pre-train.",
        ),
        flags.DEFINE_string("dataset", "mnist5k", "Labelled images, as of scripts/pretrain.py."),
        flags.DEFINE_list("seeds", ["0", "1", "2"], "Each is measured; the page has the spread."),
        flags.DEFINE_integer(
            "train_examples", 500, "Few labels, beside all of them; 0: all of them only."
        ),
        flags.DEFINE_list("parts", list(PARTS), f"What is measured. {PARTS_HELP}. None: none."),
        flags.DEFINE_list("ks", ["1", "5", "20", "100"], "Numbers of nearest neighbours."),
        flags.DEFINE_list(
            "trainable_blocks", None, "Of partial fine-tuning. Default: 0, 0.5, 1, 2, ... all."
        ),
        flags.DEFINE_multi_string(
            "sweep",
            [],
            "FIELD=VALUE,VALUE,...: pre-train with each value of a setting of scripts/pretrain.py, "
            "and measure each. Can be given several times.",
        ),
        flags.DEFINE_multi_string(
            "pretrain", [], "FIELD=VALUE: a setting of scripts/pretrain.py, such as epochs=100."
        ),
        flags.DEFINE_multi_string(
            "finetune", [], "FIELD=VALUE: a setting of scripts/finetune.py, for full and partial."
        ),
        flags.DEFINE_multi_string(
            "scratch", [], "The same from scratch. Default: its recipe, as long as fine-tuning."
        ),
        flags.DEFINE_float("pretrain_epochs", None, "Short for --pretrain=epochs=..."),
        flags.DEFINE_float("finetune_epochs", None, "Short for --finetune=epochs=..."),
        flags.DEFINE_enum("precision", "float32", list(PRECISIONS), "Of the computation."),
        flags.DEFINE_bool("jit", True, "Compile with XLA."),
        flags.DEFINE_string("output_dir", None, "Default: saved_models/report_DATASET."),
    )
}


def settings_of_flags():
    """Return the `ReportSettings` that the flags say."""
    values = {name: flag.value for name, flag in FLAGS.items()}
    for name, field in (("pretrain_epochs", "pretrain"), ("finetune_epochs", "finetune")):
        epochs = values.pop(name)
        if epochs is not None:
            values[field] = [*values[field], f"epochs={epochs}"]
    for name in ("seeds", "ks", "trainable_blocks"):
        values[name] = _numbers(name, values[name])
    if values["parts"] in (["none"], [""]):
        values["parts"] = []
    values["sweep"] = parse_sweep(values["sweep"])
    values["pretrain"] = parse_fields(values["pretrain"], PretrainSettings, "pretrain")
    for name in ("finetune", "scratch"):
        values[name] = parse_fields(values[name], FinetuneSettings, name)
    return ReportSettings(**values)


def _numbers(name, texts):
    try:
        return texts and [float(text) if "." in text else int(text) for text in texts]
    except ValueError:
        raise ValueError(f"`{name}` must be numbers. Received: {','.join(texts)}") from None


def main(argv):
    logging.set_verbosity(logging.WARNING)
    try:
        if argv[1:]:
            raise ValueError(f"Arguments must be flags (--name=value). Received: {argv[1:]}")
        failures = report(settings_of_flags())["failures"]
    except (Interrupted, KeyboardInterrupt) as stop:
        sys.exit(f"\n{stop or 'Stopped.'} The same command goes on from there.")
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {error}")
    if failures:
        sys.exit(f"error: {len(failures)} jobs failed or were left out; report.md names them.")


if __name__ == "__main__":
    app.run(main)
