"""`scripts/finetune.py` as a user runs it; a run that is killed ends as one that is not."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_mae import ViTEncoder
from keras_mae.data import load_source

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "finetune.py"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    source = load_source("mnist5k")
    model = ViTEncoder(
        image_size=28,
        channels=1,
        patch_size=7,
        hidden_dim=8,
        num_layers=1,
        num_heads=2,
        mean=source.mean,
        std=source.std,
    )
    path = tmp_path_factory.mktemp("encoder") / "encoder.keras"
    model.save(path)
    return path


def command(*flags):
    return [str(SCRIPT), "--nojit", *map(str, flags)]


@pytest.mark.slow
def test_it_prints_the_recipe_and_each_rate(encoder):
    flags = [f"--encoder={encoder}", "--dry_run", "--randaugment=2,9", "--layer_decay=.5"]
    done = subprocess.run(
        [sys.executable, *command(*flags)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Recipe in use: small, full" in done.stdout
    assert "randaugment=(2, 9.0)*" in done.stdout and "layer_decay=0.5*" in done.stdout
    assert "class_token" in done.stdout


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--dataset=photos"], "--encoder"),
        (["--encoder=nowhere"], "nowhere"),
        (["--protocol=scratch", "--randaugment=a,b"], "--randaugment"),
        (["--protocol=scratch", "--strategy=multi_worker"], "TF_CONFIG"),
    ],
)
def test_bad_flags_end_with_one_line_and_status_1(forks, flags, message):
    done = forks.run(*command(*flags))
    assert done.returncode == 1
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and message in error[0]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_killed_and_stopped_runs_end_as_one_that_was_not(forks, encoder, tmp_path):
    flags = [f"--encoder={encoder}", "--train_examples=100", "--steps=150", "--batch_size=10"]
    flags += ["--checkpoint_steps=5", "--drop_path=.1", "--mixup=.8", "--ema=.9", "--erasing=.25"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = forks.run(*command(*flags, f"--output_dir={whole}"))
    assert done.returncode == 0, done.stderr

    newest = 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = forks.start(*command(*flags, f"--output_dir={cut}"))
        while process.poll() is None and newest_step(cut) <= newest:
            time.sleep(0.02)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        assert newest < newest_step(cut) < 150
        newest = newest_step(cut)
    assert process.returncode == 0 and "SIGTERM: stopped after step" in output

    done = forks.run(*command(*flags, f"--output_dir={cut}"))
    assert done.returncode == 0, done.stderr
    assert f"Going on after step {newest}." in done.stdout
    models = [keras.models.load_model(d / "model.keras") for d in (whole, cut)]
    for x, y in zip(models[0].variables, models[1].variables, strict=True):
        np.testing.assert_array_equal(x, y)


def newest_step(directory):
    return max((int(p.stem[5:]) for p in directory.glob("checkpoints/step_*.npz")), default=0)
