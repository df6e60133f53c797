"""Block, MLP and drop path, against scalar formulas."""

import math

import numpy as np
import pytest
import tensorflow as tf

from keras_mae.layers import MLP, DropPath, TransformerBlock
from keras_mae.layers.kernels import gelu

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 8)).astype("float32")


def exact_gelu(x):
    return np.vectorize(lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))))(x)


def test_gelu_is_the_exact_one():
    x = np.linspace(-6, 6, 101).astype("float32")
    np.testing.assert_allclose(gelu(tf.constant(x)), exact_gelu(x), atol=1e-6)
    # The usual approximation is off by far more than the tolerance.
    approximation = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert np.abs(approximation - exact_gelu(x)).max() > 1e-4


def test_mlp():
    layer = MLP(16)
    layer.build(X.shape)
    layer.set_weights([RNG.normal(size=w.shape) for w in layer.weights])
    w1, b1, w2, b2 = (np.asarray(w, "float64") for w in layer.weights)
    expected = exact_gelu(X @ w1 + b1) @ w2 + b2
    np.testing.assert_allclose(layer(X), expected, rtol=1e-4, atol=1e-4)


def norm(x, scale, offset, epsilon):
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * scale + offset


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_block_is_pre_norm_with_two_residuals(epsilon):
    block = TransformerBlock(2, 16, norm_epsilon=epsilon)
    block.build(X.shape)
    block.set_weights([RNG.normal(size=w.shape) * 0.3 for w in block.weights])
    first = [np.asarray(w) for w in block.attention_norm.weights]
    second = [np.asarray(w) for w in block.mlp_norm.weights]
    middle = X + block.attention(norm(X, *first, epsilon).astype("float32")).numpy()
    expected = middle + block.mlp(norm(middle, *second, epsilon).astype("float32")).numpy()
    np.testing.assert_allclose(block(X), expected, atol=1e-4)
    np.testing.assert_allclose(block(X, first_query=2), expected[:, 2:], atol=1e-4)


def test_layer_scale_multiplies_each_branch():
    block = TransformerBlock(2, 16, layer_scale=0.5)
    block.build(X.shape)
    np.testing.assert_array_equal(block.attention_scale.gamma, np.full(8, 0.5))
    block.set_weights([RNG.normal(size=w.shape) * 0.3 for w in block.weights])
    first, second = (np.asarray(s.gamma) for s in (block.attention_scale, block.mlp_scale))
    middle = X + first * block.attention(block.attention_norm(X)).numpy()
    expected = middle + second * block.mlp(block.mlp_norm(middle)).numpy()
    np.testing.assert_allclose(block(X), expected, atol=1e-5)
    # With no scale a branch adds nothing, whatever its weights.
    for scale in (block.attention_scale, block.mlp_scale):
        scale.gamma.assign(np.zeros(8))
    np.testing.assert_array_equal(block(X, first_query=2), X[:, 2:])
    with pytest.raises(ValueError, match="`layer_scale`"):
        TransformerBlock(2, 16, layer_scale=True)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_layer_norm_moments_in_float32(policy):
    # A mean of 256 in steps of 1: squares of 65,536 overflow float16, and in bfloat16, which counts
    # in steps of 2 there, mean and variance lose their digits.
    x = (252 + np.arange(0, 16, 2)).astype("float32").reshape(1, 1, 8)
    block = TransformerBlock(2, 8, dtype=policy)
    block.build(x.shape)
    expected = (x - x.mean()) / x.std()
    np.testing.assert_allclose(
        tf.cast(block.attention_norm(x), "float32"), expected, rtol=0.02, atol=0.02
    )


def test_drop_path_drops_whole_images_and_scales_the_others():
    x = np.ones((4000, 3, 2), "float32")
    output = DropPath(0.25, seed=1)(x, training=True).numpy()
    kept = output[:, 0, 0] > 0
    np.testing.assert_allclose(output[kept], 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(output[~kept], 0)
    assert abs((~kept).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)


def test_drop_path_draws_anew_at_each_call():
    layer = DropPath(0.5)
    x = np.ones((64, 1), "float32")
    first, second = layer(x, training=True), layer(x, training=True)
    assert (np.asarray(first) != np.asarray(second)).any()


def test_drop_path_is_off_in_inference_and_at_rate_0():
    for output in (
        DropPath(0.9)(X),
        DropPath(0.9)(X, training=False),
        DropPath(0)(X, training=True),
    ):
        np.testing.assert_array_equal(output, X)


def test_the_two_branches_of_a_block_are_dropped_independently():
    block = TransformerBlock(2, 16, drop_path=0.5)
    x = np.repeat(X[:1], 256, axis=0)
    output = block(x, training=True).numpy()
    # Both kept, one of the two dropped, both dropped.
    assert len(np.unique(output[:, 0, 0].round(4))) == 4
    np.testing.assert_array_equal(block(x), block(x, training=False))


@pytest.mark.parametrize("rate", [-0.1, 1, 1.0, "half", None])
def test_errors(rate):
    with pytest.raises(ValueError, match=r"`rate` must be a float in \[0, 1\)"):
        DropPath(rate)
    with pytest.raises(ValueError, match=r"`drop_path` must be a float in \[0, 1\)"):
        TransformerBlock(2, 16, drop_path=rate)
    with pytest.raises(ValueError, match="`mlp_dim` must be an int of at least 1"):
        MLP(0)
