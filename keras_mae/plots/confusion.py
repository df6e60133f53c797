"""The figure of a confusion matrix."""

from collections.abc import Sequence

import numpy as np

from keras_mae.plots.figures import new_figure, save_figure
from keras_mae.types import AnyPath

MOST_NUMBERED = 20  # classes; in larger matrices numbers would not be readable


def confusion_figure(
    matrix: np.ndarray, path: AnyPath, class_names: Sequence[str] | None = None
) -> None:
    """Draw a confusion matrix; each row's shade is its share, the numbers are counts.

    Args:
        matrix: ints `(classes, classes)`, see `confusion_matrix`.
        path: a PNG file, written atomically.
        class_names: list of strings, or None for numbers.
    """
    count = len(matrix)
    names = list(class_names or [])[:count]
    names += [str(i) for i in range(len(names), count)]
    side = min(2.5 + 0.35 * count, 14)
    figure = new_figure(side + 0.8, side)
    axis = figure.add_subplot()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="share of the true class", shrink=0.8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if count <= MOST_NUMBERED:
        turned = max(map(len, names)) > 3
        # As they are written: a name may hold a dollar sign, which would begin a formula.
        axis.set_xticks(range(count), names, rotation=90 if turned else 0, parse_math=False)
        axis.set_yticks(range(count), names, parse_math=False)
        for (row, column), value in np.ndenumerate(matrix):
            if value:
                colour = "white" if share[row, column] > 0.5 else "black"
                axis.text(column, row, value, ha="center", va="center", color=colour, fontsize=8)
    save_figure(figure, path)
