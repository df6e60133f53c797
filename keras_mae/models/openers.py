"""Encoders by what a user has: a model, or a path.

Who can read files (`keras_mae.interop`) registers itself here, so that models need not know it.
"""

import os
from collections.abc import Callable
from typing import Any

from keras_mae.types import AnyPath

_open_path = None


def register_opener(function: Callable[[AnyPath], Any]) -> None:
    """Let `open_encoder` open paths with `function`, from a path to a model."""
    global _open_path
    _open_path = function


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
