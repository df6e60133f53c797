"""Flags of a command line, made of settings; nothing is run."""

import dataclasses

import pytest

from keras_mae.commands import COMMANDS, flags
from keras_mae.commands.export_settings import export_settings
from keras_mae.settings import FinetuneSettings, PretrainSettings, ReportSettings
from keras_mae.settings.fields import SettingsError, spec_of
from keras_mae.settings.tools import ReconstructSettings


def parsed(*arguments, cls=PretrainSettings, positional=None):
    return flags.parse_arguments(cls, list(arguments), positional)


def faults(*arguments, **others):
    with pytest.raises(SettingsError) as raised:
        parsed(*arguments, **others)
    return raised.value.faults


def test_no_flag_is_every_default():
    assert parsed() == PretrainSettings()


def test_each_type_in_each_way_of_writing_it():
    settings = parsed(
        *("--dataset=photos", "--steps", "3", "-seed=4", "--nojit", "--norm_pix_loss=false"),
        *("--mask_ratio=.5,.75", "--image_size=32", "--checkpoint_minutes=none", "--overwrite"),
    )
    expected = PretrainSettings(
        dataset="photos",
        steps=3,
        seed=4,
        jit=False,
        norm_pix_loss=False,
        mask_ratio=(0.5, 0.75),
        image_size=(32,),
        checkpoint_minutes=None,
        overwrite=True,
    )
    assert settings == expected


def test_flags_can_be_kept_in_a_file_and_changed_on_the_command_line(tmp_path):
    path = tmp_path / "flags.txt"
    path.write_text("# a run\n--dataset=photos\n--seed=3\n--nojit\n")
    settings = parsed(f"--flagfile={path}", "--seed=5")
    assert (settings.dataset, settings.seed, settings.jit) == ("photos", 5, False)
    (fault,) = faults(f"--flagfile={path}.gone")
    assert "flags.txt.gone" in fault


def test_flags_of_several_values():
    settings = parsed(
        *("--sweep=mask_ratio=.5,.75", "--sweep=masking=random/grid", "--pretrain=epochs=3"),
        *("--pretrain=image_size=32,48", "--seeds=1,2", "--parts=none"),
        cls=ReportSettings,
    )
    assert settings.sweep == {"mask_ratio": ((0.5,), (0.75,)), "masking": ("random", "grid")}
    assert settings.pretrain == {"epochs": 3.0, "image_size": (32, 48)}
    assert (settings.seeds, settings.parts, settings.probe) == ((1, 2), (), {})


def test_arguments_without_a_name_where_a_command_takes_them():
    settings = parsed(
        *("a.png", "--model=m", "--image=b.png", "c.png"),
        cls=ReconstructSettings,
        positional="image",
    )
    assert sorted(settings.image) == ["a.png", "b.png", "c.png"]
    (fault,) = faults("stray")
    assert "'stray'" in fault


def test_all_faults_are_told_at_once_by_the_names_of_flags():
    found = faults(
        *("--sed=1", "--mask_ratio=2", "--jit=maybe", "stray", "--dataset=none", "--epochs=1"),
        *("--steps=2", "--resume=now"),
    )
    assert len(found) == 7
    told = "\n".join(found)
    for name in ("--sed", "--mask_ratio", "--jit", "'stray'", "--dataset", "--epochs", "--resume"):
        assert name in told
    assert "`" not in told


def test_an_unknown_flag_gets_a_hint_where_one_is_close():
    (fault,) = faults("--mask_rate=.5")
    assert fault.startswith("--mask_rate ") and "--mask_ratio" in fault
    (fault,) = faults("--zzz")
    assert fault.startswith("--zzz ") and "mean" not in fault


def test_a_flag_without_its_value_is_named():
    (fault,) = faults("--seed")
    assert "seed" in fault
    with pytest.raises(SettingsError, match="format"):
        export_settings(["--format"])


@pytest.mark.parametrize("cls", [FinetuneSettings, PretrainSettings, ReportSettings])
def test_help_has_every_setting_once_those_used_most_first(cls):
    text = flags.help_text(cls, "About it.", "program")
    assert text.startswith("About it.\n\nUsage: program ")
    shown = [line.split()[0].lstrip("-") for line in text.splitlines() if line.startswith("  --")]
    shown = [line.removeprefix("[no]").partition("=")[0] for line in shown]
    assert sorted(shown) == sorted(field.name for field in dataclasses.fields(cls))
    places = {f.name: spec_of(f).first for f in dataclasses.fields(cls) if spec_of(f).first}
    assert shown[: len(places)] == sorted(places, key=places.get)
    for field in dataclasses.fields(cls):
        for name in spec_of(field).names():
            assert name in text


def test_help_says_defaults_bounds_and_what_is_required():
    text = " ".join(flags.help_text(PretrainSettings, "", "").split())
    assert "--mask_ratio=0.75 " in text and "(greater than 0 and less than 1)" in text
    assert "--[no]jit " in text and "default: yes" in text
    assert "MODULE:CLASS" in text
    assert "(required)" in flags.help_text(ReconstructSettings, "", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_settings_with_help(name):
    module, _, attribute = COMMANDS[name].settings.partition(":")
    cls = getattr(__import__(module, fromlist=[attribute]), attribute)
    cls = cls if isinstance(cls, type) else cls([])
    assert flags.help_text(cls, COMMANDS[name].about, "program")
    positional = COMMANDS[name].positional
    assert positional is None or positional in cls.__dataclass_fields__
