import pytest

from keras_mae.settings.finetune import RECIPES, TASKS, FinetuneSettings
from keras_mae.settings.report import ReportSettings
from keras_mae.training.schedules import run_schedule

SMALL, LARGE = (28, 28), (224, 224)
NAME = "mae_vit_mini_patch4"


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
        ("whiten", {"whiten": 8}),
        ("whiten", {"whiten": 0, "protocol": "knn"}),
        ("pooling", {"pooling": "grid:N"}),
        ("pooling", {"pooling": "max"}),
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


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """The path of the scenes' encoder, in a working directory that has one."""
    path = tmp_path / TASKS["segment"].encoder
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.chdir(tmp_path)
    return TASKS["segment"].encoder


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """No encoder is there, as beside an installed package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("keras_mae.settings.finetune.__file__", str(tmp_path / "a/b/c.py"))


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_a_task_alone_says_all_where_its_encoder_is(task, checkout):
    settings = FinetuneSettings(task=task)
    assert (settings.dataset, settings.encoder) == ("digit_scenes", checkout)
    assert FinetuneSettings(task=task, dataset="digit_scenes:64").encoder == checkout
    scratch = FinetuneSettings(task=task, protocol="scratch")
    assert scratch.encoder == checkout  # its architecture
    assert FinetuneSettings(task=task, protocol="scratch", preset=NAME).encoder is None
    assert FinetuneSettings(task=task, encoder="mine").encoder == "mine"
    assert ReportSettings(task=task).encoder == checkout
    assert ReportSettings(task=task, pretrain={"epochs": 1.0}).encoder is None
    with pytest.raises(ValueError, match="`encoder` must be given"):
        FinetuneSettings(task=task, dataset="coco:a.json,b")  # other images
    assert FinetuneSettings(encoder="x").dataset == "mnist5k"


@pytest.mark.parametrize("protocol", ["full", "partial", "linear"])
def test_without_the_encoder_the_error_says_how_to_make_one(protocol, installed):
    with pytest.raises(ValueError, match="`encoder` must be given") as error:
        FinetuneSettings(task="segment", protocol=protocol)
    assert "keras-mae pretrain --dataset=digit_scenes --preset=" in str(error.value)
    assert "saved_models/mae_digit_scenes" in str(error.value)
    assert FinetuneSettings(task="segment", protocol="scratch").preset == "mae_vit_mini_patch8"
    # What the sentence names are settings, and a report without an encoder pre-trains with them.
    own = ReportSettings(task="segment").pretrain_settings(0, (96, 96))
    assert (own.preset, own.mask_ratio) == ("mae_vit_mini_patch8", (0.6,))
    assert own.dataset == "digit_scenes"


def test_label_maps_and_boxes_have_recipes_of_their_own():
    def of(task, size=(96, 96), **values):
        return resolved(size, 200, task=task, dataset="digit_scenes", **values)

    for task in ("segment", "detect"):
        small, large = of(task), of(task, LARGE)
        assert (small.recipe, large.recipe) == ("small", "paper")
        assert (small.mixup, large.mixup, large.label_smoothing) == (0, 0, 0)
        assert small.filters == 32 and large.filters is None
        assert of(task, filters=8).filters == 8
    assert of("segment").head == "pyramid" and of("detect").head is None
    assert of("segment", protocol="linear").head == "linear"
    assert resolved().head is None and resolved().filters is None
    with pytest.raises(ValueError, match="`filters`"):
        FinetuneSettings(encoder="x", filters=8)
