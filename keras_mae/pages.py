"""Pages: a list of blocks, written as Markdown, or as one HTML file that needs nothing else.

The HTML has no script and loads nothing: figures are inside. All text is escaped.
"""

import base64
import dataclasses
import html
import math
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_mae.files import atomic_path, printable
from keras_mae.types import AnyPath

MIME = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}
MOST_POINTS = 300  # of a line
SHORT = 16  # letters of a cell that is never broken
UNSHOWN = 0.02  # share of x, at the beginning, that does not decide how high a chart is
_STYLE = """
:root { color-scheme: light dark; --text: #1c2126; --faint: #5d6873; --back: #fff;
  --panel: #f3f5f7; --line: #d7dce1; --link: #1f5a99; --c1: #1f5a99; --c2: #b8610f; --c3: #35753e;
  --c4: #8a4f9e; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e7eb; --faint: #9aa5b0; --back: #14181c;
  --panel: #1e242a; --line: #363f48; --link: #7ab3ee; --c1: #6eaef0; --c2: #eda04f; --c3: #78bd82;
  --c4: #c48fd6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem 1rem 4rem; background: var(--back);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
.lead { font-size: 1.12rem; }
a { color: var(--link); }
pre { background: var(--panel); border-radius: .4rem; padding: .7rem .9rem; overflow-x: auto;
  font-size: .85rem; }
pre.wraps { white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem 1rem .35rem 0;
  border-bottom: 1px solid var(--line); }
td { min-width: 8rem; max-width: 28rem; }
td.short { min-width: 0; white-space: nowrap; }
th { color: var(--faint); font-weight: 600; }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff;
  border-radius: .4rem; }
@media (max-width: 44rem) { figure img { max-width: 44rem; } }
figcaption { color: var(--faint); font-size: .9rem; margin-top: .4rem; }
.beside { display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); }
svg { display: block; width: 100%; max-width: 34rem; height: auto; }
svg text { fill: var(--faint); font: 11px system-ui, sans-serif; }
summary { cursor: pointer; color: var(--link); margin: 1rem 0 .5rem; }
""".strip()
# A browser then refuses whatever a page would load or run.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Block:
    """A part of a page."""

    def markdown(self) -> str:
        """Return it as Markdown; empty for what Markdown has not."""
        return ""

    def html(self, directory: Path) -> str:
        """Return it as HTML; figures are read from `directory`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `html`.")


@dataclasses.dataclass(frozen=True)
class Heading(Block):
    """A heading; level 1 is the page's."""

    text: str
    level: int = 2

    def markdown(self) -> str:
        return f"{'#' * self.level} {self.text}"

    def html(self, directory: Path) -> str:
        return f"<h{self.level}>{_escaped(self.text)}</h{self.level}>"


@dataclasses.dataclass(frozen=True)
class Text(Block):
    """A paragraph. `leads` makes it larger: the first thing to read."""

    text: str
    leads: bool = False

    def markdown(self) -> str:
        return self.text

    def html(self, directory: Path) -> str:
        kind = ' class="lead"' if self.leads else ""
        return f"<p{kind}>{_escaped(self.text)}</p>"


@dataclasses.dataclass(frozen=True)
class Code(Block):
    """Lines as they are, such as a command; those of a table must not be wrapped."""

    text: str
    wraps: bool = True

    def markdown(self) -> str:
        return "\n".join(f"    {line}" for line in self.text.splitlines())

    def html(self, directory: Path) -> str:
        kind = ' class="wraps"' if self.wraps else ""
        return f"<pre{kind}>{_escaped(self.text)}</pre>"


@dataclasses.dataclass(frozen=True)
class Items(Block):
    """A list of sentences."""

    items: Sequence[str]

    def markdown(self) -> str:
        return "\n".join(f"- {item}" for item in self.items)

    def html(self, directory: Path) -> str:
        items = "\n".join(f"<li>{_escaped(item)}</li>" for item in self.items)
        return f"<ul>\n{items}\n</ul>"


