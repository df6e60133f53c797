"""What a source of images is: numbered records, read in any order.

Every source gives random access, so the pipeline can compute the images of any step without the
steps before it. A new source is one class in one file: subclass `EncodedSource` (bytes of image
files, read in Python) or `ArraySource` (pixels in memory, gathered by TensorFlow), and name it in
`keras_mae/data/sources/__init__.py`.
"""

import copy
import hashlib

import numpy as np

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# For one-channel images of unknown statistics: the averages of ImageNet's three channels.
GREY_MEAN, GREY_STD = (0.449,), (0.226,)

GLOBAL_SHUFFLE = "global shuffle: each epoch is a new permutation of the whole set"


class Source:
    """Numbered records of images; `indices` are the records that this source (or split) uses.

    Attributes:
        name: string, as in the spec.
        num_examples: int, images an epoch.
        num_classes: int, or None where there are no labels.
        class_names: list of strings in label order, or None.
        channels: 1 or 3.
        mean, std: tuples of floats, one a channel, of images in [0, 1].
        image_size: `(H, W)` in pixels where all images have it, else None.
        augmentation: "crop" or "shift", what pre-training does to an image by default.
        order_guarantee: string, how well an epoch is shuffled and at what cost.
        default_holdout: float, the share that `split()` holds out.
    """

    name = ""
    num_classes = None
    class_names = None
    channels = 3
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    image_size = None
    augmentation = "crop"
    order_guarantee = GLOBAL_SHUFFLE + ", read by random access"
    default_holdout = 0.05

    def __init__(self, num_records, *, seed=0):
        self.seed = seed
        self.indices = np.arange(num_records, dtype=np.int64)

    @property
    def num_examples(self):
        return len(self.indices)

    def key(self, record):
        """A name of the record that stays the same when the data set is moved elsewhere."""
        raise NotImplementedError

    def path(self, record):
        """Where a person finds the record: named in `skipped.jsonl`."""
        return self.key(record)

    def record_labels(self):
        """int array of the labels of all records, or None; see `labels`."""
        return None

    def labels(self):
        """int64 array `(num_examples,)` of class numbers.

        None where there are none, or where getting them would mean to read a large data set. The
        datasets give labels wherever `num_classes` is not None.
        """
        labels = self.record_labels()
        return None if labels is None else np.asarray(labels, dtype=np.int64)[self.indices]

    def subset(self, positions):
        """The same source with only these examples, in this order.

        Args:
            positions: int array of positions in `[0, num_examples)`.
        """
        other = copy.copy(self)
        other.indices = self.indices[np.asarray(positions, dtype=np.int64)]
        return other

    def groups(self):
        """Lists of positions; `split` holds out the same share of each. Default: all in one."""
        return [np.arange(self.num_examples)]

    def split(self, holdout=None):
        """Divide the examples in two disjoint parts, the same on every call and machine.

        An example's side depends on its name and the source's seed, not on its place in a list.

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
            raise ValueError(f"holdout: expected a float in [0, 1), got {holdout!r}.")
        if holdout == 0:
            return self, None
        held = []
        for group in self.groups():
            ranks = [self._rank(self.split_key(self.indices[position])) for position in group]
            names, inverse = np.unique(ranks, return_inverse=True)
            count = max(1, round(len(names) * holdout))
            held.append(np.asarray(group)[inverse < count])
        held = np.sort(np.concatenate(held))
        train = np.setdiff1d(np.arange(self.num_examples), held)
        if len(train) == 0:
            raise ValueError(
                f"holdout: expected a share that leaves images to train on, got {holdout!r} of "
                f"{self.num_examples} examples in {self.name!r}; pass holdout=0 to hold out none."
            )
        return self.subset(train), self.subset(held)

    def split_key(self, record):
        """Records with one split key are never parted by `split`. Default: `key`."""
        return self.key(record)

    def _rank(self, key):
        digest = hashlib.blake2b(f"{self.seed}/{key}".encode(), digest_size=8)
        return int.from_bytes(digest.digest())

    def fingerprint(self):
        """Hex digest of which examples are here, in which order: two runs on equal data agree."""
        digest = hashlib.blake2b(digest_size=16)
        for record in self.indices:
            digest.update(self.key(record).encode() + b"\0")
        return digest.hexdigest()


class ArraySource(Source):
    """Pixels held in memory, picked by TensorFlow."""

    def image_reader(self):
        """Return a function from a record number (int64 scalar tensor) to uint8 `(H, W, C)`.

        Called when a dataset is built, so that loading a source starts no TensorFlow device: a
        strategy may have to be configured before the first tensor.
        """
        raise NotImplementedError


class EncodedSource(Source):
    """Image files, or records that hold them: read and checked in Python, decoded by TensorFlow."""

    def read(self, record):
        """`(data, label)`: the bytes of an image file, or uint8 pixels `(H, W, C)`; int or None.

        Called from several threads at once. May raise anything: the record is then skipped.
        """
        raise NotImplementedError
