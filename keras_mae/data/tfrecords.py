"""TFRecord files with random access: where each record starts, and one read to get it.

TensorFlow reads such files from front to back only. But a record's place is all that it takes to
read it alone, and the places are known from our index file, or from one hop through the headers.
"""

import concurrent.futures
import contextlib
import json
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_mae.data.listing.labels import UNKNOWN
from keras_mae.data.listing.ranges import read_range
from keras_mae.data.shrink import packed_bytes
from keras_mae.data.sources.base import Source, name_bytes
from keras_mae.files import atomic_path, printable
from keras_mae.types import AnyPath

# A record: length (8 bytes), its checksum (4), the data, their checksum (4).
HEADER, FOOTER = 12, 4
INDEX_SUFFIX = ".index.json"
INDEX_VERSION = 2
SHARD_BYTES = 128 * 2**20
# Images from which the size of all is guessed, and images that are made ready together.
SAMPLE, BLOCK = 64, 64


class RecordFiles:
    """The records of several TFRecord files, by number.

    Args:
        paths: list of file paths, also those that `tf.io.gfile` knows, such as `gs://`.
        offsets: list of int64 arrays, for each file the first byte of each record and, last, the
            end of the file.
    """

    def __init__(self, paths, offsets):
        self.paths = [str(path) for path in paths]
        self.offsets = offsets
        self.starts = np.cumsum([0] + [len(places) - 1 for places in offsets])

    def __len__(self):
        return int(self.starts[-1])

    def locate(self, record):
        """(number of the file, number of the record in it)."""
        file = int(np.searchsorted(self.starts, record, side="right")) - 1
        return file, int(record - self.starts[file])

    def read(self, record):
        """The bytes of one record.

        Raises:
            ValueError: if the file does not hold a whole record there.
        """
        file, number = self.locate(record)
        start, end = (int(place) for place in self.offsets[file][number : number + 2])
        data = read_range(self.paths[file], start, end - start)
        whole = len(data) == end - start and len(data) >= HEADER + FOOTER
        if not whole or struct.unpack("<Q", data[:8])[0] != len(data) - HEADER - FOOTER:
            raise ValueError(f"no whole record at byte {start} of {self.paths[file]}")
        return data[HEADER:-FOOTER]


def scan_offsets(path):
    """Where the records of a TFRecord file start, read from their headers.

    One small read a record. What is left after the last whole record, in a file that was cut,
    counts as one record more, which then fails to be read.

    Returns:
        int64 array, the start of each record and the end of the file.
    Raises:
        ValueError: if the file is compressed.
    """
    import tensorflow as tf

    size = tf.io.gfile.stat(path).length
    places = [0]
    with tf.io.gfile.GFile(path, "rb") if "://" in path else open(path, "rb") as file:
        if file.read(3) == b"\x1f\x8b\x08":
            raise ValueError(
                f"`dataset` must be TFRecords without compression. Received: {printable(path)!r}"
            )
        while places[-1] < size:
            file.seek(places[-1])
            header = file.read(8)
            length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
            places.append(min(places[-1] + HEADER + length + FOOTER, size))
    return np.array(places, np.int64)


def read_index(path):
    """The dict of an index file, or None if the file is not one of ours.

    Args:
        path: str or path, also one that `tf.io.gfile` knows.
    """
    import tensorflow as tf

    try:
        with tf.io.gfile.GFile(os.fspath(path), "rb") as file:
            text = file.read().decode("utf-8")
        index = json.loads(text)
        return index if isinstance(index.get("shards"), dict) else None
    except (ValueError, AttributeError):
        return None


