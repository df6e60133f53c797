"""Kill a pre-training run, start it again, and compare its end with that of one left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def command(directory, steps):
    """Return a small run on photographs that saves after every second step."""
    return [
        *(sys.executable, "-m", "keras_mae", "pretrain"),
        *("--dataset=photos", "--preset=mae_vit_mini_patch4", f"--output_dir={directory}"),
        *(f"--steps={steps}", "--batch_size=16", "--checkpoint_steps=2", "--nojit"),
        "--probe_images=50",  # ends sooner, and changes nothing of the training
        "--monitor_every=0.4",
    ]


def start(directory, steps):
    return subprocess.Popen(
        command(directory, steps), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(directory, steps):
    """Run to the end; raise with what the process said if it fails."""
    process = start(directory, steps)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"The run ended with status {process.returncode}:\n{errors[-3000:]}")


def newest_step(directory):
    """Return the step of the newest checkpoint, 0 if there is none."""
    return max((int(p.stem[5:]) for p in Path(directory).glob("checkpoints/step_*.npz")), default=0)


def is_saving(directory):
    return any(Path(directory).glob("checkpoints/.saving-*"))


def kill_once(directory, steps, rng, in_save):
    """Start the run, kill it a random while after it has gone on, and return where.

    Args:
        in_save: bool. Whether to wait for a moment within a save.
    Returns:
        (step of the newest checkpoint, whether a save was cut), or None if the run ended before.
    """
    before = newest_step(directory)
    process = start(directory, steps)
    while process.poll() is None and newest_step(directory) == before:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.3))
    while in_save and process.poll() is None and not is_saving(directory):
        pass
    ended = process.poll() is not None
    if not ended:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return None if ended else (newest_step(directory), is_saving(directory))


def differences(one, other):
    """Return what differs between two finished runs, as a list of strings: empty if nothing."""
    import keras
    import numpy as np

    found = []
    models = [keras.models.load_model(Path(d) / "mae.keras") for d in (one, other)]
    for x, y in zip(models[0].variables, models[1].variables, strict=True):
        if not np.array_equal(x, y):
            found.append(f"{x.path}: up to {np.abs(np.array(x) - np.array(y)).max():.3g}")
    logs = []
    for directory in (one, other):
        lines = (Path(directory) / "metrics.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
        for line in logs[-1]:
            line.pop("images_per_second", None)  # the one value that is of the clock
    if logs[0] != logs[1]:
        found.append("metrics.jsonl")
    return found
