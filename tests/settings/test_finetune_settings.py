import pytest

from keras_mae.settings.finetune import RECIPES, FinetuneSettings
from keras_mae.training.schedules import run_schedule

SMALL, LARGE = (28, 28), (224, 224)


def resolved(image_size=SMALL, num_examples=4000, **values):
    settings = FinetuneSettings(**{"encoder": "somewhere", **values})
    return settings.with_recipe(image_size, num_examples)


def test_the_papers_numbers():
    """He et al. 2021, tables 9 to 11, of ViT-B; batches are ours."""
    full = resolved(LARGE, 100_000)
    assert (full.base_learning_rate, full.weight_decay, full.layer_decay) == (1e-3, 0.05, 0.75)
    assert (full.epochs, full.warmup_epochs, full.drop_path, full.beta_2) == (100, 5, 0.1, 0.999)
    assert (full.randaugment, full.label_smoothing, full.mixup) == ((2, 9), 0.1, 0.8)
    assert (full.cutmix, full.erasing, full.ema, full.pooling) == (1.0, 0.25, 0, "mean")
    linear = resolved(LARGE, 100_000, protocol="linear")
    assert (linear.base_learning_rate, linear.weight_decay, linear.epochs) == (0.1, 0, 90)
    assert (linear.warmup_epochs, linear.mixup, linear.augmentation) == (10, 0, "source")
    scratch = resolved(LARGE, 100_000, protocol="scratch")
    assert (scratch.base_learning_rate, scratch.weight_decay, scratch.ema) == (1e-4, 0.3, 0.9999)
    assert (scratch.epochs, scratch.warmup_epochs, scratch.beta_2) == (300, 20, 0.95)
    assert scratch.layer_decay == 1


def test_the_recipe_follows_the_size_of_the_images_unless_named():
    assert resolved(SMALL).recipe == "small" and resolved(LARGE).recipe == "paper"
    assert resolved(SMALL, recipe="paper").mixup == 0.8


def test_what_is_given_stays():
    settings = resolved(LARGE, mixup=0.0, epochs=3.0, layer_decay=0.9, randaugment=[0])
    assert (settings.mixup, settings.epochs, settings.layer_decay) == (0, 3, 0.9)
    assert settings.randaugment == (0, 0)
    assert "mixup=0*" in settings.recipe_text() and "cutmix=1\n" in settings.recipe_text()


def test_a_recipe_shows_what_its_task_uses():
    shown = resolved(LARGE, task="detect", encoder="a").recipe_text()
    assert "layer_decay=" in shown
    assert not any(name in shown for name in ("mixup", "pooling", "feature_views"))


def test_few_images_get_more_epochs_and_a_batch_that_they_fill():
    recipe = RECIPES["small"]["full"]
    few = resolved(num_examples=500)
    assert few.total_steps(500) == recipe.least_steps
    assert resolved(num_examples=4000).epochs == recipe.epochs
    assert resolved(LARGE, num_examples=50).batch_size == 50
    assert resolved(num_examples=500, epochs=2.0).total_steps(500) == round(1000 / 64)
    assert resolved(num_examples=500, steps=7).total_steps(500) == 7


def test_the_learning_rate_is_scaled_and_warmed_up():
    settings = resolved(LARGE, 5120, batch_size=512, epochs=100.0)
    schedule = run_schedule(settings, 5120)
    assert float(schedule(0)) == 0
    assert float(schedule(50)) == pytest.approx(1e-3 * 2)  # 5 epochs of 10 steps
    assert float(schedule(1000)) == pytest.approx(0, abs=1e-9)
    short = run_schedule(resolved(LARGE, 5120, steps=40), 5120)
    assert float(short(2)) == pytest.approx(1e-3)  # warm-up keeps its share, 5 of 100


@pytest.mark.parametrize(
    "name, values",
    [
        ("epochs", {"epochs": 1, "steps": 1}),
        ("protocol", {"protocol": "half"}),
        ("recipe", {"recipe": "mine"}),
        ("strategy", {"strategy": "mirror"}),
        ("tpu", {"tpu": "mine"}),
        ("train_examples", {"train_examples": 0}),
        ("layer_decay", {"layer_decay": 1.2}),
        ("layer_decay", {"layer_decay": 0}),
        ("drop_path", {"drop_path": 1.0}),
        ("mixup", {"mixup": -1}),
        ("erasing", {"erasing": 1.5}),
        ("randaugment", {"randaugment": [2, 11]}),
        ("randaugment", {"randaugment": [1.5, 9]}),
        ("randaugment", {"randaugment": [1, 2, 3]}),
        ("knn", {"knn": []}),
        ("knn", {"knn": [0]}),
        ("image_size", {"image_size": [1, 2, 3]}),
        ("feature_views", {"feature_views": 2}),
        ("trainable_blocks", {"trainable_blocks": 1}),
        ("encoder", {"encoder": None}),
        ("encoder", {"encoder": None, "protocol": "partial"}),
    ],
)
def test_a_setting_that_does_not_fit_is_named(name, values):
    with pytest.raises(ValueError, match=f"`{name}`"):
        FinetuneSettings(**{"encoder": "somewhere", **values})


def test_an_encoder_is_needed_where_its_weights_are():
    for protocol in ("scratch", "linear", "knn"):
        assert FinetuneSettings(protocol=protocol).encoder is None


def test_partial_has_one_block_unless_told():
    assert resolved(protocol="partial").trainable_blocks == 1
    assert resolved(protocol="partial", trainable_blocks=0).trainable_blocks == 0
    assert resolved().trainable_blocks is None


def test_few_images_have_more_views_and_a_longer_probe():
    """8,000 views in all, 16 of an image at most, and 2,000 steps at least."""

    def probe(num_examples, image_size=SMALL):
        return resolved(image_size, num_examples, protocol="linear")

    counts = (100, 500, 1000, 4000, 8000, 100_000)
    assert [probe(n).feature_views for n in counts] == [16, 16, 8, 2, 1, 1]
    assert [probe(n).total_steps(n) for n in (100, 500)] == [2000, 2000]
    assert probe(50_000).epochs == 90
    assert probe(4000, LARGE).feature_views == 0  # the paper's


def test_views_that_are_kept_cannot_be_mixed():
    assert resolved(protocol="linear").feature_views > 0
    with pytest.raises(ValueError, match="`feature_views`"):
        resolved(protocol="linear", cutmix=1.0)
    assert resolved(protocol="linear", cutmix=1.0, feature_views=0).cutmix == 1


def test_a_complete_one_is_its_own_completion():
    for protocol in ("full", "linear", "partial", "scratch", "knn"):
        complete = resolved(protocol=protocol)
        assert complete.with_recipe(SMALL, 4000) == complete