def write_tfrecords(
    source: Source,
    prefix: AnyPath,
    *,
    num_shards: int | None = None,
    shorter_side: int | None = None,
    jpeg_quality: int = 90,
    on_error: Callable[[str, Exception], None] | None = None,
) -> dict[str, Any]:
    """Write the images of a source to TFRecord files and an index.

    The index keeps what the source says: names, labels, classes, its own splits, what is never
    parted. So what is held out of the packed images is what would be held out of the source.
    Examples are in the source's order. A shard holds images of one split. Each file is written
    under a temporary name and renamed when it is whole; the index comes last, so where there is an
    index there are all files.

    Args:
        source: a `Source`.
        prefix: path, the beginning of the names: `PREFIX-00000-of-00004.tfrecord` and
            `PREFIX.index.json`; of a source with splits of its own `PREFIX-train-00000-of-...`.
            Also a path that `tf.io.gfile` knows, such as `gs://bucket/set`.
        num_shards: int from the number of splits to that of examples. None: one for each 128 MiB.
        shorter_side: int >= 1, pixels: images whose shorter side is longer are shrunk to it; see
            `keras_mae.data.shrink.packed_bytes`. None: image files are copied as they are.
        jpeg_quality: int from 1 to 100, of shrunk images that become JPEG.
        on_error: function (path, exception) called for a file that cannot be read, or not be
            shrunk, which is then left out. None: the exception is raised.
    Returns:
        dict, the content of the index: `num_examples`, `num_classes`, `class_names`,
        `multi_label`, `bytes_before` and `bytes_after` (of the images), and `shards`: file name ->
        `split`, and for each of its records `offsets`, `sizes`, `keys` and `labels`.
    Raises:
        ValueError: if an argument does not fit.
    Example: `write_tfrecords(load_source("folder:/data/photos"), "/data/packed/photos")`
    """
    if shorter_side is not None and shorter_side < 1:
        raise ValueError(f"`shorter_side` must be an int of at least 1. Received: {shorter_side}")
    if not 1 <= jpeg_quality <= 100:
        raise ValueError(f"`jpeg_quality` must be an int from 1 to 100. Received: {jpeg_quality}")
    parts = _parts(source)
    if num_shards is not None and not len(parts) <= num_shards <= source.num_examples:
        raise ValueError(
            f"`num_shards` must be an int from {len(parts)}, the number of splits, to "
            f"{source.num_examples}, the number of images. Received: {num_shards!r}"
        )
    packer = _Packer(source, shorter_side, jpeg_quality, on_error)
    if num_shards is None:
        num_shards = packer.good_number_of_shards(len(parts))
    prefix = str(prefix)
    folder, base = prefix[: len(prefix) - len(os.path.basename(prefix))], os.path.basename(prefix)
    shards = {}
    for (split, records), count in zip(
        parts.items(), _shards_of_each(parts, num_shards), strict=True
    ):
        for number, some in enumerate(np.array_split(records, count)):
            part = f"-{split}" if split else ""
            name = f"{base}{part}-{number:05d}-of-{count:05d}.tfrecord"
            shards[name] = {"split": split, **packer.write(folder + name, some)}
    index = {
        "version": INDEX_VERSION,
        "num_examples": sum(len(shard["offsets"]) - 1 for shard in shards.values()),
        "num_classes": source.num_classes,
        "class_names": source.class_names,
        "multi_label": source.multi_label,
        "augmentation": source.augmentation,
        "image_size": source.image_size if shorter_side is None else None,
        "default_holdout": source.default_holdout,
        "bytes_before": packer.bytes_before,
        "bytes_after": sum(sum(shard["sizes"]) for shard in shards.values()),
        "shards": shards,
    }
    with _written(prefix + INDEX_SUFFIX) as path:
        _write_text(path, json.dumps(index))
    return index


