"""Block-wise masking: rectangles of patches are removed."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.layers.arguments import check_positive_int
from keras_mae.layers.maskings.base import MaskingStrategy
from keras_mae.types import Tensor


@keras.saving.register_keras_serializable(package="keras_mae")
class BlockMasking(MaskingStrategy):
    """Remove rectangles of patches until exactly `N - K` are gone.

    Rectangles are drawn as BEiT draws them: an area uniform between a least one and what is left
    to remove, an aspect ratio log-uniform in [0.3, 1 / 0.3], a uniform place. Where BEiT stops
    short of its count, this goes on: a rectangle that would remove too many gives its first
    rows only, and patches still missing after `num_rectangles` draws are taken at random: 0.003 %
    of all patches at ratio .75 on a 14 x 14 grid, none at .4 to .6, 1.1 % at .9 (0.02 % with 64).

    Args:
        min_area: float in (0, 1). Least area, as a fraction of the grid; BEiT's 16 of 196 patches.
        min_aspect: float in (0, 1]. Least height / width; the greatest is its inverse.
        num_rectangles: int. Rectangles drawn for an image.
    Reference: Bao et al. 2021, arXiv:2106.08254, algorithm 1.
    """

    def __init__(
        self, min_area: float = 16 / 196, min_aspect: float = 0.3, num_rectangles: int = 32
    ) -> None:
        for name, value in (("min_area", min_area), ("min_aspect", min_aspect)):
            if not 0 < value <= 1:
                raise ValueError(f"`{name}` must be in (0, 1]. Received: {value}")
        check_positive_int(num_rectangles, "num_rectangles")
        self.min_area = min_area
        self.min_aspect = min_aspect
        self.num_rectangles = num_rectangles

    def noise_size(self, grid_size: tuple[int, int]) -> int:
        rows, columns = grid_size
        return 4 * self.num_rectangles + rows * columns

    def scores(self, noise: Tensor, grid_size: tuple[int, int], num_keep: int) -> Tensor:
        rows, columns = grid_size
        num_patches = rows * columns
        num_remove = float(num_patches - num_keep)
        least = max(1.0, self.min_area * num_patches)
        log_aspect = math.log(1 / self.min_aspect)
        draws = ops.reshape(noise[:, num_patches:], (-1, self.num_rectangles, 4))
        places = np.divmod(np.arange(num_patches, dtype="float32")[None], float(columns))
        row, column = map(ops.convert_to_tensor, places)

        def remove_rectangle(index: Tensor, score: Tensor) -> Tensor:
            # `score` is 0 for a patch not yet removed, else the higher the earlier it was.
            area, aspect, top, left = ops.split(ops.take(draws, index, axis=1), 4, axis=1)
            missing = num_remove - ops.sum(ops.cast(score > 0, "float32"), axis=1, keepdims=True)
            area = least + area * ops.maximum(missing - least, 0.0)
            aspect = ops.exp((2 * aspect - 1) * log_aspect)
            height = ops.clip(ops.round(ops.sqrt(area * aspect)), 1, rows)
            width = ops.clip(ops.round(ops.sqrt(area / aspect)), 1, columns)
            top = ops.floor(top * (rows - height + 1))
            left = ops.floor(left * (columns - width + 1))
            inside = (row >= top) & (row < top + height)
            inside = inside & (column >= left) & (column < left + width)
            fresh = ops.cast(inside & (score == 0), "float32")
            fresh = fresh * ops.cast(ops.cumsum(fresh, axis=1) <= missing, "float32")
            return score + fresh * (self.num_rectangles + 1.0 - ops.cast(index, "float32"))

        removed = ops.fori_loop(
            0, self.num_rectangles, remove_rectangle, ops.zeros_like(noise[:, :num_patches])
        )
        # Noise in [0, 1) orders the visible patches, and those one rectangle removed.
        return removed + noise[:, :num_patches]

    def get_config(self) -> dict[str, Any]:
        return {
            "min_area": self.min_area,
            "min_aspect": self.min_aspect,
            "num_rectangles": self.num_rectangles,
        }
