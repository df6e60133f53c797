"""The page of a report: text and charts of a summary, and nothing that is measured."""

import os
from pathlib import Path

from keras_mae.evaluation.comparison import compare, format_accuracy
from keras_mae.files import write_json
from keras_mae.pages import (
    Code,
    Figure,
    Heading,
    Items,
    Table,
    Text,
    markdown,
    write_html,
    write_markdown,
)
from keras_mae.plots.charts import comparison_chart, partial_chart, sweep_chart


def write_report(summary, directory):
    """Write `report.md`, `report.html`, `report.json` and the charts in `figures/`, atomically.

    Args:
        summary: what `keras_mae.commands.report.report` returns.
        directory: where they go.
    Returns:
        the path of `report.html`.
    """
    directory = Path(directory)
    summary = {**summary, "statements": statements(summary)}
    _draw(summary, directory / "figures")
    write_json(directory / "report.json", summary)
    blocks = report_blocks(summary)
    write_markdown(blocks, directory / "report.md")
    write_html(blocks, directory / "report.html")
    return directory / "report.html"


def page(summary):
    """Return the text of `report.md`: Markdown, the same for the same summary."""
    return markdown(report_blocks(summary))


def report_blocks(summary):
    """Return the blocks of the page, see `keras_mae.pages`."""
    blocks = _header(summary, headline(summary))
    if summary["accuracy"]:
        blocks += [*_accuracy(summary), *_statements(summary)]
    if _curve(summary)[0]:
        blocks += _partial(summary)
    for name, rows in summary["sweeps"].items():
        blocks += _sweep(name, rows, summary)
    return [*blocks, *_seconds(summary), *_unfinished(summary)]


def statements(summary):
    """Return what can be said of the numbers, each with its verdict.

    Args:
        summary: see `write_report`; of its `accuracy`, each row has `rivals`, rows of raw pixels
            (the best one with as many labels is what it is compared with), a `control`, the row
            that shows what pre-training adds, or None, and an `other`, the row of another encoder.
    Returns:
        dict of "pixels", "control" and "other" to lists of dicts: `method`, `labels`, `accuracy`,
        `against` (a row), `its_accuracy`, and of `compare` `verdict` and `words`.
    """
    rows, found = summary["accuracy"], {"pixels": [], "control": [], "other": []}
    for method, row in rows.items():
        for labels, accuracy in row["labels"].items():
            rival = _best(rows, row["rivals"], labels)
            for kind, against in (
                ("pixels", rival),
                ("control", row["control"]),
                ("other", row["other"]),
            ):
                other = rows.get(against, {"labels": {}})["labels"].get(labels)
                result = other and compare(
                    accuracy["values"], other["values"], summary["heldout_images"]
                )
                if result:
                    found[kind].append(
                        {
                            "method": method,
                            "labels": labels,
                            "accuracy": format_accuracy(accuracy),
                            "against": against,
                            "its_accuracy": format_accuracy(other),
                            "verdict": result[0],
                            "words": result[1],
                        }
                    )
    return found


def _best(rows, names, labels):
    """Return the name of the row with the highest mean for a number of labels, or None."""
    means = {
        name: rows[name]["labels"][labels]["mean"]
        for name in names
        if labels in rows.get(name, {"labels": {}})["labels"]
    }
    return max(means, key=means.get) if means else None


def headline(summary):
    """Return what came out in a sentence or two.

    Args:
        summary: see `write_report`.
    """
    rows = summary["accuracy"]
    unit = "" if _is_accuracy(summary) else f" {summary['measure']}"
    sentences = []
    for name, words in (
        ("fine-tuned", "Fine-tuned"),
        ("pre-trained, linear probe", "By a linear probe"),
        ("pre-trained, frozen", "Frozen"),
    ):
        if name not in rows:
            continue
        labels = min(rows[name]["labels"], key=lambda text: int(text.split()[0].replace(",", "")))
        own = rows[name]["labels"][labels]
        text = f"{words} with {labels}, the encoder has {format_accuracy(own)}{unit}"
        other = rows[name]["control"]
        against = rows.get(other, {"labels": {}})["labels"].get(labels)
        if against is not None:
            result = compare(own["values"], against["values"], summary["heldout_images"])
            text += f"; {other.split(',')[0]} has {format_accuracy(against)}"
            text += f" ({result[1]})" if result else ""
        beside = rows.get(rows[name]["other"], {"labels": {}})["labels"].get(labels)
        if beside is not None:
            text += f"; the rival has {format_accuracy(beside)}"
        sentences.append(f"{text}.")
    if rows and not sentences:
        sentences.append(_highest(rows))
    for setting, values in summary["sweeps"].items():
        for panel in list(dict.fromkeys(p for v in values for p in v["accuracy"]))[:1]:
            measured = {v["value"]: v["accuracy"][panel] for v in values if panel in v["accuracy"]}
            best = max(measured, key=lambda value: measured[value]["mean"])
            sentences.append(
                f"Of {setting}, {best} is highest: {format_accuracy(measured[best])} ({panel})."
            )
    return " ".join(sentences) or "Nothing has been measured yet."


