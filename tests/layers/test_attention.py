"""Attention, recomputed in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mae.layers import Attention

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 8)).astype("float32")
CONTEXT = RNG.normal(size=(2, 3, 12)).astype("float32")


def naive(layer, x, context=None, mask=None):
    """Attention of one query, one head and one image at a time, in float64."""
    weights = {w.path.split("/", 1)[1]: np.asarray(w, "float64") for w in layer.weights}

    def dense(name, value):
        return value @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    dim = x.shape[-1]
    if context is None:
        query, key, value = np.split(dense("query_key_value", x), 3, axis=-1)
    else:
        query = dense("query", x)
        key, value = np.split(dense("key_value", context), 2, axis=-1)
    size = dim // layer.num_heads
    output = np.zeros(x.shape)
    for b in range(x.shape[0]):
        for h in range(layer.num_heads):
            part = slice(h * size, (h + 1) * size)
            for t in range(x.shape[1]):
                logits = key[b, :, part] @ query[b, t, part] / np.sqrt(size)
                allowed = np.ones(len(logits), bool) if mask is None else mask[b, h, t]
                exponentials = np.where(allowed, np.exp(logits - logits.max()), 0)
                output[b, t, part] = exponentials / exponentials.sum() @ value[b, :, part]
    return dense("output_projection", output)


def made(num_heads=2, cross=False):
    layer = Attention(num_heads, cross=cross)
    layer.build(X.shape, *([CONTEXT.shape] if cross else []))
    # Biases start at zero: give them values, so that they count.
    layer.set_weights([RNG.normal(size=w.shape) * 0.5 for w in layer.weights])
    return layer


@pytest.mark.parametrize("num_heads", [1, 2, 8])
def test_self_attention(num_heads):
    layer = made(num_heads)
    np.testing.assert_allclose(layer(X), naive(layer, X), atol=1e-5)


def test_cross_attention():
    layer = made(4, cross=True)
    np.testing.assert_allclose(layer(X, CONTEXT), naive(layer, X, CONTEXT), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 5, 5), (2, 1, 5, 5), (2, 2, 5, 5), (1, 1, 1, 5)])
def test_attention_mask(shape):
    layer = made(2)
    mask = RNG.uniform(size=shape) < 0.5
    mask[..., 1] = True  # nobody is left without a key
    expected = naive(layer, X, mask=np.broadcast_to(mask, (2, 2, 5, 5)))
    np.testing.assert_allclose(layer(X, attention_mask=mask), expected, atol=1e-5)


def test_first_query_gives_the_last_rows():
    layer = made(2)
    mask = RNG.uniform(size=(1, 1, 5, 5)) < 0.5
    mask |= np.eye(5, dtype=bool)
    for arguments in ({}, {"attention_mask": mask}):
        expected = layer(X, **arguments)[:, 3:]
        np.testing.assert_allclose(layer(X, first_query=3, **arguments), expected, atol=1e-6)


def test_masked_keys_have_no_influence_and_no_gradient():
    layer = made(2)
    mask = np.ones((1, 1, 5, 5), bool)
    mask[..., :4, 4] = False
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = layer(x, attention_mask=mask)[:, :4]
    gradient = tape.gradient(output, x).numpy()
    np.testing.assert_array_equal(gradient[:, 4], 0)
    assert np.abs(gradient[:, :4]).min() > 0
    other = X.copy()
    other[:, 4] += 100
    np.testing.assert_array_equal(layer(other, attention_mask=mask)[:, :4], output)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_softmax_in_float32(policy, monkeypatch):
    """TensorFlow's kernels for halves sum in float32 on some devices: so ask what it is given."""
    given, softmax = [], keras.ops.softmax
    monkeypatch.setattr(
        keras.ops, "softmax", lambda x, **kwargs: given.append(x.dtype) or softmax(x, **kwargs)
    )
    for mask in (None, np.ones((1, 1, 5, 5), bool)):
        output = Attention(2, dtype=policy)(X, attention_mask=mask)
        assert output.dtype == policy.removeprefix("mixed_")
    assert given == [tf.float32] * 2


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mean_over_many_keys_in_half_precision(policy):
    """Over 5,000 equal keys: a running sum of ones stops at 256 in bfloat16, 2,048 in float16."""
    layer = Attention(1, dtype=policy)
    x = np.ones((1, 5000, 4), "float32")
    layer.build(x.shape)
    # Queries and keys 0; values and output as they are.
    joint = np.concatenate([np.zeros((4, 8)), np.eye(4)], axis=1)
    layer.set_weights([joint, np.zeros(12), np.eye(4), np.zeros(4)])
    np.testing.assert_allclose(tf.cast(layer(x, first_query=4999), "float32"), 1, rtol=0.02)


def test_a_large_logit_does_not_overflow():
    # Logits of 1,000, whose exponentials overflow; those between keys differ by 2.
    layer = Attention(1)
    x = np.array([[[1.0, 0.0], [1.0, 1.0]]], "float32") * np.sqrt(1000)
    layer.build(x.shape)
    layer.set_weights([np.tile(np.eye(2), 3), np.zeros(6), np.eye(2), np.zeros(2)])
    assert np.isfinite(layer(x)).all()


def test_errors():
    with pytest.raises(ValueError, match="`num_heads` must divide the width.*8.*Received: 3"):
        Attention(3)(X)
    for value in (0, 1.5, True):
        with pytest.raises(ValueError, match="`num_heads` must be an int of at least 1"):
            Attention(value)
    with pytest.raises(ValueError, match="`context` must be given if and only if `cross`"):
        Attention(2)(X, CONTEXT)
    with pytest.raises(ValueError, match="`context` must be given if and only if `cross`"):
        Attention(2, cross=True)(X)
    layer = Attention(2)
    layer(X)  # built: the check must not have been in `build` only
    with pytest.raises(ValueError, match="`context` must be given if and only if `cross`"):
        layer(X, CONTEXT)
