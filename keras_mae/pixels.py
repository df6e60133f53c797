"""Values of pixels to a model's normalised images, and back: the one place where it is computed.

A value range `(low, high)` says what values mean: an image is `((value - low) / (high - low) -
mean) / std`, mean and deviation being those of values mapped to [0, 1].
"""

import math
from collections.abc import Sequence

import numpy as np

from keras_mae.types import Tensor

BYTE_RANGE = (0.0, 255.0)
# Integers in images, narrowest first.
_INTEGERS = ("uint8", "uint16", "int16")


def check_value_range(value_range: Sequence[float]) -> tuple[float, float]:
    """Return `(low, high)` as floats.

    Raises:
        ValueError: unless these are two finite numbers, the first lower, and distinct in float32.
    """
    try:
        low, high = (float(value) for value in value_range)
        valid = math.isfinite(low) and math.isfinite(high) and np.float32(low) < np.float32(high)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            "`value_range` must be two finite numbers, the lowest and the highest value. "
            f"Received: {value_range!r}"
        )
    return low, high


def pixel_dtype(value_range: Sequence[float]) -> str:
    """Return the dtype that values of a range are stored in.

    Args:
        value_range: (low, high), see `check_value_range`.
    Returns:
        "uint8", "uint16" or "int16": the first that holds the range, where both ends are whole
        numbers more than 2 apart; else "float32", as for 0..1 and -1..1.
    """
    low, high = check_value_range(value_range)
    if low.is_integer() and high.is_integer() and high - low > 2:
        for name in _INTEGERS:
            if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
                return name
    return "float32"


def scale_and_offset(
    mean: Sequence[float] | np.ndarray,
    std: Sequence[float] | np.ndarray,
    value_range: Sequence[float] = BYTE_RANGE,
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 arrays `(C,)` with which `(values - low) * scale + offset` is normalised.

    `low` is the range's, in float32. It is to be subtracted first: in one product and one sum,
    values far from 0 would lose their last digits.

    Args:
        mean, std: C floats each, of values mapped to [0, 1].
        value_range: (low, high), what is mapped to 0 and 1.
    """
    deviation, offset = deviation_and_offset(mean, std, value_range)
    return (1 / deviation).astype("float32"), offset.astype("float32")


def deviation_and_offset(
    mean: Sequence[float] | np.ndarray,
    std: Sequence[float] | np.ndarray,
    value_range: Sequence[float] = BYTE_RANGE,
) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 arrays `(C,)` with which `(values - low) / deviation + offset` is normalised.

    See `scale_and_offset`; the deviation is in units of the values.
    """
    mean, std = np.asarray(mean, "float64"), np.asarray(std, "float64")
    low, high = check_value_range(value_range)
    span = high - low
    # What float32 cannot hold of `low`, which is subtracted in float32.
    rest = (low - float(np.float32(low))) / span
    return span * std, -(mean + rest) / std


def normalize(
    values: Tensor,
    mean: Sequence[float] | np.ndarray,
    std: Sequence[float] | np.ndarray,
    value_range: Sequence[float] = BYTE_RANGE,
) -> Tensor:
    """Return `((value - low) / (high - low) - mean) / std`.

    Args:
        values: float32 array or tensor `(..., C)`, in the value range.
        mean, std: C floats each, of values mapped to [0, 1].
        value_range: (low, high), what is mapped to 0 and 1.
    Returns:
        float32, of the shape of `values`.
    """
    scale, offset = scale_and_offset(mean, std, value_range)
    return subtract_low(values, value_range) * scale + offset


def subtract_low(values: Tensor, value_range: Sequence[float]) -> Tensor:
    """Return float32 values minus the low end of their range, as they are where that is 0."""
    low = np.float32(value_range[0])
    return values - low if low else values


def denormalize(
    images: Tensor,
    mean: Sequence[float] | np.ndarray,
    std: Sequence[float] | np.ndarray,
    value_range: Sequence[float] = (0.0, 1.0),
) -> np.ndarray:
    """Return normalised images `(..., C)` as values of a range; those outside are cut.

    Args:
        images: array `(..., C)`, normalised.
        mean, std: C floats each, of values mapped to [0, 1].
        value_range: (low, high), what 0 and 1 are mapped to.
    Returns:
        float64, in [low, high].
    """
    low, high = check_value_range(value_range)
    mapped = np.clip(np.asarray(images) * np.asarray(std) + np.asarray(mean), 0, 1)
    return low + mapped * (high - low)
