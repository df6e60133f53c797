"""The page of a run, `index.html`: what came out, curves, figures, settings, files."""

import dataclasses
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_mae.pages import (
    MIME,
    Beside,
    Block,
    Code,
    Curves,
    Details,
    Figure,
    Files,
    Heading,
    Items,
    Table,
    Text,
    write_html,
)
from keras_mae.training.callbacks import read_metrics

PAGE = "index.html"
# The same curves are drawn on the page itself.
_DRAWN = ("figures/loss.png",)
# Larger figures, as animations can be, are named among the files only.
MOST_BYTES = 4_000_000


def write_run_page(task: Any, results: dict[str, Any]) -> str:
    """Write `index.html` into a run's directory.

    Args:
        task: a `keras_mae.training.loop.Task` that has ended.
        results: dict, as in `results.json`.
    Returns:
        str, why the page could not be written; empty where it was: no run is lost for a page.
    """
    try:
        write_html(run_blocks(task, results), task.directory / PAGE)
    except Exception as error:  # whatever it is, the run has ended well
        return f"{PAGE} is not written: {type(error).__name__}: {error}"
    return ""


def run_blocks(task: Any, results: dict[str, Any]) -> list[Block]:
    """Return the blocks of a run's page, see `keras_mae.pages`."""
    directory, settings = task.directory, task.settings
    config = json.loads((directory / "config.json").read_text())
    blocks: list[Block] = [
        Heading(f"{task.title}: {settings.dataset}", 1),
        Text(task.headline(results), leads=True),
        *task.result_blocks(results),
    ]
    curves = _curves(directory / "metrics.jsonl", results)
    if curves:
        blocks += [Heading("Curves"), Beside(curves)]
    figures = _figures(directory, task.files)
    if figures:
        blocks += [Heading("Figures"), *figures]
    return [
        *blocks,
        Heading("How it was made"),
        Code(_command(config["command"])),
        Items(_lines(task)),
        *_settings(settings),
        Details("Versions", [_table(config["environment"])]),
        Heading("Files"),
        Files([(name, what) for name, what in task.files.items() if (directory / name).exists()]),
    ]


def _command(words: Sequence[str]) -> str:
    """Return the command of a run as it is typed."""
    script = bool(words) and words[0].endswith(".py")
    return shlex.join(["python", *words] if script else words)


def _lines(task: Any) -> list[str]:
    """Return the sentences that a run begins with."""
    return [line.strip() for text in task.first_lines() for line in text.splitlines() if line]


def _curves(path: Path, results: dict[str, Any]) -> list[Curves]:
    """Return the losses together, and each other number of the validation by itself."""
    lines = read_metrics(path) if path.exists() else []

    def points(key: str) -> list[tuple[float, float]]:
        return [(line["step"], line[key]) for line in lines if isinstance(line.get(key), float)]

    names = dict.fromkeys(key for line in lines for key in line)
    losses = {"training": points("loss"), "held out": points("val_loss")}
    losses = {name: found for name, found in losses.items() if found}
    level = results.get("mean_predictor_loss")
    levels = {} if level is None else {"a predictor of each position's mean patch": level}
    curves = [Curves("The loss over steps.", losses, levels=levels)] if losses else []
    for key in names:
        found = points(key) if key.startswith("val_") and key != "val_loss" else []
        if len(found) > 1:
            words = key.removeprefix("val_").replace("_", " ")
            curves.append(Curves(f"{words}, of held-out images.", {words: found}))
    return curves


def _figures(directory: Path, known: dict[str, str]) -> list[Figure]:
    """Return all pictures in `figures/`, those that the task names first."""
    folder = directory / "figures"
    there = sorted(os.listdir(folder)) if folder.is_dir() else []
    there = [f"figures/{name}" for name in there if Path(name).suffix in MIME]
    order = [*(name for name in known if name in there), *(n for n in there if n not in known)]
    return [
        Figure(name, known.get(name, Path(name).stem.replace("_", " ")))
        for name in order
        if name not in _DRAWN and (directory / name).stat().st_size <= MOST_BYTES
    ]


def _settings(settings: Any) -> Sequence[Block]:
    """Return the settings that are not the defaults, and all of them, folded away."""
    values, defaults = dataclasses.asdict(settings), type(settings).defaults()
    own = {name: value for name, value in values.items() if value != defaults[name]}
    return [
        Text("Settings that were given, or chosen for these images:"),
        _table(own),
        Details("All settings", [_table(values)]),
    ]


def _table(values: dict[str, Any]) -> Table:
    return Table(["name", "value"], [[name, _value(value)] for name, value in values.items()])


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
