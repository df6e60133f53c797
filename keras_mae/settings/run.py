"""What the settings of all runs share: data, length, devices, output, resume."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Self

from keras_mae.settings.data import DataSettings
from keras_mae.settings.fields import setting

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
RESUME = ("auto", "never")
RESIZES = ("bilinear", "bicubic")
AUGMENTATIONS = ("source", "crop", "shift", "none")
FLIPS = ("none", "horizontal", "both", "dihedral")
CACHES = ("auto", "memory", "none")

MODEL = "Model"
AUGMENTED = "Augmentation"
LENGTH = "Length and learning rate"
DEVICES = "Speed, memory and devices"
OUTPUT = "Output and resume"
EVALUATION = "Evaluation"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(DataSettings):
    """Settings of every run. None stands for a default that depends on the run."""

    batch_size: int | None = setting(
        None, "Global batch.", LENGTH, least=1, shown="the recipe's", first=4
    )
    epochs: float | None = setting(
        None, "Passes over the training images.", LENGTH, above=0, shown="the recipe's", first=3
    )
    steps: int | None = setting(
        None, "Length of the run in steps, instead of --epochs.", LENGTH, least=1, shown="by epochs"
    )
    augmentation: str | None = setting(
        None,
        "source: the data set's own; crop: a random crop, resized; shift: by some pixels; none.",
        AUGMENTED,
        choices=AUGMENTATIONS,
        shown="the data set's own",
    )
    crop_area: tuple[float, ...] | None = setting(
        None,
        "LOW,HIGH: share of the image that a random crop has.",
        AUGMENTED,
        lengths=(2, 2),
        above=0,
        most=1,
        shown="0.2,1; 0.08,1 in fine-tuning",
    )
    crop_aspect: tuple[float, ...] | None = setting(
        None,
        "LOW,HIGH: width / height of a random crop, relative to the model's.",
        AUGMENTED,
        lengths=(2, 2),
        above=0,
        shown="0.75,1.333",
    )
    flips: str | None = setting(
        None,
        "none; horizontal; both: up and down too; dihedral: the eight ways to lay down a square.",
        AUGMENTED,
        choices=FLIPS,
        shown="horizontal with crops, else none",
    )
    base_learning_rate: float | None = setting(
        None,
        "Peak for 256 images; it is scaled with the batch.",
        LENGTH,
        above=0,
        shown="the recipe's",
    )
    warmup_epochs: float | None = setting(
        None,
        "Epochs in which the learning rate rises from 0.",
        LENGTH,
        least=0,
        shown="the recipe's, at most a tenth of the run",
    )
    weight_decay: float | None = setting(
        None, "Decay of weight matrices only.", LENGTH, least=0, shown="the recipe's"
    )
    ema: float | None = setting(
        0.0,
        "Decay of averaged weights, which are then validated and kept; 0: off.",
        LENGTH,
        least=0,
        below=1,
    )
    early_stopping: int | None = setting(
        None,
        "Stop after so many validations without a lower validation loss.",
        LENGTH,
        least=1,
        shown="off",
    )
    seed: int = setting(
        0, "Fixes weights, order, augmentation and masks.", LENGTH, least=0, sweep=False
    )
    precision: str = setting(
        "float32", "Of the computation.", DEVICES, choices=tuple(PRECISIONS), first=6, sweep=False
    )
    jit: bool = setting(
        True, "Compile with XLA: the first step is slow, others faster.", DEVICES, sweep=False
    )
    accumulate_steps: int = setting(
        1,
        "Gradient accumulation: a batch goes through in so many parts, in as many times less "
        "memory.",
        DEVICES,
        least=1,
    )
    recompute: bool = setting(
        False, "Gradient checkpointing: blocks are computed again for gradients.", DEVICES
    )
    cache: str = setting(
        "auto",
        "Whether decoded images stay in memory. auto: if all need at most a quarter of what is "
        "free; memory: as many as go into three quarters; none.",
        DEVICES,
        choices=CACHES,
        fixes=False,
        sweep=False,
    )
    strategy: str = setting(
        "auto",
        "one_device; mirrored: all GPUs; multi_worker: the processes that TF_CONFIG names; tpu; "
        "auto: mirrored where there are several GPUs.",
        DEVICES,
        choices=STRATEGIES,
        sweep=False,
    )
    logical_devices: int | None = setting(
        None,
        "Split the CPU into so many, to try --strategy=mirrored without GPUs.",
        DEVICES,
        least=1,
        sweep=False,
        shown="off",
    )
    tpu: str | None = setting(
        None,
        "For --strategy=tpu: a name, an address, or local.",
        DEVICES,
        fixes=False,
        sweep=False,
        shown="none",
    )
    output_dir: str | None = setting(
        None,
        "Where the run writes.",
        OUTPUT,
        fixes=False,
        sweep=False,
        first=5,
        shown="saved_models/, named by the data set",
    )
    overwrite: bool = setting(
        False, "Empty the output directory first.", OUTPUT, fixes=False, sweep=False
    )
    resume: str = setting(
        "auto",
        "auto: a run that was cut goes on where it was. never: the directory must be empty.",
        OUTPUT,
        choices=RESUME,
        fixes=False,
        sweep=False,
    )
    checkpoint_steps: int | None = setting(
        None,
        "Steps between two checkpoints.",
        OUTPUT,
        least=1,
        fixes=False,
        sweep=False,
        shown="by minutes",
    )
    checkpoint_minutes: float | None = setting(
        10.0, "Minutes between two checkpoints.", OUTPUT, above=0, fixes=False, sweep=False
    )
    keep: int = setting(
        2, "How many checkpoints are kept.", OUTPUT, least=1, fixes=False, sweep=False
    )
    tensorboard: bool = setting(
        False,
        "Write curves and figures to OUTPUT_DIR/tensorboard, too.",
        OUTPUT,
        fixes=False,
        sweep=False,
    )
    wandb: bool = setting(
        False,
        "Send curves and figures to Weights & Biases, too; offline with WANDB_MODE=offline.",
        OUTPUT,
        fixes=False,
        sweep=False,
    )
    validation_epochs: int | None = setting(
        None,
        "Epochs between two validations.",
        EVALUATION,
        least=1,
        sweep=False,
        shown="1, more where few images are trained on",
    )

    _prefix = "run"  # of the default output directory's name

    def faults_together(self) -> Iterator[str]:
        yield from super().faults_together()
        if self.epochs is not None and self.steps is not None:
            yield (
                "`epochs` or `steps` must be given, not both. "
                f"Received: epochs={self.epochs}, steps={self.steps}"
            )
        for name in ("crop_area", "crop_aspect"):
            span = getattr(self, name)
            if span is not None and span[0] > span[1]:
                yield f"`{name}` must be LOW,HIGH with LOW at most HIGH. Received: {list(span)}"
        if self.tpu is not None and self.strategy != "tpu":
            yield (
                "`tpu` must be None unless strategy='tpu'. "
                f"Received: tpu={self.tpu!r}, strategy={self.strategy!r}"
            )

    @property
    def directory(self) -> str:
        """The output directory: `output_dir`, or one that is named by the data set."""
        return self.output_dir or f"saved_models/{self._prefix}_{words_of(self.dataset)}"

    def total_steps(self, num_examples: int) -> int:
        """Return the length of the run in steps, for a training set of `num_examples` images."""
        return self.steps or steps_of(self.epochs, num_examples, self.batch_size)

    def views(self) -> dict[str, Any]:
        """Return how training images are made, as keyword arguments of data sets."""
        own = self.augmentation in (None, "source")
        return {
            "augmentation": None if own else self.augmentation,
            "crop_area": self.crop_area,
            "crop_aspect": self.crop_aspect,
            "flips": self.flips,
        }

    def with_batch(self, batch_size: int) -> Self:
        """Return these settings with a batch."""
        return dataclasses.replace(self, batch_size=batch_size)

    def peak_learning_rate(self) -> float:
        """Return the highest learning rate, for the batch."""
        return scaled_learning_rate(self.base_learning_rate, self.batch_size)


def words_of(name: str) -> str:
    """Return a data set's name as part of a file name."""
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def steps_of(epochs: float, num_examples: int, batch_size: int) -> int:
    """Return how many steps of `batch_size` images `epochs` (a float) of a data set are.

    The one place where epochs become steps. At least 1 for any positive number of epochs.
    """
    return max(round(epochs * num_examples / batch_size), 1 if epochs > 0 else 0)


def scaled_learning_rate(base_learning_rate: float, global_batch_size: int) -> float:
    """Return `base_learning_rate * global_batch_size / 256`, the linear scaling rule.

    Reference: Goyal et al. 2017, arXiv:1706.02677, section 2.1.
    """
    return base_learning_rate * global_batch_size / 256
