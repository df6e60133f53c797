"""What is made of the fields of settings: checks, texts of flags, sweeps."""

import dataclasses

import numpy as np
import pytest

from keras_mae.settings import FinetuneSettings, PretrainSettings, ReportSettings
from keras_mae.settings.embed import EmbedSettings, PredictSettings, TableSettings
from keras_mae.settings.fields import (
    Settings,
    SettingsError,
    changed,
    of_texts,
    parse,
    parse_assignments,
    parse_sweep,
    setting,
    spec_of,
)
from keras_mae.settings.tools import ConvertSettings, ExportSettings, ReconstructSettings

ALL = (FinetuneSettings, PretrainSettings, ReportSettings, ConvertSettings, ExportSettings)
ALL += (EmbedSettings, PredictSettings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(Settings):
    """Settings of each kind."""

    count: int = setting(4, "How many.", "A", least=1, most=8)
    rate: float | None = setting(None, "How fast.", "A", above=0, below=1)
    fast: bool = setting(False, "Whether.", "B", fixes=False)
    kind: str = setting("one", "Which.", "B", choices=("one", "two"))
    name: str | None = setting(None, "Of what.", "B", required=True)
    size: tuple[int, ...] | None = setting(None, "How large.", "B", lengths=(1, 2), least=1)
    parts: tuple[str, ...] = setting(("a",), "Some.", "B", choices=("a", "b"), lengths=(0, 2))

    def faults_together(self):
        if self.fast and self.count > 4:
            yield "`count` must be at most 4 where it is fast."


def mine(**values):
    return Mine(**{"name": "n", **values})


def faults(function, *arguments, **values):
    with pytest.raises(SettingsError) as raised:
        function(*arguments, **values)
    assert isinstance(raised.value, ValueError)
    return raised.value.faults


@pytest.mark.parametrize(
    "name, right, wrong",
    [
        ("count", [1, 8, np.int64(3)], [0, 9, 1.0, True, None, "1"]),
        ("rate", [None, 0.5, 1e-9], [0, 1, float("nan"), float("inf"), "x", True]),
        ("fast", [True, False], [1, 0, None, "yes"]),
        ("kind", ["one", "two"], ["three", 1, None]),
        ("name", ["x"], [None, 3]),
        ("size", [None, (1,), (3, 4)], [(), (1, 2, 3), (0,), (1.5,), 4, "4"]),
        ("parts", [(), ("a", "b")], [("c",), "a", None]),
    ],
)
def test_a_value_fits_or_its_setting_is_named(name, right, wrong):
    for value in right:
        assert getattr(mine(**{name: value}), name) == value
    for value in wrong:
        (fault,) = faults(mine, **{name: value})
        assert fault.startswith(f"`{name}` must be")


def test_settings_are_frozen_named_and_hold_tuples():
    assert mine(size=[3, 4]).size == (3, 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        mine().count = 5
    with pytest.raises(TypeError):
        Mine("n")


def test_all_faults_are_told_at_once_and_none_of_what_follows_from_another():
    found = faults(Mine, count=9, rate=2.0, fast=True)
    assert [text.split("`")[1] for text in found] == ["count", "rate", "name"]
    (together,) = faults(mine, count=5, fast=True)
    assert together.startswith("`count`")


def test_what_fixes_numbers_is_told_from_what_does_not():
    assert set(mine().fixed()) == {"count", "rate", "kind", "name", "size", "parts"}
    for name in ("output_dir", "overwrite", "resume", "checkpoint_steps", "keep", "tensorboard"):
        assert name not in PretrainSettings().fixed()
    for name in ("seed", "precision", "jit", "batch_size", "dataset", "strategy", "ema"):
        assert name in PretrainSettings().fixed()


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("count", "3", 3),
        ("rate", ".5", 0.5),
        ("rate", "none", None),
        ("fast", "TRUE", True),
        ("fast", "no", False),
        ("kind", "none", "none"),  # no None where that is no value; checked with the others
        ("name", " x ", "x"),
        ("size", "3", (3,)),
        ("size", "3, 4", (3, 4)),
        ("size", "none", None),
        ("parts", "none", ()),
        ("parts", "", ()),
        ("parts", "a,b", ("a", "b")),
    ],
)
def test_texts_of_flags(name, text, value):
    assert parse(Mine, name, text) == value


@pytest.mark.parametrize(
    "name, text",
    [("count", "x"), ("count", "none"), ("count", "1.5"), ("rate", ""), ("fast", "2")]
    + [("size", "1,a"), ("size", "1,,2")],
)
def test_a_text_that_is_no_value_names_its_setting(name, text):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        parse(Mine, name, text)


