"""The figures of a run: reconstructions side by side, and the loss over steps."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.files import atomic_path
from keras_mae.pixels import BYTE_RANGE, denormalize
from keras_mae.types import AnyPath, Tensor

IMAGES_IN_A_ROW = 8


def reconstruction_figure(
    model: keras.Model,
    images: Tensor,
    path: AnyPath,
    seed: int = 0,
    statistics: str = "visible",
    bands: Sequence[int] | None = None,
) -> None:
    """Draw images, the same with patches hidden, and rebuilt, below each other.

    Pixels 0-255 of one or three channels are shown as they are. Any others are stretched: what 1 %
    and 99 % of a band's values in the original images are below becomes black and white.

    Args:
        model: a `MaskedAutoencoder`.
        images: float `(B, H, W, C)`, normalised as for training.
        path: a PNG file, written atomically.
        seed: int. Fixes the masks.
        statistics: see `MaskedAutoencoder.reconstruct`. A figure made with "oracle" says so.
        bands: one int for grey, or three for red, green and blue: the channels shown, counted from
            1, as GDAL does. None: the first three, or the first where there are fewer.
    Raises:
        ValueError: if `bands` are not one or three channels of the model.
    """
    result = model.reconstruct(images, seed=seed, statistics=statistics)
    rebuilt = "rebuilt"
    if model.norm_pix_loss and statistics == "oracle":
        rebuilt = "rebuilt (oracle:\ntrue mean and\ndeviation of\nhidden patches)"
    shown = reconstruction_rows(model, images, result, bands, rebuilt)
    columns = min(len(images), IMAGES_IN_A_ROW)
    blocks = -(-len(images) // columns)
    figure = new_figure(1.3 * columns + 1, 1.3 * len(shown) * blocks)
    axes = figure.subplots(len(shown) * blocks, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for kind, (label, batch) in enumerate(shown.items()):
        for i, image in enumerate(batch):
            row, column = i // columns * len(shown) + kind, i % columns
            axis = axes[row, column]
            grey = image.shape[-1] == 1
            axis.imshow(
                image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=1
            )
            if column == 0:
                axis.text(-0.1, 0.5, label, ha="right", va="center", transform=axis.transAxes)
    save_figure(figure, path)


def reconstruction_rows(
    model: keras.Model,
    images: Tensor,
    result: Mapping[str, Tensor],
    bands: Sequence[int] | None = None,
    rebuilt: str = "rebuilt",
) -> dict[str, np.ndarray]:
    """Return the pixels of a figure's rows: originals, masked images, reconstructions.

    Args:
        model, images, bands: see `reconstruction_figure`.
        result: what `MaskedAutoencoder.reconstruct` returned for `images`.
        rebuilt: str, the last row's name.
    Returns:
        dict of a row's name to float `(B, H, W, 1 or 3)` in [0, 1].
    """
    bands = check_bands(bands, model.encoder.channels)
    hidden = _pixel_mask(model, result["mask"])
    kinds = {
        "original": images,
        "masked": result["masked_image"],
        rebuilt: result["reconstruction"],
    }
    shown = {kind: _pixels(model, batch, bands) for kind, batch in kinds.items()}
    if model.value_range != BYTE_RANGE or model.encoder.channels not in (1, 3):
        black, white = np.percentile(shown["original"], (1, 99), axis=(0, 1, 2))
        shown = {kind: stretched(batch, black, white) for kind, batch in shown.items()}
    # Grey stands out from any data set's mean colour.
    shown["masked"] = np.where(hidden, 0.5, shown["masked"])
    return {kind: np.clip(batch, 0, 1) for kind, batch in shown.items()}


def loss_figure(
    metrics_path: AnyPath, path: AnyPath, baselines: Mapping[str, float] | None = None
) -> None:
    """Draw the losses that a `metrics.jsonl` holds over steps.

    Args:
        metrics_path: the file that `MetricsLog` wrote.
        path: a PNG file, written atomically.
        baselines: dict of name to loss, each drawn as a horizontal line.
    """
    lines = [json.loads(line) for line in Path(metrics_path).read_text().splitlines()]
    figure = new_figure(6, 4)
    axis = figure.add_subplot()
    for key, label in (("loss", "training"), ("val_loss", "held out")):
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            # A line of one point would not be seen.
            marker = "o" if len(points) == 1 else None
            axis.plot(*zip(*points, strict=True), label=label, linewidth=1, marker=marker)
    for name, value in (baselines or {}).items():
        axis.axhline(value, color="gray", linestyle="--", linewidth=1, label=name)
    axis.set_xlabel("step")
    axis.set_ylabel("loss on hidden patches")
    axis.legend()
    axis.grid(alpha=0.3)
    save_figure(figure, path)


def check_bands(
    bands: Sequence[int] | None, channels: int, argument: str = "bands"
) -> tuple[int, ...]:
    """Return one or three numbers of channels, counted from 1, or raise a ValueError.

    Args:
        bands: see `reconstruction_figure`.
        channels: int, how many there are.
        argument: string, what `bands` is called, for errors.
    """
    if bands is None:
        return (1, 2, 3) if channels >= 3 else (1,)
    chosen = tuple(bands) if isinstance(bands, Sequence) else ()
    known = all(type(band) is int and 1 <= band <= channels for band in chosen)
    if len(chosen) not in (1, 3) or not known:
        raise ValueError(
            f"`{argument}` must be one or three of the model's channels, 1 to {channels}. "
            f"Received: {bands!r}"
        )
    return chosen


def _pixels(model: keras.Model, images: Tensor, bands: Sequence[int]) -> np.ndarray:
    """Return bands of normalised images as float `(B, H, W, bands)` in [0, 1]."""
    pixels = denormalize(ops.convert_to_numpy(images), model.mean, model.std)
    return pixels[..., [band - 1 for band in bands]]


def stretched(pixels: np.ndarray, black: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Return pixels with `black` and all below at 0, `white` and all above at 1.

    Args:
        pixels: float `(B, H, W, bands)`.
        black, white: floats `(bands,)`. Where they are equal, that value is at 0.5.
    """
    span = np.where(white > black, white - black, 1)
    middle = np.where(white > black, 0, 0.5)
    return np.clip((pixels - black) / span + middle, 0, 1)


def _pixel_mask(model: keras.Model, mask: Tensor) -> np.ndarray:
    """Return bool `(B, H, W, 1)`, true where a pixel is hidden, from the patches' `(B, N)`."""
    (rows, columns), (p, q) = model.encoder.grid_size, model.patch_size
    mask = ops.convert_to_numpy(mask).reshape(-1, rows, columns) > 0
    return mask.repeat(p, axis=1).repeat(q, axis=2)[..., None]


def new_figure(width: float, height: float) -> Any:
    """Return an empty `matplotlib` figure of so many inches, to be saved by `save_figure`."""
    # Without pyplot: it would choose a window system, and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: AnyPath) -> None:
    """Write a figure as a PNG file, atomically."""
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # Names from outside may be in letters that the font has not; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary, dpi=150)
