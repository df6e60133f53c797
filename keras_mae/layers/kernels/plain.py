"""The parts of a block as the paper writes them; the framework makes the gradients."""

import math
from collections.abc import Callable

import keras
from keras import ops

from keras_mae.types import Tensor


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    return ops.cast(ops.layer_normalization(x, gamma, beta, -1, epsilon), x.dtype)


def dense(x: Tensor, layer: keras.layers.Dense) -> Tensor:
    return layer(x)


def gelu(x: Tensor) -> Tensor:
    # By `erf`: `ops.gelu` lowers to `erfc`, which ONNX does not have.
    half, root = ops.cast(0.5, x.dtype), ops.cast(math.sqrt(0.5), x.dtype)
    return half * x * (1 + ops.erf(x * root))


def gelu_dense(x: Tensor, layer: keras.layers.Dense) -> Tensor:
    return layer(gelu(x))


def attention(
    projected: list[Tensor],
    num_heads: int,
    attention_mask: Tensor | None,
    first_query: int,
    attend: Callable | None = None,
) -> Tensor:
    """Attend with several heads; see the door's `attention`."""
    query, key, value = _split(projected, num_heads)
    if first_query:
        query = query[:, :, first_query:]
        if attention_mask is not None:
            attention_mask = attention_mask[..., first_query:, :]
    x = ops.transpose((attend or _attend)(query, key, value, attention_mask), (0, 2, 1, 3))
    return ops.reshape(x, (-1, ops.shape(x)[1], x.shape[2] * x.shape[3]))


def _split(projected: list[Tensor], num_heads: int) -> list[Tensor]:
    """Return queries, keys and values, `(B, heads, T, d)` each, of the linear layers' outputs."""
    counts = (1, 2) if len(projected) == 2 else (3,)
    return [
        head
        for x, count in zip(projected, counts, strict=True)
        for head in _heads(x, count, num_heads)
    ]


def _heads(x: Tensor, count: int, num_heads: int) -> list[Tensor]:
    """Split `(B, T, count * D)` into `count` tensors of `(B, heads, T, d)`."""
    head_dim = x.shape[-1] // (count * num_heads)
    x = ops.reshape(x, (-1, ops.shape(x)[1], count, num_heads, head_dim))
    # Unstacked, not indexed: the gradient of an index is a tensor of zeros around it.
    return ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), count)


def weights(
    projected: list[Tensor], num_heads: int, attention_mask: Tensor | None = None
) -> Tensor:
    """Return what `attention` multiplies the values by; see the door's `attention_weights`."""
    query, key, *_ = _split(projected, num_heads)
    return attention_weights(query, key, attention_mask)


def _attend(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None) -> Tensor:
    return ops.matmul(attention_weights(query, key, attention_mask), value)


def scaled(query: Tensor) -> Tensor:
    """Return queries `(..., d)` divided by the square root of d."""
    return query * ops.cast(query.shape[-1] ** -0.5, query.dtype)


def attention_weights(query: Tensor, key: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the softmax `(B, heads, T, S)`, computed in float32."""
    query = scaled(query)
    scores = ops.cast(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))), "float32")
    if attention_mask is not None:
        scores = ops.where(attention_mask, scores, ops.cast(-1e30, "float32"))
    return ops.cast(ops.softmax(scores, axis=-1), key.dtype)
