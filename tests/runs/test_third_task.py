"""A task of the user's own, in one file: the mean brightness of small images.

Its steps take no time, so that every promise of `keras_mae.training.loop` is tried here: those of
pre-training and fine-tuning are the same loop.
"""

import dataclasses
import json
import os
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mae.errors import Interrupted, NonFiniteLossError, OutOfMemoryError
from keras_mae.settings.fields import setting
from keras_mae.settings.run import RunSettings
from keras_mae.training import loop
from keras_mae.training.callbacks import read_metrics
from keras_mae.training.loop import Task, run

pytestmark = pytest.mark.runs
BATCH, STEPS_PER_EPOCH, IMAGES, HELDOUT = 8, 4, 32, 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrightnessSettings(RunSettings):
    """Settings of a run, and one more."""

    dropout: float = setting(0.3, "Share of pixels that are not seen.", "Model", least=0, below=1)


class Brightness(Task):
    """Predict the mean of an image's pixels from those that dropout leaves."""

    keeps_last_good = "model.keras"
    files = {"model.keras": "the model", "results.json": "its loss"}
    images = np.random.default_rng(0).uniform(size=(IMAGES + HELDOUT, 3, 3, 1)).astype("float32")

    def load(self):
        self.num_examples = IMAGES
        self.total_steps = self.settings.total_steps(IMAGES)
        self.steps_per_epoch = STEPS_PER_EPOCH

    def build(self):
        settings = self.settings
        self.model = keras.Sequential(
            [
                keras.Input((3, 3, 1)),
                keras.layers.Flatten(),
                keras.layers.Dropout(settings.dropout, seed=settings.seed),
                keras.layers.Dense(1),
            ]
        )
        ema = {"use_ema": True, "ema_momentum": settings.ema} if settings.ema else {}
        optimizer = keras.optimizers.SGD(settings.base_learning_rate, momentum=0.5, **ema)
        self.model.compile(optimizer, "mse", jit_compile=False)
        optimizer.build(self.model.trainable_variables)

    def facts(self):
        return {"images": "uniform"}, {"training_images": IMAGES}

    def begin(self):
        return {"mean": 0.1}

    def batches(self, step, num_shards, shard_index):
        images, targets = map(tf.constant, (self.images, self.images.mean(axis=(1, 2, 3))))
        size = self.settings.batch_size

        def batch(number):
            places = (number * size + tf.range(size, dtype="int64")) % IMAGES
            return tf.gather(images, places), tf.gather(targets, places)

        return tf.data.Dataset.range(step, 2**60).map(batch)

    def validation(self):
        heldout = self.images[IMAGES:]
        if self.workers.replicas > 1:
            return None
        return tf.data.Dataset.from_tensors((heldout, heldout.mean(axis=(1, 2, 3))))

    def finish(self):
        self.model.save(self.directory / "model.keras")
        heldout = self.images[IMAGES:]
        predicted = np.asarray(self.model(heldout))[:, 0]
        return {"error": float(np.square(predicted - heldout.mean(axis=(1, 2, 3))).mean())}

    def summary(self, results):
        return f"Error: {results['error']:.3f}"


def start(directory, callbacks=(), task=Brightness, **settings):
    """Run the task for three epochs; return its results."""
    defaults = {"steps": 12, "batch_size": BATCH, "base_learning_rate": 0.1, "jit": False}
    settings = {**defaults, "output_dir": str(directory), **settings}
    return run(task(BrightnessSettings(**settings)), callbacks)


def weights(directory):
    return [np.array(v) for v in keras.models.load_model(directory / "model.keras").weights]


def cut_back(whole, cut, step):
    """Make `cut` as `whole` was if it had died right after the checkpoint of a step."""
    shutil.copytree(whole, cut)
    for name in ("results.json", "model.keras"):
        (cut / name).unlink()
    for path in (cut / "checkpoints").iterdir():
        if int(path.stem[5:]) > step:
            path.unlink()


def assert_same_end(one, other):
    for x, y in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(x, y)
    logs = [read_metrics(directory / "metrics.jsonl") for directory in (one, other)]
    for line in (line for log in logs for line in log):
        line.pop("images_per_second", None)
    assert logs[0] == logs[1]
    results = [json.loads((d / "results.json").read_text()) for d in (one, other)]
    for values in results:
        values.pop("training_seconds")
    assert results[0] == results[1]


