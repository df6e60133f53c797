"""What a pre-training measures while it trains: how often, on what, by which function."""

import dataclasses

import numpy as np
import pytest

from keras_mae.evaluation.quality import rankme
from keras_mae.models import MaskedAutoencoder, ViTEncoder
from keras_mae.settings.pretrain import PretrainSettings
from keras_mae.tasks.monitors import Predict, Sample, feature_numbers, monitor_lines, plan

IMAGES = 4000


@pytest.fixture(scope="module")
def mae():
    return MaskedAutoencoder.from_preset("mae_vit_mini_patch4")


def planned(mae, steps, ends=None, asked=False, labelled=IMAGES, heldout=1000, **given):
    settings = PretrainSettings(steps=steps, batch_size=64, **given)
    return plan(settings, mae, ends or [steps], IMAGES, labelled, heldout, asked)


def test_a_run_is_measured_ten_times_and_before_it_begins(mae):
    found = planned(mae, 3750)
    assert found.steps == [375 * k for k in range(11)]
    # 1.6 % of the operations of 240,000 images, an eleventh each time; an image that is encoded
    # whole takes 1 / 1.44 of one that is trained on.
    assert found.num_train + found.num_heldout == pytest.approx(3840 * 1.44 / 11, rel=0.01)
    assert found.num_train == pytest.approx(1.5 * found.num_heldout, rel=0.01)


def test_the_sample_does_not_depend_on_how_often_it_is_measured(mae):
    usual, often = planned(mae, 3750), planned(mae, 3750, monitor_every=2.5)
    assert often.steps[:3] == [0, 156, 312] and often.steps[-1] == 3750
    assert (often.num_train, often.num_heldout) == (usual.num_train, usual.num_heldout)
    # A second leg has the first one's sample, and no step 0.
    leg = planned(mae, 3750, ends=[3750, 7500])
    assert leg.steps == [3750 + 375 * k for k in range(1, 11)]
    assert leg.num_train == usual.num_train


def test_short_runs_are_measured_less_often_or_not_at_all(mae):
    # A fortieth of 2,000 steps are 50: 35 for the first time and 5 each for three.
    assert planned(mae, 2000).steps == [0, 1000, 2000]
    assert planned(mae, 1000).steps == []
    assert planned(mae, 30, asked=True).steps == [0, 30]
    assert planned(mae, 30, monitor_every=0.16).steps == [0, 10, 20, 30]
    assert planned(mae, 3750, monitor_every=0, asked=True).steps == []
    settings = PretrainSettings(steps=30)
    assert "too short" in planned(mae, 30).line(settings)
    off = dataclasses.replace(settings, monitor_every=0)
    assert planned(mae, 30, monitor_every=0).line(off) == ""


def test_the_sample_is_at_most_what_there_is(mae):
    found = planned(mae, 10**7, heldout=50, labelled=0)
    assert (found.num_train, found.num_heldout) == (0, 50)
    found = planned(mae, 10**7, probe_images=70)
    assert (found.num_train, found.num_heldout) == (70, 70)


@pytest.mark.slow
def test_predict_gives_the_encoders_tokens_for_any_number_of_images():
    encoder = ViTEncoder(image_size=8, patch_size=4, hidden_dim=8, num_layers=1, num_heads=2)
    images = np.random.default_rng(0).normal(size=(7, 8, 8, 3)).astype("float32")
    predict = Predict(encoder, batch_size=3)
    tokens = np.asarray(encoder(images))
    np.testing.assert_allclose(predict(images, "tokens"), tokens, atol=1e-5)
    np.testing.assert_allclose(predict(images), tokens[:, 1:].mean(axis=1), atol=1e-5)
    # The weights of the moment, not those that it was compiled with.
    encoder.set_weights([2 * weight for weight in encoder.get_weights()])
    np.testing.assert_allclose(predict(images, "tokens"), encoder(images), atol=1e-4)
    with pytest.raises(ValueError, match="`output`"):
        predict(images, "logits")


def test_the_numbers_of_features():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    features = 5 * np.eye(3)[labels] + 0.1 * rng.normal(size=(90, 3))

    def batches(rows):
        return [(features[rows][i : i + 20], labels[rows][i : i + 20]) for i in (0, 20)]

    sample = Sample(batches(slice(40)), batches(slice(40, 80)), 3)
    found = feature_numbers(lambda images: images, sample)
    assert list(found) == ["knn", "probe", "rankme", "variance"]
    assert found["knn"] == found["probe"] == 1
    assert found["rankme"] == pytest.approx(rankme(features[:40]), rel=1e-5)
    unlabelled = Sample([(images, None) for images, _ in sample.heldout], None, None)
    assert feature_numbers(lambda images: images, unlabelled) == {
        name: pytest.approx(found[name]) for name in ("rankme", "variance")
    }


def test_the_summary_says_whether_the_curve_still_rises():
    curve = {"name": "monitor_probe", "trend": "rises", "gain": 0.0123, "noise": 0.004}
    about = {"curve": curve, "seconds_twice_as_long": 75, "seconds": 3.2, "share": 0.034}
    first, second = monitor_lines(about, 100, lambda seconds: f"{seconds} s")
    assert first == (
        "monitor_probe still rises at the end: +0.0123 in the last quarter of the run, with a "
        "noise of 0.004. A run twice as long, 200 steps, takes about 75 s here."
    )
    assert second == "Monitors took 3 s, 3.4% of the run."
    nothing = {"curve": None, "seconds_twice_as_long": None, "seconds": 0.0, "share": None}
    assert monitor_lines(nothing, 100, str) == []
