"""Monitors: what a run measures now and then while it trains, on a fixed sample.

They change no number of the training. The chief of several workers measures, the others wait for
it in the next step. What is measured depends on steps and images, never on the clock, so a run that
is cut and goes on has the same lines as one that is not.
"""

import contextlib
import math
import numbers
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mae.training.averaging import averaged
from keras_mae.training.callbacks import MetricsLog
from keras_mae.training.checkpoints import sync_variables

PREFIX = "monitor_"  # of what monitors measure, in metrics.jsonl and on boards
RULE = (
    "the gain in the last quarter of the steps against twice its noise, by the curve's bends in the"
    " last half"
)


class Monitors:
    """What a task measures at some steps: functions that return numbers, and figures.

    Args:
        steps: ints, growing, of the steps after which is measured; 0 is before the first one.
        functions: dict of name to function of (`predict`, `sample`) that returns a number, or a
            dict of name to number. They are logged as `monitor_NAME` and `monitor_NAME_KEY`; a
            function under the name "" has the keys alone.
    Attributes:
        predict: function, which the task gives, to use the model as it is.
        sample: the images, in a form that the task chooses.
        curve: names without the prefix: whether the first of them that is measured still rises at
            the end is told.
    """

    predict: Callable[..., np.ndarray]
    sample: Any
    curve: Sequence[str] = ()

    def __init__(
        self, steps: Iterable[int], functions: Mapping[str, Callable[..., Any]] | None = None
    ) -> None:
        self.steps = sorted(steps)
        self.functions = dict(functions or {})

    def ready(self, model: keras.Model) -> contextlib.AbstractContextManager:
        """Return a context in which `predict` and `draw` see the weights of `model`."""
        return contextlib.nullcontext()

    def draw(self, step: int) -> None:
        """Draw the figures of a step."""

    def images(self) -> list[tuple[int, str, Path]]:
        """Return (step, name, PNG file) of each figure that boards show, in order."""
        return []

    def trim(self, step: int) -> None:
        """Remove the figures that were drawn after `step`, of which the run begins anew."""

    def draw_curves(self, curves: Mapping[int, Mapping[str, float]]) -> None:
        """Draw all that was measured so far, a dict of step to dict of name to value."""

    def end(self) -> None:
        """Write what is made of all figures."""


