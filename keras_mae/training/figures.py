"""The figures of a run: reconstructions side by side, and the loss over steps."""

import json
from pathlib import Path

import numpy as np
from keras import ops

from keras_mae.training.output import atomic_path


def reconstruction_figure(model, images, path, seed=0, statistics="visible"):
    """Draw images, the same with patches hidden, and rebuilt, a row each.

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
    if model.norm_pix_loss:
        source = "hidden ones (oracle)" if statistics == "oracle" else "visible ones"
        rebuilt = f"rebuilt (patch mean and\ndeviation from {source})"
    columns = {
        "original": images,
        "masked": result["masked_image"],
        rebuilt: result["reconstruction"],
    }
    hidden = _pixel_mask(model, result["mask"])
    figure, axes = _subplots(len(images), len(columns))
    for column, (title, batch) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=8)
        for row, image in enumerate(ops.convert_to_numpy(batch)):
            pixels = np.clip(image * model.std + model.mean, 0, 1)
            if title == "masked":
                pixels = np.where(hidden[row], 0.5, pixels)  # grey, on any data set
            grey = pixels.shape[-1] != 3
            axes[row, column].imshow(
                pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1
            )
    _save(figure, path)


def loss_figure(metrics_path, path, baselines=None):
    """Draw the losses that a `metrics.jsonl` holds over steps.

    Args:
        metrics_path: the file that `MetricsLog` wrote.
        path: a PNG file, written atomically.
        baselines: dict of name to loss, each drawn as a horizontal line.
    """
    lines = [json.loads(line) for line in Path(metrics_path).read_text().splitlines()]
    figure = _figure(6, 4)
    axis = figure.add_subplot()
    for key, label in (("loss", "training"), ("val_loss", "held out")):
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axis.plot(*zip(*points, strict=True), label=label, linewidth=1)
    for name, value in (baselines or {}).items():
        axis.axhline(value, color="gray", linestyle="--", linewidth=1, label=name)
    axis.set_xlabel("step")
    axis.set_ylabel("loss on hidden patches")
    axis.legend()
    axis.grid(alpha=0.3)
    _save(figure, path)


def _pixel_mask(model, mask):
    """Return bool `(B, H, W, 1)`, true where a pixel is hidden, from the patches' `(B, N)`."""
    (rows, columns), (p, q) = model.encoder.grid_size, model.patch_size
    mask = ops.convert_to_numpy(mask).reshape(-1, rows, columns) > 0
    return mask.repeat(p, axis=1).repeat(q, axis=2)[..., None]


def _figure(width, height):
    # Without pyplot: it would choose a window system, and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _subplots(rows, columns):
    figure = _figure(1.6 * columns, 1.6 * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def _save(figure, path):
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
