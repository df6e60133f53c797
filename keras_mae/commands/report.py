"""A report: what an encoder is good for, against what needs no pre-training; and sweeps.

It is a list of jobs, each a whole run of `pretrain` or `finetune` or a measurement of raw pixels
(`report_jobs`), which are done one after the other (`jobs`), and a page of their results
(`report_page`).
"""

import dataclasses
import shlex
import sys
from pathlib import Path

import keras

from keras_mae.commands.jobs import Job, Outcome, finished, run_jobs
from keras_mae.commands.report_jobs import JobMaker, value_text
from keras_mae.commands.report_page import headline, write_report
from keras_mae.errors import Interrupted
from keras_mae.evaluation.comparison import summarise
from keras_mae.files import environment
from keras_mae.settings.report import PROBED_BLOCKS

SHOWN_K = 20  # the number of neighbours in the chart, where it is among those measured


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: string.
        features: "raw pixels", or another word.
        rivals: names of the rows of raw pixels; the best of them is what it is compared with.
        control: name of the row without pre-training to compare with, or None.
        other: name of the row of another encoder, the rival that the user names, or None.
        shown: bool. Whether the first chart has it.
        blocks: number of blocks, of a point of the curve of partial fine-tuning; or None.
    """

    name: str
    features: str
    rivals: tuple = ()
    control: str | None = None
    shown: bool = True
    blocks: float | None = None
    other: str | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number that a job measures, and the row, or value of a sweep, it belongs to.

    Attributes:
        row: a `Row`; or (field, value) of a sweep.
        column: string, the words for the labels; of a sweep, what was measured.
        key: string, in the "accuracy" of the job's result.
        job: `Job`.
    """

    row: object
    column: str
    key: str
    job: Job


def report(settings):
    """Measure what `settings` name for each seed, and write the report.

    `output_dir` then holds `report.md`, `report.json`, `figures/` and `jobs/`. A job that is done
    is not done again: a report that was cut goes on where it was, and one with other settings does
    what is new. A job that fails is named, and the others are done.

    Args:
        settings: a `ReportSettings`.
    Returns:
        dict, as in `report.json`; its "failures" maps a job's name to a reason.
    Raises:
        ValueError: for settings, an encoder or a data set that do not fit, before any work.
        FileNotFoundError: for an encoder that is not there, before any work.
        Interrupted, KeyboardInterrupt: at a signal; the page of what is done has been written.
    """
    maker = JobMaker(settings)
    encoders = _encoders(maker, settings)
    rival = None if settings.rival is None else maker.rival()
    compared = dense_comparison if settings.is_dense else comparison
    cells = [
        *(
            cell
            for seed in settings.seeds
            for cell in compared(maker, settings, seed, encoders[seed], rival)
        ),
        *(cell for seed in settings.seeds for cell in sweep(maker, settings, seed)),
    ]
    keras.utils.clear_session(free_memory=False)  # of the models that were only looked at
    jobs = list({j.key: j for c in cells for j in (*c.job.needs, c.job)}.values())
    facts = _facts(maker, settings, encoders, rival)
    directory = Path(settings.directory)
    print(f"{len(jobs)} jobs. Output: {directory}", flush=True)
    try:
        outcome = run_jobs(jobs, directory / "jobs")
    except (Interrupted, KeyboardInterrupt):
        outcome = Outcome(finished(jobs, directory / "jobs"), {})
        write_report({**facts, **summarise_cells(cells, jobs, outcome)}, directory)
        raise
    summary = {**facts, **summarise_cells(cells, jobs, outcome)}
    print(f"{headline(summary)}\nWrote {write_report(summary, directory)}")
    return summary


