"""How a model is trained: schedules, optimizers, callbacks, the output directory."""

from keras_mae.training.callbacks import MetricsLog, NonFiniteLossError, SaveLastGood
from keras_mae.training.optimizers import LARS, make_adamw, undecayed_variables
from keras_mae.training.schedules import scaled_learning_rate, steps_of, warmup_cosine

__all__ = [
    "LARS",
    "MetricsLog",
    "NonFiniteLossError",
    "SaveLastGood",
    "make_adamw",
    "scaled_learning_rate",
    "steps_of",
    "undecayed_variables",
    "warmup_cosine",
]