class RunMonitors(keras.callbacks.Callback):
    """Measure at the steps of `Monitors`, and at the last one of a run that stops early.

    An error in a monitor is told of once. Its numbers are missing then, and the run goes on.

    Args:
        monitors: `Monitors`.
        log: the `MetricsLog` of the run.
        average: bool. Whether averaged weights are validated, and so are measured.
        lines: what `metrics.jsonl` holds of the run before, as dicts.
    """

    def __init__(
        self,
        monitors: Monitors,
        log: MetricsLog,
        average: bool = False,
        lines: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        self.monitors = monitors
        self.log = log
        self.average = average
        self.curves = {line["step"]: _measured(line) for line in lines if _measured(line)}
        self.seconds = 0.0
        self._done = set(self.curves)
        self._failed: set[str] = set()
        self._start: float | None = None
        self._first: tuple[int, float] | None = None  # (step, time) after the first, which compiles
        self._last: tuple[int, float] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._start is None:
            self._start = time.perf_counter()
        if self.log.step == 0:
            self._measure_if_due(0)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step = self.log.step
        self._measure_if_due(step)
        self._last = step, time.perf_counter()
        self._first = self._first or self._last

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.model.stop_training and self.log.step not in self._done:
            self._measure(self.log.step)

    def end(self, last_step: int) -> dict[str, Any]:
        """Write what is left, and return what the results say, a dict.

        Args:
            last_step: int, the run's.
        Returns:
            dict: "last", the last values; "curve", whether the curve still rises, see `trend`;
            "seconds" and "share" of this process's training; "seconds_twice_as_long", about, of a
            run of twice the steps: None where too few steps were done to say.
        """
        with self._told("the figures"):
            start = time.perf_counter()
            self.monitors.draw_curves(self.curves)
            self.monitors.end()
            self.seconds += time.perf_counter() - start
        results: dict[str, Any] = {"last": {}, "curve": None}
        if self.curves:
            results["last"] = self.curves[max(self.curves)]
            known = [PREFIX + name for name in self.monitors.curve]
            name = next((n for n in known if n in results["last"]), None)
            if name is not None:
                points = sorted((s, v[name]) for s, v in self.curves.items() if name in v)
                results["curve"] = {"name": name, **trend(points), "rule": RULE}
        results["seconds"] = round(self.seconds, 1)
        taken = 0.0 if self._start is None else time.perf_counter() - self._start
        results["share"] = round(self.seconds / taken, 4) if taken else None
        results["seconds_twice_as_long"] = None
        if self._first is not None and self._last[0] > self._first[0]:
            of_a_step = (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
            results["seconds_twice_as_long"] = round(2 * last_step * of_a_step)
        return results

    def _measure_if_due(self, step):
        if step in self.monitors.steps and step not in self._done:
            self._measure(step)

    def _measure(self, step):
        start = time.perf_counter()
        self._done.add(step)
        values: dict[str, float] = {}
        with self._told("the copy of the weights"), contextlib.ExitStack() as stack:
            sync_variables(self.model)
            if self.average and step > 0:  # before the first step there are no averages
                stack.enter_context(averaged(self.model))
            stack.enter_context(self.monitors.ready(self.model))
            for name, function in self.monitors.functions.items():
                with self._told(f"`{name}`" if name else "the features' numbers"):
                    found = function(self.monitors.predict, self.monitors.sample)
                    values.update(_named(name, found))
            with self._told("the figures"):
                self.monitors.draw(step)
        if values:
            self.curves[step] = values
            self.log.write(step=step, **values)
            if self.log.progress is not None:
                shown = {name.removeprefix(PREFIX): value for name, value in values.items()}
                self.log.progress.monitored(step, shown)
        with self._told("the figures"):
            self.monitors.draw_curves(self.curves)
            if self.log.boards is not None:
                for image in self.monitors.images():
                    if image[0] == step:
                        self.log.boards.image(*image)
        seconds = time.perf_counter() - start
        self.seconds += seconds
        if step > 0:
            self.log.pause(seconds)

    @contextlib.contextmanager
    def _told(self, what):
        """Tell of an error inside, once, and go on."""
        try:
            yield
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                print(
                    f"Of monitors, {what} failed after step {self.log.step:,}, and the run goes on "
                    f"without: {type(error).__name__}: {error}",
                    flush=True,
                )


def monitor_steps(
    start: int, end: int, times: int = 10, every: Callable[[int], int] | None = None
) -> list[int]:
    """Return the steps after which a run measures: its last one always, and 0 if it begins there.

    Args:
        start, end: ints, the run's steps: `start` were done before.
        times: int of at least 1. How often, at equal distances; fewer where there are few steps.
        every: function from k = 1, 2, ... to the step of the k-th time; None: by `times`.
    Returns:
        list of ints, growing.
    Example:
        monitor_steps(0, 100, times=4)  # [0, 25, 50, 75, 100]
    """
    if every is None:
        found = {start + round(k * (end - start) / times) for k in range(1, times + 1)}
    else:
        found, k = set(), 1
        while (step := max(every(k), k)) < end:
            found.add(step)
            k += 1
    found = {step for step in found if start < step <= end} | {end}
    return sorted(found | {0} if start == 0 else found)


def trend(points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Return whether a curve still rises at its end.

    The gain is the last value less that of three quarters of the steps, which lies on the line
    between two points. The noise of a point is judged by the bends in the last half, each
    `y[i + 1] - 2 y[i] + y[i - 1]`, whose mean square is six times the noise's; that of a gain is
    `sqrt(2)` times as large. The curve rises if the gain is above twice the noise, and falls if it
    is below minus twice the noise.

    Args:
        points: (step, value) each, in order.
    Returns:
        dict: "trend": "rises", "falls", "level", or None for fewer than 5 points; "gain" and
        "noise", floats or None.
    Example:
        trend([(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)])["trend"]  # "rises"
    """
    if len(points) < 5:
        return {"trend": None, "gain": None, "noise": None}
    steps, values = (np.array(column, "float64") for column in zip(*points, strict=True))
    gain = values[-1] - np.interp(0.75 * steps[-1], steps, values)
    half = values[max(0, min(int(np.searchsorted(steps, steps[-1] / 2)), len(values) - 3)) :]
    bends = np.diff(half, 2)
    noise = float(np.sqrt(2 * np.mean(bends**2) / 6))
    # Of rounding alone, no curve rises.
    clear = abs(gain) > max(2 * noise, 1e-9 * np.abs(values).max())
    word = ("rises" if gain > 0 else "falls") if clear else "level"
    return {"trend": word, "gain": round(float(gain), 6), "noise": round(noise, 6)}


def _measured(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name.startswith(PREFIX)}


def _named(name: str, found: Any) -> dict[str, float]:
    """Return a monitor's numbers by the names that they are logged under."""
    given = found if isinstance(found, Mapping) else {"": found}
    values = {}
    for key, value in given.items():
        parts = [part for part in (name, key) if part]
        value = value.item() if hasattr(value, "item") else value
        is_number = isinstance(value, numbers.Real) and math.isfinite(value)
        if not parts or not all(isinstance(part, str) for part in parts) or not is_number:
            raise ValueError(
                "A monitor must return a finite number, or a dict of name to such numbers. "
                f"Received: {found!r}"
            )
        values[PREFIX + "_".join(parts)] = float(f"{float(value):.6g}")
    return values
