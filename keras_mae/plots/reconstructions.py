"""Reconstructions of the same pictures under several masks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_mae.plots.attention import short
from keras_mae.plots.figures import (
    Shown,
    draw_picture,
    label_row,
    new_figure,
    picture_axes,
    save_figure,
)
from keras_mae.types import AnyPath, Tensor


@dataclasses.dataclass(frozen=True)
class MaskOf:
    """Masks of a figure, and what is written above them.

    Attributes:
        title: str.
        mask: array `(N,)` or `(B, N)`, see `MaskedAutoencoder.reconstruct`.
    """

    title: str
    mask: Any


def drawn_masks(
    model: keras.Model,
    count: int,
    mask_ratios: Sequence[float],
    maskings: Sequence[str] = (),
    seed: int = 0,
) -> list[MaskOf]:
    """Return masks of every strategy at every ratio, for `count` images.

    Args:
        model: a `MaskedAutoencoder`.
        count: int B.
        mask_ratios: floats in (0, 1).
        maskings: names of strategies; none: the model's own.
        seed: int. Fixes the masks.
    """
    found = []
    strategies: Sequence[str | None] = maskings or (None,)
    for masking in strategies:
        for ratio in mask_ratios:
            mask = model.draw_mask(count, ratio, masking, seed)
            found.append(MaskOf(f"{masking or 'ratio'} {ratio:g}", mask))
    return found


def reconstructions_figure(
    model: keras.Model,
    images: Tensor,
    path: AnyPath,
    masks: Sequence[MaskOf],
    statistics: str = "visible",
    bands: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Draw each picture as it is, and for each of several masks as it is seen and rebuilt.

    Below a rebuilt picture is its own loss on the hidden patches.

    Args:
        model: a `MaskedAutoencoder`.
        images: float `(B, H, W, C)`, normalised.
        path: a PNG file, written atomically.
        masks: list of `MaskOf`, as `drawn_masks` makes them.
        statistics: see `MaskedAutoencoder.reconstruct`. A figure made with "oracle" says so.
        bands: see `reconstruction_figure`.
        names: list of str, written beside the pictures; None: nothing.
    Example:
        reconstructions_figure(mae, images, "x.png", drawn_masks(mae, len(images), (0.5, 0.9)))
    """
    shown, images = Shown(model, images, bands), np.asarray(images)
    figure = new_figure(1.3 * (1 + len(masks)) + 1, (2 * shown.height + 0.25) * len(images) + 0.3)
    axes = picture_axes(figure, 2 * len(images), 1 + len(masks))
    oracle = model.norm_pix_loss and statistics == "oracle"
    for row, picture in enumerate(shown(images)):
        draw_picture(axes[2 * row, 0], picture)
        label_row(axes[2 * row, 0], "" if names is None else short(names[row]))
        if oracle:
            label_row(
                axes[2 * row + 1, 0], "oracle: with true mean\nand deviation of\nhidden patches"
            )
    for column, masks_of in enumerate(masks, 1):
        mask = np.broadcast_to(masks_of.mask, (len(images), np.shape(masks_of.mask)[-1]))
        axes[0, column].set_title(masks_of.title, fontsize=8)
        for row in range(len(images)):
            one = slice(row, row + 1)
            result = model.reconstruct(images[one], mask=mask[one], statistics=statistics)
            draw_picture(axes[2 * row, column], shown.masked(images[one], mask[one])[0])
            below = axes[2 * row + 1, column]
            draw_picture(below, shown(result["reconstruction"])[0])
            below.text(
                0.5,
                -0.04,
                f"loss {float(result['loss']):.3f}",
                ha="center",
                va="top",
                fontsize=7,
                transform=below.transAxes,
            )
    save_figure(figure, path)
