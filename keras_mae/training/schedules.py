"""Learning rates over steps."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.settings.pretrain import PretrainSettings


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int, final: float = 0.0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a schedule: linear from 0 to `peak`, then half a cosine down to `final`.

    Args:
        peak: float. The highest learning rate, reached at step `warmup_steps`.
        warmup_steps: int. 0 starts at the peak.
        total_steps: int. Where `final` is reached.
        final: float. Learning rate from `total_steps` on.
    Returns:
        `keras.optimizers.schedules.CosineDecay`.
    Raises:
        ValueError: unless `0 <= warmup_steps < total_steps`.
    Reference: Loshchilov and Hutter 2016, arXiv:1608.03983; Goyal et al. 2017, arXiv:1706.02677.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            "`warmup_steps` must be at least 0 and less than `total_steps`. Received: "
            f"warmup_steps={warmup_steps}, total_steps={total_steps}"
        )
    warmup = {"warmup_target": peak, "warmup_steps": warmup_steps} if warmup_steps else {}
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else peak,
        decay_steps=total_steps - warmup_steps,
        alpha=final / peak if peak else 0.0,
        **warmup,
    )


@keras.saving.register_keras_serializable(package="keras_mae")
class Legs(keras.optimizers.schedules.LearningRateSchedule):
    """One schedule after the other, each from its own step 0 on.

    Args:
        starts: list of ints, growing, the first of them 0: where each schedule begins.
        schedules: list of `keras.optimizers.schedules.LearningRateSchedule`, as many.
    Call arguments:
        step: int, of the whole run.
    """

    def __init__(self, starts: Sequence[int], schedules: Sequence[Any]) -> None:
        super().__init__()
        self.starts = [int(start) for start in starts]
        self.schedules = [
            keras.saving.deserialize_keras_object(s) if isinstance(s, dict) else s
            for s in schedules
        ]

    def __call__(self, step: Any) -> Any:
        step = ops.convert_to_tensor(step)
        rate = self.schedules[0](step)
        for start, schedule in zip(self.starts[1:], self.schedules[1:], strict=True):
            rate = ops.where(step >= start, schedule(ops.maximum(step - start, 0)), rate)
        return rate

    @property
    def warmup_target(self) -> float:
        """The peak, as of the last leg."""
        last = self.schedules[-1]
        return getattr(last, "warmup_target", None) or last.initial_learning_rate

    def get_config(self) -> dict[str, Any]:
        return {
            "starts": self.starts,
            "schedules": [keras.saving.serialize_keras_object(s) for s in self.schedules],
        }


def legs_schedule(
    settings: PretrainSettings, num_examples: int, ends: Sequence[int]
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate of a run of several legs: warm-up and cosine for each.

    Args:
        settings: a complete `PretrainSettings`.
        num_examples: int, training images.
        ends: list of ints, where each leg ends, see `keras_mae.training.legs`.
    """
    starts = [0, *ends[:-1]]
    schedules = [
        warmup_cosine(
            settings.peak_learning_rate(),
            settings.warmup_steps(num_examples, end - start),
            end - start,
        )
        for start, end in zip(starts, ends, strict=True)
    ]
    return schedules[0] if len(schedules) == 1 else Legs(starts, schedules)


def run_schedule(
    settings: PretrainSettings | FinetuneSettings, num_examples: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning-rate schedule of a run: warm-up and cosine over all its steps.

    Args:
        settings: a complete `RunSettings`.
        num_examples: int, training images.
    """
    return warmup_cosine(
        settings.peak_learning_rate(),
        settings.warmup_steps(num_examples),
        settings.total_steps(num_examples),
    )
