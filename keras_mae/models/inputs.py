"""What a model is given to train on: the first images of it, and whether they are normalised."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.pixels import BYTE_RANGE, normalize
from keras_mae.types import Tensor

# Normalised pixels lie within a few units of 0; pixels of 0..255 that were not normalised do not.
LARGEST_NORMALISED_PIXEL = 30.0
# How far beyond the ends of the range augmentations may bring a value.
BEYOND_THE_RANGE = 2.0
NUM_CHECKED = 8


def check_images(images: Tensor, model: Any) -> None:
    """Raise a ValueError unless `images` are of a model's size, and floats or, where fit, uint8.

    Args:
        images: `(B, H, W, C)`.
        model: what has `image_size`, `channels`, `mean`, `std` and `value_range`.
    """
    expected = (*model.image_size, model.channels)
    if len(images.shape) != 4 or tuple(images.shape[1:]) != expected:
        raise ValueError(
            f"`images` must have the shape (batch, height, width, channels) with {expected} after "
            f"the batch. Received: shape {tuple(images.shape)}"
        )
    takes_bytes = tuple(model.value_range) == BYTE_RANGE
    if not _is_float(images) and not (takes_bytes and _is_bytes(images)):
        raise ValueError(
            "`images` must be floats, ((value - low) / (high - low) - mean) / std with the model's "
            "`value_range`, `mean` and `std`, or, where that range is 0 to 255, uint8. Received: "
            f"dtype {keras.backend.standardize_dtype(images.dtype)}"
        )


def normalized(images: Tensor, model: Any) -> Tensor:
    """Return images for a model: those of uint8 normalised, in float32, others as they are.

    Args:
        images, model: as in `check_images`.
    """
    check_images(images, model)
    if not _is_bytes(images):
        return images
    return normalize(ops.cast(images, "float32"), model.mean, model.std)


def _is_float(images: Tensor) -> bool:
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(images.dtype))


def _is_bytes(images: Tensor) -> bool:
    return keras.backend.standardize_dtype(images.dtype) == "uint8"


def first_images(data: Any) -> Tensor | None:
    """Return some first images of what `fit` was given, where that can be had without a loss."""
    if hasattr(data, "element_spec") and hasattr(data, "take"):  # a tf.data.Dataset
        data = next(iter(data.take(1)), None)
    elif isinstance(data, keras.utils.PyDataset):
        data = data[0]
    data = data[0] if isinstance(data, tuple | list) and data else data
    return data[:NUM_CHECKED] if hasattr(data, "shape") and hasattr(data, "dtype") else None


def check_normalised(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    value_range: Sequence[float] = BYTE_RANGE,
) -> None:
    """Raise a ValueError if images `(B, H, W, C)` are not normalised, as far as one can see.

    Those of uint8 need not be.
    """
    if _is_bytes(images):
        return
    largest = float(np.max(np.abs(ops.convert_to_numpy(images).astype("float32")), initial=0.0))
    # A sensor that uses a small part of its range has a small deviation, and bright spots far out.
    ends = normalize(np.asarray(value_range, "float32")[:, None], mean, std, value_range)
    limit = max(LARGEST_NORMALISED_PIXEL, BEYOND_THE_RANGE * float(np.abs(ends).max()))
    if not largest <= limit:
        low, high = value_range
        raise ValueError(
            f"`x` must hold normalised images, ((value - {low:g}) / {high - low:g} - mean) / std "
            f"with the model's mean {mean} and std {std}. Received: values up to {largest:g}"
        )
