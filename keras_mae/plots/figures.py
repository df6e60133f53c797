"""The figures of a run: reconstructions side by side, and the loss over steps."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.files import atomic_path
from keras_mae.pixels import denormalize
from keras_mae.types import AnyPath, Tensor

IMAGES_IN_A_ROW = 8


def reconstruction_figure(
    model: keras.Model, images: Tensor, path: AnyPath, seed: int = 0, statistics: str = "visible"
) -> None:
    """Draw images, the same with patches hidden, and rebuilt, below each other.

    Args:
        model: a `MaskedAutoencoder`.
        images: float `(B, H, W, C)`, normalised as for training; C is 1 or 3 to be shown as grey
            or colour, else its first channel is shown.
        path: a PNG file, written atomically.
        seed: int. Fixes the masks.
        statistics: see `MaskedAutoencoder.reconstruct`. A figure made with "oracle" says so.
    """
    result = model.reconstruct(images, seed=seed, statistics=statistics)
    rebuilt = "rebuilt"
    if model.norm_pix_loss and statistics == "oracle":
        rebuilt = "rebuilt (oracle:\ntrue mean and\ndeviation of\nhidden patches)"
    hidden = _pixel_mask(model, result["mask"])
    shown = {
        "original": _pixels(model, images),
        # Grey stands out from any data set's mean colour.
        "masked": np.where(hidden, 0.5, _pixels(model, result["masked_image"])),
        rebuilt: _pixels(model, result["reconstruction"]),
    }
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
            grey = image.shape[-1] != 3
            axis.imshow(
                image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=1
            )
            if column == 0:
                axis.text(-0.1, 0.5, label, ha="right", va="center", transform=axis.transAxes)
    save_figure(figure, path)


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


def _pixels(model: keras.Model, images: Tensor) -> np.ndarray:
    """Return normalised images as float `(B, H, W, C)` in [0, 1]."""
    return denormalize(ops.convert_to_numpy(images), model.mean, model.std)


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
