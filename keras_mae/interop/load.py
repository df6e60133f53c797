"""From a checkpoint to a model."""

import inspect
import logging
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_mae.interop.keras_format import AS_THEY_ARE, KINDS, kind_of
from keras_mae.interop.read import Checkpoint, read_checkpoint
from keras_mae.layers.arguments import grid_size, pair
from keras_mae.layers.resampling import is_sincos
from keras_mae.models.encoder import pixel_statistics
from keras_mae.models.weights import assign_weights
from keras_mae.presets import list_presets, preset_config
from keras_mae.types import AnyPath, Size

logger = logging.getLogger(__name__)

_TABLE = "encoder.positions.table"
# Heads by (width, depth), of models that no preset is like: timm's medium, betwixt, base plus,
# so400m, giant and gigantic.
_KNOWN_HEADS = {
    (512, 12): 8,
    (640, 12): 10,
    (896, 12): 14,
    (1152, 27): 16,
    (1408, 40): 16,
    (1664, 48): 16,
}


def load_pretrained(path: AnyPath, **overrides: Any) -> keras.Model:
    """Make a model of a checkpoint, whoever wrote it.

    Known, by content:

    - this library's `.keras`;
    - transformers' folders of ViT-MAE, ViT, ViT-MSN, DINOv2 (with registers or not) and Pixio,
      with the classifiers of ViT and DINOv2;
    - timm's and Meta's vision transformers: MAE (with and without decoder, fine-tuned, probed),
      DeiT, DeiT-III, DINO, DINOv2 (with registers or not), CLIP's image encoder, with class-token
      or mean pooling;
    - mmpretrain's VisionTransformer, DeiT-III and MAE.

    They are PyTorch files or safetensors, of any float type, whole or in several files with an
    index. What wrappers put before names (`backbone.`, `module.`, `_orig_mod.`, ...) is taken off;
    of a student and its teacher, or weights and their average, the averaged ones are opened. A
    pooler or another method's head or decoder is left out. Each such choice is logged. Models with
    SwiGLU, rotary positions, windows or no class token are refused.

    Sizes are read from the weights, numbers of heads from the config beside them or from known
    models of the same width and depth.

    Args:
        path: str or path, a file or a folder; of several files the folder or the index.
        **overrides: arguments of the model, in place of the checkpoint's: `image_size` (positions
            follow, see `keras_mae.layers.resampling`), `num_heads`, `mask_ratio`, `drop_path`,
            `dtype`, ...
    Returns:
        `MaskedAutoencoder` where there is a decoder, `ViTClassifier` where there is a head,
        `ViTSegmenter`, `ViTDetector` or `ViTEmbedder` of their `.keras` files, else `ViTEncoder`.
        Where a file does not say, pixels are 0-255 and normalised with ImageNet's statistics (three
        channels), which is logged, and a decoder predicts raw pixels, as the reference's does by
        default.
    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it is broken, unsafe, of another architecture, or `overrides` do not fit.
        ImportError: for a PyTorch file where torch is not installed.
    Example:
        encoder = keras_mae.load_pretrained("dinov2-small", image_size=224)
    """
    checkpoint = read_checkpoint(path)
    if overrides and isinstance(checkpoint.model, tuple(AS_THEY_ARE.values())):
        raise ValueError(
            f"`overrides` must be left out for a {type(checkpoint.model).__name__}: make a new one "
            f"of its encoder. Received: {sorted(overrides)}"
        )
    kind = _kind(checkpoint)
    _check_overrides(kind, overrides)
    if checkpoint.model is not None and not overrides:
        return checkpoint.model
    weights, grid = arranged(checkpoint, overrides.get("image_size"))
    config = {**_sizes(checkpoint, grid), **checkpoint.config, **overrides}
    if config.get("mean") is None or config.get("std") is None:
        _say_statistics(path, config["channels"])
    if kind == "autoencoder":
        config.setdefault("norm_pix_loss", False)
    model = _build(kind, {**config, **_heads(kind, config)})
    assign_weights(model, weights, grid, unknown=checkpoint.unknown, can_skip=False)
    return model


def _say_statistics(path: AnyPath, channels: int) -> None:
    """Log which statistics are taken where a file tells none."""
    mean, std = pixel_statistics(None, None, channels)
    words = "ImageNet's" if channels == 3 else "a guess"
    logger.warning(
        "%s: mean=%s and std=%s are taken, %s: the file does not tell its own. If it was trained "
        "with others (timm's augreg models: .5 and .5), give mean and std",
        path,
        mean,
        std,
        words,
    )


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
    weights, grid = arranged(checkpoint, encoder.image_size)
    assign_weights(model, weights, grid, skip=skip, unknown=checkpoint.unknown)


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


