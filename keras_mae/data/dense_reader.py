"""Read images with their label maps or boxes inside a `tf.data` pipeline."""

import functools

import numpy as np
import tensorflow as tf

from keras_mae.data import augment
from keras_mae.data.dense_augment import flip_boxes
from keras_mae.data.dense_source import IGNORED
from keras_mae.data.reader import Reader
from keras_mae.data.skips import SkipLog

_NUMBERS_A_BOX = 5  # its corners and its class


class DenseReader(Reader):
    """Reads images and targets together: where one of them is broken, both are skipped by name.

    Args:
        source: a `DenseSource`.
        sensor, skip_log: as in `Reader`.
        flips: how image and target are mirrored or turned together, see
            `keras_mae.data.augment.random_flip`.
    """

    def __init__(self, source, sensor, skip_log, flips="none"):
        super().__init__(source, sensor, SkipLog() if skip_log is None else skip_log)
        self.flips = flips
        self._is_map = source.task == "segment"

    def read(self, example, key=None, uniform=0.0):
        """Return a `DenseHandle` of an example, mirrored or turned.

        Args:
            example: int64 scalar tensor.
            key: int64 scalars (seed, epoch), to replace a broken image by another; or None: the
                handle of a broken one has `ok` False and one black pixel.
            uniform: float32 scalar in [0, 1), which way it is turned.
        """
        target = tf.uint8 if self._is_map else tf.float32
        image, target, is_ok = tf.numpy_function(
            self._read, [example, uniform, *(key or ())], [tf.as_dtype(self.dtype), target, tf.bool]
        )
        image = tf.ensure_shape(image, (None, None, self.sensor.channels))
        target = tf.ensure_shape(target, (None, None if self._is_map else _NUMBERS_A_BOX))
        return DenseHandle(image, target, tf.ensure_shape(is_ok, ()), self._is_map)

    def example(self, example):
        picture, label = super().example(example)
        record, size = int(self.source.indices[example]), (picture.height, picture.width)
        picture.target = self._target(record, size)
        return picture, label

    def _read(self, example, uniform, *key):
        keys = np.array([key]) if key else None
        examples, numbers = np.array([example]), np.array([uniform])
        (made,), _ = self.batch(examples, self._make, numbers, keys)
        if made is not None:
            return *made, True
        # One black pixel, of no class and without boxes.
        pixel = np.zeros((1, 1, self.sensor.channels), self.dtype)
        if self._is_map:
            return pixel, np.full((1, 1), IGNORED, np.uint8), False
        return pixel, np.zeros((0, _NUMBERS_A_BOX), np.float32), False

    def _make(self, pictures, uniforms):
        return [
            functools.partial(self._turned, picture, float(uniform))
            for picture, uniform in zip(pictures, uniforms, strict=True)
        ]

    def _turned(self, picture, uniform):
        image = augment.random_flip(picture.whole(), uniform, self.flips)
        if self._is_map:
            labels = augment.random_flip(picture.target[..., None], uniform, self.flips)
            return np.ascontiguousarray(image), np.ascontiguousarray(labels[..., 0])
        boxes, classes = picture.target[:, :4], picture.target[:, 4:]
        turned = flip_boxes(boxes, (picture.height, picture.width), uniform, self.flips)
        return np.ascontiguousarray(image), np.concatenate([turned, classes], axis=1)

    def _target(self, record, size):
        """Return a target that fits an image of `(height, width)`.

        Either uint8 `(h, w)`, or float32 `(n, 5)`: boxes and their classes, without crowds.
        """
        if self._is_map:
            labels = self.source.target(record)
            _check_size(size, labels.shape, "its label map is")
            return labels
        stated = self.source.target_size(record)
        if stated is not None:
            _check_size(size, stated, "its boxes are for")
        boxes, classes, is_crowd = self.source.target(record)
        rows = np.concatenate([boxes, classes[:, None]], axis=1)[~is_crowd]
        return rows.astype("float32")


class DenseHandle:
    """An image and its target.

    Attributes:
        image: uint8 or float32 `(h, w, C)`, 0-255.
        size: int32 `(2,)`, height and width of the image.
        target: uint8 `(h, w)`, the label map; or a pair of float32 `(n, 4)`, boxes in pixels of
            the image, and int32 `(n,)`, their classes, without crowds.
        ok: bool scalar. Whether the image could be read.
    """

    def __init__(self, image, target, ok, is_map):
        self.image, self.ok, self.size = image, ok, tf.shape(image)[:2]
        self.target = target if is_map else (target[:, :4], tf.cast(target[:, 4], tf.int32))


def _check_size(size, other, what):
    if tuple(other) != size:
        seen, theirs = (f"{width} x {height}" for height, width in (size, other))
        raise ValueError(f"the image, upright, is {seen} pixels, and {what} {theirs}")
