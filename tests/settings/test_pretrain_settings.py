import pytest

from keras_mae.data import load_source
from keras_mae.layers import MaskRatioSchedule
from keras_mae.settings.pretrain import PretrainSettings


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
        ("image_size", [1, 2, 3]),
        ("mask_ratio", []),
    ],
)
def test_a_setting_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        PretrainSettings(**{name: value})


def test_the_learning_rate_follows_the_recipe_and_the_batch():
    settings = PretrainSettings(
        preset="mae_vit_base_patch16", batch_size=512, epochs=100, warmup_epochs=10
    )
    assert settings.total_steps(num_examples=5120) == 1000
    schedule = settings.learning_rate(num_examples=5120)
    assert float(schedule(0)) == 0
    assert float(schedule(100)) == pytest.approx(1.5e-4 * 512 / 256)
    assert float(schedule(1000)) == pytest.approx(0, abs=1e-9)


def test_the_default_warmup_is_at_most_a_tenth_of_a_short_run():
    settings = PretrainSettings(preset="mae_vit_base_patch16", steps=20)
    schedule = settings.learning_rate(num_examples=10_000)
    assert float(schedule(2)) == pytest.approx(1.5e-4)


def test_the_model_gets_the_sources_channels_and_statistics():
    source = load_source("mnist5k")
    settings = PretrainSettings(image_size=[28, 32], mask_ratio=[0.5, 0.75], masking="grid")
    model = settings.build_model(source, total_steps=100)
    assert model.image_size == (28, 32)
    assert (model.mean, model.std) == (source.mean, source.std)
    assert isinstance(model.mask_ratio, MaskRatioSchedule)
    assert model.mask_ratio.total_steps == 100
    assert model.get_config()["masking"]["class_name"] == "GridMasking"
