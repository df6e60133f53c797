"""Contact sheets: small images in rows, with a line of words each."""

from collections.abc import Sequence

import numpy as np

from keras_mae.pixels import BYTE_RANGE, denormalize
from keras_mae.plots.figures import new_figure, save_figure, stretched
from keras_mae.types import AnyPath

_LONGEST = 22  # letters of a caption's line


def shown_images(
    images: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    value_range: Sequence[float] = BYTE_RANGE,
) -> np.ndarray:
    """Return normalised images as they are shown, float `(B, H, W, 3)` in [0, 1].

    Pixels 0-255 of one or three channels are as they are; of others the first three channels, or
    the first, are stretched: what 1 % and 99 % of the values are below becomes black and white.

    Args:
        images: float `(B, H, W, C)`.
        mean, std, value_range: the model's.
    """
    pixels = denormalize(images, mean, std)
    channels = pixels.shape[-1]
    pixels = pixels[..., :3] if channels >= 3 else pixels[..., :1]
    if tuple(value_range) != BYTE_RANGE or channels not in (1, 3):
        pixels = stretched(pixels, *np.percentile(pixels, (1, 99), axis=(0, 1, 2)))
    return np.clip(np.broadcast_to(pixels, (*pixels.shape[:-1], 3)), 0, 1)


def contact_sheet(
    path: AnyPath,
    images: np.ndarray,
    captions: Sequence[str],
    columns: int,
    title: str = "",
    divided: bool = False,
) -> None:
    """Draw images row by row, each with its caption.

    Args:
        path: a PNG file, written atomically.
        images: float `(n, H, W, 3)` in [0, 1], see `shown_images`.
        captions: n strings; lines that are long lose their beginning.
        columns: int, images in a row.
        title: str.
        divided: bool. Whether the first column stands for the row, such as a query.
    """
    rows = -(-len(images) // columns)
    figure = new_figure(1.45 * columns + 0.3, 1.75 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, axis in enumerate(axes.flat):
        axis.set_xticks([])
        axis.set_yticks([])
        is_first = divided and place % columns == 0
        for spine in axis.spines.values():
            spine.set_visible(is_first and place < len(images))
            spine.set_linewidth(2)
        if place >= len(images):
            continue
        axis.imshow(images[place], interpolation="nearest")
        lines = [_short(line) for line in captions[place].split("\n")]
        axis.set_xlabel("\n".join(lines), fontsize=6, labelpad=2, parse_math=False)
    if title:
        figure.suptitle(title, fontsize=9, parse_math=False)
    save_figure(figure, path)


def _short(line: str) -> str:
    return line if len(line) <= _LONGEST else f"...{line[3 - _LONGEST :]}"