def test_a_run_leaves_its_files_and_its_results(tmp_path, capsys):
    results = start(tmp_path / "run")
    assert json.loads((tmp_path / "run/results.json").read_text()) == results
    assert results["error"] == pytest.approx(
        read_metrics(tmp_path / "run/metrics.jsonl")[-1]["val_loss"], rel=1e-5
    )
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["run"]["dropout"] == 0.3 and config["run"]["images"] == "uniform"
    assert config["training_images"] == IMAGES
    out = capsys.readouterr().out
    assert "step 12 of 12 (100%)" in out and "mean 0.1000" in out
    assert "Error: " in out and "model.keras " in out
    assert not list((tmp_path / "run").rglob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4, 7, 11])
@pytest.mark.parametrize("settings", [{}, {"ema": 0.75}], ids=["plain", "ema"])
def test_a_run_that_was_cut_ends_as_one_that_was_not(tmp_path, step, settings):
    settings = {**settings, "checkpoint_steps": 1, "keep": 100}
    start(tmp_path / "whole", **settings)
    cut_back(tmp_path / "whole", tmp_path / "cut", step)
    start(tmp_path / "cut", **settings)
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_a_signal_ends_a_run_after_the_step_and_it_goes_on(tmp_path):
    class Signal(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="step 3"):
        start(tmp_path / "cut", [Signal()])
    assert signal.getsignal(signal.SIGTERM) == before
    assert [p.name for p in (tmp_path / "cut/checkpoints").iterdir()] == ["step_00000003.npz"]
    start(tmp_path / "cut")
    start(tmp_path / "whole")
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_a_run_that_has_ended_is_shown_and_another_is_refused(tmp_path, capsys):
    results = start(tmp_path / "run")
    capsys.readouterr()
    # What fixes no number may differ.
    assert start(tmp_path / "run", keep=5, tensorboard=True, checkpoint_steps=1) == results
    out = capsys.readouterr().out
    assert "has ended" in out and "Error: " in out
    with pytest.raises(ValueError, match="dropout was 0.3 and is 0.5; seed was 0 and is 1"):
        start(tmp_path / "run", dropout=0.5, seed=1)
    with pytest.raises(ValueError, match="`output_dir`"):
        start(tmp_path / "run", resume="never")
    again = start(tmp_path / "run", overwrite=True, seed=1)
    assert again["error"] != results["error"]


