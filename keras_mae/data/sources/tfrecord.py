"""TFRecord files of `tf.train.Example`s, such as `scripts/make_tfrecords.py` writes."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.data import tfrecords
from keras_mae.data.sources.base import EncodedSource
from keras_mae.files import printable

IMAGE_KEYS = ("image", "image/encoded", "image_raw", "jpg", "png")
LABEL_KEYS = ("label", "image/class/label")


class TFRecord(EncodedSource):
    """The records of all files that match `GLOB`, in the order of the file names.

    Files that an index beside them (`PREFIX.index.json`) lists open at once and have their classes;
    of others the headers are hopped through first, and they count as unlabelled.
    """

    name = "tfrecord"

    def __init__(self, argument: str = "", *, seed: int = 0) -> None:
        if "://" in argument:
            import tensorflow as tf

            paths = sorted(tf.io.gfile.glob(argument))
        else:
            paths = sorted(glob.glob(str(Path(argument).expanduser()), recursive=True))
        paths = [path for path in paths if not path.endswith(tfrecords.INDEX_SUFFIX)]
        if not argument or not paths:
            raise ValueError(
                f"`dataset` must be tfrecord:GLOB with files that match. Received: "
                f"'tfrecord:{printable(argument)}', which matches none"
            )
        known = {}
        for folder in {Path(path).parent for path in paths if "://" not in path}:
            for file in sorted(folder.glob("*" + tfrecords.INDEX_SUFFIX)):
                index = tfrecords.read_index(file) or {"shards": {}}
                known.update({str(folder / name): (index, name) for name in index["shards"]})
        shards = [
            known[path][0]["shards"][known[path][1]] if path in known else None for path in paths
        ]
        self.files = tfrecords.RecordFiles(
            paths,
            [
                tfrecords.scan_offsets(path) if shard is None else np.array(shard["offsets"])
                for path, shard in zip(paths, shards, strict=True)
            ],
        )
        if len(self.files) == 0:
            raise ValueError(
                "`dataset` must be files with records. Received: "
                f"'tfrecord:{printable(argument)}', without any"
            )
        super().__init__(len(self.files), seed=seed)
        self.order_guarantee += "; each record's place comes from the index, or from its header"
        self._labels = None
        self._describe([known[path][0] if path in known else None for path in paths], shards)

    def _describe(self, indexes, shards):
        """Take classes and channels from the index, if one covers all files."""
        first = indexes[0]
        if any(index is None for index in indexes):
            return
        if any(index["class_names"] != first["class_names"] for index in indexes):
            return
        self.channels = first["channels"]
        self.class_names, self.num_classes = first["class_names"], first["num_classes"]
        if self.num_classes is not None:
            self._labels = np.concatenate([shard["labels"] for shard in shards]).astype(np.int64)

    def key(self, record: int) -> str:
        file, number = self.files.locate(record)
        return f"{Path(self.files.paths[file]).name}#{number}"

    def path(self, record: int) -> str:
        file, number = self.files.locate(record)
        return f"{self.files.paths[file]}#{number}"

    def record_labels(self) -> np.ndarray | None:
        return self._labels

    def read(self, record: int) -> tuple[Any, int | None]:
        return parse_example(self.files.read(record), IMAGE_KEYS, LABEL_KEYS)


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