class _Packer:
    """Writes records of one source, and counts the bytes that it read."""

    def __init__(self, source, shorter_side, jpeg_quality, on_error):
        self.source = source
        self.labels = source.record_labels()
        self.shrink = shorter_side, jpeg_quality
        self.on_error = on_error
        self.bytes_before = 0
        self.read = source.record_reader()

    def good_number_of_shards(self, least):
        """Of `SHARD_BYTES` each, judged by the sizes of some images as they will be packed."""
        count = min(SAMPLE, self.source.num_examples)
        places = np.linspace(0, self.source.num_examples - 1, count).astype(int)
        sizes = [self._prepare(int(self.source.indices[place])) for place in places]
        sizes = [len(data) for data, _, _, error in sizes if error is None]
        expected = np.mean(sizes or [0]) * self.source.num_examples
        return min(self.source.num_examples, max(least, -int(-expected // SHARD_BYTES)))

    def _prepare(self, record):
        """(bytes to write, label, bytes read, None), or (None, None, 0, the error)."""
        try:
            data, label = self.read(record)
            size = data.nbytes if isinstance(data, np.ndarray) else len(data)
            return packed_bytes(data, *self.shrink), label, size, None
        except Exception as error:  # any file can break any decoder in its own way
            return None, None, 0, error

    def write(self, path, records):
        """Write one file of records; return its part of the index, a dict of lists."""
        import tensorflow as tf

        source = self.source
        shard: dict[str, list] = {"offsets": [0], "sizes": [], "keys": [], "labels": []}
        split_keys = []
        with (
            _written(path) as temporary,
            tf.io.TFRecordWriter(str(temporary)) as writer,
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for start in range(0, len(records), BLOCK):
                some = [int(record) for record in records[start : start + BLOCK]]
                for record, made in zip(some, pool.map(self._prepare, some), strict=True):
                    data, label, size, error = made
                    if error is not None:
                        if self.on_error is None:
                            raise error
                        self.on_error(source.path(record), error)
                        continue
                    self.bytes_before += size
                    label = self._label(record, label)
                    example = make_example(data, label, source.key(record))
                    # The same bytes each time: a map has no order of its own.
                    text = example.SerializeToString(deterministic=True)
                    writer.write(text)
                    shard["offsets"].append(shard["offsets"][-1] + HEADER + len(text) + FOOTER)
                    shard["sizes"].append(len(data))
                    shard["keys"].append(source.key(record))
                    shard["labels"].append(label)
                    split_keys.append(source.split_key(record))
        if source.num_classes is None:
            shard["labels"] = None  # type: ignore[assignment]
        if split_keys != shard["keys"]:
            shard["split_keys"] = split_keys
        return shard

    def _label(self, record, label):
        """An int, -1 for none; of several, the list of classes, None where they are not known."""
        if self.labels is None:
            return None if self.source.num_classes is None else -1 if label is None else label
        if not self.source.multi_label:
            return int(self.labels[record])
        row = self.labels[record]
        return None if (row == UNKNOWN).any() else np.flatnonzero(row).tolist()


def make_example(data, label, key):
    """A `tf.train.Example` with `image`, `key` (its name) and, where there is one, `label`.

    Args:
        data: bytes.
        label: int, -1 for none; list of ints, the classes of one that may have several; or None.
        key: string.
    """
    import tensorflow as tf

    def text(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    feature = {"image": text(data), "key": text(name_bytes(key))}
    if label is not None and label != -1:
        labels = label if isinstance(label, list) else [label]
        feature["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=labels))
    return tf.train.Example(features=tf.train.Features(feature=feature))


def _parts(source):
    """Dict of split to the records of a source that are in it; of None, where it has no splits."""
    if source.own_parts is None:
        return {None: source.indices}
    parts = {
        split: source.indices[np.isin(source.indices, records)]
        for split, records in source.own_parts.items()
    }
    return {split: records for split, records in parts.items() if len(records)}


def _shards_of_each(parts, num_shards):
    """How many shards each part gets, one at least, in proportion to its records."""
    sizes = [len(records) for records in parts.values()]
    counts = [1] * len(sizes)
    for _ in range(num_shards - len(sizes)):
        room = [s / c if c < s else 0 for s, c in zip(sizes, counts, strict=True)]
        counts[int(np.argmax(room))] += 1
    return counts


@contextlib.contextmanager
def _written(path):
    """Yield where to write a file that gets the name `path` when it is whole."""
    if "://" in path:  # such a file is there only when it is closed
        yield path
    else:
        with atomic_path(path) as temporary:
            yield temporary


def _write_text(path, text):
    import tensorflow as tf

    with tf.io.gfile.GFile(os.fspath(path), "w") as file:
        file.write(text)
