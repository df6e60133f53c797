"""Checks shared by the layers: each error names the argument, what was expected and what came."""

from collections.abc import Sequence
from typing import Any

import keras


def pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """Return `value` as a `(height, width)` tuple of two positive ints.

    Args:
        value: int, or a sequence of two ints.
        name: str. The argument's name, for the error.
    Raises:
        ValueError: if `value` is neither.
    """
    values = (value, value) if isinstance(value, int) else value
    try:
        values = tuple(values)
        valid = len(values) == 2 and all(int(v) == v and v > 0 for v in values)
    except (TypeError, ValueError):
        valid = False
    if not valid or isinstance(value, bool):
        raise ValueError(
            f"`{name}` must be a positive int or a pair (height, width) of them. Received: {value}"
        )
    height, width = (int(v) for v in values)
    return height, width


def grid_size(image_size: int | Sequence[int], patch_size: int | Sequence[int]) -> tuple[int, int]:
    """Return the patch grid `(rows, columns)` of an image, or raise if patches do not tile it.

    Raises:
        ValueError: naming the side that is not a multiple of the patch.
    """
    image, patch = pair(image_size, "image_size"), pair(patch_size, "patch_size")
    for side, length, step in zip(("height", "width"), image, patch, strict=True):
        if length % step:
            raise ValueError(
                f"`image_size` must be a multiple of `patch_size`: expected a {side} divisible by "
                f"{step}. Received: {side} {length} (image_size={image_size}, "
                f"patch_size={patch_size})"
            )
    return image[0] // patch[0], image[1] // patch[1]


def check_positive_int(value: object, name: str) -> None:
    """Raise a ValueError unless `value` is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be an int of at least 1. Received: {value!r}")


def check_rate(value: object, name: str) -> None:
    """Raise a ValueError unless `value` is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be a float in [0, 1). Received: {value!r}")


def check_layer_scale(value: object) -> None:
    """Raise a ValueError unless `value` is None or a number."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"`layer_scale` must be a float or None. Received: {value!r}")


def check_dtype(dtype: Any) -> None:
    """Raise a ValueError unless `dtype` is None or a Keras policy that computes with floats."""
    try:
        valid = keras.backend.is_float_dtype(keras.dtype_policies.get(dtype).compute_dtype)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            "`dtype` must be a Keras dtype policy of floats, such as 'float32', 'mixed_bfloat16' "
            f"or 'mixed_float16'. Received: {dtype!r}"
        )
