"""Directories of exports: new, whole, and never in another's place."""

import pytest

from keras_mae.export import Format
from keras_mae.export.formats.saved_model import SavedModel
from keras_mae.files import new_directory, next_version_path, saved_model_path

pytestmark = pytest.mark.export


def test_a_new_directory_is_all_there_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "model" / "1"
    with pytest.raises(RuntimeError), new_directory(target) as directory:
        directory.mkdir()
        (directory / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_directory(target) as directory:
        directory.mkdir()
        (directory / "file").touch()
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["1"]
    # Of two at a time the first stays.
    with pytest.raises(FileExistsError), new_directory(target) as directory:
        directory.mkdir()
        (directory / "other").touch()
    assert [path.name for path in target.iterdir()] == ["file"]
    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_a_directory_must_be_new_and_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="`directory`"):
            Format().final_path(path)
    assert Format().final_path(tmp_path / "new") == tmp_path / "new"
    assert not (tmp_path / "new").exists()


def test_versions_are_counted_by_their_number(tmp_path):
    model = SavedModel(warmup=False)
    assert model.final_path(tmp_path / "new") == tmp_path / "new" / "1"
    for number in ("2", "10", "11"):
        (tmp_path / number).mkdir()
        if number != "11":  # being copied
            (tmp_path / number / "saved_model.pb").touch()
    (tmp_path / "notes").mkdir()
    assert saved_model_path(tmp_path) == saved_model_path(tmp_path / "10") == tmp_path / "10"
    assert saved_model_path(tmp_path / "11") is None
    assert next_version_path(tmp_path) == model.final_path(tmp_path) == tmp_path / "12"
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "10", tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(ValueError, match="`directory`"):
            model.final_path(wrong)
