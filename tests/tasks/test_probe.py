"""The one linear probe, on features that are numbers; and the table that is made of it."""

import keras
import numpy as np
import pytest

from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.tasks.probe import executions, linear_probe, on_kept_features, probe_settings
from keras_mae.tasks.table import format_table


def halves(features, labels, first=200):
    x = np.asarray(features, "float32")
    return x[:first], labels[:first], x[first:], labels[first:]


@pytest.mark.slow
def test_it_tells_separable_features_from_noise():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    good = np.eye(3)[labels] + 0.1 * rng.normal(size=(300, 3))
    settings = probe_settings((28, 28), 200, feature_views=1, steps=200)
    assert linear_probe(*halves(good, labels), 3, settings) > 0.99
    assert linear_probe(*halves(rng.normal(size=(300, 3)), labels), 3, settings) < 0.6


@pytest.mark.slow
def test_it_is_fixed_by_its_seed_and_leaves_the_callers_random_state_alone():
    rng = np.random.default_rng(1)
    data = halves(rng.normal(size=(80, 6)), rng.integers(0, 4, 80), 60)

    def measured(seed):
        settings = probe_settings((28, 28), 60, feature_views=1, steps=10, seed=seed)
        return linear_probe(*data, 4, settings)

    keras.utils.set_random_seed(5)
    after = np.random.rand()
    keras.utils.set_random_seed(5)
    assert measured(3) == measured(3)
    assert np.random.rand() == after


def test_its_length_counts_images_and_not_their_views():
    # 30 images in 2 views: an epoch is of 30 images, whatever number of rows there is.
    settings = probe_settings((28, 28), 30, feature_views=2, batch_size=10, epochs=4.0)
    assert settings.total_steps(30) == 12


def test_where_each_epoch_would_have_new_views_one_is_kept():
    paper = FinetuneSettings(protocol="linear").with_recipe((224, 224), 5000)
    assert paper.feature_views == 0
    assert on_kept_features(paper, (224, 224), 5000).feature_views == 1
    still = FinetuneSettings(protocol="linear", augmentation="none")
    still = still.with_recipe((224, 224), 5000)
    assert on_kept_features(still, (224, 224), 5000) == still


@pytest.mark.parametrize(
    "total, per_epoch, divisor, expected",
    [
        (100, 100, 0, (50, 100)),
        (70, 35, 0, (35, 35)),
        (97, 97, 0, (1, 97)),  # a prime: a step a call
        (100, 100, 20, (20, 100)),  # a checkpoint each 20 steps
        (12, 30, 2, (2, 30)),
    ],
)
def test_several_steps_in_one_call_end_with_epochs_and_checkpoints(
    total, per_epoch, divisor, expected
):
    steps, epoch = executions(total, per_epoch, divisor)
    assert (steps, epoch) == expected
    assert total % steps == 0 and epoch % steps == 0


def test_a_table_tells_what_is_whitened():
    rows = {"a": {"linear_probe": 0.5, "knn": 1, "knn_whitened": 0.25}}
    about = {"pooling": "both", "blocks": 1, "views": 2, "steps": 1500, "k": 7, "train": 60}
    text = format_table({"accuracy": rows, "probe": {**about, "whitened_to": 48}})
    assert text.split("\n")[2].split() == ["a", "50.0%", "100.0%", "25.0%"]
    assert "kNN, whitened" in text and "to 48 principal components" in text
    assert "whitened" not in format_table({"accuracy": {"a": {"linear_probe": 0, "knn": 0}}})


@pytest.mark.slow
def test_whitening_is_fitted_to_first_views_and_put_to_both_sides():
    # The class is in a direction of little variance, under one that says nothing.
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    features = np.stack([100 * rng.normal(size=400), 0.01 * (labels - 0.5)], axis=1)
    settings = probe_settings((28, 28), 200, feature_views=1, steps=100, whiten=2)
    data = halves(features + 5, labels)
    assert linear_probe(*data, 2, settings) > 0.99


def test_a_table_of_an_old_run_and_of_a_new_one():
    rows = {"a": {"linear_probe": 0.5, "knn": 1}}
    assert format_table({"accuracy": rows}).split()[-3:] == ["a", "50.0%", "100.0%"]
    about = {"pooling": "both", "blocks": 1, "views": 2, "steps": 1500, "k": 7, "train": 60}
    text = format_table({"accuracy": rows, "probe": about})
    assert "k=7" in text and "2 views" in text and "1,500 steps" in text and " 60 " in text
