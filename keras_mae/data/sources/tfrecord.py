"""TFRecord files of `tf.train.Example`s, such as `scripts/make_tfrecords.py` writes."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.data import tfrecords
from keras_mae.data.listing import labels as numbering
from keras_mae.data.listing.names import shortest_names
from keras_mae.data.listing.tree import SPLITS
from keras_mae.data.sources.base import EncodedSource
from keras_mae.files import printable

IMAGE_KEYS = ("image", "image/encoded", "image_raw", "jpg", "png")
LABEL_KEYS = ("label", "image/class/label")


class TFRecord(EncodedSource):
    """The records of all files that match `GLOB`, in the order of the file names.

    Files that an index beside them (`PREFIX.index.json`) lists open at once, and have the names,
    labels, classes and splits of the source that was packed; of others the headers are hopped
    through first, and they count as unlabelled. A glob may be one that `tf.io.gfile` knows, such as
    `gs://bucket/set-*`.
    """

    name = "tfrecord"

    def __init__(self, argument: str = "", *, seed: int = 0) -> None:
        self._shown = f"'tfrecord:{printable(argument)}'"
        paths = _glob(argument)
        if not argument or not paths:
            raise ValueError(
                "`dataset` must be tfrecord:GLOB with files that match. Received: "
                f"{self._shown}, which matches none"
            )
        indexes, found = _indexes(paths)
        files, shards = zip(*(found.get(path, (None, None)) for path in paths), strict=True)
        self.files = tfrecords.RecordFiles(
            paths,
            [
                tfrecords.scan_offsets(path) if shard is None else np.array(shard["offsets"])
                for path, shard in zip(paths, shards, strict=True)
            ],
        )
        if len(self.files) == 0:
            raise ValueError(
                f"`dataset` must be files with records. Received: {self._shown}, without any"
            )
        super().__init__(len(self.files), seed=seed)
        self.order_guarantee += "; each record's place comes from the index, or from its header"
        self._name_records(paths, shards, files)
        self._labels: np.ndarray | None = None
        if None not in shards:
            self._describe([indexes[file] for file in dict.fromkeys(files)], shards)

    def _name_records(self, paths, shards, files):
        """Keys, split keys and sizes of all records: those of the source, where the index has them.

        Sets that were packed apart may have the same names: there each has its own before them.
        """
        names = shortest_names(paths)
        used = sorted({file for file in files if file is not None})
        before = dict(zip(used, shortest_names(used), strict=True))
        self._keys: list[str] = []
        self._split_keys: list[str] = []
        self._sizes: list[int | None] = []
        for name, shard, file, places in zip(names, shards, files, self.files.offsets, strict=True):
            count = len(places) - 1
            own = [f"{name}#{number}" for number in range(count)]
            keys = own if shard is None else shard.get("keys", own)
            prefix = f"{before[file]}/" if len(used) > 1 and keys is not own else ""
            split_keys = keys if shard is None else shard.get("split_keys", keys)
            self._keys += [prefix + key for key in keys]
            self._split_keys += [prefix + key for key in split_keys]
            self._sizes += [None] * count if shard is None else shard.get("sizes", [None] * count)
        if not len(self._keys) == len(self._split_keys) == len(self._sizes) == len(self.files):
            raise ValueError(
                "`dataset` must have an index that fits its files. Received: "
                f"{self._shown}, whose index is damaged"
            )

    def _describe(self, indexes, shards):
        """Take from the indexes what all of them say."""
        first = indexes[0]
        for name in ("augmentation", "default_holdout", "image_size"):
            value = first.get(name)
            if value is not None and all(index.get(name) == value for index in indexes):
                setattr(self, name, tuple(value) if name == "image_size" else value)
        self._divide(shards)
        kinds = [(i["class_names"], i["num_classes"], i.get("multi_label")) for i in indexes]
        if first["num_classes"] is None or any(kind != kinds[0] for kind in kinds):
            return
        self.class_names, self.num_classes, several = kinds[0]
        self.multi_label = bool(several)
        labels: list[Any] = [label for shard in shards for label in shard["labels"]]
        if self.multi_label:
            numbers = [str(number) for number in range(self.num_classes)]
            sets = [None if label is None else map(str, label) for label in labels]
            self._labels = numbering.number_label_sets(sets, numbers)[1]
        else:
            self._labels = np.array(labels, np.int64)
        self.notes += numbering.unlabelled_note(self._labels)

    def _divide(self, shards):
        splits = np.repeat(
            [shard.get("split") or "" for shard in shards],
            [len(places) - 1 for places in self.files.offsets],
        )
        there = [split for split in dict.fromkeys(SPLITS.values()) if (splits == split).any()]
        if len(there) > 1 and "train" in there:
            self.own_parts = {split: np.flatnonzero(splits == split) for split in there}

    def key(self, record: int) -> str:
        return self._keys[record]

    def split_key(self, record: int) -> str:
        return self._split_keys[record]

    def path(self, record: int) -> str:
        file, number = self.files.locate(record)
        return f"{self.files.paths[file]}#{number}"

    def record_labels(self) -> np.ndarray | None:
        return self._labels

    def record_bytes(self, record: int) -> int | None:
        return self._sizes[record]

    def read(self, record: int) -> tuple[Any, int | None]:
        data, label = parse_example(self.files.read(record), IMAGE_KEYS, LABEL_KEYS)
        if self.multi_label:
            return data, None
        return data, label if self._labels is None else int(self._labels[record])


def _glob(argument):
    if "://" in argument:
        import tensorflow as tf

        paths = sorted(tf.io.gfile.glob(argument))
    else:
        paths = sorted(glob.glob(str(Path(argument).expanduser()), recursive=True))
    return [path for path in paths if not path.endswith(tfrecords.INDEX_SUFFIX)]


def _indexes(paths):
    """(dict of index file to index, dict of path to its index file and the part about it)."""
    indexes, found = {}, {}
    for folder in sorted({os.path.dirname(path) for path in paths}):
        for file in _index_files(folder):
            index = tfrecords.read_index(file)
            if index is not None:
                indexes[file] = index
                for name, shard in index["shards"].items():
                    _check_shard(shard, file)
                    found[os.path.join(folder, name)] = file, shard
    return indexes, found


def _check_shard(shard, file):
    """Raise a ValueError unless an index says of a file what every version of it has said."""
    is_sound = isinstance(shard, dict) and isinstance(shard.get("offsets"), list)
    labels = shard.get("labels", ()) if is_sound else ()
    if not is_sound or (labels is not None and len(labels) != len(shard["offsets"]) - 1):
        raise ValueError(
            f"`dataset` must have an index that is whole. Received: {printable(file)}, damaged"
        )


def _index_files(folder):
    pattern = "*" + tfrecords.INDEX_SUFFIX
    if "://" not in folder:
        return sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))
    import tensorflow as tf

    return sorted(tf.io.gfile.glob(os.path.join(folder, pattern)))


def parse_example(
    text: bytes, image_keys: Sequence[str], label_keys: Sequence[str]
) -> tuple[bytes, int | None]:
    """`(image bytes, label or None)` of a serialised `tf.train.Example`.

    Raises:
        ValueError: if it has none of `image_keys`.
    """
    import tensorflow as tf

    feature = tf.train.Example.FromString(text).features.feature
    # A look-up that fails would add the key to the message: ask first.
    images = [feature[key].bytes_list.value for key in image_keys if key in feature]
    if not images or not images[0]:
        raise ValueError(f"expected an image under {', '.join(image_keys)}; got {sorted(feature)}")
    labels = [feature[key].int64_list.value for key in label_keys if key in feature]
    return images[0][0], int(labels[0][0]) if labels and labels[0] else None
