"""Models and images small enough to test with: a 4 x 6 grid of patches of 2 x 2 pixels."""

import numpy as np

from keras_mae import MaskedAutoencoder

IMAGE = (8, 12, 2)
GRID = (4, 6)
N, P = 24, 8
TINY = {
    "image_size": IMAGE[:2],
    "channels": IMAGE[2],
    "patch_size": 2,
    "hidden_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_hidden_dim": 12,
    "decoder_num_layers": 2,
    "decoder_num_heads": 3,
}


def tiny(**overrides):
    return MaskedAutoencoder(**{**TINY, **overrides})


def images(count=4, seed=0):
    """Smooth waves: something that can be learned."""
    rng = np.random.default_rng(seed)
    rows, columns, _ = np.indices(IMAGE)
    waves = [
        np.sin(a * rows + b * columns + c)
        for a, b, c in rng.uniform(0.2, 1.0, size=(count, 3)) * (1, 1, 6)
    ]
    return np.stack(waves).astype("float32")


def label_maps(count=4):
    """Return what a pixel's first channel is: low, middling, high; the first column is ignored."""
    labels = np.digitize(images(count)[..., 0], [-0.5, 0.5])
    labels[:, :, 0] = 255
    return labels


def objects(count=4):
    """Return one box of another class in each image, and a place of padding."""
    boxes = np.full((count, 2, 4), -1, "float32")
    boxes[:, 0] = [[i % 3, 1, 7 + i % 3, 7] for i in range(count)]
    classes = np.stack([np.arange(count) % 3, np.full(count, -1)], axis=1)
    return {"boxes": boxes, "classes": classes.astype("int32")}


def noise(model, count=4, seed=1):
    """Noise that fixes `count` masks of a model."""
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(count, model.noise_size)).astype("float32")


def shake(layer, seed=0, scale=0.2):
    """Give every trainable weight a random value, biases and scales too, so that each counts."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(np.asarray(weight) + rng.normal(size=weight.shape) * scale)
    return layer