def arranged(
    checkpoint: Checkpoint, image_size: Size | None
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return a checkpoint's weights with our position table, and the table's grid.

    Our table has a row for the first class token and one for each patch. A file's has a row for
    each token, for each but the registers, or for the patches alone. A row that our table has not
    is added to its token, which gives the same sum; one that the file has not is 0.

    Args:
        checkpoint: what a file says.
        image_size: what the model is to have; for a checkpoint that does not tell its own.
    Returns:
        `(weights, (rows, columns))`.
    Raises:
        ValueError: if the table is of no grid that is known.
    """
    weights, patch = dict(checkpoint.weights), checkpoint.config.get("patch_size")
    table = weights.get(_TABLE)
    if table is None or patch is None:
        raise ValueError(f"`path` must hold {_TABLE} and a patch projection. It does not")
    class_tokens, registers = (
        weights.get(name, np.zeros((1, 0, table.shape[1]), table.dtype))
        for name in ("encoder.class_token", "encoder.register_tokens")
    )
    counts = class_tokens.shape[1], registers.shape[1]
    before, grid = _table_layout(checkpoint, table, patch, counts, image_size)
    first, others, patches = table[:1], table[1:before], table[before:]
    if before == 0:
        first = np.zeros_like(table[:1])
    if before > 1:
        several = np.concatenate([class_tokens, registers], axis=1)[:, :before].copy()
        several[0, 1:] += others
        weights["encoder.class_token"] = several[:, : counts[0]]
        if before > counts[0]:
            weights["encoder.register_tokens"] = several[:, counts[0] :]
    weights[_TABLE] = np.concatenate([first, patches])
    return weights, grid


def _table_layout(
    checkpoint: Checkpoint,
    table: Any,
    patch: Size,
    counts: tuple[int, int],
    image_size: Size | None,
) -> tuple[int, tuple[int, int]]:
    """Return how many rows of a position table are no patch's, and the patches' grid.

    Args:
        checkpoint, image_size: see `arranged`.
        table: float `(rows, D)`.
        patch: int or (p, q).
        counts: (T, R), numbers of class tokens and registers.
    """
    rows, known = len(table), checkpoint.hints.get("position_rows")
    befores = [known] if known is not None else sorted({0, counts[0], sum(counts)})

    def layouts(size: Size) -> list[tuple[int, tuple[int, int]]]:
        """Return all ways to read the table for images of a size."""
        grid = grid_size(size, patch)
        return [(before, grid) for before in befores if rows - before == grid[0] * grid[1]]

    own, seen = checkpoint.config.get("image_size"), checkpoint.hints.get("input_size")
    if own is not None:
        if found := layouts(own):
            return found[0]
        grid = grid_size(own, patch)
        raise ValueError(
            f"`path` contradicts itself: its image size {own} has {grid[0] * grid[1]} patches, and "
            f"its position table {rows} rows, for {counts[0]} class tokens and {counts[1]} "
            "registers too"
        )
    if seen is not None and (found := layouts(seen)):
        return found[0]
    sides = {before: math.isqrt(max(rows - before, 0)) for before in befores}
    squares = [(b, (side, side)) for b, side in sides.items() if side and side**2 == rows - b]
    wanted = layouts(image_size) if image_size is not None else []
    if len(squares) == 1 and (not wanted or _is_sincos_table(table, *squares[0])):
        return squares[0]
    if wanted:
        return wanted[0]
    raise ValueError(
        f"`image_size` must be given: the checkpoint does not tell its own, and its {rows} rows of "
        f"positions, for {counts[0]} class tokens and {counts[1]} registers too, can be of several "
        f"grids. Expected one of {' or '.join(str(rows - before) for before in befores)} patches. "
        f"Received: {image_size}"
    )


def _is_sincos_table(table: Any, before: int, grid: tuple[int, int]) -> bool:
    """Return whether the patches' rows are the fixed sine-cosine ones."""
    return is_sincos(np.concatenate([np.zeros_like(table[:1]), table[before:]]), grid)


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
        if not prefix and not fitting:
            fitting = {_KNOWN_HEADS.get((config["hidden_dim"], config["num_layers"]))} - {None}
        if len(fitting) != 1:
            raise ValueError(
                f"`{key}` must be given: weights do not tell it, and no known model has "
                f"{' and '.join(f'{s}={config.get(s)}' for s in sizes)}"
            )
        found[key] = fitting.pop()
        logger.info("%s=%d, as the known model of the same sizes", key, found[key])
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
