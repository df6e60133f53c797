"""The one loop of all runs: directory, exact resume, signals, logs, checkpoints, validation.

A task (`Task`) is what is left: its model, its batches, and what is written at the end.
"""

import contextlib
import errno
import json
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import keras

from keras_mae.errors import CheckpointError, OutOfMemoryError, WorkerLostError
from keras_mae.files import environment, write_json
from keras_mae.pages import Block, Code, Heading
from keras_mae.settings.run import PRECISIONS, RunSettings
from keras_mae.training.averaging import ValidateAveraged, use_averages
from keras_mae.training.boards import check_boards, open_boards
from keras_mae.training.callbacks import (
    EarlyEnd,
    MetricsLog,
    Progress,
    SaveLastGood,
    read_metrics,
    trim_metrics,
    validation_losses,
)
from keras_mae.training.checkpoints import Checkpoints, SaveCheckpoints, run_variables
from keras_mae.training.devices import make_strategy
from keras_mae.training.directory import prepare_output_dir
from keras_mae.training.monitors import Monitors, RunMonitors
from keras_mae.training.page import PAGE, write_run_page
from keras_mae.training.workers import Workers

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
LOG_INTERVAL = 10  # steps


class Task:
    """What a run is of. A subclass overrides what it needs; the loop calls, in this order:

    `load`, `build`, `facts`, `first_lines`, then with the directory open `begin`, `monitors`,
    `batches` and `validation` to train, `finish` and `summary`.

    Args:
        settings: a `RunSettings`. `load` may replace it by one that is complete.
    Attributes:
        workers: the `Workers` of the run; set before `load`.
        writes: bool. Whether the run has an output directory. Without, it cannot be cut and gone
            on with, and runs on the devices and seeds of its caller.
        directory: `Path` of the output directory, or None; set before `begin`.
        model: Keras model, compiled by `build`: what `fit` trains and checkpoints hold.
        num_examples: int, training images; set by `load`.
        total_steps, steps_per_epoch: ints; set by `build`.
        steps_per_execution: int. Steps that `fit` takes in one call.
        keeps_last_good: str or None, the file that `model` is saved as after each epoch.
        files: dict of file name to what it is, listed at the end where it is there.
        title: str, the kind of run, for its page.
        stops_before_training: bool. True ends the run after `first_lines`.
        fact_defaults: dict of what `facts` fixes to what a run had, written before it was one.
    """

    settings: Any  # of the task's own kind
    workers: Workers | None = None
    writes = True
    directory: Path | None = None
    model: Any = None
    num_examples: int | None = None
    total_steps: int | None = None
    steps_per_epoch: int | None = None
    steps_per_execution = 1
    keeps_last_good: str | None = None
    stops_before_training = False
    title = "Run"
    files: ClassVar[dict[str, str]] = {}
    fact_defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings

    def load(self) -> None:
        """Look at the data, and raise for settings that do not fit it; nothing is written yet."""

    def build(self) -> None:
        """Make and compile `model`; called in the strategy's scope."""
        raise NotImplementedError(f"{type(self).__name__} must implement `build`.")

    def facts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return (dict of what fixes the run's numbers, dict of further entries of config.json)."""
        return {}, {}

    def take_up(self, directory: Path) -> None:
        """Get the output directory ready for this run; of several workers, the chief does it."""

    def first_lines(self) -> list[str]:
        """Return what is printed before the run begins, a list of lines."""
        return []

    def begin(self) -> dict[str, float]:
        """Do what comes before the first step; return a dict of losses to compare with."""
        return {}

    def monitors(self) -> Monitors | None:
        """Return what is measured while the run trains, or None; the chief alone is asked."""
        return None

    def batches(self, step: int, num_shards: int, shard_index: int) -> Any:
        """Return the endless data set of a worker's share of all batches after `step`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `batches`.")

    def validation(self) -> Any:
        """Return the data set that is validated with, or None."""
        return None

    def validation_every(self) -> int:
        """Return the number of epochs between two validations."""
        return self.settings.validation_epochs or 1

    def finish(self) -> dict[str, Any]:
        """Write what is to be kept; return the results, a dict that JSON can hold."""
        return {}

    def summary(self, results: dict[str, Any]) -> str:
        """Return the results as lines of text."""
        return ""

    def headline(self, results: dict[str, Any]) -> str:
        """Return what came out in a sentence or two, for the run's page."""
        lines = self.summary(results).strip().splitlines()
        return lines[0] if lines else f"The run has ended after {self.total_steps:,} steps."

    def result_blocks(self, results: dict[str, Any]) -> list[Block]:
        """Return what the run's page shows of the results below its headline, a list."""
        rest = self.summary(results).strip().splitlines()[1:]
        return [Heading("Results"), Code("\n".join(rest), wraps=False)] if rest else []

    def cause_of(self, error: BaseException) -> BaseException:
        """Return the error that is to be told in place of one that the training raised."""
        return error


def run(
    task: Task, callbacks: Sequence[keras.callbacks.Callback] = (), verbose: bool = True
) -> dict[str, Any]:
    """Run a task, or go on with its run where it was cut.

    Args:
        task: a `Task`.
        callbacks: Keras callbacks of the user; of several workers, each calls its own. They are
            called before the checkpoint is saved. What they remember is not part of it.
        verbose: bool. Whether the chief prints.
    Returns:
        dict, the results, as in `results.json`; empty where the task stops before training.
    Raises:
        ValueError: for a setting that does not fit, before any training.
        NonFiniteLossError: if the loss becomes NaN; the files of the last good epoch are kept.
        CheckpointError: if the directory cannot be written, any more or at all.
        OutOfMemoryError: if a step does not fit into the device's memory.
        WorkerLostError: if another worker has ended; it says how to go on.
        Interrupted: after a signal; the same settings go on from there.
    """
    settings = task.settings
    where = (settings.strategy, settings.logical_devices, settings.tpu)
    strategy = make_strategy(*where) if task.writes else make_strategy("one_device")
    workers = task.workers = Workers(strategy)
    try:
        return _Run(task, tuple(callbacks), verbose and workers.is_chief).run()
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise CheckpointError(
            f"{settings.directory} cannot be written: {error}. The same command goes on from the "
            "last checkpoint in it."
        ) from error
    except Exception as error:
        if workers.is_loss_of_one(error):
            step = Checkpoints(Path(settings.directory) / "checkpoints").last_step()
            raise WorkerLostError(
                f"Worker {workers.index} of {workers.count} has lost another one. Start all again "
                f"with the same command: the run goes on "
                f"{f'after step {step:,}' if step else 'anew'}. ({type(error).__name__})"
            ) from error
        if _is_out_of_memory(error):
            raise OutOfMemoryError(
                f"`batch_size` of {settings.batch_size} does not fit into memory. Take less, or "
                "cut a step into parts by `accumulate_steps`, or turn on `recompute`."
            ) from error
        raise


class _Run:
    def __init__(self, task, callbacks, verbose):
        self.task = task
        self.callbacks = callbacks
        self.verbose = verbose
        self.workers = task.workers
        self.config = None  # of config.json
        self.monitored = {}  # what the results say of monitors

    def run(self):
        task, workers = self.task, self.workers
        if task.writes:
            check_boards(task.settings)
            keras.utils.set_random_seed(task.settings.seed)
            keras.config.set_dtype_policy(PRECISIONS[task.settings.precision])
        with workers.agreed():
            task.load()
            with workers.strategy.scope():
                task.build()
            self._check_batch()
        self._say(*task.first_lines())
        if task.stops_before_training:
            return {}
        if not task.writes:
            return self._train_and_finish()
        has_ended = self._open_directory()
        results_path = task.directory / "results.json"
        if has_ended:
            results = json.loads(results_path.read_text())
            self._say(
                f"This run has ended. --overwrite starts it over. Output: {task.directory}",
                task.summary(results),
            )
            return results
        try:
            results = self._train_and_finish()
        except Exception as error:
            cause = task.cause_of(error)
            if cause is error:
                raise
            raise cause from None
        if workers.is_chief:
            write_json(results_path, results)
            fault = write_run_page(task, results)
            self._say(task.summary(results), *self._written(), fault)
        workers.any(False)  # the others wait here for the chief, who writes
        return results if workers.is_chief else json.loads(results_path.read_text())

    def _say(self, *lines):
        if self.verbose:
            for line in lines:
                if line:
                    print(line, flush=True)

    def _check_batch(self):
        settings, replicas = self.task.settings, self.workers.replicas
        if settings.batch_size % replicas:
            raise ValueError(
                f"`batch_size` must be a multiple of the {replicas} replicas. "
                f"Received: {settings.batch_size}"
            )

    def _open_directory(self):
        """Make or open the output directory, and return whether the run in it has ended.

        The chief does it; the others see whether what it has written is of the same run.
        """
        task, workers, settings = self.task, self.workers, self.task.settings
        fixed, facts = task.facts()
        config = {
            "run": {**settings.fixed(), **fixed},
            "settings": asdict(settings),
            **facts,
            "command": sys.argv,
            "environment": environment(),
        }
        self.config = config
        directory, has_ended = Path(settings.directory), False
        defaults = {**type(settings).defaults(), **task.fact_defaults}
        with workers.agreed():
            if workers.is_chief:
                prepare_output_dir(
                    directory,
                    config["run"],
                    settings.resume == "auto",
                    settings.overwrite,
                    defaults,
                )
                task.take_up(directory)
                has_ended = (directory / "results.json").exists()
                if not has_ended:
                    write_json(directory / "config.json", config)
        with workers.agreed():
            if not workers.is_chief:
                _wait_for(directory / "config.json")
                prepare_output_dir(directory, config["run"], defaults=defaults)
        task.directory = directory
        return workers.any(has_ended)

    def _train_and_finish(self):
        task = self.task
        baselines = task.begin()
        start = time.perf_counter()
        last_step = self._fit(baselines)
        seconds = round(time.perf_counter() - start, 1)
        if task.writes:
            self._say("Measuring, and writing the results ...")
        if task.settings.ema and last_step:
            use_averages(task.model)
        early = {"stopped_early_at_step": last_step} if last_step < task.total_steps else {}
        lengths = {"total_steps": task.total_steps, "training_seconds": seconds}
        return {**lengths, **early, **self.monitored, **task.finish()}

    def _fit(self, baselines):
        """Train from the last good checkpoint to the end, and return the last step."""
        task, workers = self.task, self.workers
        settings, model = task.settings, task.model
        if not task.total_steps:
            return 0
        if not task.writes:
            log = MetricsLog(None, settings.batch_size, task.total_steps)
            return self._epochs(0, [*self.callbacks, log], log)
        checkpoints = Checkpoints(task.directory / "checkpoints", settings.keep)
        with workers.agreed():
            step = checkpoints.load(run_variables(model)) or 0
        if not workers.same(step):
            raise ValueError(
                "`output_dir` must be a directory that all workers share. Received: "
                f"{task.directory}, whose newest whole checkpoint is of step {step} for worker "
                f"{workers.index}, and of another for others"
            )
        metrics = task.directory / "metrics.jsonl"
        with workers.agreed():
            if workers.is_chief:
                trim_metrics(metrics, step)
        earlier = validation_losses(metrics)
        with contextlib.ExitStack() as stack:
            monitors = task.monitors() if workers.is_chief else None
            boards = None
            if workers.is_chief:
                if monitors is not None:
                    monitors.trim(step)
                boards = open_boards(settings, task.directory, self.config)
                stack.push(lambda kind, *_: boards.close(failed=kind is not None))
                boards.show_again(read_metrics(metrics), monitors.images() if monitors else [])
            save = SaveCheckpoints(
                checkpoints,
                task.total_steps,
                step,
                settings.checkpoint_steps,
                settings.checkpoint_minutes,
                workers,
            )
            log = MetricsLog(
                metrics if workers.is_chief else None,
                settings.batch_size,
                task.total_steps,
                start_step=step,
                interval=LOG_INTERVAL,
                progress=Progress(task.total_steps, baselines) if self.verbose else None,
                boards=boards,
            )
            callbacks = [log, *self.callbacks]
            if task.keeps_last_good and workers.is_chief:
                callbacks.append(SaveLastGood(task.directory / task.keeps_last_good))
            if settings.early_stopping:
                callbacks.append(EarlyEnd(settings.early_stopping, earlier))
            if settings.ema:
                callbacks.append(ValidateAveraged())
            if monitors is not None:
                measure = RunMonitors(monitors, log, bool(settings.ema), read_metrics(metrics))
                callbacks.append(measure)
            callbacks.append(save)
            if step:
                self._say(f"Going on after step {step:,}.")
            if step < task.total_steps and settings.jit:
                self._say("Compiling the first step, which takes some seconds ...")
            stack.enter_context(save.signals())
            last_step = self._epochs(step, callbacks, save)
            if monitors is not None:
                self.monitored = {"monitor": measure.end(last_step)}
            return last_step

    def _epochs(self, step, callbacks, counter):
        """Call `fit` until the last step; `counter` is the callback that knows the step."""
        task, workers, settings = self.task, self.workers, self.task.settings
        per_epoch = task.steps_per_epoch
        # Whole epochs on the progress bar, though the data's may end inside a batch.
        epochs = -(-task.total_steps // per_epoch)
        every = task.validation_every()
        validation = task.validation()
        # Keras cannot know how long a data set is whose bad images are left out, and says so.
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        while step < task.total_steps:

            def share(num_shards, shard_index, step=step):
                return task.batches(step, num_shards, shard_index)

            # An epoch that was cut is ended first, then the others follow in one go.
            epoch, done = divmod(step, per_epoch)
            task.model.fit(
                workers.distribute(share, settings.batch_size),
                initial_epoch=epoch,
                epochs=epoch + 1 if done else epochs,
                steps_per_epoch=per_epoch - done,
                validation_data=validation,
                validation_freq=[*range(every, epochs, every), epochs],
                shuffle=False,
                verbose=0,
                callbacks=callbacks,
            )
            step = counter.step
            if task.model.stop_training:
                break  # at the last step; before it, by a callback
        return step

    def _written(self):
        """Return a line for each file that the task names and that is there."""
        task = self.task
        files = {**task.files, PAGE: "this run on one page: open it in a browser"}
        there = {n: what for n, what in files.items() if (task.directory / n).exists()}
        if not there:
            return []
        width = max(map(len, there))
        lines = [f"  {name:<{width}}  {what}" for name, what in there.items()]
        return [f"\nWrote in {task.directory}:", *lines]


def _wait_for(path, seconds=10):
    """Wait for a file that the chief has written: a file system may show it some moments later."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise ValueError(
                "`output_dir` must be a directory that all workers share. "
                f"Received: {path.parent}, where the chief's {path.name} is not to be seen"
            )
        time.sleep(0.2)


def _is_out_of_memory(error):
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "ResourceExhaustedError"
        or ("RESOURCE_EXHAUSTED" in str(error))
    )
