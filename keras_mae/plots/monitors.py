"""The figures of monitors: curves over steps, and reconstructions as they get better."""

from collections.abc import Mapping, Sequence

import numpy as np

from keras_mae.files import atomic_path
from keras_mae.plots.figures import new_figure, save_figure
from keras_mae.types import AnyPath

TILE = 96  # pixels, the least side of an image in a sheet
GAP = 4
TITLE = 24
FRAME_MS, LAST_FRAME_MS = 500, 2000


def monitor_figure(curves: Mapping[int, Mapping[str, float]], path: AnyPath) -> None:
    """Draw monitors over steps: those of one unit share a panel, others have one each.

    Args:
        curves: dict of step to dict of name to value.
        path: a PNG file, written atomically.
    """
    names = list(dict.fromkeys(name for values in curves.values() for name in values))
    series = {
        name: [(step, values[name]) for step, values in sorted(curves.items()) if name in values]
        for name in names
    }
    # Accuracies and other shares lie in [0, 1].
    shares = [n for n in names if all(0 <= value <= 1 for _, value in series[n])]
    panels = [shares] * bool(shares) + [[name] for name in names if name not in shares]
    figure = new_figure(4.2 * max(1, len(panels)), 3.4)
    axes = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=False):
        for name in panel:
            axis.plot(*zip(*series[name], strict=True), marker=".", linewidth=1.2, label=name)
        if panel is shares:
            axis.set_ylim(0, 1.02)
        axis.set_xlabel("step")
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def reconstruction_sheet(rows: Mapping[str, np.ndarray], path: AnyPath, title: str) -> None:
    """Draw rows of images as a PNG file, in a moment: no axes, small images enlarged.

    Args:
        rows: dict of name to float `(B, H, W, 1 or 3)` in [0, 1], as `reconstruction_rows` gives.
        path: a PNG file, written atomically.
        title: str, a line above.
    """
    from PIL import Image, ImageDraw, ImageFont

    batches = [np.asarray(batch) for batch in rows.values()]
    count, height, width, _ = batches[0].shape
    times = max(1, -(-TILE // max(height, width)))
    high, wide = height * times + GAP, width * times + GAP
    sheet = Image.new("RGB", (count * wide + GAP, len(batches) * high + GAP + TITLE), "white")
    for row, batch in enumerate(batches):
        for column, image in enumerate(batch):
            pixels = np.round(np.repeat(image, 3 // image.shape[-1], axis=-1) * 255)
            tile = Image.fromarray(pixels.astype("uint8"))
            tile = tile.resize((width * times, height * times), Image.Resampling.NEAREST)
            sheet.paste(tile, (column * wide + GAP, row * high + GAP + TITLE))
    font = ImageFont.load_default(TITLE * 0.6)
    ImageDraw.Draw(sheet).text((GAP, GAP), title, fill="black", font=font)
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def animation(frames: Sequence[AnyPath], path: AnyPath) -> None:
    """Write figures of one size as a WebP file that moves, again and again.

    Args:
        frames: PNG files, in order.
        path: a `.webp` file, written atomically.
    """
    from PIL import Image

    images = []
    for frame in frames:
        with Image.open(frame) as image:
            images.append(image.convert("RGB"))
    durations = [FRAME_MS] * (len(images) - 1) + [LAST_FRAME_MS]
    with atomic_path(path) as temporary:
        images[0].save(
            temporary, save_all=True, append_images=images[1:], duration=durations, loop=0
        )
