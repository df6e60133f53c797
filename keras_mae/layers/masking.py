"""Which patches are kept: a strategy scores them, and one function keeps the K lowest.

The number kept is exact and static for every strategy, so that each compiles once under XLA. A
strategy of a user's own is a subclass of `MaskingStrategy` with one method.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_mae.layers.arguments import check_positive_int, pair


def num_kept(num_patches, mask_ratio):
    """Return K, the number of visible patches: `int(N * (1 - mask_ratio))`.

    It is that of the reference to the last bit: 9, not 10, of 100 patches are kept at ratio .9, as
    `1 - .9` is less than .1 in floating point.

    Raises:
        ValueError: if the ratio is not in (0, 1), or no patch, or every patch, would be kept.
    """
    if isinstance(mask_ratio, bool) or not isinstance(mask_ratio, int | float):
        raise ValueError(f"`mask_ratio` must be a float in (0, 1). Received: {mask_ratio!r}")
    if not 0 < mask_ratio < 1:
        raise ValueError(f"`mask_ratio` must be in (0, 1). Received: {mask_ratio}")
    kept = int(num_patches * (1 - mask_ratio))
    if not 1 <= kept <= num_patches - 1:
        raise ValueError(
            f"`mask_ratio` must keep at least 1 and remove at least 1 of the {num_patches} patches."
            f" Received: {mask_ratio}, which keeps {kept}"
        )
    return kept


def keep_lowest(scores, num_keep):
    """Order patches by score: the K lowest are kept, the others removed.

    Args:
        scores: float32 `(B, N)`. The choice is a pure function of them.
        num_keep: int K, from 1 to N - 1.
    Returns:
        `(keep_ids, removed_ids)`: int32 `(B, K)` and `(B, N - K)`, each in ascending score, so
        that the two together are a permutation of 0..N-1.
    """
    order = ops.cast(ops.argsort(scores, axis=1), "int32")
    return order[:, :num_keep], order[:, num_keep:]


def removed_mask(removed_ids, num_patches):
    """Return float32 `(B, N)`: 1 where a patch is in `removed_ids`, int `(B, M)`, else 0."""
    return ops.sum(ops.one_hot(removed_ids, num_patches, dtype="float32"), axis=1)


class MaskingStrategy:
    """Base of all maskings: gives each patch a score, and the lowest are kept.

    To write one, override `scores` (and `noise_size` if it needs more or fewer random numbers
    than one a patch), and register the class with
    `keras.saving.register_keras_serializable` so that models which hold it can be saved.
    """

    def noise_size(self, grid_size):
        """Return R, how many uniform numbers an image's mask is made of. Default: N."""
        rows, columns = grid_size
        return rows * columns

    def scores(self, noise, grid_size, num_keep):
        """Score the patches.

        Args:
            noise: float32 `(B, R)`, uniform in [0, 1).
            grid_size: (rows, columns).
            num_keep: int K.
        Returns:
            float32 `(B, N)`; the K lowest are kept.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `scores`.")

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_mae")
class RandomMasking(MaskingStrategy):
    """Keep patches uniformly at random: the noise is the score.

    Reference: He et al. 2021, arXiv:2111.06377, section 3.
    """

    def scores(self, noise, grid_size, num_keep):
        return noise


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

    def __init__(self, min_area=16 / 196, min_aspect=0.3, num_rectangles=32):
        for name, value in (("min_area", min_area), ("min_aspect", min_aspect)):
            if not 0 < value <= 1:
                raise ValueError(f"`{name}` must be in (0, 1]. Received: {value}")
        check_positive_int(num_rectangles, "num_rectangles")
        self.min_area = min_area
        self.min_aspect = min_aspect
        self.num_rectangles = num_rectangles

    def noise_size(self, grid_size):
        rows, columns = grid_size
        return 4 * self.num_rectangles + rows * columns

    def scores(self, noise, grid_size, num_keep):
        rows, columns = grid_size
        num_patches = rows * columns
        num_remove = float(num_patches - num_keep)
        least = max(1.0, self.min_area * num_patches)
        log_aspect = math.log(1 / self.min_aspect)
        draws = ops.reshape(noise[:, num_patches:], (-1, self.num_rectangles, 4))
        row, column = np.divmod(np.arange(num_patches, dtype="float32")[None], float(columns))

        def remove_rectangle(index, score):
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

    def get_config(self):
        return {
            "min_area": self.min_area,
            "min_aspect": self.min_aspect,
            "num_rectangles": self.num_rectangles,
        }


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

    def __init__(self, random_offset=True):
        self.random_offset = random_offset

    def noise_size(self, grid_size):
        return 2

    def scores(self, noise, grid_size, num_keep):
        rows, columns = grid_size
        order = bayer_matrix(max(rows, columns))
        size = len(order)
        row, column = np.divmod(np.arange(rows * columns, dtype="int32")[None], columns)
        offset = ops.floor(noise * size) if self.random_offset else ops.zeros_like(noise)
        offset = ops.cast(offset, "int32")
        index = (row + offset[:, :1]) % size * size + (column + offset[:, 1:]) % size
        return ops.take(ops.convert_to_tensor(order.ravel(), "float32"), index)

    def get_config(self):
        return {"random_offset": self.random_offset}


def bayer_matrix(least_size):
    """Return the Bayer matrix of the least power of two >= `least_size`: ranks 0.. as ints."""
    matrix = np.zeros((1, 1), dtype=np.int64)
    while len(matrix) < least_size:
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    return matrix


STRATEGIES = {"random": RandomMasking, "block": BlockMasking, "grid": GridMasking}


def get_masking(masking):
    """Return the strategy for a name, a config, or a `MaskingStrategy` itself.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(masking, str) and masking in STRATEGIES:
        return STRATEGIES[masking]()
    if isinstance(masking, dict):
        masking = keras.saving.deserialize_keras_object(masking)
    methods = ("scores", "noise_size", "get_config")
    complete = all(callable(getattr(masking, method, None)) for method in methods)
    if isinstance(masking, type) or not complete:
        raise ValueError(
            f"`masking` must be one of {sorted(STRATEGIES)} or an instance of a subclass of "
            f"`keras_mae.layers.MaskingStrategy`, with the methods {methods}. "
            f"Received: {masking!r}"
        )
    return masking


