"""From anything that holds an encoder to the encoder."""

import os
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_mae.files import saved_model_path
from keras_mae.interop.hub import resolve
from keras_mae.interop.load import load_pretrained
from keras_mae.models.encoder import ViTEncoder
from keras_mae.models.openers import open_encoder, register_opener
from keras_mae.models.saved_model_encoder import CARD, SavedModelEncoder
from keras_mae.types import AnyPath


def load_encoder(
    source: keras.Model | AnyPath,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    value_range: Sequence[float] | None = None,
) -> ViTEncoder | SavedModelEncoder:
    """Return the encoder that `source` is, has as its `encoder`, or is a path to.

    Args:
        source: `ViTEncoder` or `SavedModelEncoder`, a model with one, a path that
            `keras_mae.load_pretrained` knows, or a SavedModel's directory.
        mean, std, value_range: of a SavedModel that does not tell its own, see `SavedModelEncoder`.
    Returns:
        `ViTEncoder`, or `SavedModelEncoder`.
    Raises:
        ValueError: if there is none.
    Example:
        encoder = keras_mae.load_encoder("saved_models/mae_mnist5k")
        classifier = keras_mae.ViTClassifier(encoder, num_classes=10)
    """
    if isinstance(source, str | os.PathLike):
        source = resolve(source)
    if (version := saved_model_path(source)) is not None:
        known = (version / CARD).exists()
        given = () if known else (mean, std, value_range)
        return SavedModelEncoder(version, *given)
    if isinstance(source, str | os.PathLike):
        # Of a run's directory, the encoder's own file: it needs no masking of the user's.
        alone = Path(source) / "encoder.keras"
        source = load_pretrained(alone if alone.is_file() else source)
    return open_encoder(source)


register_opener(load_encoder)
