"""Pages: the same blocks as Markdown and as HTML that needs nothing else."""

import base64
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from keras_mae import pages
from keras_mae.pages import (
    Code,
    Curves,
    Details,
    Figure,
    Files,
    Heading,
    Items,
    Table,
    Text,
    markdown,
    write_html,
)

EVIL = "<script>alert('x')</script> & \"q\" \udcff"


class Parsed(HTMLParser):
    """Tags with their attributes, and the text, of a page; every tag that opens must close."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def written(tmp_path):
    Image.fromarray(np.zeros((4, 4), "uint8")).save(tmp_path / "a.png")

    def write(*blocks):
        write_html(blocks, tmp_path / "page.html")
        return Parsed((tmp_path / "page.html").read_text())

    return write


def test_everything_is_escaped(written):
    page = written(
        Heading(EVIL, 1),
        Text(EVIL),
        Code(EVIL),
        Items([EVIL]),
        Table([EVIL], [[EVIL]]),
        Figure("a.png", EVIL),
        Files([(EVIL, EVIL)]),
        Details(EVIL, [Text(EVIL)]),
        Curves(EVIL, {EVIL: [(0, 1), (1, 2)]}, x=EVIL, levels={EVIL: 1}),
    )
    assert page.all("script") == []
    # As it was given, but for what no text file can hold.
    shown = EVIL.replace("\udcff", "\\udcff")
    assert sum(text == shown for text in page.texts) == 16
    assert page.all("img")[0]["alt"] == shown


def test_a_page_loads_nothing(written, tmp_path):
    page = written(Heading("A", 1), Figure("a.png", "a"), Files([("b c.txt", "x")]))
    sources = [a.get("src") for _, a in page.tags if a.get("src")]
    kind, _, data = sources[0].partition(",")
    assert len(sources) == 1 and kind == "data:image/png;base64"
    assert base64.b64decode(data) == (tmp_path / "a.png").read_bytes()
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert [a["href"] for a in page.all("a")] == ["b%20c.txt"]
    policies = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policies[0].startswith("default-src 'none'")
    assert "http" not in (tmp_path / "page.html").read_text().replace("http-equiv", "")


def test_markdown_is_the_same_text():
    blocks = [
        Heading("A", 1),
        Text("first", leads=True),
        Code("x\ny"),
        Table(["a", "b"], [[1, 2.5]]),
        Items(["one", "two"]),
        Figure("figures/a.png", "what"),
        Details("more", [Text("inside")]),
    ]
    assert markdown(blocks) == (
        "# A\n\nfirst\n\n    x\n    y\n\n| a | b |\n| --- | --- |\n| 1 | 2.5 |\n\n"
        "- one\n- two\n\n![what](figures/a.png)\n"
    )


def test_a_figure_that_is_not_there_leaves_no_page(tmp_path):
    with pytest.raises(OSError, match="none.png"):
        write_html([Heading("A", 1), Figure("none.png", "x")], tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_curves_are_where_their_numbers_are(written):
    page = written(Curves("loss", {"a": [(0, 0), (10, 1), (20, 2)]}, levels={"level": 1}))
    points = page.all("polyline")[0]["points"].split()
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in points)
    assert x1 - x0 == pytest.approx(x2 - x1) and x1 > x0
    assert y1 - y0 == pytest.approx(y2 - y1) and y1 < y0  # upwards
    dashed = [a for a in page.all("line") if a.get("stroke-dasharray") == "6 4"]
    assert float(dashed[0]["y1"]) == pytest.approx(y1, abs=0.1)


def test_what_a_loss_falls_from_does_not_flatten_the_rest(written):
    points = [(0, 100.0), (1, 50.0), *((i, 0.5) for i in range(50, 100)), (100, 0.0)]
    page = written(Curves("loss", {"a": points}))
    ys = [float(point.split(",")[1]) for point in page.all("polyline")[0]["points"].split()]
    assert ys[0] == ys[1] == 0 and ys[3] - ys[0] < ys[-1] - ys[3] + 11
    assert "0.5" in page.texts and "100" in page.texts and "50" not in page.texts


def test_long_curves_are_thinned_and_end_where_they_end():
    points = [(i, float(i % 2)) for i in range(10_001)]
    thin = pages._thinned(points)
    assert len(thin) <= pages.MOST_POINTS + 1 and thin[-1] == points[-1]
    assert np.mean([y for _, y in thin[:-1]]) == pytest.approx(0.5, abs=0.02)
    few = [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0)]
    assert pages._thinned(few) == [(0, 1.0), (3, 2.0)]


@pytest.mark.parametrize(
    "low, high", [(0, 1), (0.1832, 0.9), (3, 3), (0, 0), (-5, 1e6), (10, 3750)]
)
def test_ticks_hold_what_is_shown(low, high):
    ticks = pages._ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8
    assert len(set(np.round(np.diff(ticks), 9))) == 1


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, float("nan"))]])
def test_curves_of_few_points(written, points):
    page = written(Curves("loss", {"a": points}))
    assert len(page.all("circle")) == (points == [(1, 2.0)])
