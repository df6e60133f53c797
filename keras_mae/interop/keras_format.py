"""Our own `.keras` archives."""

import json
import zipfile
from typing import Any

import keras
import numpy as np

from keras_mae.models.autoencoder import MaskedAutoencoder
from keras_mae.models.classifier import ViTClassifier
from keras_mae.models.detector import ViTDetector
from keras_mae.models.embedder import ViTEmbedder
from keras_mae.models.encoder import ViTEncoder
from keras_mae.models.segmenter import ViTSegmenter
from keras_mae.models.weights import get_weights
from keras_mae.types import AnyPath

KINDS = {"autoencoder": MaskedAutoencoder, "encoder": ViTEncoder, "classifier": ViTClassifier}
# Opened as they are: no other library has a file of theirs.
AS_THEY_ARE = {"segmenter": ViTSegmenter, "detector": ViTDetector, "embedder": ViTEmbedder}


def kind_of(model: keras.Model) -> str:
    """Return "autoencoder", "encoder" or "classifier".

    Raises:
        ValueError: if the model is none of them.
    """
    for kind, cls in KINDS.items():
        if isinstance(model, cls):
            return kind
    raise ValueError(
        f"`model` must be one of {[cls.__name__ for cls in KINDS.values()]}. Received: {model!r}"
    )


def flat_config(model: keras.Model) -> dict[str, Any]:
    """Return a model's arguments; a classifier's and its encoder's in one dict.

    Layers' own (`name`, `dtype`, `trainable`) are left out.
    """
    config = model.get_config()
    if isinstance(model, ViTClassifier):
        encoder = model.encoder.get_config()
        config = {**encoder, **config, "image_size": encoder["image_size"]}
        config["drop_path"] = encoder["drop_path"]
        del config["encoder"]
    return {key: v for key, v in config.items() if key not in ("name", "dtype", "trainable")}


def read_keras(path: AnyPath) -> tuple[keras.Model, dict[str, np.ndarray], dict[str, Any]]:
    """Return (model, weights, config) of an archive, opened in Keras' safe mode.

    Raises:
        ValueError: if it is broken, unsafe, or not a model of this library.
    """
    expected = [f"keras_mae>{cls.__name__}" for cls in {**KINDS, **AS_THEY_ARE}.values()]
    try:
        with zipfile.ZipFile(path) as archive:
            name = json.loads(archive.read("config.json")).get("registered_name")
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"`path` is truncated or broken. Received: {path} ({error})") from error
    # Before Keras makes anything of it: a model of another library is not ours to open.
    if name not in expected:
        raise ValueError(f"`path` must hold one of {expected}. Received: {path}, a {name!r}")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (
        Exception
    ) as error:  # Keras raises TypeError, KeyError, OSError, ... for broken archives.
        raise ValueError(
            f"`path` is broken, unsafe, or needs classes that are not registered. Received: {path} "
            f"({error})"
        ) from error
    return model, get_weights(model), flat_config(model)
