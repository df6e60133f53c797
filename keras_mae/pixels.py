"""Pixels 0-255 to a model's normalised images, and back: the one place where it is computed."""

import numpy as np


def scale_and_offset(mean, std):
    """Return float32 arrays `(C,)` with which `pixels * scale + offset` is normalised.

    Args:
        mean, std: C floats each, of pixels in [0, 1].
    """
    mean, std = np.asarray(mean, "float64"), np.asarray(std, "float64")
    return (1 / (255 * std)).astype("float32"), (-mean / std).astype("float32")


def normalize(pixels, mean, std):
    """Return `(pixel / 255 - mean) / std`.

    Args:
        pixels: float32 array or tensor `(..., C)`, 0-255.
        mean, std: C floats each, of pixels in [0, 1].
    """
    scale, offset = scale_and_offset(mean, std)
    return pixels * scale + offset


def denormalize(images, mean, std):
    """Return normalised images `(..., C)` as pixels in [0, 1]; values outside are cut."""
    return np.clip(np.asarray(images) * np.asarray(std) + np.asarray(mean), 0, 1)
