"""What a classifier's scores are worth: one label an image, or several."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_mae.evaluation.confusion import confusion_matrix
from keras_mae.files import printable
from keras_mae.models.on_encoder import check_class_names

# With fewer classes nearly all is among the five best.
LEAST_FOR_TOP5 = 6


def single_label_metrics(
    scores: Any, labels: Any, class_names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return how often the one label of an image is found, and how well each class is.

    Of equal scores, that of the lower class number counts as the higher, as in `numpy.argmax`.

    Args:
        scores: float `(n, classes)`, logits or probabilities: only their order counts.
        labels: int `(n,)`, in [0, classes).
        class_names: list of `classes` strings; None for their numbers.
    Returns:
        dict of plain values:
        "num_images": int n,
        "top1", "top5": floats, shares of images whose label is the best, or among the five best;
        "top5" is None for fewer than 6 classes,
        "macro_f1": float, the mean of the classes' F1,
        "left_out": int, how many classes are in no label and in no prediction: they have no F1,
        "classes": see `class_table`.
    Raises:
        ValueError: if an argument does not fit, or a score is not finite.
    Example:
        single_label_metrics([[2.0, 1.0], [0.0, 3.0]], [0, 0])["top1"]  # 0.5
    """
    scores, labels = _check_scores(scores), np.asarray(labels)
    count, num_classes = scores.shape
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"`labels` must be ints of the shape {(count,)}. "
            f"Received: {labels.dtype} of the shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"`labels` must be in [0, {num_classes}). Received: {labels.min()} to {labels.max()}"
        )
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    is_before = np.arange(num_classes) < labels[:, None]
    rank = np.sum((scores > own) | ((scores == own) & is_before), axis=1)
    table = class_table(confusion_matrix(labels, scores.argmax(axis=1), num_classes), class_names)
    return {
        "num_images": count,
        "top1": float(np.mean(rank < 1)),
        "top5": float(np.mean(rank < 5)) if num_classes >= LEAST_FOR_TOP5 else None,
        **_mean_f1(table),
        "classes": table,
    }


def class_table(matrix: Any, class_names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return a row for each class of a confusion matrix.

    Args:
        matrix: ints `(classes, classes)`, see `confusion_matrix`.
        class_names: list of `classes` strings; None for their numbers.
    Returns:
        list of dicts of plain values: "name"; "images", the number of its images; "precision",
        which share of its predictions is right; "recall", which share of its images is found; "f1",
        the harmonic mean of both. None where there is nothing to divide by.
    """
    matrix = np.asarray(matrix)
    names = check_class_names(class_names, len(matrix)) or [str(i) for i in range(len(matrix))]
    right, predicted, images = matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)
    return [
        _row(name, *counts) for name, *counts in zip(names, right, predicted, images, strict=True)
    ]


def multi_label_metrics(
    scores: Any,
    labels: Any,
    class_names: Sequence[str] | None = None,
    from_logits: bool = False,
) -> dict[str, Any]:
    """Return how well several labels an image are found.

    A class is predicted where its probability is .5 or more.

    Args:
        scores: float `(n, classes)`: probabilities, each of its own.
        labels: 0 or 1, ints, floats or bools `(n, classes)`.
        class_names: list of `classes` strings; None for their numbers.
        from_logits: bool. Whether `scores` are logits, .5 being at 0.
    Returns:
        dict of plain values:
        "num_images": int n,
        "macro_auroc": float, the mean over classes of the area under the ROC curve: how often a
        positive has a higher score than a negative, ties counting a half,
        "map": float, the mean over classes of the average precision,
        "left_out_of_ranking": int, how many classes have no positive or no negative. They have
        neither of the two; the means are None where all are left out,
        "macro_f1": float, the mean of the classes' F1,
        "left_out": int, how many classes are in no label and in no prediction: they have no F1,
        "micro_f1": float, F1 of all decisions together; None where nothing is or is predicted,
        "classes": a list of rows as of `class_table`, each with "auroc" and "average_precision",
        None where they are left out.
    Raises:
        ValueError: if an argument does not fit, or a score is not finite.
    Example:
        multi_label_metrics([[0.9, 0.2], [0.3, 0.6]], [[1, 0], [0, 1]])["map"]  # 1.0
    Reference: average precision as scikit-learn has it, without interpolation.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, labels = _check_scores(scores), np.asarray(labels)
    count, num_classes = scores.shape
    if not from_logits and (scores.min() < 0 or scores.max() > 1):
        raise ValueError(
            "`scores` must be probabilities in [0, 1], or logits with from_logits=True. "
            f"Received: {scores.min():g} to {scores.max():g}"
        )
    if labels.shape != scores.shape or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"`labels` must be 0 or 1, of the shape {scores.shape}. "
            f"Received: {labels.dtype} of the shape {labels.shape}"
        )
    names = check_class_names(class_names, num_classes) or [str(i) for i in range(num_classes)]
    labels = labels.astype(bool)
    predicted = scores >= (0 if from_logits else 0.5)
    table = []
    for i, name in enumerate(names):
        positive, own = labels[:, i], scores[:, i]
        is_ranked = 0 < positive.sum() < count
        table.append(
            {
                **_row(name, *_counts(positive, predicted[:, i])),
                "auroc": float(roc_auc_score(positive, own)) if is_ranked else None,
                "average_precision": (
                    float(average_precision_score(positive, own)) if is_ranked else None
                ),
            }
        )
    return {
        "num_images": count,
        "macro_auroc": _mean(row["auroc"] for row in table),
        "map": _mean(row["average_precision"] for row in table),
        "left_out_of_ranking": sum(row["auroc"] is None for row in table),
        **_mean_f1(table),
        "micro_f1": _row("all", *_counts(labels, predicted))["f1"],
        "classes": table,
    }


