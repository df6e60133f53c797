"""Read images with their label maps or boxes inside a `tf.data` pipeline."""

import numpy as np
import tensorflow as tf

from keras_mae.data.reader import EncodedHandle, EncodedReader
from keras_mae.data.skips import SkipLog

_NUMBERS_A_BOX = 5  # its corners and its class


class DenseReader(EncodedReader):
    """Reads images and targets together: where one of them is broken, both are skipped by name."""

    def __init__(self, source, sensor, skip_log):
        super().__init__(source, sensor, SkipLog() if skip_log is None else skip_log)

    def _handle(self, payload, facts):
        pair = tf.ensure_shape(payload, (2,))
        return DenseHandle(pair[0], facts, self.sensor.channels, pair[1], self.source.task)

    def _try(self, example):
        """As of an image alone, but that the payload is a pair: the image and its target."""
        payload, facts, error = super()._try(example)
        if error is not None:
            return payload, facts, error
        try:
            target = self._target(int(self.source.indices[example]), (int(facts[0]), int(facts[1])))
        except Exception as fault:  # any file can break any decoder in its own way
            return None, None, fault
        return _pair(payload.item(), target), facts, None

    def _read_or_blank(self, example):
        payload, facts = super()._read_or_blank(example)
        if payload.ndim == 0:  # broken: one black pixel, of no class and without boxes
            is_map = self.source.task == "segment"
            payload = _pair(payload.item(), b"\xff" if is_map else b"")
        return payload, facts

    def _target(self, record, size):
        """The bytes of a target that fits an image of `(height, width)`."""
        if self.source.task == "segment":
            labels = self.source.target(record)
            _check_size(size, labels.shape, "its label map is")
            return labels.tobytes()
        stated = self.source.target_size(record)
        if stated is not None:
            _check_size(size, stated, "its boxes are for")
        boxes, classes, is_crowd = self.source.target(record)
        rows = np.concatenate([boxes, classes[:, None]], axis=1)[~is_crowd]
        return rows.astype("float32").tobytes()


class DenseHandle(EncodedHandle):
    """Handle of an image and its target.

    Attributes:
        size: int32 `(2,)`, height and width of the image.
        target: uint8 `(h, w)`, the label map; or a pair of float32 `(n, 4)`, boxes in pixels of
            the image, and int32 `(n,)`, their classes, without crowds.
    """

    def __init__(self, payload, facts, channels, target, task):
        super().__init__(payload, facts, channels)
        self.size = tf.stack([self.height, self.width])
        if task == "segment":
            labels = tf.io.decode_raw(target, tf.uint8)
            self.target = tf.reshape(labels, (self.height, self.width))
        else:
            rows = tf.io.decode_raw(target, tf.float32)
            rows = tf.reshape(rows, (-1, _NUMBERS_A_BOX))
            self.target = rows[:, :4], tf.cast(rows[:, 4], tf.int32)


def _check_size(size, other, what):
    if tuple(other) != size:
        seen, theirs = (f"{width} x {height}" for height, width in (size, other))
        raise ValueError(f"the image, upright, is {seen} pixels, and {what} {theirs}")


def _pair(image, target):
    # An object array: of plain bytes TensorFlow makes a copy first.
    return np.array([image, target], dtype=object)
