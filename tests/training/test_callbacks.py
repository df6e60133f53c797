import json

import keras
import numpy as np
import pytest

from keras_mae.errors import NonFiniteLossError
from keras_mae.training import MetricsLog, SaveLastGood
from keras_mae.training.callbacks import (
    EarlyEnd,
    Progress,
    duration,
    read_metrics,
    trim_metrics,
    validation_losses,
)

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
        **{"total_steps": epochs * STEPS, "interval": 2, **kwargs},
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


def test_without_a_terminal_progress_is_a_line_an_epoch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("keras_mae.training.callbacks.LINE_SECONDS", 0)
    progress = Progress(8, {"mean_predictor": 3.0})
    fit(linear_model(), np.ones((8, 1)), tmp_path, epochs=2, progress=progress)
    first, last = (line.split(" - ") for line in capsys.readouterr().out.splitlines())
    assert (first[0], last[0]) == ("step 4 of 8 (50%)", "step 8 of 8 (100%)")
    assert first[1] == "loss 1.0000" and first[2].endswith(" images/s")
    assert first[3:5] == ["val_loss 1.0000", "mean_predictor 3.0000"]
    assert first[5].endswith(" left") and len(last) == 5  # nothing is left


@pytest.mark.slow
def test_of_short_epochs_one_a_second_is_shown_and_the_last(tmp_path, capsys, monkeypatch):
    clock = iter(np.arange(0, 1000, 1 / 32))  # read some ten times an epoch
    monkeypatch.setattr("keras_mae.training.callbacks.time.perf_counter", lambda: next(clock))
    model = linear_model()
    log = MetricsLog(None, 2, total_steps=4 * 40, interval=2, progress=Progress(160))
    model.fit(np.ones((8, 1)), np.zeros(8), batch_size=2, epochs=40, verbose=0, callbacks=[log])
    lines = capsys.readouterr().out.splitlines()
    assert len(log.model.history.epoch) == 40 and 2 < len(lines) < 30
    assert lines[0].startswith("step 4 of 160 (2%) - loss 1.0000")
    assert lines[-1].startswith("step 160 of 160 (100%)")


def test_a_terminal_has_one_line_that_is_renewed(capsys, monkeypatch):
    monkeypatch.setattr("keras_mae.training.callbacks.sys.stdout.isatty", lambda: True)
    progress = Progress(4)
    for step in (2, 4):
        progress.step_done(step)
        progress.logged(step, 1.0, 5.0)
        progress.epoch_done(step, {})
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.endswith("\n") and out.startswith("\r")


@pytest.mark.parametrize(
    "seconds, words", [(0.4, "0 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (7260, "2 h 1 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


class Stopping:
    """As much of a model as a callback that stops it needs."""

    stop_training = False


def epochs_until_the_end(losses, patience, earlier=()):
    """Return after how many of the losses `EarlyEnd` stops; None if after none."""
    end = EarlyEnd(patience, earlier)
    end.set_model(Stopping())
    for number, loss in enumerate(losses, 1):
        end.on_epoch_end(number, {"loss": 0.0, **({} if loss is None else {"val_loss": loss})})
        if end.model.stop_training:
            return number
    return None


def test_early_end_waits_for_so_many_validations_without_a_lower_loss():
    assert epochs_until_the_end([3, 2, 2, 2.5], patience=2) == 4  # an equal loss is not lower
    assert epochs_until_the_end([3, 2, 2.5, 1, 1.5], patience=2) is None
    assert epochs_until_the_end([3, 4], patience=1) == 2
    assert epochs_until_the_end([3, None, None, 4, None, 5], patience=2) == 6  # not validated


def test_early_end_of_a_run_that_was_cut_is_where_it_would_have_been():
    assert epochs_until_the_end([2.5], patience=2, earlier=[3, 2, 2]) == 1
    assert epochs_until_the_end([2.5, 2.5], patience=2, earlier=[3, 2]) == 2


def test_trimmed_metrics_hold_each_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "loss": 1}\n{"step": 20, "loss": 2}\n{"step": 30, "lo')
    trim_metrics(path, 10)
    assert path.read_text() == '{"step": 10, "loss": 1}\n'
    trim_metrics(tmp_path / "new.jsonl", 0)
    assert (tmp_path / "new.jsonl").read_text() == ""


def test_a_line_that_was_cut_short_is_not_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4, "loss": 1}\n{"step": 4, "val_loss": 2}\n{"step": 8, "val_l')
    assert read_metrics(path) == [{"step": 4, "loss": 1}, {"step": 4, "val_loss": 2}]
    assert validation_losses(path) == [2]
    assert read_metrics(tmp_path / "none.jsonl") == []
