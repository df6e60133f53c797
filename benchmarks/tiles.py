"""Tiles of colour photographs, for benchmarks: `--dataset=tiles:Tiles`, started in this folder."""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from keras_mae.data import ArraySource

SIDE = 32
PHOTOGRAPHS = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": tuple(
        f"data/{name}"
        for name in (
            "astronaut.png",
            "chelsea.png",
            "coffee.png",
            "ihc.png",
            "motorcycle_left.png",
            "rocket.jpg",
        )
    ),
}


class Tiles(ArraySource):
    """Tiles of photographs, labelled by their photograph."""

    image_size = (SIDE, SIDE)
    augmentation = "shift"
    default_holdout = 0.2

    def __init__(self, argument="", *, seed=0):
        tiles, labels, self.class_names = [], [], []
        for package, files in PHOTOGRAPHS.items():
            root = Path(importlib.util.find_spec(package).origin).parent
            for file in files:
                if not (root / file).exists():
                    continue
                pixels = np.asarray(Image.open(root / file).convert("RGB"))
                rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
                cut = pixels[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3)
                tiles.append(cut.transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3))
                labels += [len(self.class_names)] * (rows * columns)
                self.class_names.append(Path(file).stem)
        self.pixels, self.own_labels = np.concatenate(tiles), np.array(labels)
        self.num_classes = len(self.class_names)
        super().__init__(len(self.pixels), seed=seed)
        values = self.pixels / 255
        self.mean = tuple(values.mean((0, 1, 2)).tolist())
        self.std = tuple(values.std((0, 1, 2)).tolist())

    def key(self, record):
        return f"{self.class_names[self.own_labels[record]]}/{record:05d}"

    def record_labels(self):
        return self.own_labels

    def image_reader(self):
        import tensorflow as tf

        pixels = tf.constant(self.pixels)
        return lambda record: tf.gather(pixels, record)
