"""A run that is killed and started again ends as one that was never disturbed, to the bit."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from small_runs import NAME

from keras_mae.settings.pretrain import PretrainSettings
from keras_mae.tasks.pretrain import pretrain
from keras_mae.testing import kills
from keras_mae.training.callbacks import read_metrics

STEPS = 120
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "pretrain.py"

pytestmark = [pytest.mark.runs, pytest.mark.usefixtures("small_preset")]


@pytest.mark.slow
def test_killed_in_a_step_in_a_save_and_by_sigterm(forks, tmp_path, monkeypatch):
    def start(directory, steps):
        # Without "python -m keras_mae pretrain", which would import all anew.
        flags = kills.command(directory, steps)[4:]
        return forks.start(SCRIPT, *flags, before=["small_runs:shrink", "small_runs:train_only"])

    monkeypatch.setattr(kills, "start", start)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    kills.finish(whole, STEPS)

    rng = random.Random(0)
    steps = []
    for in_save in (False, True):
        kill = kills.kill_once(cut, STEPS, rng, in_save)
        assert kill is not None, "the run ended before it could be killed"
        steps.append(kill[0])
    process = start(cut, STEPS)
    while process.poll() is None and kills.newest_step(cut) == steps[-1]:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "SIGTERM: stopped after step" in output
    assert 0 < steps[0] < steps[1] < kills.newest_step(cut) < STEPS

    kills.finish(cut, STEPS)
    assert kills.differences(whole, cut) == []
    # Of each time that was measured, and no other, a line and a figure.
    measured = [
        line["step"] for line in read_metrics(cut / "metrics.jsonl") if "monitor_rankme" in line
    ]
    assert measured[0] == 0 and measured[-1] == STEPS and len(measured) == len({*measured}) > 4
    drawn = sorted(path.name for path in (cut / "figures/monitor").iterdir())
    assert drawn == [f"step_{step:08d}.png" for step in measured]


@pytest.mark.slow
def test_cut_between_and_within_epochs(no_figures, tmp_path):
    def run(directory):
        pretrain(
            PretrainSettings(
                dataset="photos",
                preset=NAME,
                probe_images=50,
                steps=24,  # two epochs of 12
                batch_size=64,
                jit=False,
                checkpoint_steps=3,
                keep=100,
                output_dir=str(directory),
            )
        )

    whole = tmp_path / "whole"
    run(whole)
    for cut_after in (12, 15):
        cut = tmp_path / f"cut_{cut_after}"
        shutil.copytree(whole, cut)
        # As if it had died right after this checkpoint, and had logged some steps more.
        (cut / "results.json").unlink()
        for path in (cut / "checkpoints").iterdir():
            if int(path.stem[5:]) > cut_after:
                path.unlink()
        run(cut)
        assert kills.differences(whole, cut) == [], cut_after
