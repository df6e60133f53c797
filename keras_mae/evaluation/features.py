"""Features of images, computed once."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_mae.types import Tensor


def extract_features(
    predict: Callable[[np.ndarray], Tensor], dataset: Iterable[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Run a predict function over a data set of (images, labels).

    Args:
        predict: function, images `(B, H, W, C)` to features `(B, D)`.
        dataset: iterable of (images, integer labels `(B,)`).
    Returns:
        `(features, labels)`: float32 `(n, D)` and int64 `(n,)`.
    Example:
        predict = lambda images: pool_tokens(encoder.predict_on_batch(images), "mean")
        features, labels = extract_features(predict, dataset)
    """
    features, labels = [], []
    for images, batch_labels in dataset:
        found = predict(np.asarray(images))  # a tensor of tf.data's: not every backend takes it
        features.append(np.asarray(keras.ops.convert_to_numpy(found), "float32"))
        labels.append(np.asarray(batch_labels))
    return np.concatenate(features), np.concatenate(labels).astype("int64")


def raw_pixels(images: Tensor, max_side: int = 32) -> np.ndarray:
    """Return images themselves as features: what any encoder has to be better than.

    Args:
        images: float array `(B, H, W, C)`.
        max_side: int. Larger images are first shrunk (antialiased) to this many pixels a side.
    Returns:
        float32 `(B, h * w * C)`.
    """
    height, width = images.shape[1:3]
    if max(height, width) > max_side:
        size = min(height, max_side), min(width, max_side)
        images = keras.ops.image.resize(images, size, antialias=True)
    images = np.asarray(keras.ops.convert_to_numpy(images), "float32")
    return images.reshape(len(images), -1)