@keras.saving.register_keras_serializable(package="keras_mae")
class MaskRatioSchedule:
    """A mask ratio that moves linearly from `start` to `end` over training, in a few levels.

    Each level is one number of visible patches, compiled once: with `num_levels=4`, `.5 -> .8`
    trains a quarter of the steps at each of .5, .6, .7 and .8.

    Args:
        start: float in (0, 1). Ratio of the first level.
        end: float in (0, 1). Ratio of the last level, and of evaluation and `reconstruct`.
        total_steps: int. Steps over which the levels are spread; the last one goes on after them.
        num_levels: int of at least 2.
    """

    def __init__(self, start, end, total_steps, num_levels=4):
        check_positive_int(total_steps, "total_steps")
        check_positive_int(num_levels, "num_levels")
        if num_levels < 2:
            raise ValueError(f"`num_levels` must be at least 2. Received: {num_levels}")
        for name, value in (("start", start), ("end", end)):
            if not isinstance(value, int | float) or not 0 < value < 1:
                raise ValueError(f"`{name}` must be a mask ratio in (0, 1). Received: {value!r}")
        self.start = start
        self.end = end
        self.total_steps = total_steps
        self.num_levels = num_levels

    @property
    def ratios(self):
        """The levels' ratios, a list of floats from `start` to `end`."""
        return [float(r) for r in np.linspace(self.start, self.end, self.num_levels)]

    def level(self, step):
        """Return the index of a step's level: int32 scalar tensor, for an int scalar `step`."""
        step = ops.minimum(ops.cast(step, "float32"), float(self.total_steps))
        level = ops.floor(step * (self.num_levels / self.total_steps))
        return ops.cast(ops.minimum(level, self.num_levels - 1.0), "int32")

    def get_config(self):
        return {
            "start": self.start,
            "end": self.end,
            "total_steps": self.total_steps,
            "num_levels": self.num_levels,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_mae")
class PatchMasking(keras.layers.Layer):
    """Choose the patches that are kept and removed, by a strategy and a number to keep.

    Args:
        grid_size: (rows, columns) of the patch grid.
        masking: "random", "block", "grid", or a `MaskingStrategy`.
        mask_ratio: float in (0, 1). Fraction of patches removed.
    Call arguments:
        noise: float32 `(B, R)`, uniform in [0, 1), `R = layer.noise_size`.
        num_keep: int, or None for the `mask_ratio`'s K.
    Returns:
        `(keep_ids, removed_ids)`: int32 `(B, K)` and `(B, N - K)`, see `keep_lowest`.
    Raises:
        ValueError: if no patch, or every patch, would be kept.
    """

    def __init__(self, grid_size, masking="random", mask_ratio=0.75, **kwargs):
        # Noise stays in float32: in half precision, many scores would tie.
        super().__init__(autocast=False, **kwargs)
        self.grid_size = pair(grid_size, "grid_size")
        self.masking = get_masking(masking)
        self.mask_ratio = mask_ratio
        self.num_keep = num_kept(self.grid_size[0] * self.grid_size[1], mask_ratio)
        # No weights to build. An unbuilt layer makes `fit` call the whole model symbolically first.
        self.built = True

    @property
    def noise_size(self):
        return self.masking.noise_size(self.grid_size)

    def call(self, noise, num_keep=None):
        num_keep = self.num_keep if num_keep is None else num_keep
        num_patches = self.grid_size[0] * self.grid_size[1]
        if tuple(noise.shape[1:]) != (self.noise_size,):
            raise ValueError(
                f"`noise` must have the shape (batch, {self.noise_size}) for {self.masking}. "
                f"Received: shape {tuple(noise.shape)}"
            )
        if not 1 <= num_keep < num_patches:
            raise ValueError(
                f"`num_keep` must be from 1 to {num_patches - 1}. Received: {num_keep}"
            )
        scores = self.masking.scores(noise, self.grid_size, num_keep)
        if tuple(scores.shape[1:]) != (num_patches,):
            raise ValueError(
                f"`masking` must score each of the {num_patches} patches: expected scores of shape "
                f"(batch, {num_patches}) of {self.masking}. Received: shape {tuple(scores.shape)}"
            )
        return keep_lowest(scores, num_keep)

    def get_config(self):
        return {
            **super().get_config(),
            "grid_size": self.grid_size,
            "masking": keras.saving.serialize_keras_object(self.masking),
            "mask_ratio": self.mask_ratio,
        }