@dataclasses.dataclass(frozen=True)
class Table(Block):
    """Rows of values under a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)

    def html(self, directory: Path) -> str:
        head = "".join(f"<th>{_escaped(name)}</th>" for name in self.head)
        rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in self.rows)
        return f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'


@dataclasses.dataclass(frozen=True)
class Figure(Block):
    """A file of a picture, its path relative to the page, and what it shows."""

    path: str
    about: str

    def markdown(self) -> str:
        return f"![{self.about}]({self.path})"

    def html(self, directory: Path) -> str:
        data = base64.b64encode((directory / self.path).read_bytes()).decode()
        about = _escaped(self.about)
        mime = MIME[Path(self.path).suffix.lower()]
        image = f'<img src="data:{mime};base64,{data}" alt="{about}">'
        return f'<figure><div class="wide">{image}</div><figcaption>{about}</figcaption></figure>'


@dataclasses.dataclass(frozen=True)
class Files(Block):
    """Files beside the page, as links: (path relative to the page, what it is)."""

    files: Sequence[tuple[str, str]]

    def html(self, directory: Path) -> str:
        rows = []
        for path, about in self.files:
            target = _escaped(urllib.parse.quote(path, errors="surrogateescape"))
            link = f'<a href="{target}">{_escaped(path)}</a>'
            rows.append(f'<tr><td class="short">{link}</td><td>{_escaped(about)}</td></tr>')
        lines = "\n".join(rows)
        return f'<div class="wide"><table>\n{lines}\n</table></div>'


@dataclasses.dataclass(frozen=True)
class Beside(Block):
    """Blocks beside each other where there is room, else below each other."""

    blocks: Sequence[Block]

    def html(self, directory: Path) -> str:
        inside = "\n".join(block.html(directory) for block in self.blocks)
        return f'<div class="beside">\n{inside}\n</div>'


@dataclasses.dataclass(frozen=True)
class Details(Block):
    """Blocks that are folded away under a title."""

    title: str
    blocks: Sequence[Block]

    def html(self, directory: Path) -> str:
        inside = "\n".join(block.html(directory) for block in self.blocks)
        return f"<details><summary>{_escaped(self.title)}</summary>\n{inside}\n</details>"


@dataclasses.dataclass(frozen=True)
class Curves(Block):
    """Lines over x, and levels to compare with; drawn in the page's own colours.

    Attributes:
        about: str, what it shows.
        lines: dict of name to points (x, y), at least one of them; those that are not finite are
            left out.
        x: str, what x is.
        levels: dict of name to y.
    """

    about: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    x: str = "step"
    levels: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def html(self, directory: Path) -> str:
        return f"<figure>{self._svg()}<figcaption>{_escaped(self.about)}</figcaption></figure>"

    def _svg(self) -> str:
        lines = {name: _thinned(points) for name, points in self.lines.items()}
        lines = {name: points for name, points in lines.items() if points}
        points = [point for line in lines.values() for point in line]
        if not points:
            return ""
        left, top, width, height, right = 46, 10, 360, 170, 24
        first, last = min(x for x, _ in points), max(x for x, _ in points)
        x_ticks = _ticks(first, last)
        # A loss falls from afar at first: the rest would be a flat line.
        levels = [y for y in self.levels.values() if math.isfinite(y)]
        later = [y for x, y in points if x >= first + UNSHOWN * (last - first)]
        y_ticks = _ticks(min(levels + [y for _, y in points]), max(levels + later))

        def place(x: float, y: float) -> tuple[float, float]:
            across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
            up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
            return left + width * across, top + height * (1 - up)

        parts = []
        for tick in y_ticks:
            _, y = place(x_ticks[0], tick)
            line = f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"'
            parts.append(f'{line} stroke="var(--line)"/>')
            parts.append(_label(left - 6, y + 4, f"{tick:g}", "end"))
        for tick in x_ticks:
            x, _ = place(tick, y_ticks[0])
            parts.append(_label(x, top + height + 16, f"{tick:,g}", "middle"))
        parts.append(_label(left + width / 2, top + height + 32, self.x, "middle"))
        legend = []
        for i, (name, level) in enumerate(self.levels.items()):
            _, y = place(x_ticks[0], level)
            line = f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"'
            parts.append(f'{line} stroke="var(--faint)" stroke-dasharray="{6 - 2 * i % 5} 4"/>')
            legend.append((name, "var(--faint)", "5 4"))
        for i, (name, line_points) in enumerate(lines.items()):
            colour = f"var(--c{i % 4 + 1})"
            places = [place(*point) for point in line_points]
            places = [(x, max(y, 0)) for x, y in places]
            if len(places) == 1:  # would not be seen as a line
                parts.append(
                    f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3" '
                    f'fill="{colour}"/>'
                )
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
            )
            legend.append((name, colour, "none"))
        for i, (name, colour, dashes) in enumerate(legend):
            y = top + height + 48 + 16 * i
            parts.append(
                f'<line x1="{left}" x2="{left + 22}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" '
                f'stroke-width="1.6" stroke-dasharray="{dashes}"/>'
            )
            parts.append(_label(left + 30, y, name, "start"))
        size = f"0 0 {left + width + right} {top + height + 40 + 16 * len(legend)}"
        return f'<svg viewBox="{size}" role="img">{"".join(parts)}</svg>'


def markdown(blocks: Sequence[Block]) -> str:
    """Return blocks as Markdown: the same text for the same blocks."""
    texts = (block.markdown() for block in blocks)
    return "\n\n".join(text for text in texts if text) + "\n"


def write_markdown(blocks: Sequence[Block], path: AnyPath) -> None:
    """Write blocks as a Markdown file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(markdown(blocks))


def write_html(blocks: Sequence[Block], path: AnyPath) -> None:
    """Write blocks as one HTML file with the figures inside, atomically.

    Args:
        blocks: list of `Block`; the first is the heading of level 1. Paths of figures are relative
            to the file.
        path: of the file.
    Raises:
        OSError: if a figure is not there, or the file cannot be written.
    Example:
        write_html([Heading("A run", 1), Text("It went well."), Figure("a.png", "how")], "a.html")
    """
    path = Path(path)
    title = next((b.text for b in blocks if isinstance(b, Heading)), path.stem)
    body = "\n".join(block.html(path.parent) for block in blocks)
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_escaped(title)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
{body}
</body>
</html>
"""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _cell(value: object) -> str:
    kind = ' class="short"' if len(str(value)) <= SHORT else ""
    return f"<td{kind}>{_escaped(value)}</td>"


def _escaped(text: object) -> str:
    return html.escape(printable(text))


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_escaped(text)}</text>'


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most `MOST_POINTS` points: means of neighbours, and the last one as it is."""
    known = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = -(-len(known) // MOST_POINTS)
    if size <= 1:
        return known
    groups = [known[i : i + size] for i in range(0, len(known) - 1, size)]
    means = [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]
    return [*means[:-1], known[-1]]


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers, at least two, from at most `low` to at least `high`."""
    if not low < high:
        low, high = low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * part for part in (1, 2, 2.5, 5, 10) if power * part >= rough * 0.999999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
