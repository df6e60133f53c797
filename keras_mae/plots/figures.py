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
    mask: Any = None,
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
        mask: masks in place of those of `seed`, see `MaskedAutoencoder.reconstruct`.
    Raises:
        ValueError: if `bands` are not one or three channels of the model.
    """
    result = model.reconstruct(images, seed=seed, statistics=statistics, mask=mask)
    rebuilt = "rebuilt"
    if model.norm_pix_loss and statistics == "oracle":
        rebuilt = "rebuilt (oracle:\ntrue mean and\ndeviation of\nhidden patches)"
    rows = reconstruction_rows(model, images, result, bands, rebuilt)
    columns = min(len(images), IMAGES_IN_A_ROW)
    blocks, height = -(-len(images) // columns), Shown(model, images, bands).height
    figure = new_figure(1.3 * columns + 1, height * len(rows) * blocks)
    axes = picture_axes(figure, len(rows) * blocks, columns)
    for kind, (label, batch) in enumerate(rows.items()):
        for i, picture in enumerate(batch):
            row, column = i // columns * len(rows) + kind, i % columns
            draw_picture(axes[row, column], picture)
            if column == 0:
                label_row(axes[row, column], label)
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
    shown = Shown(model, images, bands)
    rows = {
        "original": shown(images),
        "masked": shown.masked(images, result["mask"]),
        rebuilt: shown(result["reconstruction"]),
    }
    return {name: np.clip(batch, 0, 1) for name, batch in rows.items()}


class Shown:
    """From a model's normalised images to what a person can look at.

    Pixels 0-255 of one or three channels are as they are; any others are stretched, by what 1 % and
    99 % of the values of the given images are below.

    Args:
        model: whatever has `mean`, `std`, `value_range` and `patch_size`, and channels or an
            `encoder` with channels.
        images: float `(B, H, W, C)`, normalised: those that tell black and white.
        bands: see `reconstruction_figure`.
    Call arguments:
        images: float `(B, H, W, C)`, normalised.
    Returns:
        float `(B, H, W, 1)` or `(B, H, W, 3)` in [0, 1].
    """

    def __init__(self, model: Any, images: Tensor, bands: Sequence[int] | None = None) -> None:
        self.encoder = getattr(model, "encoder", model)
        channels = self.encoder.channels
        self.bands = check_bands(bands, channels)
        self.limits: Any = None
        if tuple(self.encoder.value_range) != BYTE_RANGE or channels not in (1, 3):
            self.limits = np.percentile(self._pixels(images), (1, 99), axis=(0, 1, 2))

    @property
    def height(self) -> float:
        """Inches of a picture that is 1.3 inches wide."""
        height, width = self.encoder.image_size
        return 1.3 * min(max(height / width, 0.3), 3)

    def __call__(self, images: Tensor) -> np.ndarray:
        pixels = self._pixels(images)
        return pixels if self.limits is None else stretched(pixels, *self.limits)

    def masked(self, images: Tensor, mask: Tensor) -> np.ndarray:
        """Return images in which the patches of a mask `(B, N)` are grey."""
        # Grey stands out from any data set's mean colour.
        return np.where(self.hidden(mask), 0.5, self(images))

    def hidden(self, mask: Tensor) -> np.ndarray:
        """Return bool `(B, H, W, 1)`, true where a pixel is hidden by a mask `(B, N)`."""
        (height, width), (p, q) = self.encoder.image_size, self.encoder.patch_size
        hidden = ops.convert_to_numpy(mask).reshape(-1, height // p, width // q) > 0
        return hidden.repeat(p, axis=1).repeat(q, axis=2)[..., None]

    def _pixels(self, images: Tensor) -> np.ndarray:
        pixels = denormalize(ops.convert_to_numpy(images), self.encoder.mean, self.encoder.std)
        return pixels[..., [band - 1 for band in self.bands]]


def picture_axes(figure: Any, rows: int, columns: int) -> np.ndarray:
    """Return `(rows, columns)` axes without ticks or frames."""
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return axes


def draw_picture(axis: Any, picture: np.ndarray) -> None:
    """Draw what `Shown` gave of an image: `(H, W, 1)` or `(H, W, 3)`."""
    grey = picture.shape[-1] == 1
    axis.imshow(picture[..., 0] if grey else picture, cmap="gray" if grey else None, vmin=0, vmax=1)


def label_row(axis: Any, label: str) -> None:
    """Write at the left of an axis, the first one of a row."""
    axis.text(-0.1, 0.5, label, ha="right", va="center", transform=axis.transAxes)


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


def stretched(pixels: np.ndarray, black: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Return pixels with `black` and all below at 0, `white` and all above at 1.

    Args:
        pixels: float `(B, H, W, bands)`.
        black, white: floats `(bands,)`. Where they are equal, that value is at 0.5.
    """
    span = np.where(white > black, white - black, 1)
    middle = np.where(white > black, 0, 0.5)
    return np.clip((pixels - black) / span + middle, 0, 1)


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
