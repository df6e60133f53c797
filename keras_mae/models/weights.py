"""The weights of a model by name, and putting others in their place.

A name is a path of attributes, such as `encoder.blocks.0.attention.query_key_value.kernel`: it is
the same for a part alone, in an autoencoder and in a classifier, whatever the layers are called.
"""

import fnmatch
import logging
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.layers.resampling import is_sincos, resize_positions

logger = logging.getLogger(__name__)

_PARTS = (
    "encoder",
    "decoder",
    "whitening",
    "feature_norm",
    "head",
    "pyramid",
    "fusion",
    "fusion_norm",
    "prediction",
    "class_head",
    "box_head",
)
_TOKENS = ("class_token", "register_tokens", "mask_token", "positions.table")
_LAYERS = (
    "patch_embedding.projection",
    "projection",
    "context_norm",
    "input_norm",
    "norm",
    "prediction",
)
_BLOCK_LAYERS = (
    "attention_norm",
    "attention.query_key_value",
    "attention.query",
    "attention.key_value",
    "attention.output_projection",
    "attention_scale",
    "mlp_norm",
    "mlp.hidden",
    "mlp.output_projection",
    "mlp_scale",
)
_LEAVES = ("gamma", "beta", "moving_mean", "moving_variance", "origin", "kernel", "bias")
_LONGEST_LIST = 12
_ADVICE = "\nName them in `skip`, for instance skip=('decoder.*',), to leave them as they are."


def named_weights(model: keras.Model) -> dict[str, Any]:
    """Return all weights of an encoder, or of a model with one.

    Args:
        model: `ViTEncoder`, `MaskedAutoencoder`, `ViTClassifier`, `ViTEmbedder`, `ViTSegmenter` or
            `ViTDetector`.
    Returns:
        dict: name, such as "encoder.class_token", to Keras variable.
    """
    parts = {name: _get(model, name) for name in _PARTS}
    if not hasattr(model, "encoder"):  # it is one
        parts = {"encoder": model}
    named = {}
    for part, layer in parts.items():
        for path in _TOKENS:
            if (weight := _get(layer, path)) is not None:
                named[f"{part}.{path}"] = weight
        _add_leaves(named, part, layer)
        for path in _LAYERS:
            _add_leaves(named, f"{part}.{path}", _get(layer, path))
        for path, inner in (_get(layer, "named_parts") or {}).items():
            _add_leaves(named, f"{part}.{path}", inner)
        for i, block in enumerate(_get(layer, "blocks") or ()):
            for path in _BLOCK_LAYERS:
                _add_leaves(named, f"{part}.blocks.{i}.{path}", _get(block, path))
    return named


def _get(layer: Any, path: str) -> Any:
    try:
        return attrgetter(path)(layer)
    except AttributeError:
        return None


def _add_leaves(named: dict[str, Any], name: str, layer: Any) -> None:
    for leaf in _LEAVES:
        if (weight := _get(layer, leaf)) is not None:
            named[f"{name}.{leaf}"] = weight


def get_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Return `named_weights` as NumPy arrays."""
    return {name: ops.convert_to_numpy(weight) for name, weight in named_weights(model).items()}


def assign_weights(
    model: keras.Model,
    weights: Mapping[str, Any],
    grid_size: tuple[int, int],
    skip: str | Sequence[str] = (),
    unknown: Sequence[str] = (),
    can_skip: bool = True,
) -> None:
    """Put weights into a model, all or none.

    Position tables of another grid follow the model's: see `layers.resampling.resize_positions`.

    Args:
        model: see `named_weights`.
        weights: dict, name to array of the variable's shape.
        grid_size: (rows, columns) of the patch grid that the tables in `weights` are of.
        skip: names, or patterns with `*`, that may be missing, be left over, or not fit in shape.
            Such weights stay as they are.
        unknown: names of further weights that have no name of ours.
        can_skip: bool. Whether whoever calls can give `skip`, and the error is to say so.
    Raises:
        ValueError: if a name is missing or left over, or a shape does not fit, with all of them.
            The model is then unchanged.
    """
    skip = (skip,) if isinstance(skip, str) else tuple(skip)
    named = named_weights(model)
    weights = {n: w for n, w in weights.items() if not _matches(n, skip)}
    missing = [n for n in named if n not in weights and not _matches(n, skip)]
    left_over = [n for n in (*weights, *unknown) if n not in named and not _matches(n, skip)]
    weights = {n: _fit_positions(n, w, grid_size, model) for n, w in weights.items() if n in named}
    misfits = [
        f"{name} (expected {tuple(named[name].shape)}, received {value.shape})"
        for name, value in weights.items()
        if tuple(named[name].shape) != value.shape
    ]
    if missing or left_over or misfits:
        raise ValueError(
            f"The weights do not fit the {type(model).__name__}.\n"
            f"Missing: {_listed(missing)}\n"
            f"Left over: {_listed(left_over)}\n"
            f"Of another shape: {_listed(misfits)}" + (_ADVICE if can_skip else "")
        )
    for name, value in weights.items():
        named[name].assign(value)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = len(names) - _LONGEST_LIST
    return ", ".join(names[:_LONGEST_LIST]) + (f" and {more} more" if more > 0 else "")


def _fit_positions(
    name: str, table: Any, grid_size: tuple[int, int], model: keras.Model
) -> np.ndarray:
    """Return a position table for the model's grid, and any other weight as it is."""
    encoder = getattr(model, "encoder", model)
    if not name.endswith(".positions.table") or tuple(grid_size) == encoder.grid_size:
        return np.asarray(table)
    if is_sincos(table, grid_size):
        logger.info("%s: sine-cosine table computed for grid %s", name, encoder.grid_size)
    else:
        logger.warning(
            "%s: learned table resampled from grid %s to %s", name, grid_size, encoder.grid_size
        )
    return resize_positions(table, grid_size, encoder.grid_size)
