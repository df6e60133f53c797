"""Two workers, as processes on this machine that talk over loopback."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import worker_run

from keras_mae.training.workers import Workers

pytestmark = [pytest.mark.runs, pytest.mark.slow]
HERE = Path(__file__).resolve()
SCRIPT = HERE.parents[2] / "scripts" / "pretrain.py"
PATIENCE = 240  # seconds, for a machine that is busy


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Cluster:
    """Two processes of one command; each gets its TF_CONFIG."""

    def __init__(self, forks, *commands):
        addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        self.processes = []
        for index, command in enumerate(commands):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = {"TF_CONFIG": json.dumps(task), "CUDA_VISIBLE_DEVICES": ""}
            self.processes.append(
                forks.start(*command, before=["small_runs:shrink"], **environment)
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.communicate()

    def ended(self):
        """Wait for both; return a list of (status, stdout, stderr)."""
        outputs = [process.communicate(timeout=PATIENCE) for process in self.processes]
        return [(p.returncode, *o) for p, o in zip(self.processes, outputs, strict=True)]


def test_two_workers_train_as_one_device_with_the_same_global_batch(forks, tmp_path):
    targets = [tmp_path / f"{index}.npz" for index in range(2)]
    script = HERE.with_name("worker_run.py")
    with Cluster(forks, *[(script, target) for target in targets]) as cluster:
        expected = worker_run.train(Workers(tf.distribute.get_strategy()))
        for status, _, errors in cluster.ended():
            assert status == 0, errors[-3000:]
    chief, other = (np.load(target) for target in targets)
    for name, value in expected.items():
        np.testing.assert_array_equal(chief[name], other[name], err_msg=name)
        largest = np.abs(value).max()
        np.testing.assert_allclose(chief[name], value, rtol=0, atol=1e-5 * largest, err_msg=name)


def test_one_worker_is_killed_the_other_says_so_and_both_go_on_to_the_end(forks, tmp_path):
    run = tmp_path / "run"
    flags = ["--dataset=photos", "--batch_size=8", "--nojit", "--decoder_num_layers=1"]
    flags += ["--probe_images=50"]
    flags += ["--strategy=multi_worker", "--steps=12", "--checkpoint_steps=4"]
    command = [SCRIPT, f"--output_dir={run}", *flags]
    first = run / "checkpoints" / "step_00000004.npz"
    with Cluster(forks, command, command) as cluster:
        survivor, victim = cluster.processes
        deadline = time.monotonic() + PATIENCE
        while not first.exists() and time.monotonic() < deadline and survivor.poll() is None:
            time.sleep(0.01)
        os.kill(victim.pid, signal.SIGKILL)
        _, errors = survivor.communicate(timeout=60)
    assert survivor.returncode == 1, errors[-3000:]
    assert "error: Worker 0 of 2 has lost another one. Start all again" in errors
    assert "the run goes on after step " in errors
    assert not (run / "results.json").exists()

    with Cluster(forks, command, command) as cluster:
        (status, output, errors), (other_status, other_output, other_errors) = cluster.ended()
    assert (status, other_status) == (0, 0), errors[-3000:] + other_errors[-3000:]
    assert "Going on after step " in output and "Loss on held-out images" in output
    assert other_output == "Worker 1 of 2: waiting for the others.\n"  # the chief alone talks
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == [10, 12]
    # The files of a run on one device, and nothing half-written.
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "results.json", "mae.keras", "encoder.keras"),
        *("encoder", "figures", "checkpoints"),
    }
    assert not list(run.rglob(".*"))
