"""The schedule of the mask ratio: its levels and when they change."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mae.layers import MaskRatioSchedule


def levels(schedule, steps):
    level = tf.function(schedule.level)
    return [int(level(tf.constant(step))) for step in range(steps)]


def test_levels_by_hand():
    schedule = MaskRatioSchedule(0.5, 0.8, total_steps=8, num_levels=4)
    np.testing.assert_allclose(schedule.ratios, [0.5, 0.6, 0.7, 0.8])
    # Two steps each; the last level goes on.
    assert levels(schedule, 11) == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3]


@pytest.mark.slow
@pytest.mark.parametrize("num_levels", [2, 3, 7])
@pytest.mark.parametrize("total_steps", [2, 10, 49, 111])
def test_levels_divide_the_steps_evenly(num_levels, total_steps):
    schedule = MaskRatioSchedule(0.4, 0.9, total_steps, num_levels)
    expected = [min(step * num_levels // total_steps, num_levels - 1) for step in range(120)]
    assert levels(schedule, 120) == expected


def test_levels_late_in_a_long_run():
    schedule = MaskRatioSchedule(0.4, 0.8, total_steps=3_000_000, num_levels=3)
    for step in (999_999, 1_000_000, 1_999_999, 2_000_000, 2_999_999, 3_000_000, 2**31 - 1):
        assert int(schedule.level(step)) == min(step // 1_000_000, 2)


def test_ratio_may_fall():
    np.testing.assert_allclose(MaskRatioSchedule(0.9, 0.5, 10, 3).ratios, [0.9, 0.7, 0.5])


def test_round_trip():
    schedule = MaskRatioSchedule(0.5, 0.8, 8, 4)
    config = keras.saving.serialize_keras_object(schedule)
    assert keras.saving.deserialize_keras_object(config).get_config() == schedule.get_config()


@pytest.mark.parametrize(
    "arguments, name",
    [
        ((0, 0.5, 10), "start"),
        ((0.5, 1.0, 10), "end"),
        (("a", 0.5, 10), "start"),
        ((0.5, 0.6, 0), "total_steps"),
        ((0.5, 0.6, 10, 1), "num_levels"),
    ],
)
def test_errors(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        MaskRatioSchedule(*arguments)
