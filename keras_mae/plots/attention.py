"""What an encoder's attention looks at."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_mae.plots.figures import (
    Shown,
    draw_picture,
    label_row,
    new_figure,
    picture_axes,
    save_figure,
)
from keras_mae.types import AnyPath, Tensor

QUERIES = ("token", "patches")
MOST_HEADS = 16  # that a figure shows


def attention_rollout(weights: Sequence[Tensor]) -> np.ndarray:
    """Follow attention through blocks, residual connections counted as half.

    The matrices `(A + 1) / 2`, A being the mean over the heads, are multiplied from the first block
    to the last.

    Args:
        weights: list of float `(B, heads, T, T)`, of each block, the first one first.
    Returns:
        float32 `(B, T, T)`: row t is what token t of the last block takes of each token of the
        first; its sum is 1.
    Example:
        attention_rollout(encoder.attention_weights(images))[:, 0]
    Reference: Abnar & Zuidema 2020, arXiv:2005.00928, section 3.
    """
    rolled: Any = None
    for block in weights:
        step = ops.convert_to_numpy(block).astype("float32").mean(axis=1)
        step = (step + np.eye(step.shape[-1], dtype="float32")) / 2
        rolled = step if rolled is None else step @ rolled
    return rolled


def attention_maps(
    model: Any, images: Tensor, block: int | None = None, query: str = "token"
) -> dict[str, np.ndarray]:
    """Return how much attention each patch gets.

    Args:
        model: `ViTEncoder`, or a model with one as its `encoder`.
        images: float `(B, H, W, C)`, normalised.
        block: int from 1 on, the block looked at; None: the last one.
        query: whose attention it is: "token", the (first) class token's; or "patches", the mean
            over all patches, for encoders whose class token means nothing.
    Returns:
        dict: "heads", float32 `(B, heads, rows, columns)`, and "rollout", float32 `(B, rows,
        columns)`, see `attention_rollout`, of all blocks up to this one. What class tokens and
        registers get is left out, so the sum of a map is at most 1.
    Raises:
        ValueError: if the model has no blocks to look into, no such block, or no class token.
    Example:
        maps = attention_maps(encoder, images)["heads"].mean(axis=1)
    """
    encoder = _with_blocks(model)
    tokens = encoder.num_class_tokens
    check_query(query, tokens)
    block = encoder.num_layers if block is None else block
    if type(block) is not int or not 1 <= block <= encoder.num_layers:
        raise ValueError(
            f"`block` must be from 1 to the encoder's {encoder.num_layers}. Received: {block!r}"
        )
    first = tokens + encoder.num_registers
    rows = slice(0, 1) if query == "token" else slice(first, None)
    heads, rollouts = [], []
    # One image at a time: the weights of all blocks take much memory.
    for image in np.split(ops.convert_to_numpy(images), len(images)):
        weights = encoder.attention_weights(image)[:block]
        last = ops.convert_to_numpy(weights[-1]).astype("float32")
        heads.append(last[0, :, rows, first:].mean(axis=1))
        rollouts.append(attention_rollout(weights)[0, rows, first:].mean(axis=0))
    grid = encoder.grid_size
    return {
        "heads": np.stack(heads).reshape(len(heads), -1, *grid),
        "rollout": np.stack(rollouts).reshape(-1, *grid),
    }


def check_query(query: str, num_class_tokens: int) -> None:
    """Raise a ValueError unless attention of this kind can be had of so many class tokens."""
    if query not in QUERIES:
        raise ValueError(f"`query` must be one of {QUERIES}. Received: {query!r}")
    if query == "token" and not num_class_tokens:
        raise ValueError(
            "`query` must be 'patches' for a model without a class token: the mean over all "
            "patches of what each looks at. Received: 'token'"
        )


def attention_figure(
    model: Any,
    images: Tensor,
    path: AnyPath,
    block: int | None = None,
    query: str = "token",
    bands: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Draw pictures, each with what attention looks at: mean of the heads, rollout, each head.

    Each map is scaled to its own highest value, which is bright; 0 is dark.

    Args:
        model, images, block, query: see `attention_maps`.
        path: a PNG file, written atomically.
        bands: see `reconstruction_figure`.
        names: list of str, written beside the pictures; None: nothing.
    Raises:
        ValueError: see `attention_maps`.
    """
    maps, shown = attention_maps(model, images, block, query), Shown(model, images, bands)
    heads = maps["heads"]
    count = min(heads.shape[1], MOST_HEADS)
    columns = {"mean of heads": heads.mean(axis=1), "rollout": maps["rollout"]}
    columns |= {f"head {i + 1}": heads[:, i] for i in range(count)}
    figure = new_figure(1.3 * (1 + len(columns)) + 0.9, shown.height * len(heads) + 0.35)
    axes = picture_axes(figure, len(heads), 1 + len(columns))
    for row, picture in enumerate(shown(images)):
        draw_picture(axes[row, 0], picture)
        for axis, values in zip(axes[row, 1:], columns.values(), strict=True):
            axis.imshow(values[row], cmap="magma", vmin=0)
        if names is not None:
            label_row(axes[row, 0], short(names[row]))
    for axis, title in zip(axes[0, 1:], columns, strict=True):
        axis.set_title(title, fontsize=8)
    save_figure(figure, path)


def short(name: str, most: int = 14) -> str:
    """Return the end of a name, as much as stands beside a picture."""
    name = name.rsplit("/", 1)[-1]
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _with_blocks(model: Any) -> Any:
    encoder = getattr(model, "encoder", model)
    if not callable(getattr(encoder, "attention_weights", None)):
        raise ValueError(
            "`model` must have blocks to look into: of a SavedModel only the tokens can be had, "
            "whose principal components can be shown. Give the .keras file or the run's directory. "
            f"Received: a {type(encoder).__name__}"
        )
    return encoder
