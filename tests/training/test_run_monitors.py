"""When a run measures, what it makes of what monitors return, and of monitors that fail."""

import keras
import numpy as np
import pytest

from keras_mae.training.callbacks import MetricsLog, read_metrics
from keras_mae.training.monitors import Monitors, RunMonitors, monitor_steps, trend


def test_steps_by_times_and_by_epochs():
    assert monitor_steps(0, 100, times=4) == [0, 25, 50, 75, 100]
    assert monitor_steps(0, 3, times=10) == [0, 1, 2, 3]
    assert monitor_steps(100, 160, times=3) == [120, 140, 160]  # a second leg
    # 1.5 epochs of 10 steps, and the last step whatever the distance.
    assert monitor_steps(0, 40, every=lambda k: 15 * k) == [0, 15, 30, 40]
    assert monitor_steps(20, 40, every=lambda k: 15 * k) == [30, 40]
    # Less than a step is one.
    assert monitor_steps(0, 3, every=lambda k: 0) == [0, 1, 2, 3]


def points(values):
    return list(enumerate(values))


def test_a_curve_rises_falls_or_is_level_at_its_end():
    line = trend(points([0.1 * k for k in range(11)]))
    # From step 7.5 to 10, and no bend.
    assert line == {"trend": "rises", "gain": pytest.approx(0.25), "noise": pytest.approx(0)}
    assert trend(points([-k for k in range(11)]))["trend"] == "falls"
    assert trend(points([5] * 11))["trend"] == "level"
    assert trend(points([1, 2, 3, 4])) == {"trend": None, "gain": None, "noise": None}


def test_the_noise_of_a_curve_by_hand():
    # The last half is 0 1 0 1 0 1: bends of -2, 2, -2, 2. Noise: sqrt(2 * 4 / 6).
    found = trend(points([0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1]))
    assert found["noise"] == pytest.approx(np.sqrt(8 / 6), abs=1e-6)
    assert found["gain"] == pytest.approx(0.5)  # from 0.5, between 0 and 1
    assert found["trend"] == "level"
    # The rise of a curve that bends towards level counts as its own noise, and is still seen.
    saturating = [1 - np.exp(-k / 4) for k in range(11)]
    assert trend(points(saturating))["trend"] == "rises"


class Toy(Monitors):
    """Measures a one-weight model."""

    def __init__(self, steps, functions):
        super().__init__(steps, functions)
        self.drawn, self.sample = [], np.ones((2, 1), "float32")

    def ready(self, model):
        self.predict = lambda x: np.asarray(model(x))
        return super().ready(model)

    def draw(self, step):
        self.drawn.append(step)


def fit(tmp_path, functions, steps=(0, 2, 4), total=4, callbacks=(), lines=()):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    path = tmp_path / "metrics.jsonl"
    monitors = Toy(steps, functions)
    log = MetricsLog(path, 1, total, interval=1)
    run = RunMonitors(monitors, log, lines=lines)
    x = np.ones((10, 1), "float32")
    model.fit(x, x, batch_size=1, epochs=1, verbose=0, callbacks=[log, *callbacks, run])
    return run, monitors, read_metrics(path), np.asarray(model.weights[0])


def measured(lines):
    return [line for line in lines if any(name.startswith("monitor_") for name in line)]


def test_numbers_get_the_names_of_their_monitors(tmp_path):
    functions = {
        "": lambda predict, sample: {"a": np.float32(0.5), "b": 2},
        "mine": lambda predict, sample: {"rows": len(predict(sample))},
        "one": lambda predict, sample: 3,
    }
    run, monitors, lines, _ = fit(tmp_path, functions)
    values = {"monitor_a": 0.5, "monitor_b": 2, "monitor_mine_rows": 2, "monitor_one": 3}
    assert measured(lines) == [{"step": step, **values} for step in (0, 2, 4)]
    assert monitors.drawn == [0, 2, 4]
    results = run.end(4)
    assert results["last"] == values and results["curve"] is None
    assert 0 < results["share"] < 1


def test_a_monitor_that_fails_is_named_once_and_the_run_goes_on(tmp_path, capsys):
    def broken(predict, sample):
        raise KeyError("mine")

    functions = {
        "broken": broken,
        "wrong": lambda predict, sample: "text",
        "infinite": lambda predict, sample: {"x": float("nan")},
        "good": lambda predict, sample: 1,
    }
    run, _, lines, weights = fit(tmp_path, functions)
    assert measured(lines) == [{"step": step, "monitor_good": 1} for step in (0, 2, 4)]
    said = capsys.readouterr().out
    assert said.count("`broken` failed after step 0, and the run goes on") == 1
    assert said.count("KeyError") == 1
    assert said.count("A monitor must return a finite number") == 2
    _, _, _, alone = fit(tmp_path, {})
    np.testing.assert_array_equal(weights, alone)


def test_a_step_that_is_in_the_log_is_not_measured_again(tmp_path):
    lines = [{"step": 0, "monitor_one": 1}, {"step": 2, "loss": 1}]
    run, monitors, _, _ = fit(tmp_path, {"one": lambda *_: 1}, lines=lines)
    assert monitors.drawn == [2, 4] and sorted(run.curves) == [0, 2, 4]


def test_a_run_that_stops_early_is_measured_at_its_last_step(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    _, monitors, lines, _ = fit(
        tmp_path, {"one": lambda *_: 1}, steps=(5, 10), total=10, callbacks=[Stop()]
    )
    assert monitors.drawn == [3] and measured(lines) == [{"step": 3, "monitor_one": 1}]


def test_the_pause_is_not_part_of_the_speed(tmp_path):
    log = MetricsLog(None, 1, 10)
    log.on_epoch_begin(0)
    before = log._interval_start
    log.pause(2.5)
    assert log._interval_start == before + 2.5
