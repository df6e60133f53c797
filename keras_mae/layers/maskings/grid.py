"""Grid-wise masking: a regular lattice of patches is kept."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.layers.maskings.base import MaskingStrategy
from keras_mae.types import Tensor


@keras.saving.register_keras_serializable(package="keras_mae")
class GridMasking(MaskingStrategy):
    """Keep a regular lattice of patches: one of every 2 x 2 at ratio .75 on even grids.

    Other ratios and odd grids follow the order in which a Bayer matrix (ordered dithering) fills a
    plane as evenly as can be: 1/4 is one of every 2 x 2, 1/2 a checkerboard, 1/16 one of every
    4 x 4, and a count in between keeps part of the next lattice, itself evenly spread.

    Args:
        random_offset: bool. Whether the lattice is shifted at random for each image, so that all
            places are seen over time. If false, it starts at the top left patch and no image's
            mask is random.
    Reference: He et al. 2021, arXiv:2111.06377, figure 6 (the lattice at .75); Bayer 1973.
    """

    def __init__(self, random_offset: bool = True) -> None:
        self.random_offset = random_offset

    def noise_size(self, grid_size: tuple[int, int]) -> int:
        return 2

    def scores(self, noise: Tensor, grid_size: tuple[int, int], num_keep: int) -> Tensor:
        rows, columns = grid_size
        order = bayer_matrix(max(rows, columns))
        size = len(order)
        places = np.divmod(np.arange(rows * columns, dtype="int32")[None], columns)
        row, column = map(ops.convert_to_tensor, places)
        offset = ops.floor(noise * size) if self.random_offset else ops.zeros_like(noise)
        offset = ops.cast(offset, "int32")
        index = (row + offset[:, :1]) % size * size + (column + offset[:, 1:]) % size
        return ops.take(ops.convert_to_tensor(order.ravel(), "float32"), index)

    def get_config(self) -> dict[str, Any]:
        return {"random_offset": self.random_offset}


def bayer_matrix(least_size: int) -> np.ndarray:
    """Return the Bayer matrix of the least power of two >= `least_size`: ranks 0.. as ints."""
    matrix = np.zeros((1, 1), dtype=np.int64)
    while len(matrix) < least_size:
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    return matrix
