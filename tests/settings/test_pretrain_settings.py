import dataclasses

import pytest

from keras_mae.data import load_source
from keras_mae.layers import MaskRatioSchedule
from keras_mae.settings.fields import SettingsError, of_texts
from keras_mae.settings.pretrain import PretrainSettings
from keras_mae.tasks.pretrain import build_autoencoder
from keras_mae.training.schedules import run_schedule

MINI, TINY = "mae_vit_mini_patch4", "mae_vit_tiny_patch16"
BASE = {"preset": "mae_vit_base_patch16"}


def test_steps_and_epochs_exclude_each_other():
    with pytest.raises(ValueError, match="`epochs` or `steps`"):
        PretrainSettings(epochs=1, steps=10)


@pytest.mark.parametrize(
    "name, value",
    [
        ("batch_size", -1),
        ("epochs", -2.0),
        ("steps", -3),
        ("base_learning_rate", -1e-3),
        ("weight_decay", -0.1),
        ("warmup_epochs", -1.0),
        ("precision", "float8"),
        ("preset", "vit"),
        ("image_size", [1, 2, 3]),
        ("mask_ratio", []),
        ("mask_ratio", [1.5]),
        ("masking", "stripes"),
        ("dataset", "cifar"),
        ("dataset", "module:"),
        ("strategy", "mirror"),
        ("tpu", "mine"),  # without --strategy=tpu
        ("ema", 1.0),
        ("early_stopping", 0),
        ("accumulate_steps", 0),
        ("max_bad_fraction", 1.1),
        ("checkpoint_minutes", 0),
        ("keep", 0),
        ("seed", -1),
    ],
)
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        PretrainSettings(**{name: value})


def test_sources_and_maskings_of_the_users_own_are_left_to_when_they_are_found():
    for name in ("my.module:Source", "my.module:Source:argument", "folder:a:b", "tfds:x:train"):
        assert PretrainSettings(dataset=name).dataset == name
    assert PretrainSettings(masking="my.module:Masking").masking == "my.module:Masking"


def test_the_recipe_is_the_presets():
    paper = PretrainSettings(**BASE).resolved(None)
    assert (paper.batch_size, paper.epochs, paper.base_learning_rate) == (256, 800, 1.5e-4)
    assert (paper.weight_decay, paper.mask_ratio, paper.norm_pix_loss) == (0.05, (0.75,), True)
    mini = PretrainSettings().resolved((28, 28))
    assert (mini.preset, mini.batch_size, mini.epochs) == (MINI, 64, 60)
    given = PretrainSettings(**BASE, batch_size=8, epochs=3, base_learning_rate=1e-3).resolved(None)
    assert (given.batch_size, given.epochs, given.base_learning_rate) == (8, 3, 1e-3)
    assert PretrainSettings(steps=7).resolved(None).epochs is None
    assert paper == paper.resolved(None)


@pytest.mark.parametrize(
    "typical_size, preset, image_size",
    [
        (None, MINI, None),
        ((28, 28), MINI, None),
        ((64, 64), MINI, (64, 64)),
        ((30, 17), MINI, (28, 16)),  # whole patches of 4 pixels
        ((3, 3), MINI, (8, 8)),  # two patches a side at least
        ((65, 65), TINY, (64,)),  # whole patches of 16 pixels
        ((300, 500), TINY, None),  # 224, the preset's own
        ((100, 500), TINY, (96,)),  # the shorter side
    ],
)
def test_the_preset_follows_the_size_of_the_images(typical_size, preset, image_size):
    chosen = PretrainSettings().resolved(typical_size)
    assert (chosen.preset, chosen.image_size) == (preset, image_size)
    # Who gives one of them has meant it.
    assert PretrainSettings(image_size=(32,)).resolved(typical_size).image_size == (32,)
    named = PretrainSettings(**BASE).resolved(typical_size)
    assert (named.preset, named.image_size) == (BASE["preset"], None)


def test_the_learning_rate_follows_the_recipe_and_the_batch():
    settings = PretrainSettings(**BASE, batch_size=512, epochs=100, warmup_epochs=10).resolved(None)
    assert settings.total_steps(num_examples=5120) == 1000
    schedule = run_schedule(settings, 5120)
    assert float(schedule(0)) == 0
    assert float(schedule(100)) == pytest.approx(1.5e-4 * 512 / 256)
    assert float(schedule(1000)) == pytest.approx(0, abs=1e-9)


def test_the_default_warmup_is_at_most_a_tenth_of_a_short_run():
    settings = PretrainSettings(**BASE, steps=20).resolved(None)
    schedule = run_schedule(settings, 10_000)
    assert float(schedule(2)) == pytest.approx(1.5e-4)
    asked = dataclasses.replace(settings, warmup_epochs=10 * 256 / 10_000)
    assert asked.warmup_steps(10_000) == 10


def test_the_directory_is_named_by_the_data():
    assert PretrainSettings().directory == "saved_models/mae_mnist5k"
    assert PretrainSettings(dataset="folder:/a b/c").directory == "saved_models/mae_folder__a_b_c"
    assert PretrainSettings(output_dir="here").directory == "here"


def test_the_model_gets_the_sources_channels_and_statistics():
    source = load_source("mnist5k")
    settings = PretrainSettings(image_size=[28, 32], mask_ratio=[0.5, 0.75], masking="grid")
    model = build_autoencoder(settings.resolved(source.typical_size()), source, total_steps=100)
    assert model.image_size == (28, 32)
    assert (model.mean, model.std) == (source.mean, source.std)
    assert isinstance(model.mask_ratio, MaskRatioSchedule)
    assert model.mask_ratio.total_steps == 100
    assert model.get_config()["masking"]["class_name"] == "GridMasking"


def test_monitors_of_ones_own_are_named_and_checked_at_once():
    settings = of_texts(PretrainSettings, {"monitor": "mine:first,mine:second"})
    assert settings.monitor == ("mine:first", "mine:second")
    assert not {"monitor", "monitor_every"} & set(settings.fixed())
    for value in ("mine", "mine:first,other:first"):
        with pytest.raises(SettingsError, match="`monitor`"):
            of_texts(PretrainSettings, {"monitor": value})
    with pytest.raises(SettingsError, match="`monitor_every`"):
        PretrainSettings(monitor_every=-1.0)
