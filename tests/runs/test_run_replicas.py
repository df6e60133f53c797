"""Two replicas on logical CPUs against one device, each in a process of its own.

A second `MirroredStrategy` in one process would share the first one's collective keys.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from small_runs import NAME

pytestmark = [pytest.mark.runs, pytest.mark.slow]
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "pretrain.py"


def run(forks, directory, *flags):
    """Pre-train three steps; return the weights and the lines of the log."""
    command = [
        SCRIPT,
        "--dataset=photos",
        f"--preset={NAME}",
        "--steps=3",
        "--batch_size=8",
        "--probe_images=50",
    ]
    command += ["--nojit", f"--output_dir={directory}", *flags]
    done = forks.run(*command, before=["small_runs:shrink", "small_runs:train_only"])
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return keras.models.load_model(directory / "mae.keras").weights, log


def test_two_replicas_train_as_one_device_with_the_same_global_batch(forks, tmp_path):
    weights, log = run(forks, tmp_path / "one", "--strategy=one_device")
    others, other_log = run(forks, tmp_path / "two", "--strategy=mirrored", "--logical_devices=2")
    assert [line["step"] for line in log] == [line["step"] for line in other_log] == [3, 3]
    assert log[0]["loss"] == pytest.approx(other_log[0]["loss"], rel=1e-5)
    assert log[1]["val_loss"] == pytest.approx(other_log[1]["val_loss"], rel=1e-5)
    for weight, other in zip(weights, others, strict=True):
        x, y = np.array(weight), np.array(other)
        if weight.path.endswith("query_key_value/bias"):
            # A key's bias moves all scores of a query alike: its gradient is 0 but for rounding,
            # which Adam blows up to a whole step of either sign.
            x, y = (np.delete(v.reshape(3, -1), 1, axis=0) for v in (x, y))
        np.testing.assert_allclose(x, y, atol=1e-5, err_msg=weight.path)
