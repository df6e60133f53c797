"""The door to the fast kernels: what a transformer block is made of, computed as the device likes.

`plain` are the paper's formulas. `by_hand` are the same with gradients written by hand: faster, in
less memory, on CPUs. On GPUs XLA's own gradients go with cuDNN's `flash` attention. What is
evaluated or exported is always plain.
"""

from types import ModuleType

import keras

from keras_mae.layers.kernels import by_hand, flash, plain
from keras_mae.types import Tensor


def layer_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, training: bool = False
) -> Tensor:
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


def dense(x: Tensor, layer: keras.layers.Dense, training: bool = False) -> Tensor:
    """Return `layer(x)`. Of an `x` that `layer_norm` made, only what it was made of may be kept.

    Args:
        x: float `(..., D)`.
        layer: built `keras.layers.Dense` with a bias, and without an activation.
        training: bool.
    Returns:
        float `(..., F)`.
    """
    return _kernels(training).dense(x, layer)


def gelu(x: Tensor, training: bool = False) -> Tensor:
    """Exact GELU, `x * Phi(x)`.

    Args:
        x: float, any shape.
        training: bool.
    Returns:
        float, as `x`.
    """
    return _kernels(training).gelu(x)


def gelu_dense(x: Tensor, layer: keras.layers.Dense, training: bool = False) -> Tensor:
    """Return `layer(gelu(x))`; only `x` may be kept for the gradient. Arguments as `dense`'s."""
    return _kernels(training).gelu_dense(x, layer)


def attention(
    projected: list[Tensor],
    num_heads: int,
    attention_mask: Tensor | None = None,
    first_query: int = 0,
    training: bool = False,
) -> Tensor:
    """Scaled dot-product attention with several heads; softmax in float32.

    Args:
        projected: list of float tensors, the linear layers' outputs: `[(B, T, 3 D)]`, queries, keys
            and values side by side; or `[(B, T, D), (B, S, 2 D)]`, queries, and keys and values.
        num_heads: int, divides D.
        attention_mask: bool, broadcastable to `(B, heads, T, S)`; true where attention is allowed.
        first_query: int. Tokens before it are keys and values only.
        training: bool.
    Returns:
        float `(B, T - first_query, D)`.
    Reference: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.
    """
    kernels = _kernels(training)
    if kernels is plain and training and flash.fits(projected[0]):
        kernels = flash
    return kernels.attention(projected, num_heads, attention_mask, first_query)


def attention_weights(
    projected: list[Tensor], num_heads: int, attention_mask: Tensor | None = None
) -> Tensor:
    """Return the weights of `attention`, to be looked at: `attention` itself keeps none.

    Args:
        projected, num_heads, attention_mask: as of `attention`.
    Returns:
        float `(B, heads, T, S)`: row t is what token t takes of each other; its sum is 1.
    """
    return plain.weights(projected, num_heads, attention_mask)


def _kernels(training: bool) -> ModuleType:
    return by_hand if training and _trains_on_cpu() else plain


def _trains_on_cpu() -> bool:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return not tf.config.list_physical_devices("GPU")
    if backend == "jax":
        import jax

        return jax.default_backend() == "cpu"
    return False
