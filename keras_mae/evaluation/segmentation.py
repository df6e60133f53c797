"""What label maps are worth: intersection over union, of the pixels of a whole set."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mae.evaluation.confusion import confusion_matrix
from keras_mae.models.on_encoder import check_class_names

IGNORED = 255


class PixelCounts:
    """Count pixels of label maps, image by image: row's class was taken for column's.

    Args:
        num_classes: int, 1 to 255.
    Attributes:
        matrix: int64 `(num_classes, num_classes)`, pixels; rows are the truth. Pixels labelled 255
            are left out.
    Example:
        counts = PixelCounts(2)
        counts.add([[0, 1, 255]], [[0, 0, 1]])
        counts.metrics()["iou"]  # [0.5, 0.0]
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= IGNORED:
            raise ValueError(f"`num_classes` must be 1 to {IGNORED}. Received: {num_classes!r}")
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    def add(self, truth: Any, predicted: Any) -> None:
        """Count the pixels of an image or more.

        Args:
            truth: ints `(...)` in [0, num_classes), or 255.
            predicted: ints of the same shape in [0, num_classes).
        Raises:
            ValueError: if shapes differ, or a label is no class.
        """
        truth, predicted = np.asarray(truth), np.asarray(predicted)
        if truth.shape != predicted.shape:
            raise ValueError(
                f"`predicted` must have the shape of `truth`, {truth.shape}. "
                f"Received: {predicted.shape}"
            )
        counts = truth != IGNORED
        # int64: a product of uint8 would run over.
        labels, found = truth[counts].astype("int64"), predicted[counts].astype("int64")
        for name, values in (("truth", labels), ("predicted", found)):
            if values.size and not 0 <= values.min() <= values.max() < len(self.matrix):
                raise ValueError(
                    f"`{name}` must have labels in [0, {len(self.matrix)}). "
                    f"Received: {values.min()} to {values.max()}"
                )
        self.matrix += confusion_matrix(labels, found, len(self.matrix))

    def metrics(self, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return what `segmentation_metrics` makes of the counts."""
        return segmentation_metrics(self.matrix, class_names)


def segmentation_metrics(matrix: Any, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return intersections over unions of a confusion matrix.

    Args:
        matrix: ints `(num_classes, num_classes)`, pixels; rows are the truth.
        class_names: list of `num_classes` strings; None for their numbers.
    Returns:
        dict of plain values:
        "mean_iou": float, the mean over the classes that are labelled or predicted somewhere; 0.0
        where there is no pixel,
        "iou": list of a float for each class; None for one that is neither labelled nor predicted,
        "class_names": list of strings,
        "pixel_accuracy": float, the share of pixels with the right class; 0.0 without pixels,
        "confusion_matrix": the matrix as lists of ints.
    Raises:
        ValueError: if the matrix is not square, or the names are not as many.
    Example: `segmentation_metrics([[3, 1], [0, 2]])["iou"]` is `[3 / 4, 2 / 3]`.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"`matrix` must be square. Received: the shape {matrix.shape}")
    names = check_class_names(class_names, len(matrix)) or [str(i) for i in range(len(matrix))]
    both = matrix.diagonal()
    either = matrix.sum(axis=0) + matrix.sum(axis=1) - both
    iou = [float(b / e) if e else None for b, e in zip(both, either, strict=True)]
    known = [value for value in iou if value is not None]
    total = int(matrix.sum())
    return {
        "mean_iou": float(np.mean(known)) if known else 0.0,
        "iou": iou,
        "class_names": names,
        "pixel_accuracy": float(both.sum() / total) if total else 0.0,
        "confusion_matrix": matrix.tolist(),
    }
