"""Data sets that tensorflow-datasets has prepared on this machine."""

import contextlib
import re
from typing import Any

import numpy as np

from keras_mae.data import tfrecords
from keras_mae.data.decode import header_size
from keras_mae.data.dense_labels import LabelNumbers, decode_label_map
from keras_mae.data.dense_source import IGNORED, Boxes, DenseSource, truth_of_targets
from keras_mae.data.sources.tfrecord import parse_example
from keras_mae.files import printable

# Up to this size of a split, `labels()` reads it whole to get them.
CHEAP_BYTES = 256 * 2**20
# What features with dense targets are called in the data sets that have some.
OBJECTS, MAPS = "objects", ("segmentation_mask", "segmentation_label")
# What marks an object that is no target, and that it is no fault to find.
_CROWDS = ("is_crowd", "is_difficult")


class TFDS(DenseSource):
    """`NAME[:SPLIT]`, such as `mnist`, `imagenette/160px:train[:90%]` or `mnist:3.0.1:test`.

    The split is "train" by default. Both file formats are read by random access: array_record by
    its own reader, TFRecord by each record's place, for which the headers are hopped through when
    the source is opened (one small read an example). Nothing is ever downloaded.

    Beside labels there may be targets for "detect", the feature `objects` with bbox and label, and
    for "segment", a label map. All examples are read once when such a task is chosen.
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
        names = self._find_targets(tfds, features)
        opened = self._open(tfds, builder, images)
        num_records, self._read_record, self._read_fields = opened
        super().__init__(num_records, names, seed=seed)
        self._most: int | None = None
        self._describe(features)

    def _find_targets(self, tfds, features):
        """Class names of each dense task that there are targets for; [] where to be counted."""
        found: dict[str, list[str]] = {}
        inner = getattr(features.get(OBJECTS), "feature", None)
        objects = dict(inner.items()) if isinstance(inner, tfds.features.FeaturesDict) else {}
        self._flags = [f"{OBJECTS}/{name}" for name in _CROWDS if name in objects]
        if "bbox" in objects and isinstance(objects.get("label"), tfds.features.ClassLabel):
            found["detect"] = list(objects["label"].names)
        maps = [k for k, v in features.items() if isinstance(v, tfds.features.LabeledImage)]
        maps = [key for key in MAPS if key in features] or (maps if len(maps) == 1 else [])
        if maps:
            self._map_key = maps[0]
            found["segment"] = list(getattr(features[maps[0]], "names", None) or [])
        return found

    def _open(self, tfds, builder, images):
        """Number of records, and two functions of a record's number.

        The first gives `(image bytes, label)`; the second, of names such as "objects/bbox" too, a
        dict of these to arrays or bytes.
        """
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
                return (
                    len(files),
                    lambda record: parse_example(files.read(record), *keys),
                    lambda record, names: _parse_fields(files.read(record), names),
                )
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

        def read_fields(record, names):
            example = examples[record]
            pairs = ((name, name.partition("/")) for name in names)
            return {
                name: example[first][rest] if rest else example[first]
                for name, (first, _, rest) in pairs
            }

        return len(examples), read, read_fields

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
        if self.num_classes is None or self.task != "classify" or self._num_bytes > CHEAP_BYTES:
            return None
        if self._labels is None:
            self._labels = [self.read(record)[1] for record in range(self.num_records)]
        return self._labels

    def read(self, record: int) -> tuple[Any, int | None]:
        data, label = self._read_record(record)
        return data, label if self.task == "classify" else None

    @property
    def tasks(self) -> tuple[str, ...]:
        own = ("classify",) if self._label_key and self.task == "classify" else ()
        return own + super().tasks

    def for_task(self, task: str) -> Any:
        chosen = super().for_task(task)
        if chosen is self or task == "classify":
            return chosen
        if task == "detect":
            chosen._most = chosen._largest(lambda target: len(target.boxes))
        elif not chosen.class_names:
            largest = chosen._largest(lambda labels: int(labels[labels != IGNORED].max(initial=0)))
            names = [str(number) for number in range(largest + 1)]
            chosen.class_names, chosen.num_classes = names, len(names)
            chosen._names = {**self._names, "segment": names}
        return chosen

    def _largest(self, measure):
        """The largest number, 1 at least, that a function gives of a target."""
        largest = 1
        for record in range(self.num_records):
            with contextlib.suppress(Exception):  # a broken one is named when it is read
                largest = max(largest, measure(self.target(record)))
        return largest

    def target(self, record: int) -> Any:
        if self.task == "segment":
            labels = decode_label_map(self._read_fields(record, [self._map_key])[self._map_key])
            return LabelNumbers().classes(labels)
        names = [f"{OBJECTS}/bbox", f"{OBJECTS}/label", *self._flags]
        found = self._read_fields(record, names)
        height, width = header_size(self._read_record(record)[0])
        # Stored as top, left, bottom, right, shares of the image's sides.
        boxes = np.asarray(found[names[0]], np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]]
        corners = (boxes.clip(0, 1) * [width, height, width, height]).astype("float32")
        is_crowd = np.zeros(len(corners), bool)
        for flag in self._flags:
            is_crowd |= np.asarray(found[flag], bool)
        has_area = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        classes = np.asarray(found[names[1]], np.int64)
        return Boxes(corners[has_area], classes[has_area], is_crowd[has_area])

    @property
    def most_boxes(self) -> int:
        return self._most or 1

    @property
    def category_ids(self) -> list[int]:
        return list(range(1, len(self._names["detect"]) + 1))

    def image_id(self, record: int) -> int:
        return record + 1

    def truth(self) -> dict[str, Any]:
        return truth_of_targets(self)


def _tfrecord_files(split):
    """The records of a split, parts such as "train[:10%]" included."""
    paths, offsets = [], []
    for part in split.file_instructions:
        places = tfrecords.scan_offsets(part.filename)
        end = len(places) - 1 if part.take == -1 else part.skip + part.take
        paths.append(part.filename)
        offsets.append(places[part.skip : end + 1])
    return tfrecords.RecordFiles(paths, offsets)


def _parse_fields(text, names):
    """Fields of a serialised `tf.train.Example`: flat arrays, or the bytes of a file."""
    import tensorflow as tf

    feature = tf.train.Example.FromString(text).features.feature
    found: dict[str, Any] = {}
    for name in names:
        kind = feature[name].WhichOneof("kind")
        values = getattr(feature[name], kind).value if kind else []
        found[name] = values[0] if kind == "bytes_list" else np.array(values)
    return found


def _import():
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ValueError(
            "`dataset` must be one whose package is installed. Received: 'tfds', which needs "
            f'tensorflow-datasets ({error}); run `pip install "keras_mae[tfds]"`'
        ) from error
    return tensorflow_datasets
