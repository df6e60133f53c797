"""Data sets that the real `datasets` library wrote, opened without the network."""

import socket
import sys

import numpy as np
import pytest
from source_checks import png

from keras_mae.data import load_source
from keras_mae.data.sources import huggingface

datasets = pytest.importorskip("datasets")

NAMES = ["zebra", "ant", "moth"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def table(labels, first=0, image="img", kind=None, **more):
    """A `Dataset` of images `png(first)` ... with these labels."""
    kind = datasets.ClassLabel(names=NAMES) if kind is None else kind
    columns = {image: [{"bytes": png(first + i)} for i in range(len(labels))], "label": labels}
    features = datasets.Features({image: datasets.Image(), "label": kind, **more})
    columns |= {name: [{"bytes": b"mask"}] * len(labels) for name in more}
    return datasets.Dataset.from_dict(columns, features=features)


def saved(folder, what):
    what.save_to_disk(str(folder))
    return f"huggingface:{folder}"


def test_names_and_numbers_are_as_they_are_stored(tmp_path):
    source = load_source(saved(tmp_path / "x", table([1, 0, -1, None, 0])))
    assert source.class_names == NAMES and source.num_classes == 3
    assert source.record_labels().tolist() == [1, 0, -1, -1, 0]
    assert [source.read(i) for i in (0, 2)] == [(png(0), 1), (png(2), -1)]
    assert source.own_parts is None and "2 images without a label" in source.notes[0]
    assert source.key(3) == "train#3"


def test_splits_are_its_own_parts(tmp_path):
    sets = datasets.DatasetDict(
        test=table([0], 20), train=table([1, 0]), valid=table([2], 10), unlabelled=table([0], 30)
    )
    spec = saved(tmp_path / "x", sets)
    source = load_source(spec)
    assert {k: v.tolist() for k, v in source.own_parts.items()} == {
        "train": [0, 1],
        "validation": [2],
        "test": [3],
    }
    assert source.labels().tolist() == [1, 0, 2, 0]
    assert [source.read(i)[0] for i in range(4)] == [png(n) for n in (0, 1, 10, 20)]
    assert [source.key(i) for i in range(4)] == ["train#0", "train#1", "valid#0", "test#0"]
    assert "'unlabelled'" in source.notes[0]
    for split, numbers in (("test", [20]), ("train[1:]+test", [1, 20]), ("train[:50%]", [0])):
        part = load_source(f"{spec}:{split}")
        assert part.own_parts is None
        assert [part.read(i)[0] for i in range(part.num_examples)] == [png(n) for n in numbers]
    assert load_source(f"{spec}:train[1:]").key(0) == "train#1"
    for split in ("tests", "train[:0]", "train[", ""):
        with pytest.raises(ValueError, match="`dataset`"):
            load_source(f"{spec}:{split}")


def test_splits_without_train_have_to_be_named(tmp_path):
    spec = saved(tmp_path / "x", datasets.DatasetDict(a=table([0]), b=table([1])))
    with pytest.raises(ValueError, match="`dataset`.*a, b"):
        load_source(spec)
    assert load_source(f"{spec}:b").num_examples == 1


def test_parquet_files_and_folders(tmp_path):
    (tmp_path / "x").mkdir()
    table([1, 0, 2]).to_parquet(tmp_path / "x/train.parquet")
    table([2], 10).to_parquet(tmp_path / "x/test.parquet")
    source = load_source(f"huggingface:{tmp_path}/x/train.parquet")
    assert source.class_names == NAMES and source.labels().tolist() == [1, 0, 2]
    assert source.read(2) == (png(2), 2)
    source = load_source(f"huggingface:{tmp_path}/x")
    assert {k: len(v) for k, v in source.own_parts.items()} == {"train": 3, "test": 1}
    assert source.read(3) == (png(10), 2)


def test_a_folder_of_images_is_opened_by_its_paths(tmp_path):
    for number, label in enumerate(["ant", "zebra", "ant"]):
        path = tmp_path / f"x/train/{label}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    source = load_source(f"huggingface:{tmp_path}/x")
    reads = {source.read(i) for i in range(3)}
    assert source.class_names == ["ant", "zebra"]
    assert reads == {(png(0), 0), (png(1), 1), (png(2), 0)}
    assert source.record_bytes(0) == len(source.read(0)[0])


def test_many_chunks_and_rows_without_an_image(tmp_path):
    parts = [table([i % 3] * 3, 10 * i) for i in range(4)]
    source = load_source(saved(tmp_path / "x", datasets.concatenate_datasets(parts)))
    expected = [(png(10 * i + j), i % 3) for i in range(4) for j in range(3)]
    assert [source.read(i) for i in range(12)] == expected
    rows = {"img": [{"bytes": png(0)}, None], "label": [0, 1]}
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("string")})
    source = load_source(saved(tmp_path / "y", datasets.Dataset.from_dict(rows, features=features)))
    with pytest.raises(ValueError, match="no image"):
        source.read(1)
    assert source.record_bytes(1) is None and source.class_names == ["0", "1"]


