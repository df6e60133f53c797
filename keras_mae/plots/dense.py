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
BACKGROUND = np.full((1, 3), 0.15)  # of label maps, whose first class it usually is


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
    colours = np.concatenate([BACKGROUND, _colours(len(class_names) - 1)])
    figure, axes = _page(len(scenes))
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
    """Draw images with the boxes that are labelled and those that were found, each with its class.

    Found ones have their score in per cent, too.

    Args:
        scenes: list of `Scene`, with found (boxes `(n, 4)`, classes `(n,)`, scores `(n,)`): left,
            top, right, bottom in pixels of the image.
        path: a PNG file, written atomically.
        mean, std: of the images.
        class_names: list of strings.
        truth_of: function from a scene's `truth` to (boxes, classes).
    """
    colours = _colours(len(class_names))
    figure, axes = _page(len(scenes))
    for column, scene in enumerate(scenes):
        image = _shown(scene.image, mean, std)
        for row in range(3):
            axes[row, column].imshow(image)
        labelled, names = truth_of(scene.truth)
        boxes, classes, scores = scene.found
        texts = [class_names[int(label)] for label in names]
        _draw_boxes(axes[1, column], labelled, colours[np.asarray(names, int)], texts)
        texts = [
            f"{class_names[int(label)]} {100 * score:.0f}"
            for label, score in zip(classes, scores, strict=True)
        ]
        _draw_boxes(axes[2, column], boxes, colours[np.asarray(classes, int)], texts)
    _label(axes)
    _legend(figure, colours, class_names)
    save_figure(figure, path)


def _draw_boxes(axis: Any, boxes: np.ndarray, colours: np.ndarray, texts: Sequence[str]) -> None:
    for (left, top, right, bottom), colour, text in zip(boxes, colours, texts, strict=True):
        corner, width, height = (left - 0.5, top - 0.5), right - left, bottom - top
        box = Rectangle(corner, width, height, fill=False, linewidth=1.8, edgecolor=colour)
        axis.add_patch(box)
        light = colour @ (0.3, 0.6, 0.1) > 0.5
        axis.text(
            *corner,
            text,
            fontsize=7,
            color="black" if light else "white",
            va="bottom" if top > axis.get_ylim()[0] / 8 else "top",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
        )


def _colours(count: int) -> np.ndarray:
    """Return a colour for each class, `(count, 3)`, neighbours far apart where there are few."""
    for name, most in (("tab10", 10), ("tab20", 20)):
        if count <= most:
            return np.array(matplotlib.colormaps[name](range(count)))[:, :3].reshape(-1, 3)
    return matplotlib.colormaps["hsv"](np.linspace(0, 1, count, endpoint=False))[:, :3]


def _page(columns: int) -> tuple[Any, np.ndarray]:
    figure = new_figure(1.6 * max(columns, 1) + 1.8, 5.0)
    axes = figure.subplots(3, max(columns, 1), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _shown(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    pixels = denormalize(image, mean, std)
    return pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)


def _label(axes: np.ndarray) -> None:
    for axis, text in zip(axes[:, 0], ("image", "labelled", "found"), strict=True):
        axis.text(-0.1, 0.5, text, ha="right", va="center", fontsize=12, transform=axis.transAxes)


def _legend(figure: Any, colours: np.ndarray, class_names: Sequence[str]) -> None:
    if len(class_names) > 20:  # no legend would be readable
        return
    handles = [
        Patch(color=colour, label=name) for colour, name in zip(colours, class_names, strict=True)
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=11, frameon=False)
