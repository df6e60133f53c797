"""What a run shows and keeps while it goes: log, progress, last good files, early end."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_mae.errors import NonFiniteLossError
from keras_mae.files import atomic_path, save_model
from keras_mae.training.checkpoints import sync_variables
from keras_mae.types import AnyPath

TERMINAL_SECONDS = 0.2  # between two pictures of the line on a terminal
LINE_SECONDS = 1.0  # between two lines elsewhere, each after an epoch
LONG_EPOCH_SECONDS = 60.0  # after which a line is due within an epoch


class Progress:
    """Show how far a run is: one line, renewed on a terminal; elsewhere a line an epoch.

    Of epochs shorter than a second, a line a second is shown, and the last one.

    Args:
        total_steps: int.
        baselines: dict of name to loss, shown beside the validation's.
    """

    def __init__(self, total_steps: int, baselines: Mapping[str, float] | None = None) -> None:
        self.total_steps = total_steps
        self.baselines = baselines or {}
        self._first: tuple[int, float] | None = (
            None  # (step, time) after the first step, which compiles
        )
        self._shown_at = -math.inf
        self._validation: Mapping[str, float] = {}

    def step_done(self, step: int) -> None:
        """Note the time of the first step's end."""
        if self._first is None:
            self._first = step, time.perf_counter()

    def logged(self, step: int, loss: float, images_per_second: float) -> None:
        """Show the line of an interval of steps, where one is due."""
        self._values = [f"loss {loss:.4f}", f"{images_per_second:,.0f} images/s"]
        quiet = time.perf_counter() - self._shown_at
        if sys.stdout.isatty() and quiet >= TERMINAL_SECONDS:
            self._show(step, end="")
        elif not sys.stdout.isatty() and quiet >= LONG_EPOCH_SECONDS and self._shown_at > 0:
            self._show(step)

    def epoch_done(self, step: int, validation: Mapping[str, float]) -> None:
        """Show the line of an epoch, with the validation's values, where one is due."""
        self._validation = validation or self._validation
        last = step >= self.total_steps
        if sys.stdout.isatty():
            self._show(step, end="\n" if last else "")
        elif last or time.perf_counter() - self._shown_at >= LINE_SECONDS:
            self._show(step)

    def monitored(self, step: int, values: Mapping[str, float]) -> None:
        """Show a line of its own, of what monitors measured."""
        shown = " - ".join(f"{name} {value:.3g}" for name, value in values.items())
        start = "\r\x1b[K" if sys.stdout.isatty() else ""
        print(f"{start}monitors at step {step:,} - {shown}", flush=True)

    def _show(self, step, end="\n"):
        self._shown_at = time.perf_counter()
        share = f"step {step:,} of {self.total_steps:,} ({step / self.total_steps:.0%})"
        shown = [*self._values, *(f"{n} {v:.4f}" for n, v in self._validation.items())]
        if self._validation:
            shown += [f"{name} {value:.4f}" for name, value in self.baselines.items()]
        if (left := self._time_left(step)) is not None:
            shown.append(f"{duration(left)} left")
        line = " - ".join([share, *shown])
        print(f"\r\x1b[K{line}" if sys.stdout.isatty() else line, end=end, flush=True)

    def _time_left(self, step):
        """Return seconds, judged by the steps after the first, which compiled; None at the end."""
        if self._first is None or step >= self.total_steps or step == self._first[0]:
            return None
        seconds = time.perf_counter() - self._first[1]
        return seconds / (step - self._first[0]) * (self.total_steps - step)


