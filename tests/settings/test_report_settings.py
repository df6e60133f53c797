import pytest

from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.settings.pretrain import PretrainSettings
from keras_mae.settings.report import PARTS, ReportSettings, parse_fields, parse_sweep


def test_texts_become_the_fields_types():
    texts = ["epochs=20", "batch_size=32", "norm_pix_loss=false", "image_size=32:48"]
    texts += ["masking=grid", "warmup_epochs=none", "decoder_depth=1"]
    assert parse_fields(texts, PretrainSettings, "pretrain") == {
        "epochs": 20.0,
        "batch_size": 32,
        "norm_pix_loss": False,
        "image_size": [32, 48],
        "masking": "grid",
        "warmup_epochs": None,
        "decoder_num_layers": 1,
    }


def test_a_sweep_is_a_list_of_the_fields_values():
    assert parse_sweep(["mask_ratio=.25,.5:.9", "masking=random,block", "decoder_depth=1,2"]) == {
        "mask_ratio": [[0.25], [0.5, 0.9]],
        "masking": ["random", "block"],
        "decoder_num_layers": [1, 2],
    }


@pytest.mark.parametrize(
    "texts, message",
    [
        (["mask_ratio"], "`sweep` must be FIELD=VALUE. Received: 'mask_ratio'"),
        (["depth=1,2"], "`sweep` must name fields among .* Received: 'depth'"),
        (["decoder_depth=1,two"], "`sweep` must give decoder_num_layers as int .* 'two'"),
        (["masking=a,b", "masking=c,d"], "`sweep` must give a field once. Received: masking"),
    ],
)
def test_a_sweep_that_cannot_be_read(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_sweep(texts)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seeds": []}, "`seeds` must be different ints of 0 or more"),
        ({"seeds": [0, 0]}, "`seeds` must be different ints"),
        ({"seeds": [-1]}, "`seeds` must be different ints"),
        ({"seeds": [0.5]}, "`seeds` must be different ints"),
        ({"ks": [0]}, "`ks` must be different ints of 1 or more"),
        ({"train_examples": -1}, "`train_examples` must be an int of 0"),
        ({"parts": ["probe"]}, r"`parts` must be among .* Received: \['probe'\]"),
        ({"parts": []}, "`parts` must name something where nothing is swept"),
        ({"trainable_blocks": [1.5]}, "`trainable_blocks` must be 0, 0.5, or whole numbers"),
        ({"sweep": {"masking": ["grid"]}}, "`sweep` must give two or more different values"),
        ({"sweep": {"masking": ["grid", "grid"]}}, "`sweep` must give two or more different"),
        ({"sweep": {"seed": [1, 2]}}, "`sweep` must name fields among .* Received: 'seed'"),
        ({"finetune": {"protocol": "knn"}}, "`finetune` must name fields .* 'protocol'"),
        ({"scratch": {"encoder": "x"}}, "`scratch` must name fields .* 'encoder'"),
        ({"encoder": "x", "pretrain": {"epochs": 1}}, "`pretrain` must be empty where an encoder"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        ReportSettings(**changes)


def test_the_curve_has_all_blocks_or_powers_of_two():
    settings = ReportSettings()
    assert settings.curve(4) == [0, 0.5, 1, 2, 3, 4]
    assert settings.curve(12) == [0, 0.5, 1, 2, 4, 8, 12]
    assert settings.curve(16) == [0, 0.5, 1, 2, 4, 8, 16]
    assert ReportSettings(trainable_blocks=[0.5, 2]).curve(4) == [0.5, 2]
    with pytest.raises(ValueError, match="`trainable_blocks` must be at most 4"):
        ReportSettings(trainable_blocks=[5]).curve(4)


def test_scratch_is_trained_as_long_as_fine_tuning_by_its_own_recipe():
    settings = ReportSettings(finetune={"epochs": 7.0, "base_learning_rate": 1.0})

    def of(protocol, settings=settings):
        return settings.finetune_settings(0, protocol, "encoder.keras", (28, 28), 500, 500)

    own = FinetuneSettings("encoder.keras", protocol="scratch").with_recipe((28, 28), 500)
    assert of("full").epochs == of("scratch").epochs == 7
    assert of("full").base_learning_rate == 1
    assert of("scratch").base_learning_rate == own.base_learning_rate != 1
    assert of("scratch", ReportSettings(scratch={"epochs": 9.0})).epochs == 9
    steps = ReportSettings(finetune={"steps": 3})
    assert of("scratch", steps).steps == of("full", steps).steps == 3
    assert of("linear").epochs != 7  # a probe has a recipe of its own
    assert of("knn").knn == tuple(settings.ks)


def test_a_path_may_hold_the_seed():
    settings = ReportSettings(encoder="runs/mae_{seed}/encoder.keras")
    assert settings.encoder_path(2) == "runs/mae_2/encoder.keras"
    assert ReportSettings(encoder="mae.keras").encoder_path(2) == "mae.keras"
    assert ReportSettings().encoder_path(2) is None


def test_every_part_is_measured_by_default():
    assert ReportSettings().parts == list(PARTS)
