"""Which classes are taken for which."""

from typing import Any

import numpy as np


def confusion_matrix(labels: Any, predicted: Any, num_classes: int) -> np.ndarray:
    """Return int64 `(num_classes, num_classes)`: how often row's class was taken for column's.

    Args:
        labels, predicted: ints `(n,)` in [0, num_classes).
        num_classes: int.
    """
    pairs = np.asarray(labels) * num_classes + np.asarray(predicted)
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype("int64")