def duration(seconds: float) -> str:
    """Return a number of seconds in words, such as "2 min 5 s"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


class MetricsLog(keras.callbacks.Callback):
    """Write a line of `metrics.jsonl` an interval, and stop at the last step or at a loss of NaN.

    The loss logged is the mean over the interval's steps, not over the epoch so far. Use it with
    `fit(verbose=0)`; `steps_per_execution` may be more than 1.

    Args:
        path: where the lines go: "step", "loss", "learning_rate", "images_per_second", and at
            the end of an epoch a line of "step", "epoch", "val_loss". None: nowhere.
        global_batch_size: int. Images a step.
        total_steps: int. Training stops after this many steps, in the middle of an epoch or not.
        start_step: int. Steps done before this `fit`.
        interval: int. Steps between two lines.
        progress: a `Progress` that is told the same, or None.
        boards: a `keras_mae.training.boards.Boards` that get the same, or None.
    Raises:
        NonFiniteLossError: from `fit`, naming the step, when the loss of a step is not finite.
    """

    def __init__(
        self,
        path: AnyPath | None,
        global_batch_size: int,
        total_steps: int,
        start_step: int = 0,
        interval: int = 10,
        progress: Progress | None = None,
        boards: Any = None,
    ) -> None:
        super().__init__()
        self.path = path
        self.global_batch_size = global_batch_size
        self.total_steps = total_steps
        self.interval = interval
        self.progress = progress
        self.boards = boards
        self.step = start_step
        self._file: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.path is not None:
            # Line-buffered: what was logged is on disk if the process dies.
            self._file = open(self.path, "a", buffering=1)  # noqa: SIM115 (closed at the end)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._file is not None:
            self._file.close()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch_start = self.step
        self._start_interval()

    def _start_interval(self):
        self._interval_start = time.perf_counter()
        self._interval_step = self.step

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._is_logged(batch, self._epoch_start + batch + 1):
            sync_variables(self.model)
            # Of the step to come: afterwards the optimizer tells the next step's.
            self._learning_rate = float(
                keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
            )

    def _is_logged(self, batch, step):
        if (getattr(self.model, "steps_per_execution", 1) or 1) > 1:
            return True
        last = batch + 1 == self.params["steps"] or step >= self.total_steps
        return last or step % self.interval == 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step = self._epoch_start + batch + 1
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            self.on_train_end()
            raise NonFiniteLossError(
                f"The loss of step {self.step} is {loss}. Lower the learning rate, lengthen the "
                "warm-up, or use --precision=float32; files written so far are kept."
            )
        if self.step >= self.total_steps:
            self.model.stop_training = True
        if self.progress is not None:
            self.progress.step_done(self.step)
        if not self._is_logged(batch, self.step):
            return
        speed = (self.step - self._interval_step) * self.global_batch_size
        speed /= time.perf_counter() - self._interval_start
        self.write(
            step=self.step,
            loss=loss,
            learning_rate=self._learning_rate,
            images_per_second=round(speed, 1),
        )
        if self.progress is not None:
            self.progress.logged(self.step, loss, speed)
        if batch + 1 < self.params["steps"] and not self.model.stop_training:
            # At the end of an epoch, `fit` still reports the metrics, then resets them.
            sync_variables(self.model)
            self.model.reset_metrics()
        self._start_interval()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        validation = {k: float(v) for k, v in (logs or {}).items() if k.startswith("val_")}
        if validation:
            self.write(step=self.step, epoch=epoch + 1, **validation)
        if self.progress is not None:
            self.progress.epoch_done(self.step, validation)

    def write(self, **values: Any) -> None:
        """Write a line, of "step" and what else there is, while `fit` runs."""
        if self._file is not None:
            self._file.write(json.dumps(values) + "\n")
        if self.boards is not None:
            self.boards.write(**values)

    def pause(self, seconds: float) -> None:
        """Leave out so many seconds of the interval's, in which no step was done."""
        self._interval_start += seconds


def read_metrics(path: AnyPath) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl` as dicts; one that was cut short is left out."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    found = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def trim_metrics(path: AnyPath, step: int) -> None:
    """Remove from a `metrics.jsonl` what was logged after `step`, and a line that was cut short."""
    kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept))


def validation_losses(path: AnyPath) -> list[float]:
    """Return the validation losses that a `metrics.jsonl` holds, in order."""
    return [line["val_loss"] for line in read_metrics(path) if "val_loss" in line]


class EarlyEnd(keras.callbacks.Callback):
    """Stop when so many validations in a row have not lowered the validation loss.

    Args:
        patience: int of at least 1.
        losses: list of float, the validation losses of the run before this `fit`: a run that was
            cut stops where it would have.
    """

    def __init__(self, patience: int, losses: Sequence[float] = ()) -> None:
        super().__init__()
        self.patience = patience
        self.losses = list(losses)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if "val_loss" not in (logs or {}):
            return
        self.losses.append(float(logs["val_loss"]))
        best = self.losses.index(min(self.losses))
        if len(self.losses) - 1 - best >= self.patience:
            self.model.stop_training = True


class SaveLastGood(keras.callbacks.Callback):
    """Save the model at the end of each epoch, in place of the epoch before's, atomically.

    A run that a NaN loss stops in a later epoch leaves the last epoch's file.

    Args:
        path: a `.keras` file.
    """

    def __init__(self, path: AnyPath) -> None:
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        save_model(self.model, self.path)
