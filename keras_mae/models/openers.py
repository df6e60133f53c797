"""Models by what a user has: a model, a path, or a name on the hub.

Who can read files (`keras_mae.interop`) registers itself here, so that models need not know it.
"""

import os
from collections.abc import Callable
from typing import Any

from keras_mae.types import AnyPath

# What a name on the Hugging Face hub begins with.
HUB_SCHEME = "hf://"

_open_path = None
_open_model = None


def register_opener(function: Callable[[AnyPath], Any]) -> None:
    """Let `open_encoder` open paths with `function`, from a path to a model."""
    global _open_path
    _open_path = function


def register_model_opener(function: Callable[..., Any]) -> None:
    """Let `open_model` open paths with `function`, from a path and overrides to a model."""
    global _open_model
    _open_model = function


def open_model(path: AnyPath, **overrides: Any) -> Any:
    """Return the model of a path that `keras_mae.load_pretrained` knows; see there.

    Raises:
        ImportError: if `keras_mae.interop` is not imported, which `import keras_mae` does.
    """
    if _open_model is None:
        raise ImportError(f"Import keras_mae before you open a path. Received: {path}")
    return _open_model(path, **overrides)


def open_encoder(source: Any) -> Any:
    """Return the encoder that `source` is, has as its `encoder`, or is a path to.

    Args:
        source: `ViTEncoder` or `SavedModelEncoder`, a model with one, or a path that
            `keras_mae.load_encoder` knows.
    Returns:
        `ViTEncoder`, or `SavedModelEncoder`.
    Raises:
        ValueError: if there is none.
    """
    if isinstance(source, str | os.PathLike) and _open_path is not None:
        source = _open_path(source)
    encoder = getattr(source, "encoder", source)
    if not callable(getattr(encoder, "adapted", None)):
        raise ValueError(
            "`encoder` must be a ViTEncoder, a model with one, or a path to either. "
            f"Received: {source!r}"
        )
    return encoder