def test_averaged_weights_are_validated_and_kept(tmp_path):
    start(tmp_path / "run", ema=0.75, steps=3, checkpoint_steps=1, keep=9, dropout=0.0)
    average = None
    for step in (1, 2, 3):
        with np.load(tmp_path / f"run/checkpoints/step_{step:08d}.npz") as file:
            now = [file["model/0"], file["model/1"]]
        # The average starts as the weights after the first step.
        before = now if step == 1 else average
        average = [0.75 * a + 0.25 * b for a, b in zip(before, now, strict=True)]
    kept = weights(tmp_path / "run")[:2]
    for expected, value, last in zip(average, kept, now, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert not np.allclose(value, last, rtol=1e-5)


STILL = {"base_learning_rate": 1e-30, "steps": 40}  # a loss that never falls


@pytest.mark.slow
def test_early_stopping_ends_a_run_that_does_not_get_better(tmp_path, capsys):
    results = start(tmp_path / "whole", early_stopping=2, checkpoint_steps=3, keep=9, **STILL)
    assert results["stopped_early_at_step"] == 3 * STEPS_PER_EPOCH  # the first, and two more
    assert [
        line["epoch"] for line in read_metrics(tmp_path / "whole/metrics.jsonl") if "epoch" in line
    ] == [1, 2, 3]
    cut_back(tmp_path / "whole", tmp_path / "cut", 9)
    start(tmp_path / "cut", early_stopping=2, checkpoint_steps=3, keep=9, **STILL)
    assert_same_end(tmp_path / "whole", tmp_path / "cut")
    start(tmp_path / "cut", early_stopping=2, **STILL)
    assert "has ended" in capsys.readouterr().out


def test_validations_may_be_rarer_than_epochs(tmp_path):
    start(tmp_path / "run", steps=20, validation_epochs=2)
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [line["step"] for line in lines if "val_loss" in line] == [8, 16, 20]


class Count(keras.callbacks.Callback):
    """Count batches; note the checkpoints that there are at each, and the weights of each epoch."""

    def __init__(self, directory):
        super().__init__()
        self.batches, self.epochs, self.directory, self.seen = 0, [], directory, []

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        self.seen.append(len(list(self.directory.glob("checkpoints/*.npz"))))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((epoch, logs["val_loss"], [np.array(v) for v in self.model.weights]))


def test_a_users_callback_is_called_before_the_checkpoint_is_saved(tmp_path):
    count = Count(tmp_path / "run")
    start(tmp_path / "run", [count], checkpoint_steps=2, keep=9)
    assert count.batches == 12 and [epoch for epoch, *_ in count.epochs] == [0, 1, 2]
    assert count.seen[:5] == [0, 0, 1, 1, 2]


def test_a_users_callback_ends_a_run_and_restores_the_best_weights(tmp_path, capsys):
    count = Count(tmp_path / "run")
    # With "max" a loss that falls gets worse: the first epoch is the best.
    stop = keras.callbacks.EarlyStopping(
        "val_loss", mode="max", patience=2, restore_best_weights=True
    )
    results = start(tmp_path / "run", [count, stop], steps=40)
    assert results["stopped_early_at_step"] == 3 * STEPS_PER_EPOCH
    losses = [loss for _, loss, _ in count.epochs]
    assert losses == sorted(losses, reverse=True)
    for value, best, last in zip(
        weights(tmp_path / "run")[:2], count.epochs[0][2][:2], count.epochs[-1][2][:2], strict=True
    ):
        np.testing.assert_array_equal(value, best)
        assert not np.array_equal(value, last)
    assert results["error"] == pytest.approx(losses[0], rel=1e-5)
    assert start(tmp_path / "run", steps=40) == results
    assert "has ended" in capsys.readouterr().out


@pytest.mark.slow
def test_tensorboard_has_the_curves_once_after_a_cut(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"tensorboard": True, "checkpoint_steps": 3, "keep": 9, "steps": 24}
    start(tmp_path / "run", **settings)
    (tmp_path / "run/results.json").unlink()
    for step in (15, 18, 21, 24):
        (tmp_path / f"run/checkpoints/step_{step:08d}.npz").unlink()
    start(tmp_path / "run", **settings)
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    steps = {name: [e.step for e in events.Tensors(name)] for name in events.Tags()["tensors"]}
    # At the end of each epoch, and of each interval of ten steps.
    assert steps["loss"] == [4, 8, 10, 12, 16, 20, 24]
    assert steps["val_loss"] == [4, 8, 12, 16, 20, 24]


def test_a_loss_of_nan_ends_the_run_and_keeps_the_last_good_file(tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.good = weights(tmp_path / "run")
                kernel = self.model.weights[0]
                kernel.assign(np.full(kernel.shape, np.nan))

    poison = Poison()
    with pytest.raises(NonFiniteLossError, match="step 5"):
        start(tmp_path / "run", [poison])
    for x, y in zip(weights(tmp_path / "run"), poison.good, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not (tmp_path / "run/results.json").exists()


def test_a_step_that_does_not_fit_names_the_batch(tmp_path):
    class Large(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    with pytest.raises(OutOfMemoryError, match="`batch_size` of 8"):
        start(tmp_path / "run", [Large()])


@pytest.mark.slow
def test_two_replicas_train_as_one_device(replicas, tmp_path, monkeypatch):
    start(tmp_path / "one", dropout=0.0)
    monkeypatch.setattr(loop, "make_strategy", lambda *_: replicas)
    start(tmp_path / "two", dropout=0.0)
    for x, y in zip(weights(tmp_path / "one"), weights(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    with pytest.raises(ValueError, match="`batch_size`"):
        start(tmp_path / "odd", batch_size=7)
    assert not (tmp_path / "odd").exists()


def test_a_task_that_writes_nothing_leaves_seed_and_policy_alone(tmp_path):
    class Quiet(Brightness):
        writes = False

        def finish(self):
            return {"steps": int(self.model.optimizer.iterations)}

    keras.utils.set_random_seed(7)
    expected = np.random.rand()
    keras.utils.set_random_seed(7)
    results = start(tmp_path / "run", task=Quiet, precision="bfloat16")
    assert results["steps"] == 12 and not (tmp_path / "run").exists()
    assert np.random.rand() == expected
    assert keras.config.dtype_policy().name == "float32"


def test_a_task_lacks_what_it_must_have(tmp_path):
    class Empty(Task):
        def load(self):
            self.total_steps = 1

    with pytest.raises(NotImplementedError, match="`build`"):
        run(Empty(RunSettings(output_dir=str(tmp_path / "run"), batch_size=1)))
    assert not (tmp_path / "run").exists()
