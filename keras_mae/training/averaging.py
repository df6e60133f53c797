"""Averaged weights (EMA) in a run that validates, is cut, and goes on."""

from contextlib import contextmanager

import keras
import numpy as np


class ValidateAveraged(keras.callbacks.Callback):
    """Validate with the averages that an optimizer with `use_ema` keeps; train on with the weights.

    Keras ends each `fit` by putting the averages in the weights' place. A run that goes on with
    another `fit` needs the weights: they are put back. `use_averages` makes the change for good.
    Unlike `keras.callbacks.SwapEMAWeights`, which adds and subtracts, no bit of a weight changes.

    It belongs before the callback that saves checkpoints.
    """

    def on_test_begin(self, logs=None):
        self._keep()
        use_averages(self.model)

    def on_test_end(self, logs=None):
        self._put_back()

    def on_epoch_end(self, epoch, logs=None):
        self._keep()

    def on_train_end(self, logs=None):
        self._put_back()

    def _keep(self):
        self._weights = _values(self.model)

    def _put_back(self):
        _assign(self.model, self._weights)


@contextmanager
def averaged(model):
    """Have the averages in the place of a compiled model's weights inside; no bit changes after."""
    weights = _values(model)
    use_averages(model)
    try:
        yield
    finally:
        _assign(model, weights)


def use_averages(model):
    """Put the averages that a compiled model's optimizer keeps in the place of its weights."""
    model.optimizer.finalize_variable_values(model.trainable_variables)


def _values(model):
    return [np.array(v) for v in model.trainable_variables]


def _assign(model, values):
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)
