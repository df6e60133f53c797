"""The checks that every source passes, and sources from outside."""

import re
import sys
import textwrap
from pathlib import Path

import pytest
from source_checks import SourceChecks

from keras_mae import registry
from keras_mae.data import load_source, tfrecords

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


class TestFolder(SourceChecks):
    @pytest.fixture
    def source(self, make_folder):
        return load_source(f"folder:{make_folder(12)}")


class TestFolderOfClasses(SourceChecks):
    @pytest.fixture
    def source(self, make_classes):
        return load_source(f"folder:{make_classes(6, 5)}")


class TestTFRecord(SourceChecks):
    @pytest.fixture
    def source(self, make_classes, tmp_path):
        folder = load_source(f"folder:{make_classes(6, 5)}")
        tfrecords.write_tfrecords(folder, tmp_path / "packed/all", num_shards=2)
        return load_source(f"tfrecord:{tmp_path}/packed/all-*.tfrecord")


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
        "folder",
        "mnist5k",
        "photos",
        "tfds",
        "tfrecord",
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