def comparison(maker, settings, seed, encoder, rival=None):
    """Return the cells of one seed's comparison of an encoder with what needs no pre-training.

    Args:
        maker: a `JobMaker`.
        settings: a `ReportSettings`.
        seed: int.
        encoder: an `Encoder` of `keras_mae.commands.report_jobs`.
        rival: another, which is compared with too, or None.
    """
    parts, cells = settings.parts, []
    pixel_rows = _probe_rows(settings, "raw pixels", ("linear", "logistic", "knn"))
    pixels = tuple(row.name for row, _ in pixel_rows)

    def add(row, size, key, job):
        cells.append(Cell(row, maker.labels_text(size), key, job))

    def finetuned(row, protocol, size, blocks=None):
        add(row, size, "top1", maker.finetuned(seed, protocol, encoder, size, row.name, blocks))

    for size in maker.sizes if "pixels" in parts else ():
        job = maker.pixels(seed, encoder, size)
        for row, key in pixel_rows:
            if key != "logistic" or maker.has_logistic(size):
                add(row, size, key, job)
    untrained = maker.untrained(seed, encoder) if "random" in parts else None
    pooled = min(PROBED_BLOCKS, encoder.config["num_layers"])
    probes = [p for p in ("linear", "blocks", "knn") if p != "blocks" or pooled > 1]
    for features, source, kinds in (
        ("random init", untrained, [p for p in probes if p in parts or p != "blocks"]),
        ("pre-trained", encoder, [p for p in probes if p in parts]),
    ):
        for kind in kinds if source else ():
            protocol = "knn" if kind == "knn" else "linear"
            count = pooled if kind == "blocks" else None
            label = f"{features}, {_blocks_text(pooled) if count else kind}"
            for size in maker.sizes:
                job = maker.finetuned(seed, protocol, source, size, label, pooled_blocks=count)
                for row, key in _probe_rows(settings, features, [kind], pooled):
                    add(row, size, key if kind == "knn" else "top1", job)
    for kind in [p for p in ("linear", "knn") if p in parts] if rival else ():
        for size in maker.sizes:
            job = maker.rivals(seed, kind, rival, encoder.image_size, size, f"rival, {kind}")
            for row, key in _probe_rows(settings, "rival", [kind]):
                add(row, size, key if kind == "knn" else "top1", job)
    for size in maker.sizes if "full" in parts else ():
        finetuned(Row("fine-tuned", "trained", pixels, "from scratch"), "full", size)
    for size in maker.sizes if "scratch" in parts else ():
        finetuned(Row("from scratch", "trained", pixels), "scratch", size)
    for blocks in settings.curve(encoder.config["num_layers"]) if "partial" in parts else ():
        # With the few labels, where there are: they are what pre-training is for, and quicker.
        row = Row(f"fine-tuned, {_part_text(blocks)}", "trained", pixels, None, False, blocks)
        finetuned(row, "partial", maker.sizes[-1], blocks)
    return cells


def dense_comparison(maker, settings, seed, encoder, rival=None):
    """Return the cells of one seed's comparison for label maps or boxes.

    Args:
        maker, settings, seed, encoder: see `comparison`.
        rival: None; there is none here.
    """
    parts, cells = settings.parts, []
    untrained = maker.untrained(seed, encoder) if "random" in parts else None
    frozen = "random init, frozen" if untrained else "from scratch"
    for row, part, protocol, source in (
        (Row("fine-tuned", "trained", (), "from scratch"), "full", "full", encoder),
        (Row("pre-trained, frozen", "pre-trained", (), frozen), "linear", "linear", encoder),
        (Row("from scratch", "trained"), "scratch", "scratch", encoder),
        (Row("random init, frozen", "random init"), "random", "linear", untrained),
    ):
        for size in maker.sizes if part in parts else ():
            job = maker.finetuned(seed, protocol, source, size, row.name)
            cells.append(Cell(row, maker.labels_text(size), maker.measure.keys[0], job))
    return cells


def sweep(maker, settings, seed):
    """Return the cells of one seed's sweeps: linear probe and fine-tuning of each value."""
    cells, few = [], maker.sizes[-1]
    for field, values in settings.sweep.items():
        for value in values:
            encoder = maker.pretrained(seed, **{field: value})
            frozen = (few, "frozen") if settings.is_dense else (None, "linear probe")
            for protocol, size, words in (
                ("full", few, "fine-tuned"),
                ("linear", *frozen),
            ):
                label = f"{words}, {field}={value_text(value)}"
                job = maker.finetuned(seed, protocol, encoder, size, label)
                column = f"{words}, {maker.labels_text(size)}"
                key = maker.measure.keys[0]
                cells.append(Cell((field, value_text(value)), column, key, job))
    return cells


