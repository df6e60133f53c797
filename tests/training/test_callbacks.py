import json

import keras
import numpy as np
import pytest

from keras_mae.training import MetricsLog, NonFiniteLossError, SaveLastGood
from keras_mae.training.callbacks import trim_metrics

STEPS, BATCH = 4, 2


def linear_model():
    """A model whose weight is the loss: `w * x` with targets of 0, under mean absolute error."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")]
    )
    model.compile(keras.optimizers.SGD(0.0), loss="mae", jit_compile=False)
    return model


def fit(model, x, tmp_path, epochs=1, **kwargs):
    log = MetricsLog(
        tmp_path / "metrics.jsonl",
        BATCH,
        **{"total_steps": epochs * STEPS, "interval": 2, "verbose": False, **kwargs},
    )
    callbacks = [log, SaveLastGood(tmp_path / "model.keras")]
    x = np.asarray(x, "float32")
    model.fit(
        x,
        np.zeros_like(x),
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
        validation_data=(x, np.zeros_like(x)),
    )


def read_lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_a_line_an_interval_with_the_mean_loss_of_its_steps(tmp_path):
    fit(linear_model(), [[1], [1], [3], [3], [5], [5], [9], [9]], tmp_path)
    lines = read_lines(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 4]
    assert [line["loss"] for line in lines[:2]] == [2, 7]
    assert lines[0]["learning_rate"] == 0 and lines[0]["images_per_second"] > 0
    assert lines[2] == {"step": 4, "epoch": 1, "val_loss": 4.5}


def test_training_stops_at_total_steps_inside_an_epoch(tmp_path):
    model = linear_model()
    fit(model, np.ones((8, 1)), tmp_path, epochs=3, total_steps=7)
    assert int(model.optimizer.iterations) == 7
    assert read_lines(tmp_path)[-2]["step"] == 7


def test_nan_loss_names_the_step_and_keeps_the_last_good_file(tmp_path):
    model = linear_model()
    fit(model, np.ones((8, 1)), tmp_path)
    good = (tmp_path / "model.keras").read_bytes()
    x = [[1], [1], [1], [1], [np.nan], [1], [1], [1]]
    with pytest.raises(NonFiniteLossError, match="step 3 is nan"):
        fit(model, x, tmp_path)
    assert (tmp_path / "model.keras").read_bytes() == good


def test_infinite_loss_stops_too(tmp_path):
    with pytest.raises(NonFiniteLossError, match="step 1 is inf"):
        fit(linear_model(), [[np.inf]] + [[1]] * 7, tmp_path)


def test_without_a_terminal_progress_is_a_line_an_epoch(tmp_path, capsys):
    fit(linear_model(), np.ones((8, 1)), tmp_path, epochs=2, verbose=True, baselines={"mean": 3.0})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" - ")[0] for line in lines] == ["Epoch 1/2", "Epoch 2/2"]
    assert "loss: 1 - images/s: " in lines[0] and lines[0].endswith("val_loss: 1 - mean: 3")


def test_of_short_epochs_one_a_second_is_shown_and_the_last(tmp_path, capsys, monkeypatch):
    clock = iter(np.arange(0, 1000, 0.125))  # read some times an epoch, each an eighth later
    monkeypatch.setattr("keras_mae.training.callbacks.time.perf_counter", lambda: next(clock))
    model = linear_model()
    log = MetricsLog(None, global_batch_size=2, total_steps=4 * 40, interval=2)
    model.fit(np.ones((8, 1)), np.zeros(8), batch_size=2, epochs=40, verbose=0, callbacks=[log])
    lines = capsys.readouterr().out.splitlines()
    assert len(log.model.history.epoch) == 40 and 2 < len(lines) < 30
    assert lines[0].startswith("Epoch 1/40 - loss: 1") and lines[-1].startswith("Epoch 40/40")


def test_trimmed_metrics_hold_each_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "loss": 1}\n{"step": 20, "loss": 2}\n{"step": 30, "lo')
    trim_metrics(path, 10)
    assert path.read_text() == '{"step": 10, "loss": 1}\n'
    trim_metrics(tmp_path / "new.jsonl", 0)
    assert (tmp_path / "new.jsonl").read_text() == ""
