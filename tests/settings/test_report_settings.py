import pytest

from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.settings.report import PARTS, ReportSettings


@pytest.mark.parametrize(
    "name, changes",
    [
        ("seeds", {"seeds": []}),
        ("seeds", {"seeds": [0, 0]}),
        ("seeds", {"seeds": [-1]}),
        ("seeds", {"seeds": [0.5]}),
        ("ks", {"ks": [0]}),
        ("ks", {"ks": [5, 5]}),
        ("train_examples", {"train_examples": -1}),
        ("parts", {"parts": ["probe"]}),
        ("parts", {"parts": []}),
        ("trainable_blocks", {"trainable_blocks": [1.5]}),
        ("sweep", {"sweep": {"masking": ["grid"]}}),
        ("sweep", {"sweep": {"masking": ["grid", "grid"]}}),
        ("sweep", {"sweep": {"seed": [1, 2]}}),
        ("finetune", {"finetune": {"protocol": "knn"}}),
        ("scratch", {"scratch": {"encoder": "x"}}),
        ("probe", {"probe": {"knn": (1,)}}),
        ("pretrain", {"pretrain": {"output_dir": "x"}}),
        ("pretrain", {"encoder": "x", "pretrain": {"epochs": 1}}),
        ("pretrain_epochs", {"pretrain_epochs": 0}),
    ],
)
def test_settings_that_do_not_fit(name, changes):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        ReportSettings(**changes)


def test_the_curve_has_all_blocks_or_powers_of_two():
    settings = ReportSettings()
    assert settings.curve(4) == [0, 0.5, 1, 2, 3, 4]
    assert settings.curve(12) == [0, 0.5, 1, 2, 4, 8, 12]
    assert settings.curve(16) == [0, 0.5, 1, 2, 4, 8, 16]
    assert ReportSettings(trainable_blocks=[0.5, 2]).curve(4) == [0.5, 2]
    with pytest.raises(ValueError, match="`trainable_blocks`"):
        ReportSettings(trainable_blocks=[5]).curve(4)


def test_scratch_is_trained_as_long_as_fine_tuning_by_its_own_recipe():
    settings = ReportSettings(finetune={"epochs": 7.0, "base_learning_rate": 1.0})

    def of(protocol, settings=settings):
        return settings.finetune_settings(0, protocol, "encoder.keras", (28, 28), 500, 500)

    own = FinetuneSettings(protocol="scratch").with_recipe((28, 28), 500)
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
    assert ReportSettings().parts == tuple(PARTS)


def test_what_is_short_for_a_setting():
    settings = ReportSettings(pretrain_epochs=2, finetune_epochs=3, pretrain={"batch_size": 8})
    trained = settings.pretrain_settings(4, (28, 28), masking="grid")
    assert (trained.epochs, trained.batch_size, trained.seed) == (2, 8, 4)
    assert (trained.masking, trained.strategy) == ("grid", "one_device")
    tuned = settings.finetune_settings(4, "full", "encoder.keras", (28, 28), 500)
    assert (tuned.epochs, tuned.seed, tuned.strategy) == (3, 4, "one_device")


def test_a_swept_value_takes_the_place_of_a_given_one():
    settings = ReportSettings(pretrain={"masking": "grid"})
    assert settings.pretrain_settings(0, (28, 28), masking="block").masking == "block"


def test_whitening_goes_to_neighbours_and_a_probes_own_to_the_probe():
    settings = ReportSettings(whiten=8, probe={"whiten": 4})
    found = {
        protocol: settings.finetune_settings(0, protocol, "e", (28, 28), 4000).whiten
        for protocol in ("knn", "linear", "full")
    }
    assert found == {"knn": 8, "linear": 4, "full": None}
