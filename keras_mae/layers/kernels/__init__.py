"""The door to the fast kernels: what a transformer block is made of, computed as the device likes.

`plain` are the paper's formulas. `by_hand` are the same with gradients written by hand: faster, in
less memory, on CPUs. On GPUs XLA's own gradients are faster than those. What is evaluated or
exported is always plain.
"""

import keras

from keras_mae.layers.kernels import by_hand, plain


def layer_norm(x, gamma, beta, epsilon, training=False):
    """Normalise the last axis; moments in float32.

    Args:
        x: float `(..., D)`.
        gamma, beta: float `(D,)`.
        epsilon: float. Added to the variance.
        training: bool. Whether a gradient will be wanted.
    Returns:
        float, as `x`.
    """
    return _kernels(training).layer_norm(x, gamma, beta, epsilon)


def dense(x, layer, training=False):
    """Return `layer(x)`. Of an `x` that `layer_norm` made, only what it was made of may be kept.

    Args:
        x: float `(..., D)`.
        layer: built `keras.layers.Dense` with a bias, and without an activation.
        training: bool.
    Returns:
        float `(..., F)`.
    """
    return _kernels(training).dense(x, layer)


def gelu(x, training=False):
    """Exact GELU, `x * Phi(x)`.

    Args:
        x: float, any shape.
        training: bool.
    Returns:
        float, as `x`.
    """
    return _kernels(training).gelu(x)


def gelu_dense(x, layer, training=False):
    """Return `layer(gelu(x))`; only `x` may be kept for the gradient. Arguments as `dense`'s."""
    return _kernels(training).gelu_dense(x, layer)


def attend(query, key, value, attention_mask=None, training=False):
    """Scaled dot-product attention; softmax in float32.

    Args:
        query: float `(B, heads, T, d)`.
        key, value: float `(B, heads, S, d)`.
        attention_mask: bool, broadcastable to `(B, heads, T, S)`; true where attention is allowed.
        training: bool.
    Returns:
        float `(B, heads, T, d)`.
    Reference: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1.
    """
    return _kernels(training).attend(query, key, value, attention_mask)


def _kernels(training):
    return by_hand if training and _trains_on_cpu() else plain


def _trains_on_cpu():
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return not tf.config.list_physical_devices("GPU")
    if backend == "jax":
        import jax

        return jax.default_backend() == "cpu"
    return False
