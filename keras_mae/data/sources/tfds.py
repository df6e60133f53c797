"""Data sets that tensorflow-datasets has prepared on this machine."""

import re
from typing import Any

import numpy as np

from keras_mae.data import tfrecords
from keras_mae.data.sources.base import EncodedSource
from keras_mae.data.sources.tfrecord import parse_example
from keras_mae.files import printable

# Up to this size of a split, `labels()` reads it whole to get them.
CHEAP_BYTES = 256 * 2**20


class TFDS(EncodedSource):
    """`NAME[:SPLIT]`, such as `mnist`, `imagenette/160px:train[:90%]` or `mnist:3.0.1:test`.

    The split is "train" by default. Both file formats are read by random access: array_record by
    its own reader, TFRecord by each record's place, for which the headers are hopped through when
    the source is opened (one small read an example). Nothing is ever downloaded.
    """

    name = "tfds"

    def __init__(self, argument: str = "", *, seed: int = 0) -> None:
        match = re.fullmatch(r"([\w/.+-]+?(?::[\d*]+\.[\d*]+\.[\d*]+)?)(?::(.+))?", argument)
        if match is None:
            raise ValueError(
                f"`dataset` must be tfds:NAME[:SPLIT]. Received: 'tfds:{printable(argument)}'"
            )
        self.dataset_name, self.split_name = match[1], match[2] or "train"
        tfds = _import()
        try:
            builder = tfds.builder(self.dataset_name)
        except ValueError as error:
            raise ValueError(
                f"`dataset` must be one that tensorflow-datasets has. Received: "
                f"{self.dataset_name!r} ({str(error).splitlines()[0]})"
            ) from error
        features = dict(builder.info.features.items())
        images = [key for key, value in features.items() if isinstance(value, tfds.features.Image)]
        if not images:
            raise ValueError(
                f"`dataset` must have images. Received: {self.dataset_name!r}, whose features are "
                f"{', '.join(features)}"
            )
        self._image_key = "image" if "image" in images else images[0]
        label = features.get("label")
        self._label_key = "label" if isinstance(label, tfds.features.ClassLabel) else None
        self._num_bytes = 0
        self._labels: Any = None
        self._num_records, self._read_record = self._open(tfds, builder, images)
        super().__init__(self._num_records, seed=seed)
        self._describe(features)

    def _open(self, tfds, builder, images):
        """(number of records, function from a record's number to (image bytes, label))."""
        prepared = builder.is_prepared()
        if prepared:
            try:
                split = builder.info.splits[self.split_name]
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"`dataset` must name a split of {self.dataset_name!r}: one of "
                    f"{', '.join(builder.info.splits)}, or a part. Received: {self.split_name!r}"
                ) from error
            self._num_bytes = split.num_bytes
            if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
                files = _tfrecord_files(split)
                keys = [self._image_key], [self._label_key] if self._label_key else []
                return len(files), lambda record: parse_example(files.read(record), *keys)
        try:
            # Tried without files too: that is what `tfds.testing.mock_data` stands in for.
            examples = builder.as_data_source(
                self.split_name, decoders=dict.fromkeys(images, tfds.decode.SkipDecoding())
            )
        except Exception as error:
            if prepared:
                raise
            raise ValueError(
                "`dataset` must be prepared on this machine. Received: "
                f"{self.dataset_name!r}, which is not at {builder.data_path}. "
                "Prepare it once, on a machine that can fetch it: "
                f"python -c \"import tensorflow_datasets as tfds; tfds.builder('"
                f"{self.dataset_name}').download_and_prepare()\"; or set TFDS_DATA_DIR to where "
                "it lies."
            ) from error

        def read(record):
            example = examples[record]
            label = example[self._label_key] if self._label_key else None
            return example[self._image_key], None if label is None else int(label)

        return len(examples), read

    def _describe(self, features):
        *size, channels = features[self._image_key].shape
        if channels is not None:
            self.channels = channels
        if None not in size:
            self.image_size = tuple(size)
        if self._label_key:
            self.class_names = list(features[self._label_key].names)
            self.num_classes = features[self._label_key].num_classes

    def key(self, record: int) -> str:
        return f"{self.dataset_name}:{self.split_name}#{record}"

    def record_labels(self) -> np.ndarray | None:
        if self.num_classes is None or self._num_bytes > CHEAP_BYTES:
            return None
        if self._labels is None:
            self._labels = [self.read(record)[1] for record in range(self._num_records)]
        return self._labels

    def read(self, record: int) -> tuple[Any, int | None]:
        return self._read_record(record)


def _tfrecord_files(split):
    """The records of a split, parts such as "train[:10%]" included."""
    paths, offsets = [], []
    for part in split.file_instructions:
        places = tfrecords.scan_offsets(part.filename)
        end = len(places) - 1 if part.take == -1 else part.skip + part.take
        paths.append(part.filename)
        offsets.append(places[part.skip : end + 1])
    return tfrecords.RecordFiles(paths, offsets)


def _import():
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ValueError(
            "`dataset` must be one whose package is installed. Received: 'tfds', which needs "
            f'tensorflow-datasets ({error}); run `pip install "keras_mae[tfds]"`'
        ) from error
    return tensorflow_datasets
