"""Which patches are kept: a strategy scores them, and one function keeps the K lowest.

The number kept is exact and static for every strategy, so that each compiles once under XLA. The
strategies are the files in `maskings/`.
"""

from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_mae import registry
from keras_mae.layers.arguments import check_positive_int, pair
from keras_mae.layers.maskings.base import MaskingStrategy
from keras_mae.types import Shape, Size, Tensor

MASKINGS = "keras_mae.layers.maskings"


def num_kept(num_patches: int, mask_ratio: float) -> int:
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


def keep_lowest(scores: Tensor, num_keep: int) -> tuple[Tensor, Tensor]:
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


def removed_mask(removed_ids: Tensor, num_patches: int) -> Tensor:
    """Return float32 `(B, N)`: 1 where a patch is in `removed_ids`, int `(B, M)`, else 0."""
    return ops.sum(ops.one_hot(removed_ids, num_patches, dtype="float32"), axis=1)


def get_masking(masking: str | dict[str, Any] | MaskingStrategy) -> MaskingStrategy:
    """Return the strategy for a name, a config, or a `MaskingStrategy` itself.

    Args:
        masking: str, a name in `maskings/` or `MODULE:CLASS`; dict, as Keras serialises a strategy;
            or a strategy, or an object with its methods.
    Raises:
        ValueError: for anything else.
    """
    if isinstance(masking, str):
        cls = registry.find(MASKINGS, masking, MaskingStrategy, "masking")
        if keras.saving.get_registered_object(keras.saving.get_registered_name(cls)) is None:
            # A user's own, which could else not be loaded from a file.
            keras.saving.register_keras_serializable(package=cls.__module__)(cls)
        return cls()
    strategy: Any = _from_config(masking) if isinstance(masking, dict) else masking
    methods = ("scores", "noise_size", "get_config")
    complete = all(callable(getattr(strategy, method, None)) for method in methods)
    if isinstance(strategy, type) or not complete:
        raise ValueError(
            f"`masking` must be one of {registry.names(MASKINGS)}, MODULE:CLASS, or an instance of "
            f"a subclass of `keras_mae.layers.MaskingStrategy`, with the methods {methods}. "
            f"Received: {strategy!r}"
        )
    return strategy


def _from_config(config: dict[str, Any]) -> Any:
    try:
        return keras.saving.deserialize_keras_object(config)
    except TypeError as error:
        # No file may import modules by itself: it could run anything.
        raise ValueError(
            "`masking` must be of a class that is known: import its module first, or construct a "
            f'model with it by `masking="MODULE:CLASS"`. Received: {config}'
        ) from error


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

    def __init__(self, start: float, end: float, total_steps: int, num_levels: int = 4) -> None:
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
    def ratios(self) -> list[float]:
        """The levels' ratios, a list of floats from `start` to `end`."""
        return [float(r) for r in np.linspace(self.start, self.end, self.num_levels)]

    def level(self, step: Tensor) -> Tensor:
        """Return the index of a step's level: int32 scalar tensor, for an int scalar `step`."""
        step = ops.minimum(ops.cast(step, "float32"), float(self.total_steps))
        level = ops.floor(step * (self.num_levels / self.total_steps))
        return ops.cast(ops.minimum(level, self.num_levels - 1.0), "int32")

    def get_config(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "end": self.end,
            "total_steps": self.total_steps,
            "num_levels": self.num_levels,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_mae")
class PatchMasking(keras.layers.Layer):
    """Choose the patches that are kept and removed, by a strategy and a number to keep.

    Args:
        grid_size: (rows, columns) of the patch grid.
        masking: "random", "block", "grid", `MODULE:CLASS`, or a `MaskingStrategy`.
        mask_ratio: float in (0, 1). Fraction of patches removed.
    Call arguments:
        noise: float32 `(B, R)`, uniform in [0, 1), `R = layer.noise_size`.
        num_keep: int, or None for the `mask_ratio`'s K.
    Returns:
        `(keep_ids, removed_ids)`: int32 `(B, K)` and `(B, N - K)`, see `keep_lowest`.
    Raises:
        ValueError: if no patch, or every patch, would be kept.
    """

    def __init__(
        self,
        grid_size: Size,
        masking: str | dict[str, Any] | MaskingStrategy = "random",
        mask_ratio: float = 0.75,
        **kwargs: Any,
    ) -> None:
        # Noise stays in float32: in half precision, many scores would tie.
        super().__init__(autocast=False, **kwargs)
        self.grid_size = pair(grid_size, "grid_size")
        self.masking = get_masking(masking)
        self.mask_ratio = mask_ratio
        self.num_keep = num_kept(self.grid_size[0] * self.grid_size[1], mask_ratio)
        # An unbuilt layer makes `fit` call the whole model symbolically first.
        self.build((None, self.noise_size))

    @property
    def noise_size(self) -> int:
        return self.masking.noise_size(self.grid_size)

    def build(self, input_shape: Shape) -> None:
        """There are no weights."""

    def call(self, noise: Tensor, num_keep: int | None = None) -> tuple[Tensor, Tensor]:
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

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        num_patches = self.grid_size[0] * self.grid_size[1]
        return (input_shape[0], self.num_keep), (input_shape[0], num_patches - self.num_keep)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # By tracing the call: what is given shapes alone does not know of `num_keep`.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "grid_size": self.grid_size,
            "masking": keras.saving.serialize_keras_object(self.masking),
            "mask_ratio": self.mask_ratio,
        }
