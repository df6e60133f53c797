"""What a source of images is: numbered records, read in any order.

Every source gives random access, so the pipeline can compute the images of any step without the
steps before it. A new source is one class in one file of this folder, and nothing else: a subclass
of `EncodedSource` (bytes of image files) or of `ArraySource` (pixels in memory). The file's name is
the source's.
"""

import copy
import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from keras_mae.data.cache import PixelCache
from keras_mae.data.decode import decode_image, image_facts
from keras_mae.data.decoders.base import Decoded, Facts
from keras_mae.data.sensor import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Sensor,
    SensorOptions,
    measure,
)
from keras_mae.pixels import BYTE_RANGE

GLOBAL_SHUFFLE = "global shuffle: each epoch is a new permutation of the whole set"
FEW_HELD_OUT = 50
NO_LABEL = -1
UNKNOWN = (
    255  # in the uint8 row of an image that may have several labels, and of which none is known
)
PARTS = ("train", "validation", "test")


class Source:
    """Numbered records of images; `indices` are the records that this source (or split) uses.

    Attributes:
        name: string, the kind of source, for messages; empty: the class's name.
        num_records: int, records of the whole source; its splits have the same.
        num_examples: int, images an epoch.
        num_classes: int, or None where there are no labels.
        class_names: list of strings in label order, or None.
        multi_label: bool. Whether an image can have several labels, or none.
        task: string, what the targets are for: "classify", of labels, or of a source with other
            targets "segment" or "detect", see `keras_mae.data.dense_source`.
        own_parts: dict of int arrays, the records that the data set itself has under "train",
            "validation" and "test"; None where it does not say.
        notes: list of strings, what a person should know before a run.
        channels: int C.
        value_range: (low, high), floats, the stored values that are mapped to 0 and 1.
        mean, std: tuples of floats, one a channel, of values mapped to [0, 1].
        image_size: `(H, W)` in pixels where all images have it, else None.
        augmentation: "crop", "shift" or "none", what training does to an image by default.
        flips: how images are mirrored by default, one of `keras_mae.data.augment.FLIPS`; None:
            "horizontal" with crops, else not.
        order_guarantee: string, how well an epoch is shuffled and at what cost.
        default_holdout: float, the share that `split()` holds out.
        OPTIONS: names of the constructor's keyword arguments beside `seed`, which `load_source`
            may hand on.

    Args:
        num_records: int.
        seed: int, decides what `split` holds out.
    """

    OPTIONS: tuple[str, ...] = ()

    name = ""
    num_classes: int | None = None
    class_names: list[str] | None = None
    multi_label = False
    task = "classify"
    own_parts: dict[str, np.ndarray] | None = None
    channels = 3
    value_range: tuple[float, float] = BYTE_RANGE
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_size: tuple[int, int] | None = None
    augmentation = "crop"
    flips: str | None = None
    order_guarantee = GLOBAL_SHUFFLE + ", read by random access"
    default_holdout = 0.05
    _whole: Any = None

    def cache_of(self, sensor: Sensor) -> Any:
        """Return the `PixelCache` of images as a sensor sees them, or None."""
        return None

    def __init__(self, num_records: int, *, seed: int = 0) -> None:
        self.seed = seed
        self.notes: list[str] = []
        self.name = self.name or type(self).__name__
        self.num_records = num_records
        self.indices: np.ndarray = np.arange(num_records, dtype=np.int64)

    @property
    def num_examples(self) -> int:
        return len(self.indices)

    @property
    def sensor(self) -> Sensor:
        """How the pixels are seen: here by the attributes."""
        return Sensor(
            channels=self.channels,
            byte_range=self.value_range,
            wide_range=self.value_range,
            is_said=True,
            mean=self.mean,
            std=self.std,
        )

    @property
    def whole(self) -> Any:
        """All images of the run that this is a part of, an object with `num_examples`.

        The share of broken images is judged over it: one of the three held out is not a third.
        """
        return self if self._whole is None else self._whole

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that there are targets for."""
        return (self.task,)

    def for_task(self, task: str) -> Self:
        """The same source with the targets of a task.

        Raises:
            ValueError: if it has none for the task.
        """
        if task != self.task:
            tasks = ", ".join(map(repr, self.tasks))
            raise ValueError(f"`task` must be {tasks} for {self.name!r}. Received: {task!r}")
        return self

    def judged_with(self, whole: Any) -> Self:
        """The same source as a part of all images of a run; see `whole`."""
        other = copy.copy(self)
        other._whole = whole
        return other

    def key(self, record: int) -> str:
        """A name of the record that stays the same when the data set is moved elsewhere.

        It differs from those of all other records. Bytes that are no UTF-8 are in it as
        `os.fsdecode` gives them.
        """
        raise NotImplementedError

    def path(self, record: int) -> str:
        """Where a person finds the record: named in `skipped.jsonl`."""
        return self.key(record)

    def record_labels(self) -> np.ndarray | None:
        """Labels of all `num_records` records, in a split too: int64 `(n,)`, -1 for none; or None.

        Of a source with several labels an image uint8 `(n, num_classes)` of 0 and 1, and all 255
        for an image whose labels are not known.
        """
        return None

    def record_reader(self) -> Callable[[int], tuple[Any, Any]]:
        """Return a function from a record's number to its `(data, label)`, see `EncodedSource`."""
        raise NotImplementedError

    def gives_bytes(self, sensor: Sensor) -> bool:
        """Return whether all images are of 8 bits, and are what a sensor's pipeline has of them."""
        raise NotImplementedError

    def record_bytes(self, record: int) -> int | None:
        """Size of a record's content in bytes, as cheaply as can be; None where it is not known.

        Equal contents have equal sizes: only these need be compared.
        """
        return None

    def labels(self) -> np.ndarray | None:
        """int64 array `(num_examples,)` of class numbers; -1 for an image without a label.

        Of several labels an image, `(num_examples, num_classes)` of 0 and 1, and -1 in the row of
        an image of which nothing is known. None where there are none, or where getting them would
        mean to read a large data set. The datasets give labels wherever `num_classes` is not None.
        """
        labels = self.record_labels()
        if labels is None:
            return None
        labels = np.asarray(labels, np.int64)
        if len(labels) != self.num_records:
            raise ValueError(
                f"`record_labels` of {self.name!r} must give a label for each of its "
                f"{self.num_records} records, not of a split only. Received: {len(labels)}"
            )
        labels = labels[self.indices]
        return np.where(labels == UNKNOWN, NO_LABEL, labels) if self.multi_label else labels

    def labelled(self) -> Self:
        """The same source without the examples that have no label, where that is known."""
        labels = self.labels()
        if labels is None:
            return self
        known = labels.reshape(len(labels), -1).min(axis=1, initial=0) >= 0
        return self if known.all() else self.subset(np.flatnonzero(known))

    def content(self, record: int) -> bytes | None:
        """The bytes of a record, to find copies; None for pixels in memory."""
        return None

    def record_size(self, record: int) -> tuple[int, int] | None:
        """`(height, width)` of a record's image in pixels, read as cheaply as can be; or None."""
        return self.image_size

    def typical_size(self, sample: int = 64, seed: int = 0) -> tuple[int, int] | None:
        """Return the median `(height, width)` of a sample of the images, in pixels.

        Only the beginning of an image file is decoded. What cannot be read is left out.

        Args:
            sample: int, how many images are looked at.
            seed: int, decides which.
        Returns:
            `(height, width)`, ints, each a median of its own; None if no image could be read.
        """
        if self.image_size is not None:
            return self.image_size
        count = min(sample, self.num_examples)
        sizes = []
        for record in np.random.default_rng(seed).choice(self.indices, count, replace=False):
            try:
                sizes.append(self.record_size(int(record)))
            except Exception:  # it will be named when it is to be trained on
                continue
        known = [size for size in sizes if size is not None]
        if not known:
            return None
        height, width = np.median(known, axis=0)
        return int(height), int(width)

    def subset(self, positions: Any) -> Self:
        """The same source with only these examples, in this order.

        Of a part of a split it is still a part.

        Args:
            positions: int array of positions in `[0, num_examples)`.
        """
        other = copy.copy(self)
        other.indices = self.indices[np.asarray(positions, dtype=np.int64)]
        return other

    def apart(self) -> Self:
        """The same examples as a set of their own, no longer a part of what `split` divided."""
        other = copy.copy(self)
        other._whole = None
        return other

    def groups(self) -> list[np.ndarray]:
        """Lists of positions; `split` holds out the same share of each. Default: by class."""
        labels = self.labels()
        if labels is None or labels.ndim > 1:
            return [np.arange(self.num_examples)]
        return [np.flatnonzero(labels == label) for label in np.unique(labels)]

    def split(self, holdout: float | None = None) -> tuple[Self, Self | None]:
        """Divide the examples in two disjoint parts, the same on every call and machine.

        An example's side depends on its name and the source's seed, not on its place in a list.
        Where labels are known, the share is held out of each class: at least one image, and none
        of a class that has only one.

        Args:
            holdout: float in [0, 1), the share held out. None: the source's own default. 0: hold
                out nothing.
        Returns:
            `(train, heldout)`, two sources; heldout is None where `holdout` is 0.
        Raises:
            ValueError: if nothing would be left to train on.
        """
        holdout = self.default_holdout if holdout is None else holdout
        if not 0 <= holdout < 1:
            raise ValueError(f"`holdout` must be a float in [0, 1). Received: {holdout!r}")
        if holdout == 0:
            return self, None
        is_held = np.zeros(self.num_examples, bool)
        groups = self.groups()
        for group in groups:
            ranks = [self._rank(self.split_key(self.indices[position])) for position in group]
            names, inverse = np.unique(ranks, return_inverse=True)
            # One of a kind is trained on, but where it is all there is.
            most = len(names) - 1 if len(groups) > 1 else len(names)
            count = min(max(1, round(len(names) * holdout)), most)
            is_held[np.asarray(group)[inverse < count]] = True
        if not is_held.any():  # of classes of one image each: one image
            ranks = [self._rank(self.split_key(record)) for record in self.indices]
            is_held[np.array(ranks) == min(ranks)] = True
        if is_held.all():
            raise ValueError(
                "`holdout` must be a share that leaves images to train on; images of their own can "
                f"be held out, too (validation_dataset). Received: {holdout!r}, of "
                f"{self.num_examples} examples in {self.name!r}"
            )
        parts = self.subset(np.flatnonzero(~is_held)), self.subset(np.flatnonzero(is_held))
        return parts[0].judged_with(self.whole), parts[1].judged_with(self.whole)

    def part(self, name: str) -> Self | None:
        """One of `own_parts`, or None."""
        records = (self.own_parts or {}).get(name)
        if records is None or not len(records):
            return None
        other = copy.copy(self)
        other.indices = np.asarray(records, np.int64)
        return other.judged_with(self.whole)

    @property
    def split_note(self) -> str | None:
        """One line for a person, of a held-out part too small to measure by; else None."""
        count = self.num_examples
        if count >= FEW_HELD_OUT:
            return None
        images = f"{count} held-out image{'s' * (count != 1)}"
        if self.num_classes is None:
            return f"{images}: the held-out loss is a rough guess"
        return f"{images}: accuracies are in steps of {100 / max(count, 1):.3g} points"

    def split_key(self, record: int) -> str:
        """Records with one split key are never parted by `split`. Default: `key`."""
        return self.key(record)

    def _rank(self, key):
        digest = hashlib.blake2b(name_bytes(f"{self.seed}/{key}"), digest_size=8)
        return int.from_bytes(digest.digest())

    def fingerprint(self) -> str:
        """Hex digest of which examples are here, in which order: two runs on equal data agree."""
        digest = hashlib.blake2b(digest_size=16)
        for record in self.indices:
            digest.update(name_bytes(self.key(record)) + b"\0")
        return digest.hexdigest()


