"""Features of a frozen encoder, computed once."""

import keras
import numpy as np

from keras_mae.layers.pooling import pool_tokens


def extract_features(predict, dataset, pooling="mean"):
    """Run a predict function over a data set of (images, labels).

    Args:
        predict: function, images `(B, H, W, C)` to tokens `(B, 1 + N, D)`, such as
            `encoder.predict_on_batch`.
        dataset: iterable of (images, integer labels `(B,)`).
        pooling: see `pool_tokens`.
    Returns:
        `(features, labels)`: float32 `(n, D)`, or `(n, 2 D)`, and int64 `(n,)`.
    """
    features, labels = [], []
    for images, batch_labels in dataset:
        tokens = np.asarray(predict(np.asarray(images)), "float32")
        features.append(np.asarray(pool_tokens(tokens, pooling)))
        labels.append(np.asarray(batch_labels))
    return np.concatenate(features), np.concatenate(labels).astype("int64")


def raw_pixels(dataset, max_side=32):
    """Return the images themselves as features: what any encoder has to be better than.

    Args:
        dataset: iterable of (images `(B, H, W, C)`, integer labels `(B,)`).
        max_side: int. Larger images are first shrunk (antialiased) to this many pixels a side.
    Returns:
        `(pixels, labels)`: float32 `(n, h * w * C)` and int64 `(n,)`.
    """
    features, labels = [], []
    for images, batch_labels in dataset:
        images = np.asarray(images)  # a tensor of tf.data's: not every backend takes it
        height, width = images.shape[1:3]
        if max(height, width) > max_side:
            size = min(height, max_side), min(width, max_side)
            images = keras.ops.image.resize(images, size, antialias=True)
        images = np.asarray(images, "float32")
        features.append(images.reshape(len(images), -1))
        labels.append(np.asarray(batch_labels))
    return np.concatenate(features), np.concatenate(labels).astype("int64")
