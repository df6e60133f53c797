"""TFRecord files: written whole, read by place."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_mae.data import (
    EncodedSource,
    SkipLog,
    eval_dataset,
    load_source,
    pretrain_dataset,
    tfrecords,
)

SETTINGS = {"image_size": 16, "batch_size": 4, "mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.fixture
def packed(tmp_path, picture):
    """(source of a folder with two classes, prefix of the 3 files made of it)."""
    for number in range(10):
        path = tmp_path / f"in/{'ab'[number % 2]}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed=number).save(path)
    source = load_source(f"folder:{tmp_path / 'in'}")
    tfrecords.write_tfrecords(source, tmp_path / "out/train", num_shards=3)
    return source, tmp_path / "out/train"


def test_records_are_the_files(packed):
    folder, prefix = packed
    source = load_source(f"tfrecord:{prefix}-*.tfrecord")
    assert source.num_examples == 10 and source.class_names == ["a", "b"]
    assert source.labels().tolist() == folder.labels().tolist()
    assert [source.read(i) for i in range(10)] == [folder.read(i) for i in range(10)]
    assert sorted(os.listdir(prefix.parent)) == [
        "train-00000-of-00003.tfrecord",
        "train-00001-of-00003.tfrecord",
        "train-00002-of-00003.tfrecord",
        "train.index.json",
    ]
    assert json.loads((prefix.parent / "train.index.json").read_text())["num_examples"] == 10


@pytest.mark.slow
def test_the_stream_is_the_folders(packed):
    folder, prefix = packed
    source = load_source(f"tfrecord:{prefix}-*.tfrecord")
    for build in (pretrain_dataset, eval_dataset):
        streams = [build(which, with_labels=True, **SETTINGS).take(3) for which in (folder, source)]
        for (images, labels), (others, other_labels) in zip(*streams, strict=True):
            assert np.array_equal(images, others) and np.array_equal(labels, other_labels)


def test_tensorflow_reads_what_was_written(packed):
    folder, prefix = packed
    files = sorted(map(str, prefix.parent.glob("*.tfrecord")))
    for number, text in enumerate(tf.data.TFRecordDataset(files).as_numpy_iterator()):
        feature = tf.train.Example.FromString(text).features.feature
        assert feature["image"].bytes_list.value[0] == folder.read(number)[0]
        assert feature["key"].bytes_list.value[0].decode() == folder.key(number)
    assert number == 9


def test_files_without_an_index(packed):
    folder, prefix = packed
    os.remove(f"{prefix}.index.json")
    source = load_source(f"tfrecord:{prefix}-*.tfrecord")
    assert source.num_examples == 10 and source.num_classes is None and source.labels() is None
    assert [source.read(i) for i in range(10)] == [folder.read(i) for i in range(10)]


@pytest.mark.parametrize("with_index", [True, False])
def test_a_cut_file_names_what_it_lost(packed, with_index):
    _, prefix = packed
    file = prefix.parent / "train-00001-of-00003.tfrecord"  # 3 records: numbers 4, 5, 6
    places = tfrecords.scan_offsets(str(file))
    file.write_bytes(file.read_bytes()[: places[1] + 500])
    if not with_index:
        os.remove(f"{prefix}.index.json")
    source, log = load_source(f"tfrecord:{prefix}-*.tfrecord"), SkipLog(max_bad_fraction=0.5)
    dataset = eval_dataset(source, with_labels=False, on_skip=log, **SETTINGS)
    assert sum(len(batch) for batch in dataset) == 8
    lost = [f"{file}#1", f"{file}#2"] if with_index else [f"{file}#1"]
    assert sorted(log.reasons) == lost
    assert "no whole record at byte" in log.reasons[lost[0]]


def test_a_failed_write_leaves_nothing_behind(tmp_path, make_folder):
    source = load_source(f"folder:{make_folder(4)}")
    (source.root / "003.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        tfrecords.write_tfrecords(source, tmp_path / "out/x", num_shards=2)
    assert os.listdir(tmp_path / "out") == ["x-00000-of-00002.tfrecord"]  # whole; no index


def test_compressed_files_are_refused(tmp_path):
    path = str(tmp_path / "a.tfrecord")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        writer.write(b"x" * 100)
    with pytest.raises(ValueError, match="`dataset`"):
        load_source(f"tfrecord:{path}")


@pytest.mark.parametrize("argument", ["", "/nowhere/*.tfrecord"])
def test_no_files(argument):
    with pytest.raises(ValueError, match="`dataset`"):
        load_source(f"tfrecord:{argument}")


def test_number_of_shards_that_does_not_fit(packed):
    folder, prefix = packed
    for count in (0, 11):
        with pytest.raises(ValueError, match="`num_shards`"):
            tfrecords.write_tfrecords(folder, prefix, num_shards=count)


def test_a_file_is_a_shard_of_128_mib(make_folder, tmp_path, monkeypatch):
    source = load_source(f"folder:{make_folder(5)}")
    index = tfrecords.write_tfrecords(source, tmp_path / "one/x")
    assert len(index["shards"]) == 1 and index["num_examples"] == 5
    size = sum(file.stat().st_size for file in source.root.glob("*.jpg"))
    assert index["bytes_before"] == index["bytes_after"] == size
    monkeypatch.setattr(tfrecords, "SHARD_BYTES", size // 3 + 1)
    assert len(tfrecords.write_tfrecords(source, tmp_path / "three/x")["shards"]) == 3


@pytest.mark.parametrize(
    "arguments", [{"shorter_side": 0}, {"jpeg_quality": 0}, {"jpeg_quality": 101}]
)
def test_what_cannot_be_packed_is_named(make_folder, tmp_path, arguments):
    source = load_source(f"folder:{make_folder(1)}")
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        tfrecords.write_tfrecords(source, tmp_path / "out/x", **arguments)
    assert not (tmp_path / "out").exists()


def pack(source, tmp_path, **settings):
    """Pack a source; return what was packed, opened."""
    tfrecords.write_tfrecords(source, tmp_path / "packed/x", **settings)
    return load_source(f"tfrecord:{tmp_path}/packed/x-*.tfrecord")


def held_out(source):
    return {source.key(record) for record in source.split()[1].indices}


def test_names_and_what_is_held_out_are_the_sources(make_classes, tmp_path):
    source = load_source(f"folder:{make_classes(70, 50)}")
    packed = pack(source, tmp_path, num_shards=3)
    assert [packed.key(i) for i in range(120)] == [source.key(i) for i in range(120)]
    assert held_out(packed) == held_out(source)
    assert packed.fingerprint() == source.fingerprint()
    assert packed.path(119).endswith("x-00002-of-00003.tfrecord#39")
    assert [packed.record_bytes(i) for i in (0, 119)] == [len(source.read(i)[0]) for i in (0, 119)]


def test_packed_twice_the_files_are_the_same(make_classes, tmp_path):
    source = load_source(f"folder:{make_classes(5, 5)}")
    for name in ("one", "two"):
        tfrecords.write_tfrecords(source, tmp_path / f"{name}/x")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_what_is_never_parted_stays_together(tmp_path):
    source = load_source("photos")
    few = source.subset(np.arange(0, source.num_examples, 32))
    packed = pack(few, tmp_path, shorter_side=8)
    assert packed.num_examples == few.num_examples
    assert packed.default_holdout == 0.2 and packed.augmentation == "crop"
    assert held_out(packed) == held_out(few)
    assert Image.open(io.BytesIO(packed.read(1)[0])).size == (8, 8)


def test_pixels_in_memory_are_packed_without_loss(mnist, tmp_path):
    few = mnist.subset(np.arange(0, 5000, 250))
    packed = pack(few, tmp_path)
    assert packed.class_names == few.class_names and packed.augmentation == "shift"
    assert packed.labels().tolist() == few.labels().tolist() and packed.image_size == (28, 28)
    for number in (0, 19):
        pixels = np.asarray(Image.open(io.BytesIO(packed.read(number)[0])))
        assert np.array_equal(pixels, mnist.images[few.indices[number]][..., 0])


class Deep(EncodedSource):
    """Four images of 16 bits, two of them labelled."""

    num_classes, class_names = 2, ["a", "b"]

    def __init__(self):
        super().__init__(4)

    def key(self, record):
        return str(record)

    def record_labels(self):
        return np.array([0, -1, 1, -1])

    def read(self, record):
        return np.full((4, 5, 2), 1000 * record, np.uint16), self.record_labels()[record]


def test_pixels_of_16_bits_and_images_without_a_label(tmp_path):
    packed = pack(Deep(), tmp_path)
    assert packed.labels().tolist() == [0, -1, 1, -1] and packed.read(1)[1] == -1
    pixels = np.load(io.BytesIO(packed.read(3)[0]))
    assert pixels.dtype == np.uint16 and np.array_equal(pixels, Deep().read(3)[0])
    assert "2 images without a label" in packed.notes[0]
    (file,) = (tmp_path / "packed").glob("*.tfrecord")
    texts = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    features = [tf.train.Example.FromString(text).features.feature for text in texts]
    assert ["label" in feature for feature in features] == [True, False, True, False]


def test_several_labels(tmp_path, picture):
    labels = [["a", "c"], [], None, ["b"]]
    for number in range(4):
        picture(seed=number).save(tmp_path / f"{number}.png")
    rows = [{"image": f"{i}.png", "label": label} for i, label in enumerate(labels)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = load_source(f"table:{tmp_path}/t.jsonl")
    packed = pack(source, tmp_path, num_shards=2)
    assert packed.multi_label and packed.class_names == ["a", "b", "c"]
    assert np.array_equal(packed.record_labels(), source.record_labels())
    assert packed.record_labels().tolist() == [[1, 0, 1], [0, 0, 0], [255] * 3, [0, 1, 0]]
    assert packed.read(0) == (source.read(0)[0], None)


def test_splits(tmp_path, picture):
    for split, count in (("train", 6), ("val", 3), ("test", 1)):
        for number in range(count):
            for label in "ab":
                path = tmp_path / f"in/{split}/{label}/{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(8, 8, seed=number).save(path)
    source = load_source(f"folder:{tmp_path}/in")
    packed = pack(source, tmp_path, num_shards=5)
    assert sorted(path.name for path in (tmp_path / "packed").glob("*.tfrecord")) == [
        "x-test-00000-of-00001.tfrecord",
        "x-train-00000-of-00003.tfrecord",
        "x-train-00001-of-00003.tfrecord",
        "x-train-00002-of-00003.tfrecord",
        "x-validation-00000-of-00001.tfrecord",
    ]
    for which in (source, packed):
        named = {k: {which.key(i) for i in v} for k, v in which.own_parts.items()}
        assert {k: len(v) for k, v in named.items()} == {"train": 12, "validation": 6, "test": 2}
        assert all(key.startswith(split[:3]) for split, keys in named.items() for key in keys)
    alone = load_source(f"tfrecord:{tmp_path}/packed/x-test-*.tfrecord")
    assert alone.own_parts is None and alone.class_names == ["a", "b"]
    with pytest.raises(ValueError, match="`num_shards`"):
        tfrecords.write_tfrecords(source, tmp_path / "few/x", num_shards=2)
    train = source.subset(source.own_parts["train"])
    index = tfrecords.write_tfrecords(train, tmp_path / "train/x")
    assert [shard["split"] for shard in index["shards"].values()] == ["train"]


def test_sets_packed_apart_have_names_of_their_own(make_folder, tmp_path):
    source = load_source(f"folder:{make_folder(3)}")
    for name in "ab":
        tfrecords.write_tfrecords(source, tmp_path / f"packed/{name}")
    both = load_source(f"tfrecord:{tmp_path}/packed/*.tfrecord")
    keys = [both.key(record) for record in range(6)]
    assert len(set(keys)) == 6 and keys[0] == "a.index.json/000.jpg"
    (tmp_path / "packed/b.index.json").unlink()
    both = load_source(f"tfrecord:{tmp_path}/packed/*.tfrecord")
    assert [both.key(record) for record in (0, 5)] == [
        "000.jpg",
        "b-00000-of-00001.tfrecord#2",
    ]


def test_an_index_of_an_older_version_opens_with_the_keys_of_then(packed):
    folder, prefix = packed
    index = json.loads((prefix.parent / "train.index.json").read_text())
    shards = {
        name: {"offsets": shard["offsets"], "labels": shard["labels"]}
        for name, shard in index["shards"].items()
    }
    names = ("num_examples", "num_classes", "class_names")
    old = {**{name: index[name] for name in names}, "channels": 3, "shards": shards}
    (prefix.parent / "train.index.json").write_text(json.dumps(old))
    source = load_source(f"tfrecord:{prefix}-*.tfrecord")
    assert source.key(4) == "train-00001-of-00003.tfrecord#0"
    assert source.class_names == ["a", "b"] and source.record_bytes(0) is None
    assert source.labels().tolist() == folder.labels().tolist()
    assert [source.read(i) for i in range(10)] == [folder.read(i) for i in range(10)]


def test_an_index_that_does_not_fit_is_named(packed):
    _, prefix = packed
    file = prefix.parent / "train.index.json"
    index = json.loads(file.read_text())
    next(iter(index["shards"].values()))["keys"].pop()
    file.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="`dataset`.*index"):
        load_source(f"tfrecord:{prefix}-*.tfrecord")


def test_a_file_system_of_tensorflows(make_classes):
    """`ram://` stands for gs:// and s3://: it, too, is known to TensorFlow only."""
    source = load_source(f"folder:{make_classes(3, 3)}")
    tfrecords.write_tfrecords(source, "ram://bucket/set/x", num_shards=2)
    packed = load_source("tfrecord:ram://bucket/set/x-*")
    assert [packed.read(i) for i in range(6)] == [source.read(i) for i in range(6)]
    assert packed.class_names == source.class_names and packed.key(5) == source.key(5)


@pytest.mark.slow
def test_script(make_folder, tmp_path):
    folder = make_folder(5)
    (folder / "gone.jpg").symlink_to(folder / "nowhere")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    command = [sys.executable, f"{root}/scripts/make_tfrecords.py"]
    done = subprocess.run(
        [*command, f"--dataset=folder:{folder}", f"--output={tmp_path}/out/x", "--num_shards=2"],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "5 images in 2 files" in done.stdout and "1 files left out" in done.stdout
    assert "images/s" in done.stdout and "bytes of images before" in done.stdout
    assert "gone.jpg" in done.stderr
    assert load_source(f"tfrecord:{tmp_path}/out/x-*").num_examples == 5
