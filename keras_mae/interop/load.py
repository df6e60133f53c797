"""From a checkpoint to a model."""

import inspect
import logging
import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_mae.interop.keras_format import DENSE, KINDS, kind_of
from keras_mae.interop.read import Checkpoint, read_checkpoint
from keras_mae.layers.arguments import grid_size, pair
from keras_mae.layers.resampling import is_sincos
from keras_mae.models.weights import assign_weights
from keras_mae.presets import list_presets, preset_config
from keras_mae.types import AnyPath, Size

logger = logging.getLogger(__name__)

_TABLE = "encoder.positions.table"


def load_pretrained(path: AnyPath, **overrides: Any) -> keras.Model:
    """Make a model of a checkpoint, whoever wrote it.

    Known, by content: this library's `.keras`; transformers' ViTMAEForPreTraining, ViTMAEModel and
    ViTForImageClassification; Meta's pre-trained (with and without decoder), fine-tuned and
    linear-probe files; timm's vision transformers. Sizes are read from the weights, numbers of
    heads from the config beside them or the preset of the same width and depth.

    Args:
        path: str or path, a file or a folder.
        **overrides: arguments of the model, in place of the checkpoint's: `image_size` (positions
            follow, see `keras_mae.layers.resampling`), `num_heads`, `mask_ratio`, `drop_path`,
            `dtype`, ...
    Returns:
        `MaskedAutoencoder` where there is a decoder, `ViTClassifier` where there is a head,
        `ViTSegmenter` or `ViTDetector` of their `.keras` files, else `ViTEncoder`. Where a file
        does not say, pixels are 0-255 and normalised with ImageNet's statistics (three channels),
        and a decoder predicts raw pixels, as the reference's does by default.
    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it is broken, unsafe, of another architecture, or `overrides` do not fit.
        ImportError: for a PyTorch file where torch is not installed.
    """
    checkpoint = read_checkpoint(path)
    if overrides and isinstance(checkpoint.model, tuple(DENSE.values())):
        raise ValueError(
            f"`overrides` must be left out for a {type(checkpoint.model).__name__}: make a new one "
            f"of its encoder. Received: {sorted(overrides)}"
        )
    kind = _kind(checkpoint)
    _check_overrides(kind, overrides)
    if checkpoint.model is not None and not overrides:
        return checkpoint.model
    grid = _source_grid(checkpoint, overrides.get("image_size"))
    config = {**_sizes(checkpoint, grid), **checkpoint.config, **overrides}
    if kind == "autoencoder":
        config.setdefault("norm_pix_loss", False)
    model = _build(kind, {**config, **_heads(kind, config)})
    assign_weights(model, checkpoint.weights, grid, unknown=checkpoint.unknown)
    return model


def load_weights_into(model: keras.Model, path: AnyPath, skip: str | Sequence[str] = ()) -> None:
    """Put a checkpoint's weights into an existing model, all or none.

    Args:
        model: `MaskedAutoencoder`, `ViTEncoder` or `ViTClassifier`.
        path: what `load_pretrained` knows.
        skip: names, or patterns with `*`, of weights that may be missing, be left over, or have
            another shape: they stay as they are. `("decoder.*",)` for a file without a decoder, or
            a model without one; `("head.*",)` for other classes.
    Raises:
        ValueError: if names or shapes do not fit, with all of them; the model is then unchanged.
            If a number of heads, which no weight tells, is another than the checkpoint's.
    """
    kind_of(model)
    checkpoint = read_checkpoint(path)
    encoder = getattr(model, "encoder", model)
    parts: tuple[tuple[str, Any], ...] = (
        ("num_heads", encoder),
        ("decoder_num_heads", getattr(model, "decoder", None)),
    )
    for key, part in parts:
        heads = checkpoint.config.get(key)
        if None not in (heads, part) and heads != part.num_heads:
            raise ValueError(
                f"`model` must have {key}={heads}, as {path} has. Received: {part.num_heads}"
            )
    grid = _source_grid(checkpoint, encoder.image_size)
    assign_weights(model, checkpoint.weights, grid, skip=skip, unknown=checkpoint.unknown)


def _kind(checkpoint: Checkpoint) -> str:
    if any(name.startswith("decoder.") for name in checkpoint.weights):
        return "autoencoder"
    return "classifier" if "head.kernel" in checkpoint.weights else "encoder"


def _arguments(cls: Any) -> set[str]:
    names = {*inspect.signature(cls.__init__).parameters, "name", "dtype"}
    return names - {"self", "kwargs", "encoder"}


