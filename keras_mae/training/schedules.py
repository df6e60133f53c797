"""Learning rates over steps."""

import keras

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
