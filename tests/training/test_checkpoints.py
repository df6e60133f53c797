import keras
import numpy as np
import pytest

from keras_mae.training import checkpoints as resume
from keras_mae.training.checkpoints import CheckpointError, Checkpoints


def variables(value, shape=(3, 2)):
    return {"a": keras.Variable(np.full(shape, value)), "b": keras.Variable(value, dtype="int32")}


def test_the_newest_checkpoint_comes_back_and_old_ones_go(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (2, 10, 9):
        checkpoints.save(step, variables(step))
    assert [path.name for path in checkpoints.paths()] == ["step_00000010.npz", "step_00000009.npz"]
    restored = variables(0)
    assert checkpoints.load(restored) == 10
    np.testing.assert_array_equal(restored["a"], np.full((3, 2), 10.0))
    assert int(restored["b"]) == 10


def test_nothing_saved_is_no_step(tmp_path):
    assert Checkpoints(tmp_path / "none").load(variables(0)) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage, capsys):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, variables(1, (50, 50)))
    checkpoints.save(2, variables(2, (50, 50)))
    newest = tmp_path / "step_00000002.npz"
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1  # one bit of the array's numbers
    newest.write_bytes({"cut": content[:-100], "flip": content, "empty": b""}[damage])
    restored = variables(0, (50, 50))
    assert checkpoints.load(restored) == 1
    assert float(restored["a"][0, 0]) == 1.0
    assert str(newest) in capsys.readouterr().out


def test_a_save_that_was_cut_is_not_seen_and_is_cleared_away(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, variables(1))
    (tmp_path / ".saving-abc").write_bytes(b"half")
    assert checkpoints.load(variables(0)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.npz"]


def test_a_full_disk_names_the_path_and_leaves_the_last_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, variables(1))

    def full(file, **arrays):
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume.np, "savez", full)
    with pytest.raises(CheckpointError, match="step_00000002.npz cannot be written.*No space"):
        checkpoints.save(2, variables(2))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.npz"]
    assert checkpoints.load(variables(0)) == 1


def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, variables(1))
    other = {**variables(0), "c": keras.Variable(0.0)}
    with pytest.raises(CheckpointError, match=r"lacks \['c'\]"):
        checkpoints.load(other)
    narrow = variables(0, shape=(2, 2))
    with pytest.raises(CheckpointError, match=r"a has the shape \(3, 2\) there, and \(2, 2\) here"):
        checkpoints.load(narrow)
    assert float(narrow["a"][0, 0]) == 0
