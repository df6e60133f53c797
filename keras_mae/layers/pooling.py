"""From an image's tokens to one vector."""

import math
from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_mae.poolings import check_pooling, grid_cells
from keras_mae.types import Tensor

EPSILON = 1e-12  # under the root: equal tokens have a deviation of 1e-6, and a gradient


def check_grid(pooling: str, grid_size: tuple[int, int] | None) -> None:
    """Raise a ValueError if an encoder's grid of patches is too coarse for a "grid:N", or unknown.

    Args:
        pooling: see `pool_tokens`.
        grid_size: (rows, columns) of patches; None where it is not known.
    """
    check_pooling(pooling)
    cells = grid_cells(pooling)
    if cells is None:
        return
    if grid_size is None:
        raise ValueError(
            "`pooling` must not be a grid for an encoder whose patches have no known places, such "
            f"as a SavedModel without a card. Received: {pooling!r}"
        )
    if cells > min(grid_size):
        raise ValueError(
            f"`pooling` must be a grid of at most {min(grid_size)}, the patches a side. "
            f"Received: {pooling!r}"
        )


def pooled_dim(hidden_dim: int, pooling: str) -> int:
    """Return the width of what `pool_tokens` returns for tokens of width `hidden_dim`."""
    cells = grid_cells(pooling)
    if cells is not None:
        return cells * cells * hidden_dim
    return 2 * hidden_dim if pooling in ("both", "mean_std") else hidden_dim


def pool_tokens(
    tokens: Tensor,
    pooling: str,
    num_class_tokens: int = 1,
    grid_size: tuple[int, int] | None = None,
) -> Tensor:
    """Return one feature vector an image.

    Args:
        tokens: float `(B, T + N, D)`, class tokens first, then the patches, row by row.
        pooling: the class "token" (of several, their mean); the "mean" of the patches' tokens;
            "both", in this order; "mean_std", the mean and the standard deviation of the patches'
            tokens; or "grid:G", the means of G x G parts of the image, row by row.
        num_class_tokens: int T.
        grid_size: (rows, columns) of patches, for a grid; None: a square.
    Returns:
        float `(B, D)`; `(B, 2 D)` for "both" and "mean_std", `(B, G * G * D)` for "grid:G".
    Raises:
        ValueError: for another pooling, or a grid finer than the patches.
    Example:
        features = pool_tokens(encoder(images), "grid:3", grid_size=encoder.grid_size)
    Reference: Caron et al. 2021, arXiv:2104.14294, section F.2, probes "both".
    """
    check_pooling(pooling)
    patches = tokens[:, num_class_tokens:]
    cells = grid_cells(pooling)
    if cells is not None:
        if grid_size is None:
            side = math.isqrt(patches.shape[1])
            grid_size = (side, side) if side * side == patches.shape[1] else None
        check_grid(pooling, grid_size)
        means = ops.matmul(ops.cast(grid_shares(cells, grid_size or ()), tokens.dtype), patches)
        return ops.reshape(means, (-1, cells * cells * patches.shape[2]))
    mean = ops.mean(patches, axis=1)
    if pooling == "mean":
        return mean
    if pooling == "mean_std":
        variance = ops.mean(ops.square(patches - mean[:, None]), axis=1)
        return ops.concatenate([mean, ops.sqrt(variance + EPSILON)], axis=-1)
    token = tokens[:, 0]
    if num_class_tokens > 1:
        token = ops.mean(tokens[:, :num_class_tokens], axis=1)
    return token if pooling == "token" else ops.concatenate([token, mean], axis=-1)


def grid_shares(cells: int, grid_size: Sequence[int]) -> np.ndarray:
    """Return the share that each patch has in the mean of each of `cells` x `cells` equal parts.

    A patch on a border counts to both sides, each by the part of it that lies there; so the mean of
    all parts is the mean of all patches.

    Args:
        cells: int, parts a side, at most the patches a side.
        grid_size: (rows, columns) of patches.
    Returns:
        float32 `(cells * cells, N)`, rows of sum 1.
    """
    rows, columns = (_overlaps(cells, side) for side in grid_size)
    return np.kron(rows, columns).astype("float32")


def _overlaps(cells: int, side: int) -> np.ndarray:
    """(cells, side): which share of a cell each patch of a line covers."""
    # In units of 1 / (cells * side) of the line, so that all is exact.
    starts, begins = np.arange(cells)[:, None] * side, np.arange(side)[None] * cells
    overlap = np.minimum(starts + side, begins + cells) - np.maximum(starts, begins)
    return np.maximum(overlap, 0) / side
