"""The card, and when an export gets its name; nothing is run here."""

import pytest
from shaken import card_of, encoder

from keras_mae import ViTDetector
from keras_mae.export import ExportError, Format, Option, Written, export_encoder, write

pytestmark = pytest.mark.export


class Five(Format):
    """Five bytes."""

    OPTIONS = (Option("opset", int, 17, "a fact for the card.", least=1),)

    def write(self, source, directory, images):
        directory.mkdir()
        (directory / "model").write_bytes(b"12345")
        return Written("model", "float32", {"serving_default": {}}, {"opset": self.opset})


class Unbounded(Five):
    BOUNDS = {"int8": {"min_cosine": 0.9}}


FIVE = f"{__name__}:Five"


@pytest.fixture
def result(monkeypatch):
    """Return what the check of every load finds, to be changed."""
    result = {"max_abs_difference": 1e-6, "difference": 1e-6, "min_cosine": 1.0, "num_images": 2}
    result |= {"outputs": {}, "signatures": {}, "batch_size": 1, "latency_ms": 1.5}
    result |= {"keras_imported": False, "num_boxes": None}
    loads = [result, {**result, "latency_ms": 2}]
    monkeypatch.setattr(write, "check_export", lambda *_: loads)
    return result


def test_the_card_is_plain_json_and_readable(result, tmp_path):
    path = export_encoder(encoder(), tmp_path / "a", FIVE, opset=18, num_check_images=2, loads=2)
    assert path == tmp_path / "a" / "model"
    found = card_of(path)
    assert found["format"] == FIVE and found["load"] == "model"
    assert found["bytes"] == 5 and found["opset"] == 18 and found["latency_ms"] == 1.75
    assert found["check"]["loads"] == 2 and found["check"]["fresh_process"]
    assert found["check"]["bound"] == {"difference": 1e-4}
    text = (tmp_path / "a" / "card.md").read_text()
    assert "1.75 ms" in text and found["weights_sha256"] in text
    assert "1.00e-06 (bound: difference 0.0001)" in text


def test_over_the_bound_nothing_is_left(result, tmp_path):
    result["difference"] = float("nan")
    with pytest.raises(ExportError, match="difference"):
        export_encoder(encoder(), tmp_path / "deep" / "b", FIVE, num_check_images=2)
    assert list(tmp_path.iterdir()) == []


def test_a_precision_without_a_bound_is_no_export(result, tmp_path):
    with pytest.raises(ValueError, match="`precision`"):
        export_encoder(encoder(), tmp_path / "b", f"{__name__}:Unbounded", num_check_images=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_detectors_card_says_how_many_boxes_were_seen(result, monkeypatch, tmp_path):
    model = ViTDetector(encoder(), 2, filters=4, class_names=["a", "b"])
    for count, words in ((7, "| boxes in the check | 7 |"), (0, "checked on nothing")):
        result["num_boxes"] = count
        monkeypatch.setattr(write, "check_export", lambda *_: [result])
        export_encoder(model, tmp_path / str(count), FIVE, opset=18, num_check_images=2)
        text = (tmp_path / str(count) / "card.md").read_text()
        assert words in text and "at most 100 an image" in text and "2: a, b" in text
