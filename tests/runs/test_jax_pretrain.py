"""`KERAS_BACKEND=jax python scripts/pretrain.py`, on two devices, cut and gone on with."""

import importlib.util
import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from forks import Forks
from small_runs import NAME

import keras_mae  # noqa: F401 (registers the classes)

pytestmark = pytest.mark.runs
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "pretrain.py"


@pytest.fixture(scope="module")
def jax_forks(tmp_path_factory):
    with Forks(
        "keras_mae.tasks.pretrain",
        KERAS_BACKEND="jax",
        JAX_PLATFORMS="cpu",
        # What the first run compiles, the second finds.
        JAX_COMPILATION_CACHE_DIR=str(tmp_path_factory.mktemp("compiled")),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
        XLA_FLAGS=os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2",
    ) as forks:
        yield forks


def run(forks, directory, *before):
    command = [SCRIPT, "--dataset=photos", f"--preset={NAME}", f"--output_dir={directory}"]
    command += ["--steps=5", "--batch_size=8", "--checkpoint_steps=3"]
    command += ["--probe_images=77"]  # an odd number of held-out images
    command += ["--monitor_every=0.02"]
    return forks.run(*command, before=["small_runs:shrink", *before])


def result(directory):
    log = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    weights = [np.array(w) for w in keras.models.load_model(directory / "mae.keras").weights]
    for line in log:
        line.pop("images_per_second", None)
    return log, weights


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.slow
def test_a_run_on_two_devices_is_cut_and_goes_on_to_the_same_end(jax_forks, tmp_path):
    done = run(jax_forks, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "encoder/1 is not written" in done.stdout
    log, weights = result(tmp_path)
    assert [line["step"] for line in log if "monitor_rankme" not in line] == [5, 5]
    ranks = {line["step"]: line["monitor_rankme"] for line in log if "monitor_rankme" in line}
    # Of the weights of the moment, though it is compiled once.
    assert list(ranks) == [0, 2, 4, 5] and len({*ranks.values()}) == 4
    (tmp_path / "results.json").unlink()
    (tmp_path / "checkpoints" / "step_00000005.npz").unlink()
    again = run(jax_forks, tmp_path, "small_runs:train_only")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "Going on after step 3." in again.stdout
    other_log, other_weights = result(tmp_path)
    assert log == other_log
    for weight, other in zip(weights, other_weights, strict=True):
        np.testing.assert_array_equal(weight, other)


def test_strategies_that_jax_has_not_are_refused(monkeypatch):
    from keras_mae.training import devices as strategy

    monkeypatch.setattr(strategy.keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="`strategy`"):
        strategy.make_strategy("mirrored")
    with pytest.raises(ValueError, match="`logical_devices`"):
        strategy.make_strategy("auto", logical_devices=2)
