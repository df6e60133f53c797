"""Flags of the scripts: made of options, all faults told at once, nothing exported."""

import pytest

from keras_mae.export import Format, Option, command

pytestmark = pytest.mark.export


class Own(Format):
    """A format of the user's own."""

    OPTIONS = (Option("bits", int, 8, "bits of a weight.", choices=(4, 8)),)


OWN = f"{__name__}:Own"


@pytest.fixture
def exported(monkeypatch):
    """Return the list of values that `run_export` was given."""
    seen = []

    def run_export(values):
        seen.append(values)
        raise ValueError("`seen` enough")

    monkeypatch.setattr(command, "run_export", run_export)
    return seen


def export(*flags):
    with pytest.raises(SystemExit) as raised:
        command.export(["export.py", *flags])
    return str(raised.value)


def test_flags_have_the_types_and_defaults_of_their_options(exported):
    export("--model=a", "--output", "b", "--dense", "--nowarmup", "--loads=3")
    assert exported == [
        {
            "model": "a",
            "output": "b",
            "format": "saved_model",
            "image_size": None,
            "check_dataset": None,
            "num_check_images": 16,
            "loads": 3,
            "dense": True,
            "warmup": False,
            "whole": False,
            "resize": "bicubic",
        }
    ]


@pytest.mark.parametrize("format", [["--format", "litert"], ["--format=litert"]])
def test_a_format_has_its_own_flags_wherever_it_is_named(exported, format):
    flags = ["--quantize", "int8", *format, "--batch_size=4", "--model=a", "--output=b"]
    export(*flags)
    assert (exported[0]["quantize"], exported[0]["batch_size"]) == ("int8", 4)
    assert "dense" not in exported[0]


def test_a_format_from_outside_has_flags(exported):
    export("--model=a", "--output=b", f"--format={OWN}", "--bits=4")
    assert exported[0]["bits"] == 4


def test_all_faults_are_told_at_once(exported):
    said = export("--output=b", "--loads=none", "--resize=area", "--quantize=int8", "--whole=5")
    assert said.startswith("error: ") and exported == []
    said = export("--output=b", "--loads=none", "--resize=area", "--quantize=int8", "stray")
    for fault in ("`model`", "`loads`", "`resize`", "--quantize"):
        assert fault in said
    assert "`output`" not in said
    assert "stray" in export("--model=a", "--output=b", "stray")
    assert "`format`" in export("--model=a", "--output=b", "--format=coreml")


def test_values_of_image_size(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "keras_mae.export.write.export_encoder", lambda *_, **values: seen.append(values)
    )
    for size in ("32", "32,40", None):
        command.run_export({"model": "a", "output": "b", "image_size": size})
    assert [values["image_size"] for values in seen] == [32, (32, 40), None]
    for wrong in ("a", "3,4,5", "3.5", ""):
        with pytest.raises(ValueError, match="`image_size`"):
            command.run_export({"model": "a", "output": "b", "image_size": wrong})


def test_help_lists_flags_by_format(capsys):
    command.export(["export.py", f"--format={OWN}", "--help"])
    text = capsys.readouterr().out
    places = [
        text.index(part)
        for part in (
            "--model:",
            "--format=litert:",
            "--batch_size:",
            "--format=onnx:",
            "--[no]fuse:",
            "--format=saved_model:",
            "--[no]dense:",
            f"--format={OWN}:",
            "--bits: bits of a weight. One of: 4, 8. Default: 8.",
        )
    ]
    assert places == sorted(places)
    command.serve_check(["serve_check.py", "--help"])
    assert "--saved_model:" in capsys.readouterr().out
