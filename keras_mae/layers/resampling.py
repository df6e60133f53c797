"""Position tables for another grid of patches."""

from typing import Any

import numpy as np

from keras_mae.layers.arguments import pair
from keras_mae.layers.positions import sincos_positions
from keras_mae.types import Size

# The cubic kernel's parameter: PyTorch's, with which other libraries resample position tables.
CUBIC = -0.75
# Half precision keeps a sine to 5e-4; a table that was trained is much farther away.
SINCOS_TOLERANCE = 1e-3


def is_sincos(table: np.ndarray, grid_size: tuple[int, int]) -> bool:
    """Return whether a table `(1 + N, D)` is the fixed sine-cosine one of a grid."""
    if table.shape[1] % 4 or table.shape[0] != 1 + grid_size[0] * grid_size[1]:
        return False
    fixed = sincos_positions(table.shape[1], grid_size)
    return bool(np.abs(table - fixed).max() < SINCOS_TOLERANCE)


def resize_positions(table: Any, grid_size: Size, new_grid_size: Size) -> np.ndarray:
    """Return a position table for another grid.

    A sine-cosine table is computed anew. Any other was learned, and is resampled: bicubic in two
    dimensions, pixel centres aligned, the class token's row kept.

    Args:
        table: float `(1 + N, D)`, the class token's row first.
        grid_size: (rows, columns) of the table.
        new_grid_size: (rows, columns) wanted.
    Returns:
        float32 NumPy array `(1 + N', D)`; the table itself if the grids are equal.
    Raises:
        ValueError: if the table has not `1 + rows * columns` rows.
    """
    grid_size, new_grid_size = pair(grid_size, "grid_size"), pair(new_grid_size, "new_grid_size")
    table = np.asarray(table, "float32")
    if table.shape[0] != 1 + grid_size[0] * grid_size[1]:
        raise ValueError(
            f"`table` must have a row for the class token and each patch of the grid {grid_size}. "
            f"Received: shape {table.shape}"
        )
    if grid_size == new_grid_size:
        return table
    if is_sincos(table, grid_size):
        return sincos_positions(table.shape[1], new_grid_size)
    rows = _cubic_matrix(grid_size[0], new_grid_size[0])
    columns = _cubic_matrix(grid_size[1], new_grid_size[1])
    patches = table[1:].reshape(*grid_size, -1).astype("float64")
    patches = np.einsum("ri,cj,ijd->rcd", rows, columns, patches, optimize=True)
    return np.concatenate([table[:1], patches.reshape(-1, table.shape[1])]).astype("float32")


def _cubic_matrix(size: int, new_size: int) -> np.ndarray:
    """Return `(new_size, size)`: each output's weights of its four nearest inputs, edges repeated.

    Reference: Keys 1981, Cubic convolution interpolation for digital image processing.
    """
    matrix = np.zeros((new_size, size))
    place = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(place).astype(int)
    for step in (-1, 0, 1, 2):
        distance = np.abs(place - first - step)
        near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
        far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        index = np.clip(first + step, 0, size - 1)
        np.add.at(matrix, (np.arange(new_size), index), np.where(distance <= 1, near, far))
    return matrix
