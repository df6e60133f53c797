"""An encoder of digits whose every weight matters: none is zero or one, as after training."""

import json

import keras
import numpy as np

from keras_mae import ViTEncoder
from keras_mae.models.weights import named_weights

SIZES = {
    "image_size": 28,
    "channels": 1,
    "patch_size": 4,
    "hidden_dim": 32,
    "num_layers": 2,
    "num_heads": 2,
    "mean": (0.13,),
    "std": (0.31,),
}


def shake(model, seed=0):
    """Move all weights of a model by noise, and return it."""
    draw = np.random.default_rng(seed)
    for variable in named_weights(model).values():
        value = np.asarray(variable)
        variable.assign(value + 0.1 * draw.normal(size=value.shape).astype(value.dtype))
    return model


def encoder(**changes):
    """Return a small encoder of 28 x 28 x 1 images; `changes` are arguments of `ViTEncoder`."""
    keras.utils.set_random_seed(0)  # fixtures of a module are made before a test sets it
    return shake(ViTEncoder(**{**SIZES, **changes}))


def digits(count, seed=0):
    """Return `count` real digits, uint8 `(count, 28, 28, 1)`."""
    from keras_mae.data import load_source

    images = load_source("mnist5k").images
    return images[np.random.default_rng(seed).permutation(len(images))[:count]]


def normalised(model, pixels):
    """Return `((pixels - low) / (high - low) - mean) / std`, computed in float64, as float32."""
    low, high = model.value_range
    mapped = (pixels.astype("float64") - low) / (high - low)
    return ((mapped - np.array(model.mean)) / np.array(model.std)).astype("float32")


def expected(model, pixels):
    """Return a Keras encoder's tokens of pixels in its value range."""
    return np.asarray(model(normalised(model, pixels)))


def cosines(got, wanted):
    """Return the cosine of each image's values."""
    got, wanted = got.reshape(len(got), -1), wanted.reshape(len(wanted), -1)
    return (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)


def card_of(path):
    """Return the card beside an export, or in it."""
    return json.loads(((path if path.is_dir() else path.parent) / "card.json").read_text())