def _highest(rows):
    """Return a sentence on the best method of all, and the best one of the encoder."""
    labels = next(label for row in rows.values() for label in row["labels"])
    measured = [name for name, row in rows.items() if labels in row["labels"]]
    first = _best(rows, measured, labels)
    own = _best(rows, [n for n in measured if rows[n]["features"] == "pre-trained"], labels)
    text = f"With {labels}, {first} is best: {format_accuracy(rows[first]['labels'][labels])}"
    if own not in (None, first):
        text += f"; the encoder's best is {own}: {format_accuracy(rows[own]['labels'][labels])}"
    return f"{text}."


def _header(summary, first):
    # Of the jobs, which may have been done over a time; of this page where there are none yet.
    environments = summary["environments"] or [summary["report_environment"]]
    height, width = summary["image_size"]
    facts = [
        f"Encoder: {summary['encoder']}.",
        *_rival_line(summary["rival"]),
        f"Images: {summary['train_images']:,} to train on and {summary['heldout_images']:,} held "
        f"out, of {summary['num_classes']} classes, seen at {height} x {width} pixels.",
        "Accuracies are top-1 on the held-out images."
        if _is_accuracy(summary)
        else f"Numbers are {summary['measure']} on the held-out images.",
        f"Seeds: {', '.join(map(str, summary['seeds']))}. "
        "A ± is the sample standard deviation over them.",
        *(f"Versions: {_versions(environment)}." for environment in environments),
    ]
    task = "" if _is_accuracy(summary) else f", {summary['task']}"
    title = Heading(f"What the encoder is good for: {summary['dataset']}{task}", 1)
    return [title, Text(first, leads=True), Code(summary["command"]), Items(facts)]


def _is_accuracy(summary):
    return summary["task"] == "classify"


def _rival_line(rival):
    """Return the line on the rival in a list; an empty one without."""
    if not rival:
        return []
    height, width = rival["image_size"]
    return [f"Rival: {rival['path']}, frozen, which sees images at {height} x {width} pixels."]


def _versions(environment):
    known = {name.replace("git_", ""): value for name, value in environment.items() if value}
    return ", ".join(f"{name} {value}" for name, value in known.items())


def _accuracy(summary):
    rows = summary["accuracy"]
    labels = list(dict.fromkeys(label for row in rows.values() for label in row["labels"]))
    cells = [
        [name, *(_cell(row["labels"].get(label)) for label in labels)] for name, row in rows.items()
    ]
    name = "accuracy" if _is_accuracy(summary) else summary["measure"]
    return [
        Heading(f"{name[0].upper()}{name[1:]}"),
        Table(["method", *labels], cells),
        Figure("figures/comparison.png", f"{name} of each method"),
    ]


def _statements(summary):
    found, parts = summary["statements"], []
    better = [s for s in found["pixels"] if s["verdict"] == "better"]
    others = [s for s in found["pixels"] if s["verdict"] != "better"]
    if found["pixels"]:
        text = (
            "Neighbours are compared with as many on raw pixels, a linear probe with the better "
            "of probe and logistic\nregression, and what is fine-tuned or trained from scratch "
            f"with the best of all. Of {len(found['pixels'])} comparisons,\n"
            f"{len(better)} are clearly better."
        )
        for title, kept in (("Not better", others), ("Better", better)):
            table = _compared(kept, "raw pixels") if kept else Text("Nothing that was measured.")
            parts.append(Heading(f"{title} than raw pixels"))
            parts += [*([Text(text)] if kept is others else []), table]
    if found["control"]:
        name = "accuracy" if _is_accuracy(summary) else summary["measure"]
        parts += [Heading("What pre-training adds"), _compared(found["control"], "without", name)]
    if found["other"]:
        text = "The rival is frozen, and measured with the same probe on the same images."
        parts += [Heading("Beside the rival"), Text(text), _compared(found["other"], "rival")]
    return parts


def _compared(found, other, name="accuracy"):
    return Table(
        ["method", "labels", name, other, "in words"],
        [
            [
                s["method"],
                s["labels"].split()[0],
                s["accuracy"],
                f"{s['its_accuracy']} ({_method(s['against'])})",
                s["words"],
            ]
            for s in found
        ],
    )


