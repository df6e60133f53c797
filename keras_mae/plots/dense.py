"""Pages of predictions beside truth: label maps and boxes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.patches import Patch, Rectangle

from keras_mae.pixels import denormalize
from keras_mae.plots.figures import new_figure, save_figure
from keras_mae.types import AnyPath

IGNORED = 255


@dataclasses.dataclass
class Scene:
    """An image of a page.

    Attributes:
        image: float `(H, W, C)`, normalised.
        truth: what is labelled: a label map, or what tells it.
        found: what a model found: a label map, or (boxes, classes, scores).
    """

    image: np.ndarray
    truth: Any
    found: Any


def label_map_figure(
    scenes: Sequence[Scene],
    path: AnyPath,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
) -> None:
    """Draw images, what is labelled, and what was found, below each other.

    Args:
        scenes: list of `Scene` with label maps `(h, w)`; 255 is white.
        path: a PNG file, written atomically.
        mean, std: of the images.
        class_names: list of strings.
    """
    colours = _colours(len(class_names))
    figure, axes = _page(len(scenes), len(class_names))
    for column, scene in enumerate(scenes):
        axes[0, column].imshow(_shown(scene.image, mean, std))
        for row, labels in ((1, scene.truth), (2, scene.found)):
            painted = np.ones((*labels.shape, 3))
            known = labels != IGNORED
            painted[known] = colours[labels[known]]
            axes[row, column].imshow(painted, interpolation="nearest")
    _label(axes)
    _legend(figure, colours, class_names)
    save_figure(figure, path)


def boxes_figure(
    scenes: Sequence[Scene],
    path: AnyPath,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
    truth_of: Callable[[Any], tuple[np.ndarray, np.ndarray]],
) -> None:
    """Draw images with the boxes that are labelled and those that were found.

    Args:
        scenes: list of `Scene`, with found (boxes `(n, 4)`, classes `(n,)`, scores `(n,)`): left,
            top, right, bottom in pixels of the image.
        path: a PNG file, written atomically.
        mean, std: of the images.
        class_names: list of strings.
        truth_of: function from a scene's `truth` to (boxes, classes).
    """
    colours = _colours(len(class_names))
    figure, axes = _page(len(scenes), len(class_names))
    for column, scene in enumerate(scenes):
        image = _shown(scene.image, mean, std)
        for row in range(3):
            axes[row, column].imshow(image)
        boxes, classes, _ = scene.found
        for row, (own, labels) in ((1, truth_of(scene.truth)), (2, (boxes, classes))):
            for (left, top, right, bottom), label in zip(own, labels, strict=True):
                axes[row, column].add_patch(
                    Rectangle(
                        (left - 0.5, top - 0.5),
                        right - left,
                        bottom - top,
                        fill=False,
                        linewidth=1.5,
                        edgecolor=colours[int(label)],
                    )
                )
    _label(axes)
    _legend(figure, colours, class_names)
    save_figure(figure, path)


def _colours(count: int) -> np.ndarray:
    """Return a colour for each class, `(count, 3)`; the first is dark, as a background is."""
    wheel = matplotlib.colormaps["hsv"](np.linspace(0, 1, count, endpoint=False))[:, :3]
    return np.concatenate([[[0.15] * 3], wheel])[:count] if count > 1 else wheel


def _page(columns: int, classes: int) -> tuple[Any, np.ndarray]:
    figure = new_figure(1.6 * max(columns, 1) + 2.2, 5.2)
    axes = figure.subplots(3, max(columns, 1), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _shown(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    pixels = denormalize(image, mean, std)
    return pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)


def _label(axes: np.ndarray) -> None:
    for axis, text in zip(axes[:, 0], ("image", "labelled", "found"), strict=True):
        axis.text(-0.1, 0.5, text, ha="right", va="center", transform=axis.transAxes)


def _legend(figure: Any, colours: np.ndarray, class_names: Sequence[str]) -> None:
    if len(class_names) > 20:  # no legend would be readable
        return
    handles = [
        Patch(color=colour, label=name) for colour, name in zip(colours, class_names, strict=True)
    ]
    figure.legend(handles=handles, loc="center right", fontsize=7, frameon=False)
