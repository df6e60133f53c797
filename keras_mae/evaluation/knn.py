"""Nearest neighbours: how well features tell classes apart without any training."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def knn_predict(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    num_classes: int,
    ks: Sequence[int] = (20,),
    temperature: float = 0.07,
    chunk: int = 1024,
) -> dict[int, np.ndarray]:
    """Classify by the weighted votes of the nearest training features, by cosine.

    A neighbour of similarity s votes with `exp(s / temperature)`. Similarities are computed
    `chunk` queries at a time, and all `ks` from one sorting, so memory stays at
    `chunk * len(train_features)` floats.

    Args:
        train_features: float `(n, D)`.
        train_labels: int `(n,)` in [0, num_classes).
        features: float `(m, D)`, the queries.
        num_classes: int.
        ks: ints from 1 to n. Numbers of neighbours.
        temperature: float above 0.
        chunk: int. Queries at a time.
    Returns:
        dict of k to int64 `(m,)`, the predicted classes.
    Raises:
        ValueError: if a k is not in [1, n] or a label not in [0, num_classes).
    Reference: Wu et al. 2018, arXiv:1805.01978, section 3.4.
    """
    train_labels = np.asarray(train_labels)
    if min(ks) < 1 or max(ks) > len(train_features):
        raise ValueError(f"`ks` must lie in [1, {len(train_features)}]. Received: {tuple(ks)}")
    if train_labels.min() < 0 or train_labels.max() >= num_classes:
        raise ValueError(
            f"`train_labels` must lie in [0, {num_classes}). Received labels from "
            f"{train_labels.min()} to {train_labels.max()}"
        )
    train = _unit_rows(train_features).T
    largest = max(ks)
    predictions: dict[int, list[np.ndarray]] = {k: [] for k in ks}
    for start in range(0, len(features), chunk):
        similarity = _unit_rows(features[start : start + chunk]) @ train
        nearest = np.argpartition(-similarity, largest - 1, axis=1)[:, :largest]
        values = np.take_along_axis(similarity, nearest, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, axis=1)
        weights = np.exp(np.take_along_axis(values, order, axis=1) / temperature)
        rows = np.arange(len(nearest))
        votes = np.zeros((len(nearest), num_classes))
        for i in range(largest):
            votes[rows, train_labels[nearest[:, i]]] += weights[:, i]
            if i + 1 in predictions:
                predictions[i + 1].append(votes.argmax(axis=1))
    return {k: np.concatenate(parts) for k, parts in predictions.items()}


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    k: int = 20,
    **kwargs: Any,
) -> float:
    """Return the top-1 accuracy, in [0, 1], of `knn_predict` with k neighbours."""
    predicted = knn_predict(train_features, train_labels, features, num_classes, ks=(k,), **kwargs)[
        k
    ]
    return float(np.mean(predicted == np.asarray(labels)))


def _unit_rows(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, "float32")
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
