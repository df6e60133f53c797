"""Noise: a function of (seed, step, image), the same in every mode, other on every replica."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mae.layers import DropPath
from keras_mae.layers.randomness import fixed_uniform, global_uniform


def draws(function, count=3, seed=7):
    """Return `count` draws `(count, 4, 5)` of a generator, each by `function(draw)`."""
    generator = keras.random.SeedGenerator(seed)
    draw = function(lambda: global_uniform((4, 5), generator))
    return np.stack([np.asarray(draw()) for _ in range(count)])


def test_same_numbers_eagerly_in_a_graph_and_under_xla():
    eager = draws(lambda draw: draw)
    np.testing.assert_array_equal(draws(tf.function), eager)
    np.testing.assert_array_equal(draws(lambda draw: tf.function(draw, jit_compile=True)), eager)


def test_noise_is_uniform_and_new_at_each_step():
    generator = keras.random.SeedGenerator(0)
    noise = np.stack([global_uniform((64, 64), generator) for _ in range(2)])
    assert noise.dtype == np.float32
    assert noise.min() >= 0 and noise.max() < 1
    counts, _ = np.histogram(noise, bins=8, range=(0, 1))
    np.testing.assert_allclose(counts, 1024, atol=5 * np.sqrt(1024))
    assert (noise[0] != noise[1]).mean() > 0.99


def test_seeds_differ_and_a_seed_repeats():
    np.testing.assert_array_equal(draws(tf.function, seed=1), draws(tf.function, seed=1))
    assert (draws(tf.function, seed=1) != draws(tf.function, seed=2)).all(axis=(1, 2)).all()


def test_fixed_uniform_is_the_first_draw():
    np.testing.assert_array_equal(fixed_uniform((4, 5), 7), draws(lambda draw: draw)[0])
    np.testing.assert_array_equal(fixed_uniform((4, 5), 7), fixed_uniform((4, 5), 7))


def test_replicas_share_out_the_noise_of_the_global_batch(replicas):
    with replicas.scope():
        generator = keras.random.SeedGenerator(7)

    @tf.function
    def step():
        return replicas.run(lambda: global_uniform((2, 5), generator))

    for expected in draws(lambda draw: draw):
        parts = replicas.experimental_local_results(step())
        np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_drop_path_drops_other_images_on_each_replica(replicas):
    with replicas.scope():
        layer = DropPath(0.5, seed=3)
    one_device = DropPath(0.5, seed=3)

    @tf.function
    def step():
        return replicas.run(lambda: layer(tf.ones((16, 1)), training=True))

    parts = replicas.experimental_local_results(step())
    assert (np.asarray(parts[0]) != np.asarray(parts[1])).any()
    expected = one_device(tf.ones((32, 1)), training=True)
    np.testing.assert_array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize("seed", [-1, 2**31 - 1, 2**31 + 5])
def test_any_int_is_a_seed(seed):
    assert np.asarray(global_uniform((2, 2), keras.random.SeedGenerator(seed))).shape == (2, 2)
    assert np.asarray(fixed_uniform((2, 2), seed)).shape == (2, 2)
