"""Read one example of any source inside a `tf.data` pipeline; broken images never raise there.

A reader's `read` gives a handle: the image's size and label (-1: none), and ways to get its
pixels, whole or a box.
"""

import numpy as np
import tensorflow as tf

from keras_mae.data.decode import plain_jpeg_size, read_with_pillow, reason_of
from keras_mae.data.skips import SkipLog
from keras_mae.data.sources import ArraySource

MAX_ATTEMPTS = 100


def make_reader(source, skip_log=None):
    """The reader that fits a source; `skip_log` is a `SkipLog`, or None for one in memory."""
    if isinstance(source, ArraySource):
        return ArrayReader(source)
    return EncodedReader(source, SkipLog() if skip_log is None else skip_log)


def cut(image, box):
    """The pixels of `image` inside `box` = (top, left, height, width)."""
    return image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]


class ArrayReader:
    """Reads images that lie in memory: they cannot fail."""

    def __init__(self, source):
        with tf.device("CPU:0"):
            self.indices = tf.constant(source.indices)
            labels = source.labels()
            self.labels = None if labels is None else tf.constant(labels)
        self.read_record = source.image_reader()

    def check_readable(self):
        """Nothing in memory is broken."""

    def read(self, example, key):
        """Handle of the example (int64 scalar tensor); `key` is not needed here."""
        label = tf.constant(-1, tf.int64) if self.labels is None else self.labels[example]
        return ArrayHandle(self.read_record(self.indices[example]), label)


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

    def __init__(self, source, skip_log):
        self.source = source
        self.skip_log = skip_log
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
        return EncodedHandle(payload, tf.ensure_shape(facts, (5,)), self.source.channels)

    def _read_or_blank(self, example):
        payload, facts, error = self._try(int(example))
        if error is None:
            self.skip_log.seen()
            return payload, facts
        self._report(error, int(example))
        return _string(bytes(self.source.channels)), np.array([-1, 1, 1, 0, 0], np.int64)

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
        self.known_bad.add(int(self.source.indices[example]))
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

        The payload is a plain JPEG as it is, or the pixels of anything else. The facts are
        (label or -1, height, width, whether it is a JPEG, whether it is ok).
        """
        channels = self.source.channels
        try:
            data, label = self.source.read(int(self.source.indices[example]))
            label = -1 if label is None else label
            if isinstance(data, np.ndarray):
                pixels = _fit_channels(data, channels)
            else:
                size = plain_jpeg_size(data, channels)
                if size is not None:
                    return _string(data), np.array([label, *size, 1, 1], np.int64), None
                pixels = read_with_pillow(data, channels)
            facts = np.array([label, *pixels.shape[:2], 0, 1], np.int64)
            return _string(pixels.tobytes()), facts, None
        except Exception as error:  # any file can break any decoder in its own way
            return None, None, error


class EncodedHandle:
    def __init__(self, payload, facts, channels):
        self.payload = payload
        self.channels = channels
        self.label = facts[0]
        self.height, self.width = tf.cast(facts[1], tf.int32), tf.cast(facts[2], tf.int32)
        self.is_jpeg = facts[3] == 1
        self.ok = facts[4] == 1

    def in_memory(self):
        """Handle of the same image, decoded once for all crops."""
        return ArrayHandle(self.whole(), self.label)

    def whole(self):
        return tf.cond(
            self.is_jpeg,
            # INTEGER_ACCURATE is what Pillow uses; the default differs from it by up to 11 of 255.
            lambda: tf.io.decode_jpeg(
                self.payload, channels=self.channels, dct_method="INTEGER_ACCURATE"
            ),
            self._pixels,
        )

    def crop(self, box):
        return tf.cond(self.is_jpeg, lambda: self._crop_jpeg(box), lambda: cut(self._pixels(), box))

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

    def _pixels(self):
        pixels = tf.io.decode_raw(self.payload, tf.uint8)
        return tf.reshape(pixels, (self.height, self.width, self.channels))


def _string(data):
    # An object array: of plain bytes TensorFlow makes a copy first.
    return np.array(data, dtype=object)


def _fit_channels(pixels, channels):
    """uint8 `(H, W, channels)` of stored pixels, grey repeated or alpha dropped as needed."""
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"expected uint8 pixels (H, W, C), got {pixels.dtype} {pixels.shape}")
    if pixels.shape[2] == 1 and channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] < channels:
        raise ValueError(f"expected {channels} channels, got {pixels.shape[2]}")
    return pixels[:, :, :channels]
