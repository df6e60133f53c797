"""TFRecord files: written whole, read by place."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_mae.data import SkipLog, eval_dataset, load_source, pretrain_dataset, tfrecords

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


def test_a_folder_is_packed_whole(make_folder, tmp_path, monkeypatch):
    folder = make_folder(5)
    index = tfrecords.make_tfrecords(folder, tmp_path / "one/x")
    assert len(index["shards"]) == 1 and index["num_examples"] == 5
    size = sum(file.stat().st_size for file in folder.glob("*.jpg"))
    monkeypatch.setattr(tfrecords, "SHARD_BYTES", size // 3 + 1)
    assert len(tfrecords.make_tfrecords(folder, tmp_path / "three/x")["shards"]) == 3


def test_what_cannot_be_packed_is_named(make_folder, tmp_path):
    with pytest.raises(ValueError, match="`folder`"):
        tfrecords.make_tfrecords(tmp_path / "missing", tmp_path / "out/x")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="`output`"):
        tfrecords.make_tfrecords(make_folder(1), tmp_path / "file/x")


@pytest.mark.slow
def test_script(make_folder, tmp_path):
    folder = make_folder(5)
    (folder / "gone.jpg").symlink_to(folder / "nowhere")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    command = [sys.executable, f"{root}/scripts/make_tfrecords.py"]
    done = subprocess.run(
        [*command, f"--folder={folder}", f"--output={tmp_path}/out/x", "--num_shards=2"],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "5 images in 2 files" in done.stdout and "1 files left out" in done.stdout
    assert "gone.jpg" in done.stderr
    assert load_source(f"tfrecord:{tmp_path}/out/x-*").num_examples == 5
