"""Features of a frozen encoder, computed once."""

import numpy as np

POOLINGS = ("mean", "token")


def pool_tokens(tokens, pooling):
    """Return one feature vector an image.

    Args:
        tokens: array `(B, 1 + N, D)`, class token first.
        pooling: "mean" of the patch tokens, or the class "token".
    Returns:
        array `(B, D)`.
    Raises:
        ValueError: for another pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"`pooling` must be one of {list(POOLINGS)}. Received: {pooling!r}")
    return tokens[:, 0] if pooling == "token" else tokens[:, 1:].mean(axis=1)


def extract_features(predict, dataset, pooling="mean"):
    """Run a predict function over a data set of (images, labels).

    Args:
        predict: function, images `(B, H, W, C)` to tokens `(B, 1 + N, D)`, such as
            `encoder.predict_on_batch`.
        dataset: iterable of (images, integer labels `(B,)`).
        pooling: see `pool_tokens`.
    Returns:
        `(features, labels)`: float32 `(n, D)` and int64 `(n,)`.
    """
    features, labels = [], []
    for images, batch_labels in dataset:
        tokens = np.asarray(predict(images), "float32")
        features.append(pool_tokens(tokens, pooling))
        labels.append(np.asarray(batch_labels))
    return np.concatenate(features), np.concatenate(labels).astype("int64")


def raw_pixels(dataset):
    """Return `(pixels, labels)` of a data set: an image's values as its features, `(n, H*W*C)`."""
    images, labels = zip(*((np.asarray(x), np.asarray(y)) for x, y in dataset), strict=True)
    images = np.concatenate(images).astype("float32")
    return images.reshape(len(images), -1), np.concatenate(labels).astype("int64")
