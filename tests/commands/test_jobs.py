import json
import os
import signal

import pytest

from keras_mae.commands.jobs import Job, finished, run_jobs, time_left
from keras_mae.errors import Interrupted


@pytest.fixture(autouse=True)
def nothing_to_free(monkeypatch):
    """Leave out the collection of garbage, half a second for each job."""
    monkeypatch.setattr("keras_mae.commands.jobs.gc.collect", lambda: None)


class Work:
    """Work that counts its calls, and fails where it is told to."""

    def __init__(self, result=None, error=None):
        self.result = result or {"accuracy": {"top1": 0.5}}
        self.error = error
        self.directories = []

    def __call__(self, directory):
        self.directories.append(directory)
        if self.error:
            raise self.error
        return self.result


def job(part="probe", seed=0, work=None, settings=None, **kwargs):
    return Job(part, seed, {"seed": seed, **(settings or {})}, work or Work(), **kwargs)


def test_a_job_is_done_once_and_its_record_says_what_fixed_it(tmp_path):
    work = Work({"accuracy": {"top1": 0.25}})
    jobs = [job(work=work, settings={"epochs": 3})]
    first = run_jobs(jobs, tmp_path)
    again = run_jobs([job(work=work, settings={"epochs": 3})], tmp_path)
    assert work.directories == [tmp_path / jobs[0].key]
    assert first == again and not first.failures
    record = json.loads((tmp_path / f"{jobs[0].key}.json").read_text())
    assert record == first.records[jobs[0].key] == finished(jobs, tmp_path)[jobs[0].key]
    assert record["result"] == {"accuracy": {"top1": 0.25}}
    assert (record["part"], record["seed"]) == ("probe", 0)
    assert record["settings"] == {"seed": 0, "epochs": 3}
    assert record["seconds"] >= 0 and "tensorflow" in record["environment"]


def test_a_key_changes_with_what_fixes_the_result_and_with_nothing_else():
    key = job(settings={"epochs": 3}).key
    assert key == job(settings={"epochs": 3}, label="a name", work=Work()).key
    others = [
        job(settings={"epochs": 4}),
        job(settings={"epochs": 3}, seed=1),
        job("other", settings={"epochs": 3}),
    ]
    assert len({key, *(other.key for other in others)}) == 4
    assert key.startswith("seed_0_probe_")


def test_equal_jobs_are_done_once(tmp_path):
    work = Work()
    run_jobs([job(work=work), job(work=work, label="again")], tmp_path)
    assert len(work.directories) == 1


def test_a_job_that_fails_is_told_and_the_others_go_on(tmp_path, capsys):
    bad = job("bad", work=Work(error=RuntimeError("no memory\nat all")))
    dependent, good = job("after", needs=(bad,)), job("good")
    outcome = run_jobs([bad, dependent, good], tmp_path)
    assert list(outcome.records) == [good.key]
    assert outcome.failures == {
        bad.key: "RuntimeError: no memory",
        dependent.key: "not run: it needs 'seed 0: bad', which failed",
    }
    assert not dependent.work.directories
    assert "FAILED: seed 0: bad: RuntimeError: no memory" in capsys.readouterr().out
    error = tmp_path / f"{bad.key}.error.txt"
    assert "Traceback" in error.read_text() and "at all" in error.read_text()

    bad.work.error = None
    outcome = run_jobs([bad, dependent, good], tmp_path)
    assert len(outcome.records) == 3 and not outcome.failures
    assert not error.exists() and len(good.work.directories) == 1


@pytest.mark.parametrize("signal", [Interrupted("SIGTERM"), KeyboardInterrupt()])
def test_a_signal_ends_the_jobs_and_the_same_call_goes_on(tmp_path, signal):
    jobs = [job("a"), job("b", work=Work(error=signal)), job("c")]
    with pytest.raises(type(signal)):
        run_jobs(jobs, tmp_path)
    assert list(finished(jobs, tmp_path)) == [jobs[0].key]
    jobs[1].work.error = None
    assert len(run_jobs(jobs, tmp_path).records) == 3
    assert [len(j.work.directories) for j in jobs] == [1, 2, 1]
    assert jobs[1].work.directories[0] == jobs[1].work.directories[1]  # to go on in


def test_sigterm_is_an_interruption_wherever_a_job_is(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    one = Job("probe", 0, {}, lambda directory: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="SIGTERM"):
        run_jobs([one], tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    assert not finished([one], tmp_path)


def test_a_record_that_cannot_be_read_is_made_again(tmp_path):
    one = job()
    run_jobs([one], tmp_path)
    (tmp_path / f"{one.key}.json").write_text('{"result": ')
    assert list(run_jobs([one], tmp_path).records) == [one.key]
    assert len(one.work.directories) == 2


def test_the_time_left_is_the_mean_of_each_part_or_of_all():
    records = [
        {"part": "probe", "seconds": 10.0},
        {"part": "probe", "seconds": 20.0},
        {"part": "full", "seconds": 90.0},
    ]
    assert time_left([], records) == 0
    assert time_left([job("probe"), job("full")], records) == 15 + 90
    assert time_left([job("new")], records) == 40  # 120 / 3
    assert time_left([job("probe")], []) is None


def test_progress_names_each_job_its_number_and_the_time_left(tmp_path, capsys):
    run_jobs([job("a"), job("a", 1, label="b")], tmp_path)
    out = capsys.readouterr().out
    assert "[1/2] seed 0: a (0 s so far)" in out
    assert "[2/2] seed 1: b (0 s so far, about 0 s left)" in out
    run_jobs([job("a"), job("a", 1, label="b"), job("c")], tmp_path)
    out = capsys.readouterr().out
    assert "2 of 3 jobs were done before" in out and "[3/3] seed 0: c" in out
