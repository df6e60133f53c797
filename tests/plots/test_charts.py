import pytest

from keras_mae.evaluation.comparison import summarise
from keras_mae.plots import charts

HIGH, LOW = summarise({0: 0.9, 1: 0.8}), summarise({0: 0.5, 1: 0.5})


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, and not written."""
    figures = []
    monkeypatch.setattr(charts, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_rows_from_the_top_with_their_means(drawn):
    charts.comparison_chart({"a": {"all": HIGH, "few": LOW}, "b": {"all": LOW}}, "x.png")
    axis = drawn[0].axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert axis.yaxis_inverted()
    means = {c.get_label(): list(c.lines[0].get_xdata()) for c in axis.containers}
    assert means == {"all": pytest.approx([85, 50]), "few": pytest.approx([50])}
    assert axis.get_xlabel() == "top-1 accuracy, %\nmean and deviation of 2 seeds"


def test_error_bars_are_the_spread(drawn):
    charts.partial_chart({0: LOW, 0.5: HIGH, 2: HIGH}, "x.png", {"from scratch": LOW})
    axis = drawn[0].axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "0.5", "2"]
    (bars,) = axis.containers[0].lines[2]
    spans = [abs(top - bottom) for (_, bottom), (_, top) in bars.get_segments()]
    assert spans == pytest.approx([0, 2 * 100 * 0.1 / 2**0.5, 2 * 100 * 0.1 / 2**0.5])


def test_numbers_are_lines_in_order_and_on_a_scale(drawn):
    charts.sweep_chart("mask_ratio", {"fine-tuned": {0.75: HIGH, 0.25: LOW}}, "x.png")
    line = drawn[0].axes[0].containers[0].lines[0]
    assert list(line.get_xdata()) == [0.25, 0.75]
    assert list(line.get_ydata()) == pytest.approx([50, 85])


def test_words_are_bars_from_zero_with_their_numbers(drawn):
    panels = {"fine-tuned": {"random": HIGH, "grid": LOW}, "probe": {"random": LOW}}
    charts.sweep_chart("masking", panels, "x.png")
    axis = drawn[0].axes[0]
    assert [bar.get_height() for bar in axis.patches] == pytest.approx([85, 50])
    assert axis.get_ylim()[0] == 0
    assert [text.get_text() for text in axis.texts] == ["85.0", "50.0"]
    assert [a.get_title() for a in drawn[0].axes] == ["fine-tuned", "probe"]


def test_a_chart_of_one_seed_is_a_png(tmp_path):
    charts.sweep_chart("norm_pix_loss", {"probe": {True: summarise({0: 0.9})}}, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
