"""Legs: where they end, what is moved, and their learning rate."""

import json

import pytest

from keras_mae.files import write_json
from keras_mae.training.legs import begin_leg, ends_of_legs
from keras_mae.training.schedules import Legs, warmup_cosine


@pytest.fixture
def run(tmp_path):
    """A function that makes a directory as a run leaves it that ended at a step."""

    def make(end, **results):
        write_json(tmp_path / "config.json", {})
        write_json(tmp_path / "results.json", {"total_steps": end, **results})
        (tmp_path / "metrics.jsonl").write_text(f"to {end}\n")
        (tmp_path / "mae.keras").write_text(f"of {end}")
        for old in tmp_path.glob("checkpoints/*"):
            old.rmdir()
        return tmp_path

    return make


@pytest.fixture(autouse=True)
def last_step(monkeypatch):
    """A dict whose "is" stands for the step of the newest checkpoint."""
    found = {"is": None}
    monkeypatch.setattr("keras_mae.training.legs.Checkpoints.last_step", lambda self: found["is"])
    return found


def test_a_leg_counts_from_the_first_ones_end(run, last_step):
    directory = run(100)
    last_step["is"] = 100
    assert ends_of_legs(directory, 100, 0, "extend_steps") == [100]
    ends = ends_of_legs(directory, 100, 50, "extend_steps")
    assert ends == [100, 150]
    begin_leg(directory, ends)
    # It is cut, and gone on with; a further one has to wait.
    assert ends_of_legs(directory, 100, 50, "extend_steps") == [100, 150]
    assert ends_of_legs(directory, 100, 0, "extend_steps") == [100, 150]
    with pytest.raises(ValueError, match="`extend_steps`"):
        ends_of_legs(directory, 100, 80, "extend_steps")
    run(150)
    last_step["is"] = 150
    assert ends_of_legs(directory, 100, 50, "extend_steps") == [100, 150]
    assert ends_of_legs(directory, 100, 20, "extend_steps") == [100, 150]  # it is there already
    assert ends_of_legs(directory, 100, 80, "extend_steps") == [100, 150, 180]


def test_files_of_a_leg_are_moved_and_the_curve_stays(run):
    directory = run(100)
    for _ in range(2):  # as if it were cut after the first time
        begin_leg(directory, [100, 150])
        assert not (directory / "results.json").exists()
        assert (directory / "leg_1/mae.keras").read_text() == "of 100"
        assert (directory / "metrics.jsonl").read_text() == "to 100\n"
        assert json.loads((directory / "legs.json").read_text()) == [100, 150]
    run(150)
    begin_leg(directory, [100, 150])  # ended: nothing to do
    assert (directory / "mae.keras").read_text() == "of 150"
    begin_leg(directory, [100, 150, 180])
    assert (directory / "leg_2/mae.keras").read_text() == "of 150"
    assert (directory / "leg_1/mae.keras").read_text() == "of 100"


def test_a_run_that_stopped_early_goes_on_from_there(run, last_step):
    directory = run(100, stopped_early_at_step=60)
    last_step["is"] = 60
    assert ends_of_legs(directory, 100, 50, "extend_steps") == [60, 110]


@pytest.mark.parametrize("step", [None, 90])
def test_without_the_last_checkpoint_nothing_goes_on(run, last_step, step):
    last_step["is"] = step
    with pytest.raises(ValueError, match="`extend_epochs`"):
        ends_of_legs(run(100), 100, 50, "extend_epochs")


def test_a_run_that_has_not_begun_is_not_prolonged(tmp_path):
    with pytest.raises(ValueError, match="`extend_epochs`"):
        ends_of_legs(tmp_path / "new", 100, 50, "extend_epochs")


def test_each_leg_has_its_own_warm_up_and_cosine():
    first, second = warmup_cosine(1.0, 10, 100), warmup_cosine(0.5, 5, 40)
    legs = Legs([0, 100], [first, second])
    for step in (0, 5, 10, 60, 99):
        assert float(legs(step)) == float(first(step))
    for step in (0, 3, 5, 20, 39, 40):
        assert float(legs(100 + step)) == float(second(step))
    again = Legs.from_config(legs.get_config())
    assert [float(again(s)) for s in (7, 104)] == [float(legs(s)) for s in (7, 104)]
