"""Exact resume: checkpoints that are whole or absent, and a run that goes on from the last one.

A checkpoint holds every number that the rest of a run depends on: weights, optimizer, random
states, running metrics, and the step. The data pipeline and the masks are functions of the step.
"""

import os
import re
import signal
import threading
import time
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import keras
import numpy as np

from keras_mae.errors import CheckpointError, Interrupted

AGREE_STEPS = 5  # how often several workers ask each other for signals
_NAME = re.compile(r"step_(\d+)\.npz")


def run_variables(model):
    """Return name -> variable of all that a compiled model's training changes, in a fixed order."""
    groups = {
        "model": model.variables,  # the random states among them
        "metrics": model.metrics_variables,
        "optimizer": model.optimizer.variables,
    }
    # By number: paths hold counters of the process.
    return {f"{group}/{i}": v for group, values in groups.items() for i, v in enumerate(values)}


def _copies(variable):
    """Return a variable's copies on this worker's devices; the variable itself if it is one.

    Copies hold the same: weights because a strategy sees to it, metrics because each replica's is
    that of the global batch. Read as a whole, a strategy would sum up a metric's copies, which
    takes all workers.
    """
    return getattr(getattr(variable, "value", None), "values", None) or (variable,)


def _read(variable):
    return keras.ops.convert_to_numpy(_copies(variable)[0])


def _write(variable, array):
    for copy in _copies(variable):
        copy.assign(array)


def sync_variables(model):
    """Make a model's variables hold its state, which JAX keeps apart from them between steps."""
    getattr(model, "jax_state_sync", lambda: None)()


class Checkpoints:
    """The checkpoints of a run: `step_N.npz` in a directory, the last few of them.

    A file is written under a temporary name, flushed to disk and renamed. Each array in it has a
    checksum, which reading verifies.

    Args:
        directory: where they lie.
        keep: int. How many are kept; older ones are removed after a new one is on disk.
    """

    def __init__(self, directory, keep=2):
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1. Received: {keep}")
        self.directory = Path(directory)
        self.keep = keep

    def paths(self):
        """Return the checkpoints' paths, newest first."""
        if not self.directory.is_dir():
            return []
        found = [p for p in self.directory.iterdir() if _NAME.fullmatch(p.name)]
        return sorted(found, key=lambda p: int(_NAME.fullmatch(p.name)[1]), reverse=True)

    def last_step(self):
        """Return the step of the newest checkpoint, whole or not; 0 if there is none."""
        return max((int(_NAME.fullmatch(path.name)[1]) for path in self.paths()), default=0)

    def save(self, step, variables):
        """Write the checkpoint of a step, then remove the oldest.

        Args:
            step: int, the number of steps done.
            variables: dict of name to variable or array.
        Raises:
            CheckpointError: if it cannot be written; it names the path. The others stay.
        """
        path = self.directory / f"step_{step:08d}.npz"
        arrays = {name: _read(variable) for name, variable in variables.items()}
        temporary = self.directory / f".saving-{os.getpid()}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_directory(self.directory)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise CheckpointError(f"The checkpoint {path} cannot be written: {error}") from error
        for old in self.paths()[self.keep :]:
            old.unlink(missing_ok=True)

    def load(self, variables):
        """Set variables to the newest checkpoint that is whole, and return its step.

        Args:
            variables: dict of name to variable, with the names that were saved.
        Returns:
            int, the number of steps done; None if there is no good checkpoint.
        Raises:
            CheckpointError: if a whole checkpoint holds other variables or shapes.
        """
        self._remove_unfinished()
        for path in self.paths():
            try:
                with np.load(path) as file:
                    arrays = {name: file[name] for name in file.files}
            except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                print(f"Checkpoint {path} is damaged ({error}); trying the one before.")
                continue
            self._assign(path, arrays, variables)
            return int(_NAME.fullmatch(path.name)[1])
        return None

    def _assign(self, path, arrays, variables):
        missing, unknown = variables.keys() - arrays.keys(), arrays.keys() - variables.keys()
        if missing or unknown:
            raise CheckpointError(
                f"The checkpoint {path} is of another model: it lacks {sorted(missing)[:5]} and "
                f"holds {sorted(unknown)[:5]}"
            )
        for name, variable in variables.items():
            if tuple(variable.shape) != arrays[name].shape:
                raise CheckpointError(
                    f"The checkpoint {path} is of another model: {name} has the shape "
                    f"{arrays[name].shape} there, and {tuple(variable.shape)} here"
                )
        for name, variable in variables.items():
            _write(variable, arrays[name])

    def _remove_unfinished(self):
        """Remove what a process that was killed while saving left behind."""
        if self.directory.is_dir():
            for path in self.directory.glob(".saving-*"):
                path.unlink(missing_ok=True)