def summarise_cells(cells, jobs, outcome):
    """Return what the jobs have given, over seeds, as the part of `report.json` that is measured.

    Args:
        cells: list of `Cell`.
        jobs: list of the `Job`s, each once.
        outcome: an `Outcome`.
    Returns:
        dict of "accuracy" (row name to its `Row` as a dict, with "labels", a dict of column to
        what `summarise` returns and "of", the number of seeds), "sweeps" (field to a list of
        {"value", "accuracy"}), "seconds" (part to {"jobs", "seconds"}), "environments", "failures"
        (job to reason) and "missing" (jobs not done yet).
    """
    found, of = {}, {}
    for cell in cells:
        place = cell.row, cell.column
        of[place] = of.get(place, 0) + 1
        record = outcome.records.get(cell.job.key)
        if record is not None:
            accuracy = record["result"]["accuracy"][cell.key]
            found.setdefault(place, {})[cell.job.seed] = accuracy
    accuracy, sweeps = {}, {}
    for (row, column), values in found.items():
        summary = {**summarise(values), "of": of[row, column]}
        if isinstance(row, Row):
            entry = accuracy.setdefault(row.name, {**dataclasses.asdict(row), "labels": {}})
            entry["labels"][column] = summary
        else:
            sweeps.setdefault(row[0], {}).setdefault(row[1], {})[column] = summary
    seconds = {}
    for record in outcome.records.values():
        entry = seconds.setdefault(record["part"], {"jobs": 0, "seconds": 0.0})
        entry["jobs"] += 1
        entry["seconds"] += record["seconds"]
    environments = [record["environment"] for record in outcome.records.values()]
    return {
        "accuracy": accuracy,
        "sweeps": {
            field: [{"value": v, "accuracy": columns} for v, columns in values.items()]
            for field, values in sweeps.items()
        },
        "seconds": seconds,
        "environments": [e for i, e in enumerate(environments) if e not in environments[:i]],
        "failures": {str(j): outcome.failures[j.key] for j in jobs if j.key in outcome.failures},
        "missing": [
            str(j) for j in jobs if j.key not in outcome.records and j.key not in outcome.failures
        ],
    }


def _encoders(maker, settings):
    """Return the `Encoder` of each seed; of a path without {seed}, it is opened once."""
    if settings.encoder is None:
        return {seed: maker.pretrained(seed) for seed in settings.seeds}
    opened = {}
    for seed in settings.seeds:
        path = settings.encoder_path(seed)
        if path not in opened:
            opened[path] = maker.given_encoder(seed)
    return {seed: opened[settings.encoder_path(seed)] for seed in settings.seeds}


def _facts(maker, settings, encoders, rival):
    """Return the part of `report.json` that is known before any work."""
    first = encoders[settings.seeds[0]]
    if settings.encoder is None:
        trial = settings.pretrain_settings(settings.seeds[0], maker.train.typical_size())
        length = f"{trial.steps} steps" if trial.steps else f"{trial.epochs:g} epochs"
        words = f"one pre-trained for each seed, {trial.preset}, {length}"
    elif "{seed}" in settings.encoder:
        words = f"{settings.encoder}, one for each seed"
    else:
        words = f"{settings.encoder}, the same for all seeds: no ± below holds a pre-training's"
    return {
        "command": shlex.join(["python", *sys.argv]),
        "settings": dataclasses.asdict(settings),
        "dataset": settings.dataset,
        "task": settings.task,
        "measure": maker.measure.name,
        "train_images": maker.train.num_examples,
        "heldout_images": maker.heldout.num_examples,
        "measured_on": "held-out" if maker.parts.test is None else "test",
        "num_classes": maker.num_classes,
        "image_size": list(first.image_size),
        "encoder": words,
        "rival": rival and {"path": settings.rival, "image_size": list(rival.config["image_size"])},
        "seeds": list(settings.seeds),
        "report_environment": environment(),
    }


def _probe_rows(settings, features, kinds, pooled=None):
    """Return (row, key) of each of the kinds "linear", "blocks", "logistic"; "knn" for each k."""
    chosen = SHOWN_K if SHOWN_K in settings.ks else settings.ks[0]
    names = [
        ("linear probe", "linear"),
        (_blocks_text(pooled), "blocks"),
        ("logistic regression", "logistic"),
    ]
    names = [(name, key) for name, key in names if key in kinds]
    if "knn" in kinds:
        white = "" if settings.whiten is None else f", whitened to {settings.whiten}"
        names += [(_neighbours_text(k) + white, str(k)) for k in settings.ks]
    rows = []
    for name, key in names:
        rivals, control, other = (), None, None
        if features == "pre-trained":
            if settings.rival is not None and key != "blocks":
                other = f"rival, {name}"
            control = f"random init, {name}"
            rivals = (f"raw pixels, {name}",)
            if key in ("linear", "blocks"):
                rivals = ("raw pixels, linear probe", "raw pixels, logistic regression")
        shown = not key.isdigit() or key == str(chosen)
        row = Row(f"{features}, {name}", features, rivals, control, shown, other=other)
        rows.append((row, key))
    return rows


def _blocks_text(pooled):
    return f"linear probe of the last {pooled} blocks"


def _neighbours_text(k):
    return "nearest neighbour" if k == 1 else f"{k} nearest neighbours"


def _part_text(blocks):
    if blocks in (0, 0.5, 1):
        return {0: "head only", 0.5: "MLP of the last block", 1: "last block"}[blocks]
    return f"last {blocks:g} blocks"
