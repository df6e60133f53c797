"""What a run does when it can write no more: the last good files stay, the error names the path."""

import errno
import os
import resource

import keras
import numpy as np
import pytest

from keras_mae.errors import CheckpointError
from keras_mae.settings.run import RunSettings
from keras_mae.training import checkpoints as resume
from keras_mae.training.checkpoints import Checkpoints
from keras_mae.training.loop import Task, run


def variables(value):
    return {"a": keras.Variable(np.full((300, 300), value))}


def test_the_system_stops_a_save_in_the_middle(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, variables(1.0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the array has 360,000 bytes
    try:
        with pytest.raises(CheckpointError, match="step_00000002.npz cannot be written"):
            checkpoints.save(2, variables(2.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.npz"]
    assert checkpoints.load(variables(0.0)) == 1


def test_a_directory_that_has_become_read_only(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, variables(1.0))

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    # A real one would not stop root, who runs tests in containers.
    monkeypatch.setattr(resume.os, "replace", read_only)
    with pytest.raises(CheckpointError, match="step_00000002.npz cannot be written.*Read-only"):
        checkpoints.save(2, variables(2.0))
    monkeypatch.undo()
    assert checkpoints.load(variables(0.0)) == 1


class Fails(Task):
    """A task that raises an error when it begins."""

    def __init__(self, directory, error):
        super().__init__(RunSettings(output_dir=str(directory), batch_size=1))
        self.error = error

    def load(self):
        raise self.error


@pytest.mark.slow
def test_other_files_of_a_run_name_the_directory(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(CheckpointError, match=str(tmp_path / "run")):
        run(Fails(tmp_path / "run", full))
    with pytest.raises(FileNotFoundError):  # not of writing: left as it is
        run(Fails(tmp_path / "run", FileNotFoundError("missing")))
