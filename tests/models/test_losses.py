"""The loss and the target's normalisation, by hand."""

import math

import keras
import numpy as np
import pytest

from keras_mae.models import PatchReconstructionLoss, normalize_patches
from keras_mae.models.losses import patch_statistics


def test_statistics_by_hand():
    # Values 1, 2, 3, 6: mean 3; squares 4 + 1 + 0 + 9 = 14, over P - 1 = 3 (not 4).
    mean, deviation = patch_statistics(np.array([[1.0, 2, 3, 6]], "float32"))
    np.testing.assert_allclose(mean, [[3]])
    np.testing.assert_allclose(deviation, [[math.sqrt(14 / 3 + 1e-6)]], rtol=1e-6)


def test_normalised_patches_by_hand():
    patches = normalize_patches(np.array([[1.0, 2, 3, 6], [5, 5, 5, 5]], "float32"))
    deviation = math.sqrt(14 / 3)
    expected = [[-2 / deviation, -1 / deviation, 0, 3 / deviation], [0, 0, 0, 0]]
    np.testing.assert_allclose(patches, expected, atol=1e-6)


def test_flat_patches_are_not_blown_up():
    # A deviation of 1e-4 counts as sqrt(1e-8 + 1e-6): noise of that size stays below 1.
    patches = normalize_patches(np.array([[0.5, 0.5002, 0.5, 0.5002]], "float32"))
    assert np.abs(patches).max() < 0.2


def test_loss_by_hand():
    target = np.zeros((1, 2, 2), "float32")
    prediction = np.array([[[1, 3], [0, 2]]], "float32")
    # (1 + 9) / 2 = 5 and (0 + 4) / 2 = 2: the mean over patches is 3.5.
    assert float(PatchReconstructionLoss()(target, prediction)) == 3.5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_loss_in_float32(dtype):
    # 300 squared overflows float16; a mean of 4,096 squares of 1 would stop growing in bfloat16.
    target = np.zeros((1, 4096, 1), "float32")
    for value in (300.0, 1.0):
        prediction = keras.ops.cast(target + value, dtype)
        loss = PatchReconstructionLoss()(target, prediction)
        assert loss.dtype == "float32"
        assert float(loss) == pytest.approx(value**2, rel=1e-5)


def test_target_keeps_digits_that_half_precision_lacks():
    # 1 + 2^-12 and 1 are the same number in float16 and bfloat16.
    target = np.full((1, 1, 2), 1 + 2.0**-12, "float32")
    loss = PatchReconstructionLoss()(target, keras.ops.ones((1, 1, 2), "bfloat16"))
    assert float(loss) == pytest.approx(2.0**-24, rel=1e-5)


def test_config_round_trip():
    loss = PatchReconstructionLoss(name="pixels")
    config = keras.saving.serialize_keras_object(loss)
    assert keras.saving.deserialize_keras_object(config).get_config() == loss.get_config()
