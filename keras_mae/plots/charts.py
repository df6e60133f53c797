"""The charts of a report: accuracies with their spread over seeds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_mae.plots.figures import new_figure, save_figure
from keras_mae.types import AnyPath

COLOURS = ("#1f5a99", "#d9822b", "#4d8f55", "#8a4f9e")


def comparison_chart(
    rows: Mapping[str, Mapping[str, Any]], path: AnyPath, measure: str = "top-1 accuracy"
) -> None:
    """Draw accuracies of several methods as points in rows, the first row at the top.

    Args:
        rows: dict of method to dict of label (such as "500 labels") to what `summarise` returned.
        path: a PNG file, written atomically.
        measure: string, what the numbers are.
    """
    series = list(dict.fromkeys(label for row in rows.values() for label in row))
    figure = new_figure(7, 1.2 + 0.34 * len(rows))
    axis = figure.add_subplot()
    for i, label in enumerate(series):
        # Two points in one row stand a little apart, or one would hide the other's bar.
        shift = 0.2 * (i - (len(series) - 1) / 2)
        places = [place + shift for place, row in enumerate(rows.values()) if label in row]
        summaries = [row[label] for row in rows.values() if label in row]
        _points(axis, places, summaries, COLOURS[i % len(COLOURS)], label, horizontal=True)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel(_accuracy_label(rows.values(), measure))
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=max(1, len(series)), frameon=False)
    _bare(axis)
    save_figure(figure, path)


def partial_chart(
    points: Mapping[Any, Any],
    path: AnyPath,
    references: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> None:
    """Draw accuracy against the number of blocks that were fine-tuned.

    Args:
        points: dict of a number of blocks, or a word such as "all", to what `summarise` returned;
            in the order in which they are drawn, at equal distances.
        path: a PNG file, written atomically.
        references: dict of name to summary, each drawn as a dashed line.
        title: string, or None.
    """
    figure = new_figure(6, 4)
    axis = figure.add_subplot()
    places = list(range(len(points)))
    _points(axis, places, list(points.values()), COLOURS[0], "partial fine-tuning", line=True)
    for i, (name, summary) in enumerate((references or {}).items(), 1):
        axis.axhline(
            100 * summary["mean"], color=COLOURS[i % len(COLOURS)], linestyle="--", label=name
        )
    axis.set_xticks(places, [str(blocks) for blocks in points])
    axis.set_xlabel("blocks fine-tuned (0.5: the MLP of the last one)")
    axis.set_ylabel(_accuracy_label([points, references or {}]))
    axis.grid(axis="y", alpha=0.3)
    axis.legend()
    if title:
        axis.set_title(title, fontsize="medium")
    _bare(axis)
    save_figure(figure, path)


def sweep_chart(
    name: str,
    panels: Mapping[str, Mapping[Any, Any]],
    path: AnyPath,
    measure: str = "top-1 accuracy",
) -> None:
    """Draw accuracies against the values of one setting of pre-training, a panel each.

    Numbers are drawn as lines, on an axis in scale; anything else as bars from zero, each with its
    accuracy written above.

    Args:
        name: string, the setting; it names the axis.
        panels: dict of title to dict of value to what `summarise` returned.
        path: a PNG file, written atomically.
        measure: string, what the numbers are.
    """
    values = [value for panel in panels.values() for value in panel]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    figure = new_figure(4.5 * len(panels), 3.8)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for i, (axis, (title, panel)) in enumerate(zip(axes, panels.items(), strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        if numeric:
            places = sorted(panel)
            _points(axis, places, [panel[v] for v in places], colour, None, line=True)
            axis.set_xticks(places, [f"{value:g}" for value in places])
        else:
            _bars(axis, panel, colour)
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel(name)
        axis.set_ylabel(_accuracy_label([panel], measure))
        axis.grid(axis="y", alpha=0.3)
        _bare(axis)
    save_figure(figure, path)


def _points(
    axis: Any,
    places: Sequence[Any],
    summaries: Sequence[Any],
    colour: str,
    label: str | None,
    line: bool = False,
    horizontal: bool = False,
) -> None:
    """Draw means as points, and spreads as error bars."""
    means = [100 * summary["mean"] for summary in summaries]
    spreads = [100 * (summary["spread"] or 0) for summary in summaries]
    style = {"color": colour, "label": label, "capsize": 3, "elinewidth": 1, "markersize": 5}
    style["fmt"] = "o-" if line else "o"
    if horizontal:
        axis.errorbar(means, places, xerr=spreads, **style)
    else:
        axis.errorbar(places, means, yerr=spreads, **style)


def _bars(axis: Any, panel: Mapping[Any, Any], colour: str) -> None:
    names = [str(value) for value in panel]
    means = [100 * summary["mean"] for summary in panel.values()]
    spreads = [100 * (summary["spread"] or 0) for summary in panel.values()]
    axis.bar(names, means, width=0.6, color=colour, yerr=spreads, capsize=3, alpha=0.85)
    for place, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        axis.text(place, mean + spread + 1.5, f"{mean:.1f}", ha="center")
    axis.set_ylim(0, 109)
    axis.set_yticks(range(0, 101, 20))


def _accuracy_label(groups: Iterable[Mapping[Any, Any]], measure: str = "top-1 accuracy") -> str:
    """Return the axis's name, which says what the error bars are, if there are any."""
    summaries = [summary for group in groups for summary in group.values()]
    seeds = max((len(summary["values"]) for summary in summaries), default=1)
    return f"{measure}, %" + (f"\nmean and deviation of {seeds} seeds" if seeds > 1 else "")


def _bare(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
