"""What a pre-training run shows and keeps while it goes: log, progress bar, last good files."""

import contextlib
import json
import math
import sys
import time
from pathlib import Path

import keras

from keras_mae.files import atomic_path, save_model
from keras_mae.training.checkpoints import sync_variables

SHOWN_INTERVAL = 1.0  # seconds


class NonFiniteLossError(RuntimeError):
    """Training gave a NaN or infinite loss."""


class MetricsLog(keras.callbacks.Callback):
    """Write a line of `metrics.jsonl` an interval, show a progress bar, stop at a loss of NaN.

    The loss logged is the mean over the interval's steps, not over the epoch so far. Use it with
    `fit(verbose=0)`.

    Args:
        path: where the lines go: "step", "loss", "learning_rate", "images_per_second", and at
            the end of an epoch a line of "step", "epoch", "val_loss". None: nowhere.
        global_batch_size: int. Images a step.
        total_steps: int. Training stops after this many steps, in the middle of an epoch or not.
        start_step: int. Steps done before this `fit`.
        interval: int. Steps between two lines.
        baselines: dict of name to float, shown beside the validation loss.
        verbose: bool. Whether to show progress: a bar on a terminal, else a line an epoch; of
            epochs shorter than a second, one a second and the last.
        board: a `keras_mae.training.tensorboard.TensorBoardLog` that gets the same, or None.
    Raises:
        NonFiniteLossError: from `fit`, naming the step, when the loss of a step is not finite.
    """

    def __init__(
        self,
        path,
        global_batch_size,
        total_steps,
        start_step=0,
        interval=10,
        baselines=None,
        verbose=True,
        board=None,
    ):
        super().__init__()
        self.path = path
        self.global_batch_size = global_batch_size
        self.total_steps = total_steps
        self.interval = interval
        self.baselines = baselines or {}
        self.verbose = verbose
        self.board = board
        self.step = start_step
        self._file = None
        self._shown_at = -math.inf

    def on_train_begin(self, logs=None):
        if self.path is not None:
            # Line-buffered: what was logged is on disk if the process dies.
            self._file = open(self.path, "a", buffering=1)  # noqa: SIM115 (closed at the end)

    def on_train_end(self, logs=None):
        if self._file is not None:
            self._file.close()

    def on_epoch_begin(self, epoch, logs=None):
        self._bar = None
        if self.verbose and sys.stdout.isatty() and self._is_shown(epoch):
            print(f"Epoch {epoch + 1}/{self.params['epochs']}")
            self._bar = keras.utils.Progbar(
                self.params["steps"], stateful_metrics=("loss", "images/s", "val_loss")
            )
        self._start_interval()

    def _is_shown(self, epoch):
        last = epoch + 1 == self.params["epochs"]
        return last or time.perf_counter() - self._shown_at >= SHOWN_INTERVAL

    def _start_interval(self):
        self._interval_start = time.perf_counter()
        self._interval_steps = 0

    def on_train_batch_begin(self, batch, logs=None):
        if self._is_logged(batch, self.step + 1):
            sync_variables(self.model)
            # Of the step to come: afterwards the optimizer tells the next step's.
            self._learning_rate = float(self.model.optimizer.learning_rate)

    def _is_logged(self, batch, step):
        last = batch + 1 == self.params["steps"] or step >= self.total_steps
        return last or step % self.interval == 0

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self._interval_steps += 1
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            self.on_train_end()
            raise NonFiniteLossError(
                f"The loss of step {self.step} is {loss}. Lower the learning rate, lengthen the "
                "warm-up, or use --precision=float32; files written so far are kept."
            )
        if self.step >= self.total_steps:
            self.model.stop_training = True
        if not self._is_logged(batch, self.step):
            return
        speed = self._interval_steps * self.global_batch_size
        speed /= time.perf_counter() - self._interval_start
        self._write(
            step=self.step,
            loss=loss,
            learning_rate=self._learning_rate,
            images_per_second=round(speed, 1),
        )
        self._shown = [("loss", loss), ("images/s", round(speed))]
        if self._bar:
            self._bar.update(batch + 1, self._shown, finalize=False)
        if batch + 1 < self.params["steps"] and not self.model.stop_training:
            # At the end of an epoch, `fit` still reports the metrics, then resets them.
            sync_variables(self.model)
            self.model.reset_metrics()
        self._start_interval()

    def on_epoch_end(self, epoch, logs=None):
        validation = {k: float(v) for k, v in (logs or {}).items() if k.startswith("val_")}
        if validation:
            self._write(step=self.step, epoch=epoch + 1, **validation)
        shown = [*validation.items(), *self.baselines.items()]
        if self._bar:
            self._bar.update(self.params["steps"], shown, finalize=True)
        elif self.verbose and self._is_shown(epoch):
            values = " - ".join(f"{name}: {value:.4g}" for name, value in [*self._shown, *shown])
            print(f"Epoch {epoch + 1}/{self.params['epochs']} - {values}", flush=True)
        else:
            return
        self._shown_at = time.perf_counter()

    def _write(self, **values):
        if self._file is not None:
            self._file.write(json.dumps(values) + "\n")
        if self.board is not None:
            self.board.write(**values)


def trim_metrics(path, step):
    """Remove from a `metrics.jsonl` what was logged after `step`, and a line that was cut short."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    kept = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept))


class SaveLastGood(keras.callbacks.Callback):
    """Save the model at the end of each epoch, in place of the epoch before's, atomically.

    A run that a NaN loss stops in a later epoch leaves the last epoch's file.

    Args:
        path: a `.keras` file.
    """

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        save_model(self.model, self.path)
