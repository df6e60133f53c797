"""What a source of images is: numbered records, read in any order.

Every source gives random access, so the pipeline can compute the images of any step without the
steps before it. A new source is one class in one file of this folder, and nothing else: a subclass
of `EncodedSource` (bytes of image files, read in Python) or of `ArraySource` (pixels in memory,
gathered by TensorFlow). The file's name is the source's.
"""

import copy
import hashlib
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from keras_mae.data.decode import header_size
from keras_mae.types import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# For one-channel images of unknown statistics: the averages of ImageNet's three channels.
GREY_MEAN, GREY_STD = (0.449,), (0.226,)

GLOBAL_SHUFFLE = "global shuffle: each epoch is a new permutation of the whole set"
# Labelled sets of fewer images are split with each class on both sides; larger ones need no help.
SMALL_SET = 100
FEW_HELD_OUT = 50


class Source:
    """Numbered records of images; `indices` are the records that this source (or split) uses.

    Attributes:
        name: string, the kind of source, for messages; empty: the class's name.
        num_examples: int, images an epoch.
        num_classes: int, or None where there are no labels.
        class_names: list of strings in label order, or None.
        channels: 1 or 3.
        mean, std: tuples of floats, one a channel, of images in [0, 1].
        image_size: `(H, W)` in pixels where all images have it, else None.
        augmentation: "crop", "shift" or "none", what training does to an image by default.
        order_guarantee: string, how well an epoch is shuffled and at what cost.
        default_holdout: float, the share that `split()` holds out.
        own_parts: dict of "train", "validation" and "test" to int64 arrays of records, of a source
            that has splits of its own; else None. Labels and classes are those of all parts.
        multi_label: bool. Whether an image may have several labels, or none.
        notes: list of strings, each a line for a person, of what was left out and why.
        OPTIONS: names of the constructor's keyword arguments beside `seed`.

    Args:
        num_records: int.
        seed: int, decides what `split` holds out.
    """

    name = ""
    num_classes: int | None = None
    class_names: list[str] | None = None
    channels = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    image_size: tuple[int, int] | None = None
    augmentation = "crop"
    order_guarantee = GLOBAL_SHUFFLE + ", read by random access"
    default_holdout = 0.05
    own_parts: dict[str, np.ndarray] | None = None
    multi_label = False
    OPTIONS: tuple[str, ...] = ()
    _whole: "Source | None" = None

    def __init__(self, num_records: int, *, seed: int = 0) -> None:
        self.seed = seed
        self.name = self.name or type(self).__name__
        self.notes: list[str] = []
        self.indices: np.ndarray = np.arange(num_records, dtype=np.int64)

    @property
    def num_examples(self) -> int:
        return len(self.indices)

    @property
    def whole(self) -> "Source":
        """The source that `split` made this one a part of; else this one.

        The share of broken images is judged over it: one of the three held out is not a third.
        """
        return self if self._whole is None else self._whole

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
        """Labels of all records: int64 `(n,)`, -1 for none; or None.

        Of a source with several labels an image uint8 `(n, num_classes)` of 0 and 1, and all 255
        for an image whose labels are not known.
        """
        return None

    def record_bytes(self, record: int) -> int | None:
        """Size of a record's content in bytes, as cheaply as can be; None where it is not known.

        Equal contents have equal sizes: only these need be compared.
        """
        return None

    def labels(self) -> np.ndarray | None:
        """int64 array `(num_examples,)` of class numbers.

        None where there are none, or where getting them would mean to read a large data set. The
        datasets give labels wherever `num_classes` is not None.
        """
        labels = self.record_labels()
        if labels is None:
            return None
        return np.asarray(labels, np.uint8 if self.multi_label else np.int64)[self.indices]

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
        """Lists of positions; `split` holds out the same share of each. Default: all in one."""
        return [np.arange(self.num_examples)]

    def split(self, holdout: float | None = None) -> tuple[Self, Self | None]:
        """Divide the examples in two disjoint parts, the same on every call and machine.

        An example's side depends on its name and the source's seed, not on its place in a list.
        With fewer than 100 images and known labels, each class of two images or more is on both
        sides, and a class of one is trained on.

        Args:
            holdout: float in [0, 1), the share held out; at least one example a group.
                None: the source's own default. 0: hold out nothing.
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
        for group in self.groups():
            ranks = [self._rank(self.split_key(self.indices[position])) for position in group]
            names, inverse = np.unique(ranks, return_inverse=True)
            count = max(1, round(len(names) * holdout))
            is_held[np.asarray(group)[inverse < count]] = True
        one_each = self.labels() is not None and not self.multi_label
        if self.num_examples < SMALL_SET and one_each:
            is_held = self._with_each_class_on_both_sides(is_held)
        if is_held.all():
            raise ValueError(
                f"`holdout` must be a share that leaves images to train on, or 0 to hold out none. "
                f"Received: {holdout!r}, of {self.num_examples} examples in {self.name!r}"
            )
        parts = self.subset(np.flatnonzero(~is_held)), self.subset(np.flatnonzero(is_held))
        for part in parts:
            part._whole = self.whole
        return parts

    def _with_each_class_on_both_sides(self, is_held):
        """Return a bool array like `is_held`, in which as few examples as can be changed sides."""
        labels = self.labels()
        keys = [self._rank(self.split_key(record)) for record in self.indices]
        ranks = np.array(keys, dtype=np.uint64)
        changed = is_held.copy()
        for label in np.unique(labels):
            members = labels == label
            names = np.unique(ranks[members])  # in the order in which they would be held out
            if len(names) == 1:
                changed[ranks == names[0]] = False
            elif changed[members].all():
                changed[ranks == names[-1]] = False
            elif not changed[members].any():
                changed[ranks == names[0]] = True
        # Of classes of one image each, nothing would be held out.
        return changed if changed.any() else is_held

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
    """Pixels held in memory, picked by TensorFlow."""

    def image_reader(self) -> Callable[[Tensor], Tensor]:
        """Return a function from a record number (int64 scalar tensor) to uint8 `(H, W, C)`.

        Called when a dataset is built, so that loading a source starts no TensorFlow device: a
        strategy may have to be configured before the first tensor.
        """
        raise NotImplementedError


class EncodedSource(Source):
    """Image files, or records that hold them: read and checked in Python, decoded by TensorFlow."""

    def read(self, record: int) -> tuple[Any, int | None]:
        """`(data, label)`: the bytes of an image file, or pixels `(H, W, C)`; int or None.

        The label of a source with several labels an image is None; `record_labels` has them.
        Called from several threads at once. May raise anything: the record is then skipped.
        """
        raise NotImplementedError

    def record_size(self, record: int) -> tuple[int, int] | None:
        data, _ = self.read(record)
        return data.shape[:2] if isinstance(data, np.ndarray) else header_size(data)


def name_bytes(name: str) -> bytes:
    """Return a name as bytes: a file's own where it is not UTF-8."""
    return name.encode("utf-8", "surrogateescape")