def test_all_faults_of_texts_are_told_once_each():
    texts = {"count": "x", "rate": "2", "kind": "three", "name": None, "size": None}
    found = faults(of_texts, Mine, texts, ["--first"])
    assert found[0] == "--first"
    assert sorted(text.split("`")[1] for text in found[1:]) == ["count", "kind", "name", "rate"]
    assert of_texts(Mine, {"name": "n", "count": "2", "rate": None}) == mine(count=2)


def test_a_subclass_changes_a_default_and_keeps_the_rest():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other(Mine):
        count: int = changed(Mine, "count", 2, most=3)

    assert Other(name="n").count == 2 and mine().count == 4
    (fault,) = faults(Other, name="n", count=4)
    assert fault.startswith("`count` must be")
    assert [f.name for f in dataclasses.fields(Other)] == [f.name for f in dataclasses.fields(Mine)]


@pytest.mark.parametrize("cls", ALL)
def test_every_setting_says_what_it_is(cls):
    for field in dataclasses.fields(cls):
        spec = spec_of(field)
        assert spec.help.endswith(".") and spec.group, field.name
        if field.default is None and not spec.required:
            assert spec.shown, f"{field.name}: what None stands for"


@pytest.mark.parametrize("cls", ALL)
def test_every_default_fits_its_own_field(cls):
    required = {f.name: "given" for f in dataclasses.fields(cls) if spec_of(f).required}
    own = {"encoder": "given"} if cls is FinetuneSettings else {}
    own |= {"dataset": "mnist5k"} if issubclass(cls, TableSettings) else {}
    # What None stands for is filled in where it depends on the task alone.
    filled = {"dataset": "mnist5k"} if cls in (FinetuneSettings, ReportSettings) else {}
    if cls is FinetuneSettings:
        filled["preset"] = "mae_vit_mini_patch4"
    settings = cls(**required, **own)  # raises for a value that does not fit
    for name, default in cls.defaults().items():
        expected = filled.get(name) if default is None else default
        assert getattr(settings, name) == {**required, **own}.get(name, expected), name


def test_texts_become_the_settings_types():
    texts = ["epochs=20", "batch_size=32", "norm_pix_loss=false", "image_size=32,48"]
    texts += ["masking=grid", "warmup_epochs=none", "decoder_depth=1"]
    assert parse_assignments(PretrainSettings, texts, "pretrain") == {
        "epochs": 20.0,
        "batch_size": 32,
        "norm_pix_loss": False,
        "image_size": (32, 48),
        "masking": "grid",
        "warmup_epochs": None,
        "decoder_num_layers": 1,
    }


def test_a_sweep_is_a_tuple_of_the_settings_values():
    texts = ["mask_ratio=.25/.5,.9", "masking=random,block", "decoder_depth=1,2", "epochs=5/10"]
    assert parse_sweep(PretrainSettings, texts) == {
        "mask_ratio": ((0.25,), (0.5, 0.9)),
        "masking": ("random", "block"),
        "decoder_num_layers": (1, 2),
        "epochs": (5.0, 10.0),
    }
    assert parse_sweep(PretrainSettings, ["mask_ratio=.25,.5"]) == {"mask_ratio": ((0.25,), (0.5,))}


@pytest.mark.parametrize(
    "texts, named",
    [
        (["mask_ratio"], "mask_ratio"),
        (["=1,2"], "=1,2"),
        (["masking="], "masking="),
        (["depth=1,2"], "depth"),
        (["decoder_depth=1,two"], "decoder_num_layers"),
        (["masking=a,b", "masking=c,d"], "masking"),
    ],
)
def test_a_sweep_that_cannot_be_read(texts, named):
    (fault,) = faults(parse_sweep, PretrainSettings, texts)
    assert fault.startswith("`sweep`") and named in fault


def test_all_faults_of_a_sweep_are_told_at_once():
    assert len(faults(parse_sweep, PretrainSettings, ["depth=1,2", "masking", "seed=a"])) == 3
    assert len(faults(parse_assignments, PretrainSettings, ["depth=1", "seed=a"], "pretrain")) == 2


def test_a_picture_is_asked_for_beside_what_is_required():
    found = faults(ReconstructSettings)
    assert [text.split("`")[1] for text in found] == ["model", "image"]
    (fault,) = faults(ConvertSettings, source="a", target="b", format="keras")
    assert fault.startswith("`target`")