@pytest.mark.parametrize(
    "labels, kind, names, numbers",
    [
        ([10, 9, -1, None], datasets.Value("int64"), ["9", "10"], [1, 0, -1, -1]),
        (["b", "", None, "a"], datasets.Value("string"), ["a", "b"], [1, -1, -1, 0]),
        ([0.5, 1.5, 0.1, 2.5], datasets.Value("float32"), None, None),
        (["a"] * 4, datasets.Value("string"), None, None),
    ],
)
def test_labels_without_a_class_label(tmp_path, labels, kind, names, numbers):
    source = load_source(saved(tmp_path / "x", table(labels, kind=kind)))
    assert source.class_names == names
    assert (None if numbers is None else source.labels().tolist()) == numbers


def test_lists_of_classes_are_several_labels(tmp_path):
    kind = datasets.Sequence(datasets.ClassLabel(names=NAMES))
    source = load_source(saved(tmp_path / "x", table([[0, 2], [], None, [1]], kind=kind)))
    assert source.multi_label and source.class_names == NAMES
    assert source.record_labels().tolist() == [[1, 0, 1], [0, 0, 0], [255] * 3, [0, 1, 0]]
    assert source.read(0)[1] is None


def test_columns(tmp_path):
    both = table([0, 1], image="left", mask=datasets.Image())
    spec = saved(tmp_path / "x", both)
    with pytest.raises(ValueError, match="`image_column`.*left, mask"):
        load_source(spec)
    assert load_source(spec, image_column="left").read(1) == (png(1), 1)
    spec = saved(tmp_path / "y", table([0, 1], image="image", mask=datasets.Image()))
    assert load_source(spec).read(1) == (png(1), 1)
    for options in ({"image_column": "label"}, {"label_column": "no"}, {"label_column": "mask"}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
            load_source(spec, **options)
    spec = saved(tmp_path / "z", datasets.Dataset.from_dict({"text": ["a"]}))
    with pytest.raises(ValueError, match="`dataset`.*type Image.*text"):
        load_source(spec)


@pytest.mark.parametrize("number", [3, -2])
def test_a_number_without_a_name_is_refused(tmp_path, number):
    pyarrow = pytest.importorskip("pyarrow")
    rows = table([0, 1]).data.table
    place = rows.column_names.index("label")
    numbers = pyarrow.array([0, number], rows.schema.field("label").type)
    rows = rows.set_column(place, rows.schema.field("label"), numbers)
    with pytest.raises(ValueError, match=f"`dataset`.*{number} in column 'label'"):
        load_source(saved(tmp_path / "x", datasets.Dataset(rows)))


def test_a_label_that_is_an_image_is_not_loaded(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    rows = {name: [{"bytes": png(i)} for i in range(2)] for name in features}
    source = load_source(saved(tmp_path / "x", datasets.Dataset.from_dict(rows, features=features)))
    assert source.num_classes is None and source.read(1) == (png(1), None)


def test_a_name_of_the_hub_is_looked_for_in_the_cache_only(monkeypatch):
    asked = []

    def refuse(*arguments, **_):
        asked.append(arguments)
        raise OSError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(ValueError, match="`dataset`.*cache.*no/such_data_set"):
        load_source("huggingface:no/such_data_set")
    assert asked == [] and datasets.config.HF_HUB_OFFLINE is False


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"keras_mae\[huggingface\]"):
        load_source(f"huggingface:{tmp_path}")


def test_what_is_path_and_what_is_split(tmp_path):
    odd = tmp_path / "a:b"
    odd.mkdir()
    assert huggingface._split_spec(f"{odd}") == (str(odd), None)
    assert huggingface._split_spec(f"{odd}:train[:9]") == (str(odd), "train[:9]")
    assert huggingface._split_spec("beans:train[:9]") == ("beans", "train[:9]")
    assert huggingface._split_spec("org/beans") == ("org/beans", None)


def test_reading_makes_no_copy_of_the_table(tmp_path):
    source = load_source(saved(tmp_path / "x", table([0] * 5)))
    assert np.array_equal(source._starts, [0, 5])
    assert source._bytes[0][0].as_buffer().size == len(png(0))
