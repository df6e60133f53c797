"""Read one example of any source inside a `tf.data` pipeline; broken images never raise there.

A reader's `read` gives a handle: the image's size and label (-1: none), and ways to get its
pixels, whole or a box: float32 from 0 to 255, the ends of the value range.
"""

import numpy as np
import tensorflow as tf

from keras_mae.data.decode import plain_jpeg_size, reason_of
from keras_mae.data.skips import SkipLog
from keras_mae.data.sources.base import NO_LABEL, ArraySource, decoded
from keras_mae.pixels import BYTE_RANGE

MAX_ATTEMPTS = 100
# How the payload holds an image.
_BYTES, _JPEG, _FLOATS = range(3)
_FACTS = 4  # height, width, how, whether it is ok; then labels


def make_reader(source, sensor=None, skip_log=None):
    """The reader that fits a source.

    Args:
        source: a `Source`.
        sensor: `Sensor`, how its pixels are seen, or None: the source's own.
        skip_log: `SkipLog`, or None for one in memory.
    """
    sensor = source.sensor if sensor is None else sensor
    if isinstance(source, ArraySource):
        return ArrayReader(source, sensor)
    return EncodedReader(source, sensor, SkipLog() if skip_log is None else skip_log)


def cut(image, box):
    """The pixels of `image` inside `box` = (top, left, height, width)."""
    return image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]


class ArrayReader:
    """Reads images that lie in memory: they cannot fail."""

    def __init__(self, source, sensor):
        self.sensor = sensor
        with tf.device("CPU:0"):
            self.indices = tf.constant(source.indices)
            labels = source.labels()
            self.labels = None if labels is None else tf.constant(labels)
        self.read_record = source.image_reader()

    def check_readable(self):
        """Nothing in memory is broken."""

    def read(self, example, key):
        """Handle of the example (int64 scalar tensor); `key` is not needed here."""
        label = tf.constant(NO_LABEL, tf.int64) if self.labels is None else self.labels[example]
        image = self.read_record(self.indices[example])
        is_byte = image.dtype == tf.uint8
        low, high = self.sensor.byte_range if is_byte else self.sensor.wide_range
        if not (is_byte and (low, high) == BYTE_RANGE):
            image = (tf.cast(image, tf.float32) - low) * (255 / (high - low))
            image = tf.clip_by_value(image, 0.0, 255.0)
        return ArrayHandle(image, label)


class ArrayHandle:
    ok = True

    def __init__(self, image, label):
        self.image = image
        self.label = label
        self.height, self.width = tf.shape(image)[0], tf.shape(image)[1]

    def in_memory(self):
        return self

    def whole(self):
        return self.image

    def crop(self, box):
        return cut(self.image, box)