def _check_overrides(kind: str, overrides: dict[str, Any]) -> None:
    valid = _arguments(KINDS[kind])
    if kind == "classifier":
        valid |= _arguments(KINDS["encoder"])
    unknown = sorted(set(overrides) - valid)
    if unknown:
        raise ValueError(
            f"`overrides` must be among {sorted(valid)}, as the checkpoint is of kind {kind!r}. "
            f"Received: {unknown}"
        )


def _source_grid(checkpoint: Checkpoint, image_size: Size | None) -> tuple[int, int]:
    """Return the grid (rows, columns) of the checkpoint's position tables.

    Args:
        image_size: what the model is to have; for a checkpoint that does not tell its own.
    """
    table, patch = checkpoint.weights.get(_TABLE), checkpoint.config.get("patch_size")
    if table is None or patch is None:
        raise ValueError(f"`path` must hold {_TABLE} and a patch projection. It does not")
    count = len(table) - 1
    if "image_size" in checkpoint.config:
        grid = grid_size(checkpoint.config["image_size"], patch)
        if grid[0] * grid[1] != count:
            raise ValueError(
                f"`path` contradicts itself: its image size {checkpoint.config['image_size']} has "
                f"{grid[0] * grid[1]} patches, and its position table {count}"
            )
        return grid
    side = math.isqrt(count)
    square = (side, side) if side * side == count else None
    wanted = grid_size(image_size, patch) if image_size is not None else None
    fits = wanted is not None and wanted[0] * wanted[1] == count
    if square and (not fits or is_sincos(table, square)):
        return square
    if wanted is not None and fits:
        return wanted
    raise ValueError(
        f"`image_size` must be given: {count} patches do not make a square, and the checkpoint "
        f"does not tell its own. Expected one of {count} patches. Received: {image_size}"
    )


def _sizes(checkpoint: Checkpoint, grid: tuple[int, int]) -> dict[str, Any]:
    """Return the arguments that the shapes of the weights tell."""
    weights, patch = checkpoint.weights, pair(checkpoint.config["patch_size"], "patch_size")
    config: dict[str, Any] = {"image_size": (grid[0] * patch[0], grid[1] * patch[1])}
    for prefix, part in (("", "encoder"), ("decoder_", "decoder")):
        if f"{part}.positions.table" in weights:
            blocks = [n.split(".")[2] for n in weights if n.startswith(f"{part}.blocks.")]
            config[f"{prefix}hidden_dim"] = weights[f"{part}.positions.table"].shape[1]
            config[f"{prefix}num_layers"] = 1 + max(map(int, blocks), default=-1)
            hidden = weights.get(f"{part}.blocks.0.mlp.hidden.kernel")
            if hidden is not None:
                config[f"{prefix}mlp_dim"] = hidden.shape[1]
    if "head.kernel" in weights:
        config["num_classes"] = weights["head.kernel"].shape[1]
        names = {n.rpartition(".")[2] for n in weights if n.startswith("feature_norm.")}
        own_norm = "layer" if "gamma" in names else "batch"
        config["head_norm"] = own_norm if names else None
        # The reference's own norm goes with mean pooling; its probe looks at the class token.
        config["pooling"] = "mean" if config["head_norm"] == "layer" else "token"
        config["final_norm"] = "encoder.norm.gamma" in weights
    return config


def _heads(kind: str, config: dict[str, Any]) -> dict[str, int]:
    """Return the numbers of heads that the config lacks, by the presets of the same sizes."""
    found = {}
    for prefix in ("", "decoder_") if kind == "autoencoder" else ("",):
        key, sizes = f"{prefix}num_heads", (f"{prefix}hidden_dim", f"{prefix}num_layers")
        if key in config:
            continue
        presets = [preset_config(name) for name in list_presets()]
        fitting = {p[key] for p in presets if all(p[s] == config.get(s) for s in sizes)}
        if len(fitting) != 1:
            raise ValueError(
                f"`{key}` must be given: weights do not tell it, and no preset has "
                f"{' and '.join(f'{s}={config.get(s)}' for s in sizes)}"
            )
        found[key] = fitting.pop()
        logger.info("%s=%d, as the preset of the same sizes", key, found[key])
    return found


def _build(kind: str, config: dict[str, Any]) -> keras.Model:
    if kind != "classifier":
        return KINDS[kind](**{k: v for k, v in config.items() if k in _known(kind)})
    known = _known("encoder")
    # None is the classifier's word for the encoder's own, and the name is the classifier's.
    encoder_config = {k: v for k, v in config.items() if k in known and v is not None}
    encoder_config.pop("name", None)
    encoder = KINDS["encoder"](**{**encoder_config, "name": "encoder"})
    head_config = {k: v for k, v in config.items() if k in _known("classifier")}
    return KINDS["classifier"](encoder=keras.saving.serialize_keras_object(encoder), **head_config)


def _known(kind: str) -> set[str]:
    return _arguments(KINDS[kind])
