"""scripts/report.py as a user runs it: in a process of its own, with real runs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "report.py"


def test_a_bad_flag_ends_with_one_line_and_status_1(tmp_path):
    command = [sys.executable, SCRIPT, "--sweep=mask=.5,.75", f"--output_dir={tmp_path}/out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and error[0].startswith("error: --sweep must name")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def folder(tmp_path_factory):
    """Forty photographs of two classes, light and dark."""
    directory, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        (directory / name).mkdir()
        for i in range(20):
            pixels = np.clip(rng.normal(level, 25, size=(16, 16, 3)), 0, 255).astype("uint8")
            Image.fromarray(pixels).save(directory / name / f"{i}.png")
    return directory


@pytest.mark.slow
def test_a_report_that_was_killed_goes_on_after_what_is_done(forks, folder, tmp_path):
    flags = [f"--dataset=folder:{folder}", "--seeds=3", "--train_examples=0", "--ks=5"]
    flags += ["--pretrain=steps=2", "--pretrain=image_size=14", "--pretrain=batch_size=8"]
    flags += ["--finetune=steps=2", "--finetune=batch_size=8", "--parts=full", "--nojit"]
    flags += [f"--output_dir={tmp_path}/out"]
    small = ["small_runs:shrink"]
    process = forks.start(SCRIPT, *flags, before=small)
    while process.poll() is None and "\n[2/2] seed 3: fine-tuned, " not in process.output()[0]:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (tmp_path / "out/report.md").exists()
    done = forks.run(SCRIPT, *flags, before=small)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 jobs were done before." in done.stdout and "pre-training" not in done.stdout
    summary = json.loads((tmp_path / "out/report.json").read_text())
    assert not summary["missing"] and not summary["failures"]
    (accuracy,) = summary["accuracy"]["fine-tuned"]["labels"].values()
    assert 0 <= accuracy["mean"] <= 1
    (job,) = (tmp_path / "out/jobs").glob("seed_3_full_*/results.json")
    trained = json.loads(job.with_name("config.json").read_text())["settings"]
    assert "/jobs/seed_3_pre_training_" in trained["encoder"] and trained["steps"] == 2
    assert (tmp_path / "out/figures/comparison.png").exists()
