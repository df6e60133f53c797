"""Read examples of any source for a `tf.data` pipeline; broken images never raise there.

All is done in Python, by libraries that let other threads work meanwhile, and many images a call:
TensorFlow's own decoding and resizing cost more.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_mae.data.decode import plain_jpeg_size, reason_of
from keras_mae.data.handle import Handle
from keras_mae.data.sensor import Sensor
from keras_mae.data.skips import SkipLog
from keras_mae.data.sources.base import NO_LABEL, Source, decoded

MAX_ATTEMPTS = 100


class Reader:
    """Reads the images of a source, names what is broken, and puts others in its place.

    Args:
        source: a `Source`.
        sensor: `Sensor`, how its pixels are seen, or None: the source's own.
        skip_log: `SkipLog`, or None for one in memory.
    Attributes:
        dtype: "uint8" where all images are of 8 bits and stay as they are, else "float32".
    """

    def __init__(
        self, source: Source, sensor: Sensor | None = None, skip_log: SkipLog | None = None
    ) -> None:
        self.source = source
        self.sensor = source.sensor if sensor is None else sensor
        self.skip_log = SkipLog() if skip_log is None else skip_log
        self.labels = source.labels()
        self.label_shape = () if self.labels is None else self.labels.shape[1:]
        # Only plain colours and greys may be decoded without a look at them.
        self._takes_jpeg = self.sensor.takes_bytes_as_they_are and self.sensor.channels in (1, 3)
        # A part of a split is judged with the others, so the set is theirs together.
        self.known_bad = self.skip_log.known_bad(source.whole)
        self._read_record = source.record_reader()
        self.dtype = "uint8" if source.gives_bytes(self.sensor) else "float32"
        self._cache = source.cache_of(self.sensor)

    def check_readable(self) -> None:
        """Stop, before a run begins, if the source has images and none of them can be read.

        The first that can be read ends the search; a large source is searched to `MAX_ATTEMPTS`.
        """
        errors = []
        for example in range(min(self.source.num_examples, MAX_ATTEMPTS)):
            try:
                self.example(example)[0].whole()
                return
            except Exception as error:  # any file can break any decoder in its own way
                errors.append((self._path(example), reason_of(error)))
        for path, reason in errors:
            self.skip_log.name(path, reason)
        if errors:
            self.skip_log.stop(
                f"None of the {'first ' * (len(errors) < self.source.num_examples)}{len(errors)} "
                f"images of {self.source.name!r} can be read, in a part of "
                f"{self.source.num_examples}. Broken:"
            )

    def example(self, example: int) -> tuple[Handle, Any]:
        """Return the `Handle` of an example, and its label: int64 scalar or array, -1 for none.

        Raises:
            Exception: of any kind, for an image that cannot be read.
        """
        record = int(self.source.indices[example])
        kept = None if self._cache is None else self._cache.get(record)
        if kept is not None:
            picture, label = Handle(kept[0]), kept[1]
        else:
            data, label = self._read_record(record)
            picture = self._picture(data)
        if self.labels is not None:
            label = self.labels[example]
        return picture, NO_LABEL if label is None else label

    def _picture(self, data):
        if self._takes_jpeg and not isinstance(data, np.ndarray):
            size = plain_jpeg_size(data, self.sensor.channels)
            if size is not None:
                return Handle(None, data, size, self.sensor.channels, lambda: self._seen(data))
        return Handle(self._seen(data))

    def _seen(self, data):
        image, tally = decoded(data), self.skip_log.tally
        pixels = self.sensor.see(image, tally)
        if self.dtype == "uint8" and pixels.dtype != np.uint8:
            tally.rounded += image.pixels.dtype != np.uint8
            pixels = np.rint(pixels).astype("uint8")
        return pixels

    def batch(
        self,
        examples: np.ndarray,
        make: Callable[[Sequence[Handle], Any], list[Callable[[], Any]]],
        numbers: Any,
        keys: np.ndarray | None = None,
    ) -> tuple[list[Any], np.ndarray]:
        """Make something of each of some examples.

        Args:
            examples: int `(n,)`.
            make: function from pictures and the numbers of each to functions without arguments,
                one a picture, which decode and give what is made of it.
            numbers: array `(n, ...)`, whatever `make` takes of each.
            keys: int `(n, 2)`, (seed, epoch), to replace a broken image by another; or None: what
                is made of a broken one is None.
        Returns:
            (list of n, labels int64 `(n, ...)`, -1 where there are none).
        """
        read = [self._try(example) for example in examples]
        good = [place for place, (picture, _) in enumerate(read) if picture is not None]
        makers = make([read[place][0] for place in good], numbers[good])
        made: list[Any] = [None] * len(examples)
        labels = np.full((len(examples), *self.label_shape), NO_LABEL, np.int64)
        for place, maker in zip(good, makers, strict=True):
            made[place] = self._made(maker, int(examples[place]))
            labels[place] = read[place][1]
            if self._cache is not None and made[place] is not None:
                record = int(self.source.indices[examples[place]])
                self._cache.keep(record, *read[place])
        for place, one in enumerate(made):
            if one is not None:
                self.skip_log.seen()
            elif keys is not None:
                made[place], labels[place] = self._replaced(
                    int(examples[place]), keys[place], make, numbers[place : place + 1]
                )
        return made, labels

    def _try(self, example, asked_for=True):
        """Return (picture, label), or (None, None) for a broken one, which is named."""
        try:
            return self.example(int(example))
        except Exception as error:  # any file can break any decoder in its own way
            self._report(error, int(example), asked_for)
            return None, None

    def _made(self, maker, example, asked_for=True):
        try:
            return maker()
        except Exception as error:  # damaged behind its header
            self._report(error, example, asked_for)
            return None

    def _replaced(self, example, key, make, numbers):
        """What is made of another example, which a broken one leaves its place to."""
        for attempt in range(MAX_ATTEMPTS):
            words = [int(key[0]), int(key[1]), example, attempt]
            draw = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
            other = int(draw % np.uint64(self.source.num_examples))
            picture, label = self._try(other, asked_for=False)
            if picture is None:
                continue
            (maker,) = make([picture], numbers)
            made = self._made(maker, other, asked_for=False)
            if made is not None:
                return made, label
        return self.skip_log.stop(
            f"No readable image found in {MAX_ATTEMPTS} attempts to replace a broken one in "
            f"{self.source.name}. Broken:"
        )

    def _report(self, error, example, asked_for):
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
