"""How a model is trained: schedules, optimizers, callbacks, the output directory."""

from keras_mae.errors import NonFiniteLossError
from keras_mae.settings.run import scaled_learning_rate, steps_of
from keras_mae.training.callbacks import MetricsLog, SaveLastGood
from keras_mae.training.optimizers import LARS, make_adamw, undecayed_variables
from keras_mae.training.schedules import warmup_cosine

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
