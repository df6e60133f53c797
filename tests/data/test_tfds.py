"""tensorflow-datasets for real: built from the embedded digits, prepared to disk, read back."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from source_checks import SourceChecks

from keras_mae.data import eval_dataset, load_source, pretrain_dataset

tfds = pytest.importorskip("tensorflow_datasets")

SETTINGS = {"image_size": 28, "batch_size": 8, "mean": (0.0,), "std": (1.0,)}


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def prepared(request, tmp_path_factory, mnist):
    """Images and labels of the data set `digits_FORMAT`, which lies in TFDS_DATA_DIR."""
    images, labels = mnist.images[::100], mnist.labels()[::100]

    class Digits(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = f"digits_{request.param}"

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(0, 40),
                "test": self._generate_examples(40, 50),
            }

        def _generate_examples(self, start, end):
            for number in range(start, end):
                yield number, {"image": images[number], "label": int(labels[number])}

    folder = tmp_path_factory.mktemp("tfds")
    Digits(data_dir=folder, file_format=request.param).download_and_prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.core.constants, "DATA_DIR", str(folder))
        patch.setenv("TFDS_DATA_DIR", str(folder))
        yield Digits.name, images[:40], labels[:40], folder


class TestTFDS(SourceChecks):
    @pytest.fixture
    def source(self, prepared):
        return open_source(prepared)


def open_source(prepared, split=""):
    name, *_ = prepared
    return load_source(f"tfds:{name}{split}")


def test_source_is_what_tfds_loads(prepared):
    name, images, labels, folder = prepared
    source = open_source(prepared)
    assert (source.num_examples, source.num_classes, source.channels) == (40, 10, 1)
    assert source.image_size == (28, 28)
    ours = [
        (image.numpy(), int(label))
        for batch, batch_labels in eval_dataset(source, **SETTINGS)
        for image, label in zip(batch, batch_labels, strict=True)
    ]
    if "array" in name:
        examples = tfds.data_source(name, split="train", data_dir=folder)
    else:
        examples = tfds.load(name, split="train", data_dir=folder).as_numpy_iterator()
    for (image, label), example in zip(ours, examples, strict=True):
        assert np.array_equal(np.rint(image * 255), example["image"]) and label == example["label"]
    assert source.labels().tolist() == [label for _, label in ours]
    # And these are the digits that went in, in tfds's own order.
    assert sorted(i.tobytes() for i in images) == sorted(
        np.rint(image * 255).astype(np.uint8).tobytes() for image, _ in ours
    )


def test_parts_of_splits(prepared):
    whole = open_source(prepared)
    part = open_source(prepared, ":train[10:20]")
    assert part.num_examples == 10
    assert [part.read(i) for i in range(10)] == [whole.read(i) for i in range(10, 20)]
    assert open_source(prepared, ":test").num_examples == 10
    assert open_source(prepared, ":train+test").num_examples == 50
    assert open_source(prepared, ":1.0.0:test").num_examples == 10
    with pytest.raises(ValueError, match="`dataset`.*nowhere"):
        open_source(prepared, ":nowhere")


@pytest.mark.slow
def test_order_is_global_and_resumes(prepared):
    source = open_source(prepared)

    def take(count, start):
        dataset = pretrain_dataset(source, with_labels=True, start_step=start, **SETTINGS)
        return [(images.numpy(), labels.numpy()) for images, labels in dataset.take(count)]

    whole = take(10, 0)
    for epoch in (whole[:5], whole[5:]):
        labels = np.concatenate([labels for _, labels in epoch])
        assert sorted(labels) == sorted(source.labels())
    for (images, _), (others, _) in zip(whole[7:], take(3, 7), strict=True):
        assert np.array_equal(images, others)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "imagenet2012"])
def test_mock_data(name):
    with tfds.testing.mock_data(num_examples=5):
        source = load_source(f"tfds:{name}")
        settings = {**SETTINGS, "mean": source.mean, "std": source.std}
        assert source.num_examples == 5
        assert next(iter(pretrain_dataset(source, **settings))).shape == (
            8,
            28,
            28,
            source.channels,
        )
        assert next(iter(eval_dataset(source, **settings)))[1].shape == (5,)


def test_not_prepared_is_said_without_a_download(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    builder = tfds.core.DatasetBuilder
    monkeypatch.setattr(builder, "download_and_prepare", lambda *_, **__: pytest.fail("download"))
    with pytest.raises(ValueError, match=r"`dataset`.*cifar10.*download_and_prepare"):
        load_source("tfds:cifar10")
    with pytest.raises(ValueError, match="`dataset`.*no_such_data_set"):
        load_source("tfds:no_such_data_set")
    with pytest.raises(ValueError, match="`dataset`.*imdb_reviews"):
        load_source("tfds:imdb_reviews")


def test_extra_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match=r'pip install "keras_mae\[tfds\]"'):
        load_source("tfds:mnist")


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def prepared_scenes(request, tmp_path_factory):
    """Scenes with objects and label maps as tensorflow-datasets has them; the first without any."""
    scenes = load_source("digit_scenes:32")

    class Scenes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = f"scenes_{request.param}"

        def _info(self):
            objects = {
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(num_classes=10),
                "is_crowd": np.bool_,
            }
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "objects": tfds.features.Sequence(objects),
                "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for record in range(6):
                boxes, classes, _ = scenes.for_task("detect").target(record)
                targets = zip(boxes, classes, strict=True) if record else []
                objects = [
                    {
                        "bbox": tfds.features.BBox(*(box[[1, 0, 3, 2]] / 32)),
                        "label": int(label),
                        "is_crowd": record == 2,
                    }
                    for box, label in targets
                ]
                labels = scenes.for_task("segment").target(record)
                yield (
                    record,
                    {
                        "image": scenes.read(record)[0],
                        "objects": objects,
                        "segmentation_mask": labels[..., None],
                    },
                )

    folder = tmp_path_factory.mktemp("tfds")
    Scenes(data_dir=folder, file_format=request.param).download_and_prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.core.constants, "DATA_DIR", str(folder))
        patch.setenv("TFDS_DATA_DIR", str(folder))
        yield Scenes.name, scenes


@pytest.mark.slow
def test_objects_and_label_maps_are_targets(prepared_scenes):
    name, scenes = prepared_scenes
    source = load_source(f"tfds:{name}")
    assert source.tasks == ("detect", "segment") and source.num_classes is None
    detect, segment = source.for_task("detect"), source.for_task("segment")
    assert detect.class_names == [str(digit) for digit in range(10)]
    found = set()
    for record in range(6):
        pixels = np.asarray(Image.open(io.BytesIO(source.read(record)[0])))
        own = [r for r in range(6) if np.array_equal(scenes.read(r)[0], pixels)][0]
        found.add(own)
        labels = scenes.for_task("segment").target(own)
        np.testing.assert_array_equal(segment.target(record), labels)
        boxes, classes, is_crowd = detect.target(record)
        expected = scenes.for_task("detect").target(own)
        if own == 0:
            assert boxes.shape == (0, 4)
            continue
        np.testing.assert_allclose(boxes, expected.boxes, atol=1e-4)
        assert classes.tolist() == expected.classes.tolist()
        assert is_crowd.tolist() == [own == 2] * len(boxes)
    assert found == set(range(6))
    largest = max(scenes.for_task("segment").target(record).max() for record in range(6))
    assert segment.num_classes == largest + 1
    assert detect.most_boxes == max(len(detect.target(record).boxes) for record in range(6))
    settings = {**SETTINGS, "mean": (0.0,) * 3, "std": (1.0,) * 3, "image_size": 32}
    ((images, labels),) = eval_dataset(detect, **settings)
    assert images.shape == (6, 32, 32, 3) and labels["boxes"].shape == (6, detect.most_boxes, 4)
    ((_, maps),) = eval_dataset(segment, **settings)
    np.testing.assert_array_equal(maps[3], segment.target(3))
    truth = detect.truth()
    assert len(truth["images"]) == 6 and truth["images"][0]["width"] == 32
    assert sum(a["iscrowd"] for a in truth["annotations"]) == len(
        scenes.for_task("detect").target(2).boxes
    )
