"""The checks that every source passes, and sources from outside."""

import csv
import json
import os
import re
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_checks import FileSourceChecks, SourceChecks, png

from keras_mae import registry
from keras_mae.data import load_source, tfrecords
from keras_mae.data.sources.files import Files

DOCS = Path(__file__).parents[2] / "docs" / "data.md"

OWN = '''
import numpy as np
from keras_mae.data import EncodedSource

class Squares(EncodedSource):
    """Images of one colour each, two classes."""
    num_classes, class_names = 2, ["dark", "light"]

    def __init__(self, argument="", *, seed=0):
        self.count = int(argument)
        super().__init__(self.count, seed=seed)

    def key(self, record):
        return f"square/{record}"

    def record_labels(self):
        return np.arange(self.count) % 2

    def read(self, record):
        return np.full((20, 30, 3), record % 2 * 200 + record, np.uint8), record % 2

class NoSource:
    pass
'''


class TestMnist5k(SourceChecks):
    spec = "mnist5k"


class TestPhotos(SourceChecks):
    spec = "photos"


def write_files(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class TestDigitScenes(SourceChecks):
    spec = "digit_scenes:32"


class TestSegmentation(SourceChecks):
    @pytest.fixture
    def source(self, tmp_path):
        write_files(tmp_path / "images", {f"{number}.png": png(number) for number in range(12)})
        (tmp_path / "masks").mkdir()
        for number in range(12):
            labels = np.arange(20 * 24).reshape(20, 24) % 3
            Image.fromarray(labels.astype("uint8")).save(tmp_path / f"masks/{number}.png")
        return load_source(f"segmentation:{tmp_path}/images,{tmp_path}/masks")


class TestCoco(SourceChecks):
    @pytest.fixture
    def source(self, tmp_path):
        write_files(tmp_path / "images", {f"{number}.png": png(number) for number in range(12)})
        images = [{"id": n, "file_name": f"{n}.png", "width": 24, "height": 20} for n in range(12)]
        box = {"id": 1, "image_id": 3, "category_id": 5, "bbox": [1, 2, 8, 9]}
        file = {"images": images, "annotations": [box], "categories": [{"id": 5, "name": "a"}]}
        (tmp_path / "truth.json").write_text(json.dumps(file))
        return load_source(f"coco:{tmp_path}/truth.json,{tmp_path}/images")


class TestFolder(SourceChecks):
    @pytest.fixture
    def source(self, make_folder):
        return load_source(f"folder:{make_folder(12)}")


class TestFolderOfClasses(FileSourceChecks):
    def make(self, folder, files):
        write_files(folder / "images", files)
        return f"folder:{folder}/images"


class TestFiles(SourceChecks):
    @pytest.fixture
    def source(self, tmp_path):
        names = [f"{label}/{number}.png" for label in "ab" for number in range(6)]
        write_files(tmp_path, {name: png(seed) for seed, name in enumerate(names)})
        (tmp_path / "a" / "notes.txt").write_text("no image")
        return load_source(f"files:{tmp_path}/**/*")

    def test_a_pattern_a_folder_and_paths_give_names_that_differ(self, source, tmp_path):
        assert [source.key(i) for i in (0, 5, 6)] == ["a/0.png", "a/5.png", "b/0.png"]
        assert load_source(f"files:{tmp_path}/b/*.png").key(0) == "0.png"
        some = Files([tmp_path / "b" / "3.png", tmp_path / "a", tmp_path / "b" / "3.png"])
        assert [some.key(i) for i in range(some.num_records)][:2] == ["b/3.png", "a/0.png"]
        assert some.num_records == 7

    def test_what_is_not_there_is_said(self, tmp_path):
        with pytest.raises(ValueError, match="`dataset`"):
            load_source(f"files:{tmp_path}/*.jpg")
        (tmp_path / "empty").mkdir()
        for path in (tmp_path / "nothing.png", tmp_path / "empty"):
            with pytest.raises(ValueError, match="`image`"):
                Files([path])


class TestFolderOfSplits(SourceChecks):
    @pytest.fixture
    def source(self, tmp_path):
        tops = [f"{split}/{label}" for split in ("train", "val", "test") for label in "ab"]
        names = [f"{top}/{number}.png" for top in tops for number in range(3)]
        write_files(tmp_path, {name: png(seed) for seed, name in enumerate(names)})
        return load_source(f"folder:{tmp_path}")


class OldName(zipfile.ZipInfo):
    """A member whose name is written as the bytes that it is, without a word of UTF-8."""

    def _encodeFilenameFlags(self):
        return os.fsencode(self.filename), self.flag_bits


class TestZip(FileSourceChecks):
    def make(self, folder, files):
        with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                is_utf8 = "\udce9" not in name
                archive.writestr(zipfile.ZipInfo(name) if is_utf8 else OldName(name), data)
        return f"zip:{folder}/all.zip"


class TestWebDataset(FileSourceChecks):
    """Two shards, with texts as labels; names that begin with dots are no keys of webdataset's."""

    def make(self, folder, files):
        webdataset = pytest.importorskip("webdataset")
        for shard in range(2):
            path = str(folder / f"s-{shard}.tar")
            with webdataset.TarWriter(path, encoder=False) as tar:
                for name in list(files)[shard::2]:
                    label = json.dumps({"label": name.split("/")[0]})
                    key = name.removesuffix(".png")
                    tar.write({"__key__": key, "png": files[name], "json": label.encode()})
        return f"webdataset:{folder}/s-{{0..1}}.tar"


class TestTable(FileSourceChecks):
    def make(self, folder, files):
        write_files(folder, files)
        options = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
        with open(folder / "all.csv", "w", **options) as file:
            table = csv.writer(file)
            table.writerow(["image", "label"])
            named = [name for name in files if files[name] != b"no image"]  # the table's business
            table.writerows([name, name.split("/")[0]] for name in named)
        return f"table:{folder}/all.csv"


class TestTableOfSeveralLabels(SourceChecks):
    @pytest.fixture
    def source(self, tmp_path):
        labels = [["a"], ["a", "b"], [], ["c", "a"], None, ["b"]]
        write_files(tmp_path, {f"{number}.png": png(number) for number in range(6)})
        rows = [{"image": f"{number}.png", "label": row} for number, row in enumerate(labels)]
        (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return load_source(f"table:{tmp_path}/all.jsonl")


class TestHuggingFace(SourceChecks):
    @pytest.fixture
    def source(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        features = datasets.Features(
            {"img": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ant"])}
        )

        def table(start, count):
            rows = [{"img": {"bytes": png(n)}, "label": n % 2} for n in range(start, start + count)]
            return datasets.Dataset.from_list(rows, features=features)

        sets = datasets.DatasetDict(train=table(0, 8), test=table(20, 4))
        sets.save_to_disk(tmp_path / "saved")
        return load_source(f"huggingface:{tmp_path}/saved")


class TestTFRecord(FileSourceChecks):
    def make(self, folder, files):
        write_files(folder / "images", files)
        source = load_source(f"folder:{folder}/images")
        tfrecords.write_tfrecords(source, folder / "packed/all", num_shards=2)
        return f"tfrecord:{folder}/packed/all-*.tfrecord"


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_squares.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_squares", raising=False)


class TestOwn(SourceChecks):
    """A class of the user's own, in the working directory, by its spec alone."""

    @pytest.fixture
    def source(self, own_module):
        return load_source("own_squares:Squares:12")

    def test_the_argument_and_the_name_are_the_users(self, source):
        assert source.num_examples == 12 and source.name == "Squares"
        assert source.labels().tolist() == [0, 1] * 6
        assert source.typical_size() == (20, 30)


def test_the_kinds_are_the_files():
    assert registry.names("keras_mae.data.sources") == [
        "coco",
        "digit_scenes",
        "files",
        "folder",
        "huggingface",
        "mnist5k",
        "photos",
        "segmentation",
        "table",
        "tfds",
        "tfrecord",
        "webdataset",
        "zip",
    ]


@pytest.mark.parametrize(
    "spec", ["imagenet", "foldr:photos", "foldr:/data/photos", "own_squares:Missing", ""]
)
def test_a_wrong_kind_lists_the_kinds(own_module, spec):
    with pytest.raises(ValueError, match=r"`dataset`.*folder.*mnist5k.*photos.*tfds.*tfrecord"):
        load_source(spec)


@pytest.mark.parametrize("spec", ["own_squares:NoSource", "mnist5k:3", "photos:3", "tfds:", "."])
def test_a_spec_that_does_not_fit_names_the_argument(own_module, spec):
    with pytest.raises(ValueError, match="`dataset`"):
        load_source(spec)


@pytest.mark.parametrize(
    "kind", ["folder", "zip", "table", "webdataset", "huggingface", "tfrecord", "tfds"]
)
@pytest.mark.parametrize("argument", ["", "/no/where", "/no/where-{0..3}.tar", "/no/x.csv:test"])
def test_what_is_not_there_is_named(kind, argument):
    pytest.importorskip({"huggingface": "datasets", "tfds": "tensorflow_datasets"}.get(kind, "re"))
    with pytest.raises(ValueError, match="`dataset`"):
        load_source(f"{kind}:{argument}")


def test_an_option_that_a_kind_does_not_take_is_named(make_folder):
    folder = make_folder(2)
    assert load_source(f"folder:{folder}", image_column=None).num_examples == 2
    with pytest.raises(ValueError, match="`image_column`.*'folder'"):
        load_source(f"folder:{folder}", image_column="image")


def test_a_path_alone_is_told_how_it_is_written(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"folder:{tmp_path}")):
        load_source(str(tmp_path))


class TestOwnOfTheDocs(SourceChecks):
    """ "Your own source" of docs/data.md, as it stands there."""

    @pytest.fixture
    def source(self, make_folder, tmp_path, monkeypatch):
        text = DOCS.read_text(encoding="utf-8").split("## Your own source")[1]
        code = re.search(r"```python\n(.*?)```", text, re.S)[1]
        spec = re.search(r"--dataset=(\S+?):\S+", text)[1] + ":Scans"
        (tmp_path / "my_scans.py").write_text(textwrap.dedent(code))
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, "my_scans", raising=False)
        return load_source(f"{spec}:{make_folder(9)}")
