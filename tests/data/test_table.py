"""Tables: labels as they are written, faults by row before training."""

import csv
import json

import numpy as np
import pytest
from source_checks import png

from keras_mae.data import load_source


@pytest.fixture
def make(tmp_path):
    """Function that writes images `0.png` ... and a CSV of rows; returns the spec."""

    def make(rows, head=("image", "label"), name="t.csv", encoding="utf-8", **form):
        for number in range(9):
            (tmp_path / f"{number}.png").write_bytes(png(number))
        with open(tmp_path / name, "w", newline="", encoding=encoding) as file:
            table = csv.writer(file, **form)
            table.writerow(head)
            table.writerows(rows)
        return f"table:{tmp_path}/{name}"

    return make


def named(source):
    """List of the class name of each image, None for no label."""
    return [None if label < 0 else source.class_names[label] for label in source.record_labels()]


WORDS = ["NA", "None", "null", "nan", "001", "01", "1", "1.0", "TRUE"]


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"encoding": "utf-8-sig"},
        {"encoding": "utf-16"},
        {"delimiter": ";"},
        {"quoting": csv.QUOTE_ALL},
        {"lineterminator": "\n"},
        {"delimiter": "\t", "name": "t.TSV"},
    ],
)
def test_a_label_is_the_text_that_stands_there(make, form):
    source = load_source(make([[f"{i}.png", word] for i, word in enumerate(WORDS)], **form))
    assert named(source) == WORDS and source.num_classes == len(WORDS)
    assert [source.read(i)[0] for i in range(9)] == [png(i) for i in range(9)]


def test_only_an_empty_field_is_no_label(make):
    source = load_source(make([["0.png", "a"], ["1.png", ""], ["2.png", " "], ["3.png", "-1"]]))
    assert named(source) == ["a", None, " ", "-1"]
    assert source.read(1)[1] == -1 and "1 image without a label" in source.notes[0]


def test_numbers_are_in_order_of_number(make):
    source = load_source(make([["0.png", "10"], ["1.png", "9"], ["2.png", "0"]]))
    assert source.class_names == ["0", "9", "10"]


def test_commas_quotes_and_blank_lines(tmp_path):
    (tmp_path / "a, b.png").write_bytes(png(0))
    (tmp_path / 'c"d.png').write_bytes(png(1))
    text = 'image,label\r\n"a, b.png",x\r\n\r\n"c""d.png","y\r\nz"\r\n\r\n'
    (tmp_path / "t.csv").write_bytes(text.encode())
    source = load_source(f"table:{tmp_path}/t.csv")
    assert source.files == ["a, b.png", 'c"d.png'] and named(source) == ["x", "y\r\nz"]


@pytest.mark.parametrize("image", ["image", "Path", "file", "FILE_NAME", "filename"])
@pytest.mark.parametrize("label", ["label", "Class", "target"])
def test_plain_names_of_columns_are_found(make, image, label):
    source = load_source(make([["n", "a", "0.png"], ["m", "b", "1.png"]], ("notes", label, image)))
    assert source.files == ["0.png", "1.png"] and named(source) == ["a", "b"]


def test_columns_that_are_named(make):
    spec = make([["0.png", "a", "x"], ["1.png", "b", "y"]], ("scan", "site", "label"))
    source = load_source(spec, image_column="scan", label_column="site")
    assert named(source) == ["a", "b"]
    for options, word in [
        ({}, "`image_column`"),
        ({"image_column": "scam"}, "`image_column`.*scam.*scan, site, label"),
        ({"image_column": "scan", "label_column": "sight"}, "`label_column`.*sight"),
        ({"image_column": "scan", "label_column": "site,sight"}, "`label_column`.*sight"),
        ({"image_column": "scan", "label_separator": ""}, "`label_separator`"),
    ]:
        with pytest.raises(ValueError, match=word):
            load_source(spec, **options)


def test_two_plain_names_have_to_be_told_apart(make):
    spec = make([["0.png", "a", "x"], ["1.png", "b", "y"]], ("image", "class", "target"))
    with pytest.raises(ValueError, match="`label_column`.*'class' and 'target'"):
        load_source(spec)
    assert named(load_source(spec, label_column="target")) == ["x", "y"]


def test_a_table_without_labels(make):
    source = load_source(make([["0.png"], ["1.png"]], ("image",)))
    assert source.labels() is None and source.read(0) == (png(0), None)
    with pytest.raises(ValueError, match="`label_column`"):
        load_source(make([["0.png"]], ("image",)), label_separator="|")


def test_one_class_tells_nothing(make):
    source = load_source(make([["0.png", "a"], ["1.png", "a"]]))
    assert source.num_classes is None and "1 classes" in source.notes[0]


