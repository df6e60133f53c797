import numpy as np
import pytest

from keras_mae.evaluation.comparison import compare, format_accuracy, logistic_accuracy, summarise


def test_mean_and_sample_deviation_by_hand():
    summary = summarise({0: 0.8, 1: 0.9, 2: 1.0})
    assert summary["mean"] == pytest.approx(0.9)
    assert summary["spread"] == pytest.approx(0.1)  # sqrt((.01 + 0 + .01) / 2)
    assert format_accuracy(summary) == "90.0 ± 10.0 %"
    assert format_accuracy(summarise({3: 0.934})) == "93.4 %"


def test_a_difference_is_clear_only_above_what_the_images_can_tell():
    # p = .9: two standard errors of a difference are 2 sqrt(.9 * .1 * 2 / 1000) = 2.68 points.
    verdict, words = compare({0: 0.92, 1: 0.93}, {0: 0.88, 1: 0.87}, 1000)
    assert (verdict, words) == ("better", "5.0 points better (+4.0 to +6.0 over 2 seeds)")
    assert compare({0: 0.88}, {0: 0.92}, 1000) == ("worse", "4.0 points worse (one seed)")
    verdict, words = compare({0: 0.91}, {0: 0.89}, 1000)
    assert verdict == "unclear" and "+2.0 points (one seed), less than the 2.7 points" in words
    assert compare({0: 0.91}, {0: 0.89}, 2000)[0] == "better"  # 1.9 points


def test_a_difference_of_two_signs_is_not_clear():
    verdict, words = compare({0: 0.99, 1: 0.80}, {0: 0.80, 1: 0.82}, 10_000)
    assert verdict == "unclear" and words.endswith("not of one sign in all seeds")


def test_seeds_are_paired():
    # Seed 2 has one side only: its accuracy must not count.
    assert compare({0: 0.9, 2: 0.1}, {0: 0.8, 1: 0.99}, 1000)[1].startswith("10.0 points better")
    assert compare({0: 0.9}, {1: 0.9}, 1000) is None


def test_equal_accuracies_are_not_clear_where_the_noise_is_nothing():
    assert compare({0: 1.0}, {0: 1.0}, 1000)[0] == "unclear"


def test_logistic_regression_tells_what_a_line_can_tell():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 5)).astype("float32")
    labels = (features[:, 1] > 0).astype("int64")
    assert logistic_accuracy(features[:300], labels[:300], features[300:], labels[300:]) > 0.95