class EncodedReader:
    """Reads image files in Python, where any error can be caught, named, and made good."""

    def __init__(self, source, sensor, skip_log):
        self.source = source
        self.sensor = sensor
        self.skip_log = skip_log
        self.labels = source.labels()
        self.label_shape = () if self.labels is None else self.labels.shape[1:]
        # Only plain colours and greys may be decoded without a look at them.
        self.takes_jpeg = sensor.takes_bytes_as_they_are and sensor.channels in (1, 3)
        # A part of a split is judged with the others, so the set is theirs together.
        self.known_bad = self.skip_log.known_bad(source.whole)

    def check_readable(self):
        """Stop, before a run begins, if the source has images and none of them can be read.

        The first that can be read ends the search; a large source is searched to `MAX_ATTEMPTS`.
        """
        errors = []
        for example in range(min(self.source.num_examples, MAX_ATTEMPTS)):
            _, _, error = self._try(example)
            if error is None:
                return
            errors.append((self._path(example), reason_of(error)))
        for path, reason in errors:
            self.skip_log.name(path, reason)
        if errors:
            self.skip_log.stop(
                f"None of the {'first ' * (len(errors) < self.source.num_examples)}{len(errors)} "
                f"images of {self.source.name!r} can be read, in a part of "
                f"{self.source.num_examples}. Broken:"
            )

    def read(self, example, key):
        """Handle of an example.

        Args:
            example: int64 scalar tensor.
            key: [seed, epoch], to replace a broken image by another; or None: the handle of a
                broken one has `ok` False and one black pixel.
        """
        # Two outputs only: each costs time to hand over from Python.
        payload, facts = tf.numpy_function(
            self._read_replaced if key is not None else self._read_or_blank,
            [example, *(key or ())],
            [tf.string, tf.int64],
        )
        num_facts = _FACTS + int(np.prod(self.label_shape))
        return self._handle(payload, tf.ensure_shape(facts, (num_facts,)))

    def _handle(self, payload, facts):
        return EncodedHandle(payload, facts, self.sensor.channels, self.label_shape)

    def _read_or_blank(self, example):
        payload, facts, error = self._try(int(example))
        if error is None:
            self.skip_log.seen()
            return payload, facts
        self._report(error, int(example))
        return _string(bytes(self.sensor.channels)), self._facts(int(example), 1, 1, _BYTES, 0)

    def _read_replaced(self, example, seed, epoch):
        payload, facts, error = self._try(int(example))
        if error is None:
            self.skip_log.seen()
            return payload, facts
        self._report(error, int(example))
        for attempt in range(MAX_ATTEMPTS):
            words = [int(seed), int(epoch), int(example), attempt]
            draw = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
            other = int(draw % np.uint64(self.source.num_examples))
            payload, facts, error = self._try(other)
            if error is None:
                return payload, facts
            self._report(error, other, asked_for=False)
        self.skip_log.stop(
            f"No readable image found in {MAX_ATTEMPTS} attempts to replace a broken one in "
            f"{self.source.name}. Broken:"
        )

    def _report(self, error, example, asked_for=True):
        self.known_bad.add(self._path(example))
        self.skip_log.bad(
            self._path(example),
            reason_of(error),
            num_known=len(self.known_bad),
            num_examples=self.source.whole.num_examples,
            asked_for=asked_for,
        )

    def _path(self, example):
        return self.source.path(int(self.source.indices[example]))

    def _try(self, example):
        """(payload, facts, None), or (None, None, the error).

        The payload is a plain JPEG as it is, or the pixels of anything else.
        """
        try:
            data, label = self.source.read(int(self.source.indices[example]))
            if self.takes_jpeg and not isinstance(data, np.ndarray):
                size = plain_jpeg_size(data, self.sensor.channels)
                if size is not None:
                    return _string(data), self._facts(example, *size, _JPEG, 1, label), None
            pixels = self.sensor.see(decoded(data), self.skip_log.tally)
            how = _BYTES if pixels.dtype == np.uint8 else _FLOATS
            facts = self._facts(example, *pixels.shape[:2], how, 1, label)
            return _string(pixels.tobytes()), facts, None
        except Exception as error:  # any file can break any decoder in its own way
            return None, None, error

    def _facts(self, example, height, width, how, ok, label=None):
        if self.labels is not None:
            label = self.labels[example]
        elif label is None:
            label = NO_LABEL
        return np.array([height, width, how, ok, *np.ravel(label)], np.int64)


class EncodedHandle:
    def __init__(self, payload, facts, channels, label_shape=()):
        self.payload = payload
        self.channels = channels
        self.height, self.width = tf.cast(facts[0], tf.int32), tf.cast(facts[1], tf.int32)
        self.how = facts[2]
        self.ok = facts[3] == 1
        self.label = tf.reshape(facts[_FACTS:], label_shape)

    def in_memory(self):
        """Handle of the same image, decoded once for all crops."""
        return ArrayHandle(self.whole(), self.label)

    def whole(self):
        def jpeg():
            # INTEGER_ACCURATE is what Pillow uses; the default differs from it by up to 11 of 255.
            pixels = tf.io.decode_jpeg(
                self.payload, channels=self.channels, dct_method="INTEGER_ACCURATE"
            )
            return tf.cast(pixels, tf.float32)

        return self._by_kind(jpeg, lambda pixels: pixels)

    def crop(self, box):
        return self._by_kind(
            lambda: tf.cast(self._crop_jpeg(box), tf.float32), lambda pixels: cut(pixels, box)
        )

    def _by_kind(self, jpeg, part):
        """Pixels of whichever way they are held, float32."""

        def held_as(dtype):
            pixels = tf.io.decode_raw(self.payload, dtype)
            pixels = tf.reshape(pixels, (self.height, self.width, self.channels))
            return tf.cast(part(pixels), tf.float32)

        if self.channels not in (1, 3):
            return tf.cond(
                self.how == _BYTES, lambda: held_as(tf.uint8), lambda: held_as(tf.float32)
            )
        branches = {
            _BYTES: lambda: held_as(tf.uint8),
            _JPEG: jpeg,
            _FLOATS: lambda: held_as(tf.float32),
        }
        return tf.switch_case(tf.cast(self.how, tf.int32), branches)

    def _crop_jpeg(self, box):
        # One column more on each side: colour is stored at half the width and smoothed between
        # neighbours, so the decoder gets the outermost columns of what it decodes wrong.
        left = tf.maximum(box[1] - 1, 0)
        width = tf.minimum(box[1] + box[3] + 1, self.width) - left
        pixels = tf.image.decode_and_crop_jpeg(
            self.payload,
            [box[0], left, box[2], width],
            channels=self.channels,
            dct_method="INTEGER_ACCURATE",
        )
        return pixels[:, box[1] - left : box[1] - left + box[3]]


def _string(data):
    # An object array: of plain bytes TensorFlow makes a copy first.
    return np.array(data, dtype=object)
