"""Pixels 0-255 to a model's normalised images, and back: the one place where it is computed."""

from collections.abc import Sequence

import numpy as np

from keras_mae.types import Tensor


def scale_and_offset(
    mean: Sequence[float] | np.ndarray, std: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 arrays `(C,)` with which `pixels * scale + offset` is normalised.

    Args:
        mean, std: C floats each, of pixels in [0, 1].
    """
    mean, std = np.asarray(mean, "float64"), np.asarray(std, "float64")
    return (1 / (255 * std)).astype("float32"), (-mean / std).astype("float32")


def normalize(
    pixels: Tensor, mean: Sequence[float] | np.ndarray, std: Sequence[float] | np.ndarray
) -> Tensor:
    """Return `(pixel / 255 - mean) / std`.

    Args:
        pixels: float32 array or tensor `(..., C)`, 0-255.
        mean, std: C floats each, of pixels in [0, 1].
    """
    scale, offset = scale_and_offset(mean, std)
    return pixels * scale + offset


def denormalize(
    images: Tensor, mean: Sequence[float] | np.ndarray, std: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Return normalised images `(..., C)` as pixels in [0, 1]; values outside are cut."""
    return np.clip(np.asarray(images) * np.asarray(std) + np.asarray(mean), 0, 1)