def format_classes(table: Sequence[dict[str, Any]], most: int = 20) -> str:
    """Return the rows of classes as lines of text: all of them, or those of the lowest F1.

    Args:
        table: see `class_table`, or "classes" of `multi_label_metrics`.
        most: int, how many rows at most.
    """
    columns = ["precision", "recall", "f1"]
    columns += [name for name in ("auroc", "average_precision") if name in table[0]]
    rows = list(table)
    title = "Classes:"
    if len(rows) > most:
        known = [row for row in rows if row["f1"] is not None]
        rows = sorted(known, key=lambda row: row["f1"])[:most]
        title = f"The {len(rows)} classes of the lowest F1, of {len(table)}; results.json has all:"
    width = max(len("class"), *(len(printable(row["name"])) for row in rows))
    lines = [title, f"{'class':<{width}}  images" + "".join(f"  {c:>9}" for c in columns)]
    for row in rows:
        shown = ["-" if row[c] is None else f"{row[c]:.1%}" for c in columns]
        cells = "".join(f"  {v:>{max(9, len(c))}}" for c, v in zip(columns, shown, strict=True))
        lines.append(f"{printable(row['name']):<{width}}  {row['images']:>6,}{cells}")
    return "\n".join(lines)


def _check_scores(scores: Any) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.ndim != 2 or 0 in scores.shape or scores.dtype.kind not in "fiu":
        raise ValueError(
            "`scores` must be floats of the shape (images, classes), at least one of each. "
            f"Received: {scores.dtype} of the shape {scores.shape}"
        )
    broken = ~np.isfinite(scores).all(axis=1)
    if broken.any():
        raise ValueError(
            f"`scores` must be finite. Received: NaN or infinity for {broken.sum()} of "
            f"{len(scores)} images, the first of them number {broken.argmax()}"
        )
    return scores


def _counts(labels: np.ndarray, predicted: np.ndarray) -> tuple[Any, Any, Any]:
    """Return how many bools are true in both, are predicted, and are labels."""
    return (labels & predicted).sum(), predicted.sum(), labels.sum()


def _row(name: str, right: Any, predicted: Any, images: Any) -> dict[str, Any]:
    return {
        "name": name,
        "images": int(images),
        "precision": float(right / predicted) if predicted else None,
        "recall": float(right / images) if images else None,
        "f1": float(2 * right / (predicted + images)) if predicted + images else None,
    }


def _mean_f1(table: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "macro_f1": _mean(row["f1"] for row in table),
        "left_out": sum(row["f1"] is None for row in table),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is not None, or None."""
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None