def test_several_labels_by_a_separator(make):
    spec = make([["0.png", "b|a"], ["1.png", "a"], ["2.png", ""], ["3.png", "b | c|"]])
    source = load_source(spec, label_separator="|")
    assert source.multi_label and source.class_names == ["a", "b", "c"]
    expected = [[1, 1, 0], [1, 0, 0], [255, 255, 255], [0, 1, 1]]
    assert source.record_labels().tolist() == expected and source.record_labels().dtype == np.uint8
    assert source.read(0) == (png(0), None)
    assert source.subset([3, 2]).labels().tolist() == [[0, 1, 1], [-1, -1, -1]]


def test_several_columns_of_0_and_1(make):
    head, rows = ("path", "cat", "dog"), [["0.png", "1", "0"], ["1.png", "0.0", "1.0"]]
    spec = make([*rows, ["2.png", "", ""]], head)
    source = load_source(spec, label_column="dog, cat")
    assert source.class_names == ["dog", "cat"] and source.multi_label
    assert source.record_labels().tolist() == [[0, 1], [1, 0], [255, 255]]
    for fault in ("2", "-1", ""):
        with pytest.raises(ValueError, match="`dataset`.*'dog'.* row 4"):
            load_source(make([*rows, ["2.png", "1", fault]], head), label_column="cat,dog")


def test_own_parts_of_a_column(make):
    rows = [["0.png", "a", "train"], ["1.png", "b", "Test"], ["2.png", "a", "valid"]]
    head = ("image", "label", "split")
    source = load_source(make([*rows, ["3.png", "b", "training"]], head))
    assert {k: v.tolist() for k, v in source.own_parts.items()} == {
        "train": [0, 3],
        "validation": [2],
        "test": [1],
    }
    with pytest.raises(ValueError, match="`dataset`.*'split'.* row 5: 'later'"):
        load_source(make([*rows, ["3.png", "b", "later"]], head))
    with pytest.raises(ValueError, match="`dataset`.*train"):
        load_source(make(rows[1:], head))
    source = load_source(make([["0.png", "a", "1"], ["1.png", "b", "2"]], head))
    assert source.own_parts is None and "'split'" in source.notes[0]


@pytest.mark.parametrize(
    "rows, words",
    [
        ([["0.png", "a"], ["8.png", "b"], ["x.png", "a"]], "1 of 3.* row 4: 'x.png'"),
        ([["0.png", "a"], ["", "b"]], "row 3: ''"),
        ([["0.png", "a"], ["1.png", "b"], ["./0.png", "b"]], "one row.* row 4"),
        ([["0.png", "a"], ["1.png", "b", "c"]], "row 3 has 3, not 2"),
        ([["0.png", "a"], ["1.png"]], "row 3 has 1, not 2"),
        ([], "rows"),
    ],
)
def test_rows_that_do_not_fit_are_named(make, rows, words):
    with pytest.raises(ValueError, match=f"`dataset`.*{words}"):
        load_source(make(rows))


def test_files_that_are_no_tables_are_named(tmp_path):
    for name, data in [
        ("a.csv", b'image,label\n"0.png'),
        ("b.csv", b"image,image\n1,2\n"),
        ("c.csv", b""),
        ("d.jsonl", b'{"image": "0.png"\n'),
        ("e.jsonl", b"[1]\n"),
        ("f.jsonl", b"\n"),
        ("g.txt", b"image\n0.png\n"),
        ("h.csv", b"\xff\xfeab\x00"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="`dataset`"):
            load_source(f"table:{tmp_path}/{name}")


def write_jsonl(tmp_path, rows):
    for number in range(len(rows)):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    rows = [{"image": f"{number}.png", **row} for number, row in enumerate(rows)]
    (tmp_path / "t.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    return f"table:{tmp_path}/t.jsonl"


def test_labels_of_jsonl(tmp_path):
    rows = [{"label": 10}, {"label": "9"}, {"label": None}, {}, {"label": -1}, {"label": 9}]
    source = load_source(write_jsonl(tmp_path, rows))
    assert named(source) == ["10", "9", None, None, None, "9"]
    assert source.class_names == ["9", "10"]


@pytest.mark.parametrize("label", [1.5, {"a": 1}, [[1]]])
def test_a_label_that_is_none_in_jsonl_is_named(tmp_path, label):
    with pytest.raises(ValueError, match="`dataset`.*'label'.* row 3"):
        load_source(write_jsonl(tmp_path, [{"label": "a"}, {"label": label}]))


def test_a_parquet_table(tmp_path, make):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    make([])
    columns = {"image": ["0.png", "1.png", "2.png"], "label": [3, None, 20], "raw": [b"x"] * 3}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    source = load_source(f"table:{tmp_path}/t.parquet")
    assert named(source) == ["3", None, "20"]
    columns["label"] = [["b"], ["a", "b"], None]
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    source = load_source(f"table:{tmp_path}/t.parquet")
    assert source.record_labels().tolist() == [[0, 1], [1, 1], [255, 255]]
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ValueError, match="`dataset`"):
        load_source(f"table:{tmp_path}/t.parquet")
