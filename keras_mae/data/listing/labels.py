"""From labels as they are written to class numbers."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

# 7 and -3; not 007, +7 or 7.0, which are names like others.
_PLAIN_INT = re.compile(r"-?(0|[1-9][0-9]*)")
# What stands for "unknown" in a row of 0 and 1.
UNKNOWN = 255


def sorted_names(names: Iterable[str]) -> list[str]:
    """Return distinct class names in order: by number where all are plain ints, else by text."""
    distinct = set(names)
    if all(_PLAIN_INT.fullmatch(name) for name in distinct):
        return sorted(distinct, key=int)
    return sorted(distinct)


def number_labels(values: Sequence[str | None]) -> tuple[list[str], np.ndarray]:
    """Number the labels of images that have one each.

    Args:
        values: texts, None for no label.
    Returns:
        `(class_names, labels)`: int64 `(n,)`, -1 for no label.
    Example: `number_labels(["b", None, "a"])` gives `(["a", "b"], [1, -1, 0])`.
    """
    names = sorted_names(value for value in values if value is not None)
    number = {name: label for label, name in enumerate(names)}
    number[None] = -1  # type: ignore[index]
    return names, np.array([number[value] for value in values], np.int64)  # type: ignore[index]


def number_label_sets(
    values: Sequence[Sequence[str] | None], names: list[str] | None = None
) -> tuple[list[str], np.ndarray]:
    """Number the labels of images that have several each.

    Args:
        values: for each image its labels, maybe none; None where they are not known.
        names: list of class names, where these are known.
    Returns:
        `(class_names, labels)`: uint8 `(n, num_classes)` of 0 and 1, all 255 where not known.
    Example: `number_label_sets([["b", "a"], [], None])[1]` is `[[1, 1], [0, 0], [255, 255]]`.
    """
    if names is None:
        names = sorted_names(label for value in values if value is not None for label in value)
    number = {name: label for label, name in enumerate(names)}
    labels = np.zeros((len(values), len(names)), np.uint8)
    for row, value in zip(labels, values, strict=True):
        if value is None:
            row[:] = UNKNOWN
        else:
            row[[number[label] for label in value]] = 1
    return names, labels


def unlabelled(labels: np.ndarray) -> int:
    """Count the images without a label, of labels as the functions above give them."""
    if labels.ndim == 1:
        return int((labels < 0).sum())
    return int((labels == UNKNOWN).any(1).sum())


def unlabelled_note(labels: np.ndarray) -> list[str]:
    """Return a line for a person of how many images have no label; none where all have one."""
    count = unlabelled(labels)
    if not count:
        return []
    return [f"{count} image{'s' * (count != 1)} without a label: not used where a label is needed"]
