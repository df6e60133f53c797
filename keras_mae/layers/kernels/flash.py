"""cuDNN's flash attention, on JAX with a GPU: no weights `(B, heads, T, S)` are ever in memory."""

from typing import Any

import keras

from keras_mae.types import Tensor

# cuDNN's gradient takes even lengths only; of multiples of 8 its products are fast.
MULTIPLE = 8


def fits(x: Tensor) -> bool:
    """Return whether a projection's gradient can go this way: half precision, on JAX, on a GPU."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    half = keras.backend.standardize_dtype(x.dtype) in ("bfloat16", "float16")
    return half and jax.default_backend() == "gpu"


def attention(
    projected: list[Tensor],
    num_heads: int,
    attention_mask: Tensor | None,
    first_query: int,
    implementation: Any = "cudnn",
) -> Tensor:
    """Attend with several heads; see the door's `attention`.

    Tokens stay where they are, `(B, T, heads, d)`: nothing is transposed. Where a length is no
    multiple of 8, zeros are appended, and masked by the lengths that are valid.

    Args:
        implementation: "cudnn", or "xla", which takes the same and runs anywhere.
    """
    import jax

    counts = (1, 2) if len(projected) == 2 else (3,)
    query, key, value = (
        x[:, :, i]
        for x, count in zip(projected, counts, strict=True)
        for x in [x.reshape(*x.shape[:2], count, num_heads, -1)]
        for i in range(count)
    )
    if first_query:
        query = query[:, first_query:]
        if attention_mask is not None:
            attention_mask = attention_mask[..., first_query:, :]
    lengths = query.shape[1], key.shape[1]
    query, key, value = _padded(query), _padded(key), _padded(value)
    options: dict[str, Any] = {}
    if (query.shape[1], key.shape[1]) != lengths:
        batch = query.shape[0]
        options["query_seq_lengths"] = jax.numpy.full((batch,), lengths[0], "int32")
        options["key_value_seq_lengths"] = jax.numpy.full((batch,), lengths[1], "int32")
    if attention_mask is not None:
        more = query.shape[1] - lengths[0], key.shape[1] - lengths[1]
        # What is appended attends to everything: a row without anything allowed has no softmax.
        mask = jax.numpy.pad(
            attention_mask, (*[(0, 0)] * 2, (0, more[0]), (0, 0)), constant_values=True
        )
        options["mask"] = jax.numpy.pad(mask, (*[(0, 0)] * 3, (0, more[1])))
    x = jax.nn.dot_product_attention(query, key, value, implementation=implementation, **options)
    x = x[:, : lengths[0]]
    return x.reshape(*x.shape[:2], -1)


def _padded(x: Tensor) -> Tensor:
    """Return `(B, T, heads, d)` with zeros appended up to a multiple of 8 tokens."""
    import jax

    short = -x.shape[1] % MULTIPLE
    return jax.numpy.pad(x, ((0, 0), (0, short), (0, 0), (0, 0))) if short else x
