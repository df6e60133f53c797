"""TensorBoard and wandb: each step once, however often a run is cut; none that fails ends it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from read_boards import scalars, written

from keras_mae.settings.run import RunSettings
from keras_mae.training import boards
from keras_mae.training.boards import Board, Boards, check_boards, open_boards

LINES = [
    {"step": 10, "loss": 1.0, "learning_rate": 0.5, "images_per_second": 8.0},
    {"step": 15, "monitor_knn": 0.25},
    {"step": 15, "epoch": 1, "val_loss": 3.0},
]


class Notes(Board):
    def __init__(self):
        self.notes = []

    def write(self, step, **values):
        self.notes.append((step, *values))

    def image(self, step, name, path):
        self.notes.append((step, name, path))

    def close(self, failed=False):
        self.notes.append("failed" if failed else "closed")


def test_what_a_directory_holds_is_shown_in_the_order_of_steps():
    board = Notes()
    shown = Boards({"notes": lambda: board})
    lines = [{"step": 0, "a": 1}, {"step": 5, "b": 1}, {"step": 9, "c": 1}]
    shown.show_again(lines, [(0, "image", Path("x")), (5, "image", Path("y"))])
    shown.close()
    assert board.notes == [
        (0, "a"),
        (0, "image", Path("x")),
        (5, "b"),
        (5, "image", Path("y")),
        (9, "c"),
        "closed",
    ]


def test_a_board_that_fails_is_told_of_once_and_left_out(capsys):
    class Broken(Board):
        def __init__(self):
            pass

        def write(self, step, **values):
            raise OSError("no connection")

    def refused():
        raise RuntimeError("no key")

    board = Notes()
    shown = Boards({"broken": Broken, "refused": refused, "notes": lambda: board})
    for step in range(3):
        shown.write(step, loss=1)
    shown.close(failed=True)
    assert board.notes == [(0, "loss"), (1, "loss"), (2, "loss"), "failed"]
    said = capsys.readouterr().out
    assert said.count("--broken failed, and the run goes on without it: OSError: no conn") == 1
    assert said.count("--refused failed") == 1


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_board_that_is_not_installed_names_its_extra(name, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        boards.importlib.util,
        "find_spec",
        lambda wanted, *args: None if wanted == name else find(wanted, *args),
    )
    check_boards(RunSettings())
    with pytest.raises(ImportError, match=rf'pip install -e "\.\[{name}\]"'):
        check_boards(RunSettings(**{name: True}))


def picture(path):
    Image.fromarray(np.zeros((6, 8, 3), "uint8")).save(path)
    return path


def test_tensorboard_has_each_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    settings, image = RunSettings(tensorboard=True), picture(tmp_path / "a.png")
    first = open_boards(settings, tmp_path, {})
    first.write(step=10, loss=1.0, learning_rate=0.5, images_per_second=8.0)
    first.image(15, "shown", image)
    first.write(step=20, loss=2.0)  # after the last checkpoint, hence trimmed from metrics.jsonl
    first.close()
    again = open_boards(settings, tmp_path, {})
    again.show_again(LINES, [(15, "shown", image)])
    again.write(step=20, loss=4.0)
    again.close()
    assert scalars(tmp_path / "tensorboard") == {
        "loss": [(10, 1.0), (20, 4.0)],
        "learning_rate": [(10, 0.5)],
        "images_per_second": [(10, 8.0)],
        "monitor_knn": [(15, 0.25)],
        "val_loss": [(15, 3.0)],
        "shown": [(15, [8, 6])],
    }


SCRIPT = """
import os, sys
from pathlib import Path
from keras_mae.settings.run import RunSettings
from keras_mae.training.boards import open_boards

directory, first, last, end = Path(sys.argv[1]), *map(int, sys.argv[2:4]), sys.argv[4]
config = {"settings": {"seed": 7}, "legs": [40]}
boards = open_boards(RunSettings(wandb=True), directory, config)
boards.show_again([{"step": s, "loss": s / 8} for s in range(10, first + 1, 10)], [])
for step in range(first + 10, last + 1, 10):
    boards.write(step, loss=step / 8)
    if step % 20 == 0:
        boards.image(step, "shown", directory / "a.png")
        boards.write(step, epoch=1, val_loss=1.0)
if end == "killed":
    os.kill(os.getpid(), 9)
boards.close()
"""


@pytest.mark.slow
def test_wandb_goes_on_under_one_id_with_each_step_once(tmp_path):
    pytest.importorskip("wandb")
    picture(tmp_path / "a.png")
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}

    def run(*arguments):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert run(0, 30, "killed").returncode == -9
    identity = json.loads((tmp_path / "wandb.json").read_text())["id"]
    # The last checkpoint was of step 20: what was logged after it is logged again.
    done = run(20, 40, "ended")
    assert done.returncode == 0, done.stderr
    rows, config, found = written(tmp_path)
    assert found == identity
    assert config["seed"] == 7 and config["legs"] == [40]
    assert [row["_step"] for row in rows] == [10, 20, 30, 40]
    assert [row["loss"] for row in rows] == [1.25, 2.5, 3.75, 5.0]
    assert rows[3]["val_loss"] == 1.0 and rows[3]["shown/width"] == 8
    (image,) = tmp_path.glob(f"wandb/offline-run-*/files/{rows[3]['shown/path']}")
    assert Image.open(image).size == (8, 6)


@pytest.mark.slow
def test_wandb_that_cannot_be_reached_does_not_end_a_run(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")

    def refused(**_):
        raise wandb.errors.CommError("no connection")

    monkeypatch.setattr(wandb, "init", refused)
    shown = open_boards(RunSettings(wandb=True), tmp_path, {})
    shown.write(step=1, loss=1.0)
    shown.close()
    assert "--wandb failed, and the run goes on without it: CommError" in capsys.readouterr().out


def test_wandb_leaves_out_the_steps_that_it_has(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    class Run:
        step = 21  # as after a resume online: steps up to 20 are there

        def __init__(self):
            self.rows = []

        def log(self, values, step, commit):
            self.rows.append((step, *values))

        def finish(self, exit_code):
            self.rows.append(exit_code)

    run = Run()
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    shown = open_boards(RunSettings(wandb=True), tmp_path, {})
    shown.show_again([{"step": s, "loss": 1.0} for s in (10, 20, 30)], [])
    shown.close(failed=True)
    assert run.rows == [(30, "loss"), 1]