def _method(row):
    """Return the name of a row without what its features are, where a column says that."""
    return row.removeprefix("raw pixels, ").removeprefix("rival, ")


def _curve(summary):
    """Return the points of partial fine-tuning, blocks to accuracy, and their labels."""
    rows = [row for row in summary["accuracy"].values() if row["blocks"] is not None]
    points = {row["blocks"]: accuracy for row in rows for accuracy in row["labels"].values()}
    labels = next((label for row in rows for label in row["labels"]), None)
    return {blocks: points[blocks] for blocks in sorted(points)}, labels


def _partial(summary):
    return [
        Heading(f"Partial fine-tuning, {_curve(summary)[1]}"),
        Text(
            "So many of the last blocks are trained, and the head. The lines are those of "
            "fine-tuning everything, the\nembeddings too, and of training from scratch."
        ),
        Figure("figures/partial.png", "accuracy against blocks fine-tuned"),
    ]


def _sweep(name, rows, summary):
    panels = list(dict.fromkeys(panel for row in rows for panel in row["accuracy"]))
    table = Table(
        [name, *panels],
        [[row["value"], *(_cell(row["accuracy"].get(panel)) for panel in panels)] for row in rows],
    )
    lines = []
    for panel in panels:
        measured = {r["value"]: r["accuracy"][panel] for r in rows if panel in r["accuracy"]}
        best = max(measured, key=lambda value: measured[value]["mean"])
        least = min(measured, key=lambda value: measured[value]["mean"])
        result = compare(
            measured[best]["values"], measured[least]["values"], summary["heldout_images"]
        )
        if best != least and result is not None:
            lines.append(f"{panel}: highest with {best}, lowest with {least}; {result[1]}.")
    said = [Items(lines)] if lines else []
    # Where nothing is measured yet, nothing is drawn.
    chart = [Figure(f"figures/sweep_{name}.png", f"accuracy against {name}")] if panels else []
    return [Heading(f"Sweep: {name}"), table, *said, *chart]


def _seconds(summary):
    rows = [
        [part, entry["jobs"], f"{entry['seconds'] / entry['jobs']:.0f}", f"{entry['seconds']:.0f}"]
        for part, entry in summary["seconds"].items()
    ]
    if not rows:
        return []
    total = sum(entry["seconds"] for entry in summary["seconds"].values())
    rows.append(["all", sum(e["jobs"] for e in summary["seconds"].values()), "", f"{total:.0f}"])
    return [
        Heading("Time"),
        Text("Of a job that was cut, the seconds are those after the last start."),
        Table(["part", "jobs", "seconds each", "seconds"], rows),
    ]


def _unfinished(summary):
    parts = []
    if summary["failures"]:
        lines = [f"{name}: {reason}" for name, reason in summary["failures"].items()]
        parts += [Heading("Failed"), Items(lines)]
    if summary["missing"]:
        text = Text("The same command goes on with these.")
        parts += [Heading("Not done yet"), text, Items(summary["missing"])]
    return parts


def _cell(accuracy):
    """Return an accuracy as text; where seeds are missing, how many there are."""
    if accuracy is None:
        return ""
    of = accuracy.get("of", len(accuracy["values"]))
    missing = "" if of == len(accuracy["values"]) else f" ({len(accuracy['values'])} of {of} seeds)"
    return format_accuracy(accuracy) + missing


def _draw(summary, directory):
    """Write the charts, and remove those of a report before that this one has not."""
    charts = set()
    if summary["accuracy"]:
        shown = {name: row for name, row in summary["accuracy"].items() if row["shown"]}
        comparison_chart(
            {name: row["labels"] for name, row in shown.items()},
            directory / "comparison.png",
            summary["measure"],
        )
        charts.add("comparison.png")
    points, labels = _curve(summary)
    if points:
        references = {
            name: summary["accuracy"][name]["labels"][labels]
            for name in ("fine-tuned", "from scratch")
            if labels in summary["accuracy"].get(name, {"labels": {}})["labels"]
        }
        partial_chart(points, directory / "partial.png", references, labels)
        charts.add("partial.png")
    for name, rows in summary["sweeps"].items():
        panels = list(dict.fromkeys(panel for row in rows for panel in row["accuracy"]))
        if panels:
            sweep_chart(
                name,
                {
                    panel: {
                        r["value"]: r["accuracy"][panel] for r in rows if panel in r["accuracy"]
                    }
                    for panel in panels
                },
                directory / f"sweep_{name}.png",
                summary["measure"],
            )
            charts.add(f"sweep_{name}.png")
    if directory.is_dir():
        for old in sorted(os.listdir(directory)):
            if old not in charts and (
                old.startswith("sweep_") or old in ("comparison.png", "partial.png")
            ):
                (directory / old).unlink()