class ArraySource(Source):
    """Pixels held in memory."""

    def image_reader(self) -> Callable[[int], np.ndarray]:
        """Return a function from a record number to its pixels, an array `(H, W, C)`.

        Called when a dataset is built; the function is called from several threads at once.
        """
        raise NotImplementedError

    def record_reader(self) -> Callable[[int], tuple[Any, Any]]:
        read = self.image_reader()
        return lambda record: (np.asarray(read(record)), None)

    def gives_bytes(self, sensor: Sensor) -> bool:
        first = self.image_reader()(int(self.indices[0]))
        return sensor.takes_bytes_as_they_are and np.asarray(first).dtype == np.uint8


class _Measured:
    """An attribute that is found by a sample of the images, and by what the source says of it."""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, source, owner=None):
        return self if source is None else getattr(source.sensor, self.name)

    def __set__(self, source, value):
        # New dicts: a copy of the source, such as a part of it, shares the old ones.
        source._said = {**source._said, self.name: value}
        source._found = {}


class EncodedSource(Source):
    """Image files, or records that hold them.

    `channels`, `value_range`, `mean` and `std` are those of a sample of the images, which is taken
    when they are first asked for. A subclass that knows better says so: `channels = 1`.

    Attributes:
        options: `SensorOptions`, what the user said of the pixels.
    """

    options = SensorOptions()
    channels: Any = _Measured()
    value_range: Any = _Measured()
    mean: Any = _Measured()
    std: Any = _Measured()
    _said: dict[str, Any] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        said = dict(cls._said)
        for name in ("channels", "value_range", "mean", "std"):
            if name in cls.__dict__:
                said[name] = cls.__dict__[name]
                delattr(cls, name)
        cls._said = said

    def __init__(self, num_records: int, *, seed: int = 0) -> None:
        super().__init__(num_records, seed=seed)
        self._found: dict[SensorOptions, Sensor] = {}  # shared by all parts
        self._caches: dict[Sensor, PixelCache] = {}  # likewise
        self._cache_size: Any = None

    @property
    def sensor(self) -> Sensor:
        """How the pixels are seen, by a sample of the part that asked first."""
        if self.options not in self._found:
            self._found[self.options] = self._measure()
        return self._found[self.options]

    def with_options(self, options: SensorOptions) -> Self:
        """The same source, whose pixels are seen otherwise."""
        other = copy.copy(self)
        other.options = options
        return other

    def seen_through(self, sensor: Sensor) -> Self:
        """The same source, whose pixels are seen as those of another."""
        other = copy.copy(self)
        other._found = {other.options: sensor}
        return other

    def kept(self, most_bytes: float, least: tuple[int, int] | None) -> Self:
        """The same source, whose decoded images are kept in memory.

        Args:
            most_bytes, least: see `PixelCache`.
        """
        other = copy.copy(self)
        other._caches, other._cache_size = {}, (most_bytes, least)
        return other

    def cache_of(self, sensor: Sensor) -> Any:
        if self._cache_size is None:
            return None
        return self._caches.setdefault(sensor, PixelCache(*self._cache_size))

    def _measure(self):
        said, options = self._said, self.options
        if options.value_range is None and "value_range" in said:
            options = dataclasses.replace(options, value_range=tuple(said["value_range"]))
        if options.statistics is None and "mean" in said:
            statistics = (tuple(said["mean"]), tuple(said["std"]))
            options = dataclasses.replace(options, statistics=statistics)
        return measure(
            self.indices,
            self.record_facts,
            lambda record: decoded(self.read(record)[0]),
            options,
            said.get("channels"),
        )

    def read(self, record: int) -> tuple[Any, int | None]:
        """`(data, label)`: the bytes of an image file, or pixels `(H, W, C)`; int or None.

        Pixels are an array of any integer or float dtype. The label of a source with several
        labels an image is None; `record_labels` has them. Called from several threads at once. May
        raise anything: the record is then skipped.
        """
        raise NotImplementedError

    def record_reader(self) -> Callable[[int], tuple[Any, Any]]:
        return self.read

    def gives_bytes(self, sensor: Sensor) -> bool:
        # No range is known of wider ones where the sample had none.
        return sensor.takes_bytes_as_they_are and sensor.wide_range is None

    def content(self, record: int) -> bytes | None:
        data, _ = self.read(record)
        return data.tobytes() if isinstance(data, np.ndarray) else bytes(data)

    def record_facts(self, record: int) -> Facts:
        """What the header of a record's image says, read as cheaply as can be."""
        data, _ = self.read(record)
        if not isinstance(data, np.ndarray):
            return image_facts(data)
        image = decoded(data)
        height, width, channels = image.pixels.shape
        return Facts(height, width, channels, image.pixels.dtype == np.uint8)

    def record_size(self, record: int) -> tuple[int, int] | None:
        if self.image_size is not None:
            return self.image_size
        facts = self.record_facts(record)
        return facts.height, facts.width


def decoded(data: Any) -> Decoded:
    """Return what a source's `read` gave as a `Decoded` image.

    Raises:
        Exception: if it is no image.
    """
    if not isinstance(data, np.ndarray):
        return decode_image(data)
    if data.ndim != 3 or 0 in data.shape or data.dtype.kind not in "uif":
        raise ValueError(f"expected pixels (H, W, C), got {data.dtype} {data.shape}")
    return Decoded(data)


def name_bytes(name: str) -> bytes:
    """Return a name as bytes: a file's own where it is not UTF-8."""
    return name.encode("utf-8", "surrogateescape")
