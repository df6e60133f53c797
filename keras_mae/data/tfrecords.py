"""TFRecord files with random access: where each record starts, and one read to get it.

TensorFlow reads such files from front to back only. But a record's place is all that it takes to
read it alone, and the places are known from our index file, or from one hop through the headers.
"""

import json
import os
import struct
from pathlib import Path

import numpy as np

from keras_mae.data.sources.base import name_bytes
from keras_mae.data.sources.folder import Folder
from keras_mae.files import atomic_path, check_writable, printable

# A record: length (8 bytes), its checksum (4), the data, their checksum (4).
HEADER, FOOTER = 12, 4
INDEX_SUFFIX = ".index.json"
SHARD_BYTES = 128 * 2**20


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


def read_range(path, start, size):
    """Up to `size` bytes of a file from byte `start`."""
    if "://" in path:
        import tensorflow as tf

        with tf.io.gfile.GFile(path, "rb") as file:
            file.seek(start)
            return file.read(size)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)


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
    """The dict of an index file, or None if the file is not one of ours."""
    try:
        index = json.loads(Path(path).read_text(encoding="utf-8"))
        return index if isinstance(index.get("shards"), dict) else None
    except (ValueError, AttributeError):
        return None


def make_tfrecords(folder, output, *, num_shards=None, on_error=None):
    """Pack a folder of images into TFRecord files and an index.

    Args:
        folder: path of a folder of images, at any depth. Class folders become labels.
        output: path, the beginning of the files' names, such as "/data/packed/train".
        num_shards: int, number of files. None: one for each 128 MiB.
        on_error: as in `write_tfrecords`.
    Returns:
        dict, the content of the index, see `write_tfrecords`.
    Raises:
        ValueError: if the folder has no images, `output` cannot be written, or `num_shards` does
            not fit.
    """
    if not Path(folder).expanduser().is_dir():
        raise ValueError(f"`folder` must be a folder that exists. Received: {printable(folder)!r}")
    check_writable(Path(output).parent, "output")
    source = Folder(str(folder))
    if num_shards is None:
        num_shards = min(source.num_examples, -(-source.num_bytes() // SHARD_BYTES) or 1)
    return write_tfrecords(source, output, num_shards=num_shards, on_error=on_error)


def write_tfrecords(source, prefix, *, num_shards, on_error=None):
    """Write the image files of a source, as they are, to TFRecord files and an index.

    Example i goes to shard `i * num_shards // num_examples`. Each file is written under a
    temporary name and renamed when it is whole; the index comes last, so where there is an index
    there are all files.

    Args:
        source: an `EncodedSource`.
        prefix: path, the beginning of the names: `PREFIX-00000-of-00004.tfrecord` and
            `PREFIX.index.json`.
        num_shards: int from 1 to the number of examples.
        on_error: function (path, exception) called for a file that cannot be read, which is then
            left out. None: the exception is raised.
    Returns:
        dict, the content of the index: `num_examples`, `num_classes`, `class_names`, `channels`,
        and `shards`: file name -> `offsets` and `labels` of its records.
    Raises:
        ValueError: if `num_shards` does not fit.
    """
    import tensorflow as tf

    if not 1 <= num_shards <= source.num_examples:
        raise ValueError(
            f"`num_shards` must be an int from 1 to {source.num_examples}, the number of images. "
            f"Received: {num_shards!r}"
        )
    prefix = Path(prefix)
    shards = {}
    for shard, records in enumerate(np.array_split(source.indices, num_shards)):
        name = f"{prefix.name}-{shard:05d}-of-{num_shards:05d}.tfrecord"
        offsets, labels = [0], []
        with (
            atomic_path(prefix.parent / name) as temporary,
            tf.io.TFRecordWriter(str(temporary)) as writer,
        ):
            for record in map(int, records):
                try:
                    data, label = source.read(record)
                except Exception as error:
                    if on_error is None:
                        raise
                    on_error(source.path(record), error)
                    continue
                text = make_example(data, label, source.key(record)).SerializeToString()
                writer.write(text)
                offsets.append(offsets[-1] + HEADER + len(text) + FOOTER)
                labels.append(label)
        shards[name] = {"offsets": offsets, "labels": labels if source.num_classes else None}
    index = {
        "num_examples": sum(len(shard["offsets"]) - 1 for shard in shards.values()),
        "num_classes": source.num_classes,
        "class_names": source.class_names,
        "channels": source.channels,
        "shards": shards,
    }
    with atomic_path(prefix.with_name(prefix.name + INDEX_SUFFIX)) as temporary:
        temporary.write_text(json.dumps(index), encoding="utf-8")
    return index


def make_example(data, label, key):
    """A `tf.train.Example` with `image`, `key` (its name) and, where there is one, `label`."""
    import tensorflow as tf

    def text(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    feature = {"image": text(data), "key": text(name_bytes(key))}
    if label is not None:
        feature["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(features=tf.train.Features(feature=feature))