def _sync_directory(directory):
    """Flush a rename to disk, where the system can."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SaveCheckpoints(keras.callbacks.Callback):
    """Save a checkpoint every so many steps or minutes, at SIGTERM or Ctrl-C, and at the end.

    At a signal, the step under way is finished and saved, and `fit` ends with `Interrupted`; a
    second signal ends the process as if this were not here. It belongs after the callbacks that
    log and validate: an epoch's last step is saved when the epoch has ended.

    Of several workers, the chief alone saves. A signal to any of them ends all after the same step.

    Args:
        checkpoints: `Checkpoints`.
        total_steps: int. Length of the run.
        start_step: int. Steps done before this `fit`.
        every_steps: int, or None.
        every_minutes: float, or None.
        workers: a `keras_mae.training.workers.Workers` of several workers, or None.
    Raises:
        Interrupted: from `fit`, see above. CheckpointError: if a checkpoint cannot be written.
    """

    def __init__(
        self,
        checkpoints,
        total_steps,
        start_step=0,
        every_steps=None,
        every_minutes=None,
        workers=None,
    ):
        super().__init__()
        self.checkpoints = checkpoints
        self.total_steps = total_steps
        self.step = start_step
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.workers = workers if workers is not None and workers.count > 1 else None
        self._signal = None  # its name, on the worker that got it
        self._stopping = False
        self._due = False
        self._saved_step = start_step
        self._last_save = time.monotonic()
        self._metrics = None

    @contextmanager
    def signals(self):
        """Catch SIGTERM and SIGINT inside; to be used around `fit`, in the main thread."""
        if threading.current_thread() is not threading.main_thread():  # only it can have handlers
            yield
            return
        handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

        def restore():
            for number, handler in handlers.items():
                signal.signal(number, handler)

        def caught(number, frame):
            self._signal = signal.Signals(number).name
            restore()

        for number in handlers:
            signal.signal(number, caught)
        try:
            yield
        finally:
            restore()

    def set_model(self, model):
        super().set_model(model)
        # `fit` starts each epoch by clearing the metrics: an epoch that was cut, which can only be
        # the first, has to get them back.
        if self._metrics is None:
            self._metrics = [_read(variable) for variable in model.metrics_variables]

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self.step
        for variable, value in zip(self.model.metrics_variables, self._metrics, strict=False):
            _write(variable, value)
        self._metrics = []

    def on_train_batch_end(self, batch, logs=None):
        before, self.step = self.step, self._epoch_start + batch + 1
        minutes = (time.monotonic() - self._last_save) / 60
        self._stopping = self._stop_is_due()
        self._due |= self._stopping
        every = self.every_steps
        self._due |= bool(every) and self.step // every > before // every
        self._due |= self.every_minutes is not None and minutes >= self.every_minutes
        # The last step of an epoch is saved together with the epoch's validation.
        if self._due and batch + 1 < self.params["steps"] and self.step < self.total_steps:
            self._save()

    def _stop_is_due(self):
        if self.workers is None:
            return bool(self._signal)
        # Asking takes a moment of all workers' time, and is what makes them stop at one step.
        return self.step % AGREE_STEPS == 0 and self.workers.any(self._signal)

    def on_epoch_end(self, epoch, logs=None):
        if self._due or self.step >= self.total_steps:
            # They hold the validation's loss now; the next epoch starts from nothing.
            self.model.reset_metrics()
            self._save()

    def _save(self):
        is_chief = self.workers is None or self.workers.is_chief
        if self.step != self._saved_step and is_chief:
            sync_variables(self.model)
            self.checkpoints.save(self.step, run_variables(self.model))
            self._saved_step = self.step
        self._due = False
        self._last_save = time.monotonic()
        if self._stopping and self.step < self.total_steps:
            signal_name = self._signal or "A signal to another worker"
            raise Interrupted(f"{signal_name}: stopped after step {self.step}, which is saved.")
