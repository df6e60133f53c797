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
    """Raise a ValueError if images `(B, H, W, C)` are not normalised, as far as one can see."""
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
