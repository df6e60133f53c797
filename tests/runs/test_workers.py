"""Two workers, as processes on this machine that talk over loopback."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import worker_run
from small_runs import NAME

from keras_mae.training.workers import Workers

pytestmark = [pytest.mark.runs, pytest.mark.slow]
HERE = Path(__file__).resolve()
SCRIPTS = HERE.parents[2] / "scripts"
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
    flags = [
        "--dataset=photos",
        f"--preset={NAME}",
        "--batch_size=8",
        "--nojit",
        "--decoder_num_layers=1",
    ]
    flags += ["--probe_images=50"]
    flags += ["--strategy=multi_worker", "--steps=12", "--checkpoint_steps=4"]
    flags += ["--monitor_every=0.05"]  # the chief alone measures
    command = [SCRIPTS / "pretrain.py", f"--output_dir={run}", *flags]
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
    measured = [line["step"] for line in log if "monitor_rankme" in line]
    assert measured[0] == 0 and measured[-1] == 12 and len(measured) == len({*measured}) > 2
    assert measured == sorted(measured)
    # The files of a run on one device, and nothing half-written.
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "results.json", "index.html"),
        *("mae.keras", "encoder.keras", "encoder", "figures", "checkpoints"),
    }
    assert not list(run.rglob(".*"))


def test_two_workers_fine_tune_as_one_device(forks, tmp_path):
    flags = ["--protocol=scratch", "--train_examples=40", "--steps=3", "--batch_size=8", "--nojit"]
    flags += ["--drop_path=0", "--augmentation=none"]
    script = SCRIPTS / "finetune.py"
    command = [script, f"--output_dir={tmp_path}/two", "--strategy=multi_worker", *flags]
    with Cluster(forks, command, command) as cluster:
        outcomes = cluster.ended()
    for status, _, errors in outcomes:
        assert status == 0, errors[-3000:]
    assert outcomes[1][1] == "Worker 1 of 2: waiting for the others.\n"
    before = ["small_runs:shrink"]
    alone = forks.run(script, f"--output_dir={tmp_path}/one", *flags, before=before)
    assert alone.returncode == 0, alone.stderr[-3000:]
    results = [json.loads((tmp_path / n / "results.json").read_text()) for n in ("one", "two")]
    assert results[0]["heldout_examples"] == results[1]["heldout_examples"] == 1000
    for result in results:  # each held-out image was validated once
        assert result["val_curve"] == [pytest.approx(result["top1"])]
    models = [keras.models.load_model(tmp_path / n / "model.keras") for n in ("one", "two")]
    for x, y in zip(*(model.variables for model in models), strict=True):
        if not x.path.endswith("query_key_value/bias"):  # a key's is rounding, blown up by Adam
            np.testing.assert_allclose(x, y, atol=1e-5, err_msg=x.path)


def test_a_probe_that_several_workers_cannot_train_is_refused(forks, tmp_path):
    command = [SCRIPTS / "finetune.py", "--protocol=linear", "--strategy=multi_worker"]
    command += ["--train_examples=40", f"--output_dir={tmp_path}/run"]
    with Cluster(forks, command, command) as cluster:
        for status, _, errors in cluster.ended():
            assert status == 1 and "error: --strategy" in errors, errors[-3000:]
    assert not (tmp_path / "run").exists()
