"""From an image's tokens to one vector."""

from keras import ops

from keras_mae.types import Tensor

POOLINGS = ("token", "mean", "both")


def check_pooling(pooling: str) -> None:
    """Raise a ValueError unless `pooling` is one of the `POOLINGS`."""
    if pooling not in POOLINGS:
        raise ValueError(f"`pooling` must be one of {list(POOLINGS)}. Received: {pooling!r}")


def pooled_dim(hidden_dim: int, pooling: str) -> int:
    """Return the width of what `pool_tokens` returns for tokens of width `hidden_dim`."""
    return 2 * hidden_dim if pooling == "both" else hidden_dim


def pool_tokens(tokens: Tensor, pooling: str, num_class_tokens: int = 1) -> Tensor:
    """Return one feature vector an image.

    Args:
        tokens: tensor `(B, T + N, D)`, class tokens first.
        pooling: the class "token" (of several, their mean), the "mean" of the patches' tokens, or
            "both", in this order.
        num_class_tokens: int T.
    Returns:
        tensor `(B, D)`, or `(B, 2 D)` for both.
    Raises:
        ValueError: for another pooling.
    Reference: Caron et al. 2021, arXiv:2104.14294, section F.2, probes both.
    """
    check_pooling(pooling)
    token = tokens[:, 0]
    if num_class_tokens > 1:
        token = ops.mean(tokens[:, :num_class_tokens], axis=1)
    mean = ops.mean(tokens[:, num_class_tokens:], axis=1)
    if pooling == "both":
        return ops.concatenate([token, mean], axis=-1)
    return token if pooling == "token" else mean
