"""Many jobs in one directory: one after the other, each done once, and none lost to another."""

import dataclasses
import gc
import hashlib
import json
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import keras

from keras_mae.errors import Interrupted
from keras_mae.files import environment, write_json
from keras_mae.training.callbacks import duration


@dataclasses.dataclass(frozen=True)
class Job:
    """One piece of work, known by the settings that fix its result.

    Attributes:
        part: string, the kind of work: jobs of one part are expected to take alike long.
        seed: int.
        settings: dict that JSON can hold: all that fixes the result, the seed included.
        work: function of the job's directory (a `Path` that may not exist yet) that returns the
            result, a dict that JSON can hold. Work that was cut is called again with the same
            directory.
        label: string, what a person reads; None for the part. It is no part of the key.
        needs: tuple of jobs that have to be done before; if one fails, this one is left out.
    """

    part: str
    seed: int
    settings: dict
    work: Callable[[Path], dict]
    label: str | None = None
    needs: tuple = ()

    @property
    def key(self):
        """A readable name with a digest of the settings: other settings, another directory."""
        text = json.dumps({"part": self.part, **self.settings}, sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
        words = re.sub(r"[^a-z0-9]+", "_", self.part.lower()).strip("_")
        return f"seed_{self.seed}_{words}_{digest}"

    def __str__(self):
        return f"seed {self.seed}: {self.label or self.part}"


@dataclasses.dataclass
class Outcome:
    """What became of the jobs.

    Attributes:
        records: dict of key to what `KEY.json` holds: `label`, `part`, `seed`, `settings`,
            `result`, `seconds`, `environment`.
        failures: dict of key to a line that says why there is no record.
    """

    records: dict
    failures: dict


def finished(jobs, directory):
    """Return the records of the jobs that have been done, a dict by key."""
    records = {job.key: _read(Path(directory) / f"{job.key}.json") for job in jobs}
    return {key: record for key, record in records.items() if record is not None}


def run_jobs(jobs, directory):
    """Do each job that has not been done before, one at a time.

    A finished job leaves `KEY.json` in `directory`, written at once, and is not done again; `KEY/`
    is its own directory. A job that fails is told, with its traceback in `KEY.error.txt`, and the
    others go on. Before each job a line gives its number, name, and the time that is left, judged
    by the durations of the jobs of its part so far, those of earlier calls included.

    Args:
        jobs: list of `Job`, each after those it needs. Equal jobs (one key) are done once.
        directory: where records and directories lie.
    Returns:
        an `Outcome`.
    Raises:
        Interrupted, KeyboardInterrupt: at a signal; the same call goes on from there.
    """
    directory = Path(directory)
    jobs = list({job.key: job for job in jobs}.values())
    outcome = Outcome(finished(jobs, directory), {})
    versions = environment()  # of this process, whatever is committed while it runs
    if outcome.records:
        print(f"{len(outcome.records)} of {len(jobs)} jobs were done before.")
    start = time.monotonic()
    for number, job in enumerate(jobs, 1):
        if job.key in outcome.records:
            continue
        missing = [str(need) for need in job.needs if need.key not in outcome.records]
        if missing:
            outcome.failures[job.key] = f"not run: it needs {missing[0]!r}, which failed"
            print(f"\n[{number}/{len(jobs)}] {job}: {outcome.failures[job.key]}", flush=True)
            continue
        waiting = [later for later in jobs[number - 1 :] if later.key not in outcome.records]
        left = time_left(waiting, outcome.records.values())
        clock = f"{duration(time.monotonic() - start)} so far"
        clock += f", about {duration(left)} left" if left is not None else ""
        print(f"\n[{number}/{len(jobs)}] {job} ({clock})", flush=True)
        with _sigterm_interrupts():
            _run(job, directory, outcome, versions)
    took = duration(time.monotonic() - start)
    failed = f", {len(outcome.failures)} failed or were left out" if outcome.failures else ""
    print(f"\n{len(outcome.records)} of {len(jobs)} jobs done{failed}, {took}.", flush=True)
    return outcome


def _run(job, directory, outcome, versions):
    """Do one job and write its record, or what went wrong."""
    record, error = directory / f"{job.key}.json", directory / f"{job.key}.error.txt"
    begin = time.monotonic()
    try:
        result = job.work(directory / job.key)
    except Interrupted:
        raise
    except Exception as reason:
        error.parent.mkdir(parents=True, exist_ok=True)
        error.write_text(traceback.format_exc())
        first = (str(reason).splitlines() or [""])[0]
        outcome.failures[job.key] = f"{type(reason).__name__}: {first}"
        print(f"FAILED: {job}: {outcome.failures[job.key]}. See {error}", flush=True)
    else:
        values = {
            "label": str(job),
            "part": job.part,
            "seed": job.seed,
            "settings": job.settings,
            "result": result,
            "seconds": round(time.monotonic() - begin, 1),
            "environment": versions,
        }
        write_json(record, values)
        error.unlink(missing_ok=True)
        # As it reads after a restart: a tuple is a list in both.
        outcome.records[job.key] = _read(record)
    finally:
        keras.utils.clear_session(free_memory=False)  # else the graphs of all jobs are kept
        gc.collect()


@contextmanager
def _sigterm_interrupts():
    """Make SIGTERM an `Interrupted`, as Ctrl-C is an exception, where a job does not catch it."""

    def caught(number, frame):
        raise Interrupted("SIGTERM: stopped; what is done is kept.")

    if threading.current_thread() is not threading.main_thread():  # only it can have handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, caught)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def time_left(jobs, records):
    """Return an estimate of the seconds that jobs will take.

    Args:
        jobs: list of `Job`.
        records: records of finished jobs, each with its `part` and `seconds`.
    Returns:
        float: the sum over the jobs of the mean duration of their part, or of all records where
        the part has none yet. None if there are no records.
    """
    seconds = {}
    for record in records:
        seconds.setdefault(record["part"], []).append(record["seconds"])
    if not seconds:
        return None
    everything = [value for values in seconds.values() for value in values]
    known = [seconds.get(job.part, everything) for job in jobs]
    return sum(sum(values) / len(values) for values in known)


def _read(path):
    """Return a record; None if there is none, or none that can be read."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "result" in record else None
