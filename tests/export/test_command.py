"""Flags of scripts/export.py: made of a format's options, all faults told at once."""

import pytest

from keras_mae import commands
from keras_mae.commands import flags
from keras_mae.commands.export_settings import export_settings
from keras_mae.commands.functions import export
from keras_mae.export import Format, Option
from keras_mae.settings.fields import SettingsError
from keras_mae.settings.tools import ExportSettings

pytestmark = pytest.mark.export


class Own(Format):
    """A format of the user's own."""

    OPTIONS = (
        Option("bits", int, 8, "bits of a weight.", choices=(4, 8)),
        Option("scale", float, None, "of what.", least=0),
        Option("rows", int, 1, "at a time.", least=1, or_none=True),
    )


OWN = f"{__name__}:Own"


def settings(*arguments):
    return flags.parse_arguments(export_settings(arguments), arguments)


def faults(*arguments):
    with pytest.raises(SettingsError) as raised:
        settings(*arguments)
    return "\n".join(raised.value.faults)


def test_flags_have_the_types_and_defaults_of_their_options():
    found = settings("--model=a", "--output", "b", "--dense", "--nowarmup", "--loads=3")
    assert (found.model, found.output, found.format) == ("a", "b", "saved_model")
    assert (found.image_size, found.check_dataset) == (None, None)
    assert (found.num_check_images, found.loads) == (16, 3)
    assert found.options() == {
        "dense": True,
        "warmup": False,
        "whole": False,
        "resize": "bicubic",
    }


@pytest.mark.parametrize("format", [["--format", "litert"], ["--format=litert"]])
def test_a_format_has_its_own_flags_wherever_it_is_named(format):
    found = settings("--quantize", "int8", *format, "--batch_size=4", "--model=a", "--output=b")
    options = found.options()
    assert (options["quantize"], options["batch_size"]) == ("int8", 4)
    assert "dense" not in options


def test_a_format_from_outside_has_flags():
    found = settings("--model=a", "--output=b", f"--format={OWN}", "--bits=4", "--rows=none")
    assert found.options() == {"bits": 4, "scale": None, "rows": None}
    found = settings("--model=a", "--output=b", f"--format={OWN}", "--scale=.5")
    assert found.options() == {"bits": 8, "scale": 0.5, "rows": 1}


def test_all_faults_are_told_at_once():
    said = faults("--output=b", "--loads=none", "--resize=area", "--quantize=int8", "stray")
    for fault in ("--model", "--loads", "--resize", "--quantize", "'stray'"):
        assert fault in said
    assert "--output" not in said
    own = ["--model=a", "--output=b", f"--format={OWN}"]
    for wrong in ("--bits=5", "--bits=four", "--scale=-1", "--rows=0"):
        assert faults(*own, wrong).startswith(wrong.partition("=")[0] + " must be")


def test_a_format_that_is_not_there_is_told_in_one_line():
    for name in ("coreml", "no_such_module:Own", "keras_mae.export:Option"):
        with pytest.raises(SystemExit, match="^error: --format must"):
            commands.main(["export", f"--format={name}"])


def test_values_reach_the_export(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "keras_mae.export.export_encoder",
        lambda *arguments, **values: seen.append((arguments, values)) or 1 / 0,
    )
    for size in ([], ["--image_size=32"], ["--image_size=32,40"]):
        with pytest.raises(ZeroDivisionError):
            export(settings("--model=a", "--output=b", f"--format={OWN}", "--bits=4", *size))
    assert [values["image_size"] for _, values in seen] == [None, 32, (32, 40)]
    arguments, values = seen[0]
    assert arguments == ("a", "b", OWN)
    assert (values["bits"], values["loads"], values["check_dataset"]) == (4, 1, None)
    for wrong in ("a", "3,4,5", "3.5", "", "0"):
        said = faults("--model=a", "--output=b", f"--image_size={wrong}")
        assert said.startswith("--image_size must be")


def test_help_lists_what_all_formats_have_then_the_named_ones(capsys):
    commands.main(["export", f"--format={OWN}", "--help"])
    text = capsys.readouterr().out
    places = [
        text.index(part)
        for part in ("--model=", "--num_check_images=16", f"Options of --format={OWN}:", "--bits=8")
    ]
    assert places == sorted(places) and "--[no]dense" not in text
    assert "Bits of a weight. (one of 4, 8)" in text
    commands.main(["export", "--help"])
    assert "--[no]dense" in capsys.readouterr().out
    commands.main(["serve-check", "--help"])
    assert "--saved_model=" in capsys.readouterr().out


def test_no_option_hides_a_setting_of_all_formats():
    for name in ("saved_model", "litert", "onnx"):
        cls = export_settings([f"--format={name}"])
        assert not set(cls.option_names) & set(ExportSettings.__dataclass_fields__)
