"""What folders mean, by their names alone, and which names are images."""

import os

import numpy as np
import pytest

from keras_mae.data import load_source
from keras_mae.data.listing import names
from keras_mae.data.listing.labels import number_label_sets, number_labels, sorted_names
from keras_mae.data.listing.tree import read_tree


def tree(*paths):
    return read_tree(paths, "'folder:x'")


def splits(*tops, classes=("a", "b")):
    return [f"{top}/{label}/{i}.png" for top in tops for label in classes for i in range(2)]


@pytest.mark.parametrize(
    "tops",
    [
        ("train", "val", "test"),
        ("Training", "VALID", "Testing"),
        ("TRAIN", "validation"),
        ("train", "test"),
        ("train",),
    ],
)
def test_top_folders_named_as_splits_are_splits(tops):
    paths = splits(*tops)
    found = tree(*paths)
    assert found.class_names == ["a", "b"]
    assert found.labels.tolist() == [0, 0, 1, 1] * len(tops)
    order = [name for name in ("train", "validation", "test") if name in found.own_parts]
    assert list(found.own_parts) == order and len(order) == len(tops)
    for top in tops:
        (part,) = [p for p in found.own_parts.values() if paths[p[0]].startswith(f"{top}/")]
        assert [paths[i].split("/")[0] for i in part] == [top] * 4


def test_one_class_among_others_may_have_a_splits_name():
    found = tree("car/1.png", "plane/1.png", "train/1.png")
    assert found.class_names == ["car", "plane", "train"] and found.own_parts is None


def test_splits_without_classes():
    for paths in (["train/1.png", "val/2.png"], ["train/images/1.png", "val/images/2.png"]):
        found = tree(*paths)
        assert found.labels is None and found.class_names is None
        assert {k: v.tolist() for k, v in found.own_parts.items()} == {
            "train": [0],
            "validation": [1],
        }


@pytest.mark.parametrize(
    "paths, words",
    [
        ([*splits("train", "val"), "extra/a/1.png"], ["extra/", "train/", "val/"]),
        ([*splits("train", "test"), "1.png"], ["train/", "test/", "images in no folder"]),
        (splits("val", "test"), ["train/", "test/", "val/"]),
        (splits("test"), ["train/", "test/"]),
        (splits("train", "val", "valid"), ["val/", "valid/", "validation"]),
        (splits("train", "Train", "val"), ["train/", "Train/"]),
        (splits("train", classes="abc") + splits("VAL"), ["VAL/", "'c'"]),
        (splits("train") + splits("val", classes="abc"), ["train/", "'c'"]),
        (splits("train") + ["test/1.png"], ["test/", "1 image ", "'a', 'b'"]),
        (["train/a/1.png", "val/b/1.png"], ["train/ lacks 'b'", "val/ lacks 'a'"]),
    ],
)
def test_folders_that_are_neither_splits_nor_classes_are_named(paths, words):
    with pytest.raises(ValueError, match="`dataset`") as error:
        tree(*paths)
    assert all(word in str(error.value) for word in words), error.value


def test_classes_need_every_image_in_one_of_two_folders():
    assert tree("a/1.png", "b/x/2.png").labels.tolist() == [0, 1]
    assert tree("a/1.png", "a/2.png").labels is None
    assert tree("a/1.png", "b/2.png", "3.png").labels is None
    assert tree("train/a/1.png", "3.png").own_parts is None


@pytest.mark.parametrize(
    "name, is_stray",
    [
        ("cat/1.png", False),
        ("cat/._1.png", True),
        (".ipynb_checkpoints/1.png", True),
        ("__MACOSX/cat/1.png", True),
        ("cat/Thumbs.db", True),
        ("cat/desktop.INI", True),
        ("System Volume Information/1.png", True),
        ("$RECYCLE.BIN/1.png", True),
        ("cat/__init__.png", False),
    ],
)
def test_what_systems_leave_behind(name, is_stray):
    assert names.has_stray(name) == is_stray


def test_a_file_without_a_suffix_is_an_image_if_it_is_dicom(tmp_path):
    for name in ("IM0001", "1.2.840.5", "README", "notes.txt"):
        content = bytes(128) + b"DICM" if name[0] in "I1n" else b"Read me" * 50
        (tmp_path / name).write_bytes(content)
    assert load_source(f"folder:{tmp_path}").files == ["1.2.840.5", "IM0001"]
    for name in ("1.PNG", "2.npy", "3.dcm"):
        (tmp_path / name).write_bytes(b"")
    assert load_source(f"folder:{tmp_path}").num_examples == 5


def test_a_pipe_with_an_images_name_does_not_stop_the_run(make_folder):
    folder = make_folder(1)
    os.mkfifo(folder / "pipe.png")
    source = load_source(f"folder:{folder}")
    assert source.files == ["000.jpg", "pipe.png"]
    with pytest.raises(OSError, match="Illegal seek"):
        source.read(1)


def test_names_of_classes_are_in_order_of_number_where_all_are_plain():
    assert sorted_names(["10", "9", "-1"]) == ["-1", "9", "10"]
    assert sorted_names(["10", "9", "09"]) == ["09", "10", "9"]
    found, labels = number_labels(["b", None, "a", "b"])
    assert found == ["a", "b"] and labels.tolist() == [1, -1, 0, 1]
    found, labels = number_label_sets([["b", "a"], [], None, ["b"]])
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[1, 1], [0, 0], [255, 255], [0, 1]]


def test_shortest_names_are_the_last_parts_where_these_differ():
    assert names.shortest_names(["/x/a.tar", "/y/b.tar"]) == ["a.tar", "b.tar"]
    assert names.shortest_names(["/x/1/a.tar", "/x/2/a.tar"]) == ["1/a.tar", "2/a.tar"]
