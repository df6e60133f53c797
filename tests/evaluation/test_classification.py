"""Numbers of classifiers, by hand and against scikit-learn."""

import json

import numpy as np
import pytest
from sklearn import metrics

from keras_mae.evaluation.classification import (
    class_table,
    multi_label_metrics,
    single_label_metrics,
)


def test_one_label_by_hand():
    # Predicted: 0, 0, 1, 2; the labels are 0, 1, 1, 1.
    scores = [[3, 1, 0], [3, 1, 0], [0, 2, 1], [0, 1, 2]]
    found = single_label_metrics(scores, [0, 1, 1, 1], ["a", "b", "c"])
    assert found["num_images"] == 4 and found["top1"] == 0.5 and found["top5"] is None
    # a: 1 of 2 predictions, 1 of 1 images; b: 1 of 1 and 1 of 3; c: 0 of 1, and no images.
    assert found["classes"] == [
        {"name": "a", "images": 1, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)},
        {"name": "b", "images": 3, "precision": 1.0, "recall": pytest.approx(1 / 3), "f1": 0.5},
        {"name": "c", "images": 0, "precision": 0.0, "recall": None, "f1": 0.0},
    ]
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert found["left_out"] == 0
    json.dumps(found, allow_nan=False)


def test_a_class_that_is_nowhere_is_left_out_and_counted():
    found = single_label_metrics([[2, 1, 0], [1, 2, 0]], [0, 1])
    assert (found["macro_f1"], found["left_out"]) == (1, 1)
    assert found["classes"][2] == {
        "name": "2",
        "images": 0,
        "precision": None,
        "recall": None,
        "f1": None,
    }


def test_five_best_of_seven():
    scores = np.tile(np.arange(7, 0, -1.0), (7, 1))  # class 0 is the best, class 6 the last
    found = single_label_metrics(scores, np.arange(7))
    assert found["top1"] == pytest.approx(1 / 7)
    assert found["top5"] == pytest.approx(5 / 7)
    assert single_label_metrics(scores[:, :6], np.arange(6).repeat(2)[:7])["top5"] is not None
    assert single_label_metrics(scores[:5, :5], np.arange(5))["top5"] is None


def test_a_classifier_without_an_opinion_is_right_by_chance_only():
    """Ties go to the lower number, in the five best as in the best."""
    found = single_label_metrics(np.zeros((10, 10)), np.arange(10))
    assert (found["top1"], found["top5"]) == (0.1, 0.5)


def test_one_label_as_scikit_learn_has_it():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 300)
    scores = rng.normal(size=(300, 8)) + 1.5 * np.eye(8)[labels]
    found = single_label_metrics(scores, labels)
    predicted = scores.argmax(axis=1)
    assert found["top1"] == metrics.accuracy_score(labels, predicted)
    assert found["top5"] == metrics.top_k_accuracy_score(labels, scores, k=5)
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    rows = metrics.precision_recall_fscore_support(labels, predicted)
    for key, wanted in zip(("precision", "recall", "f1", "images"), rows, strict=True):
        np.testing.assert_allclose([row[key] for row in found["classes"]], wanted)
    # Only the order counts: the same of probabilities.
    assert single_label_metrics(np.exp(scores) / np.exp(scores).sum(1)[:, None], labels) == found


def test_a_table_of_a_confusion_matrix():
    table = class_table([[8, 2], [0, 0]], ["yes, sure", "no"])
    assert [row["name"] for row in table] == ["yes, sure", "no"]
    assert (table[0]["precision"], table[0]["recall"]) == (1, 0.8)
    assert (table[1]["precision"], table[1]["recall"], table[1]["f1"]) == (0, None, 0)


def test_several_labels_by_hand():
    scores = [[0.9, 0.4], [0.8, 0.6], [0.7, 0.5], [0.1, 0.2]]
    labels = [[1, 0], [0, 1], [1, 1], [0, 0]]
    found = multi_label_metrics(scores, labels, ["cat", "dog"])
    # cat: positives .9 and .7, negatives .8 and .1: 3 of 4 pairs in order; precision is 1 at .9,
    # 2/3 at .7. Predicted: three, of which two are right. dog: all in order; .5 is predicted.
    cat, dog = found["classes"]
    assert cat == {
        "name": "cat",
        "images": 2,
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(0.8),
        "auroc": pytest.approx(0.75),
        "average_precision": pytest.approx((1 + 2 / 3) / 2),
    }
    assert (dog["auroc"], dog["average_precision"], dog["f1"]) == (1, 1, 1)
    assert found["macro_auroc"] == pytest.approx(0.875)
    assert found["map"] == pytest.approx((5 / 6 + 1) / 2)
    assert found["macro_f1"] == pytest.approx(0.9)
    # Five predictions and four labels, four right: 8 / 9.
    assert found["micro_f1"] == pytest.approx(8 / 9)
    assert found["left_out"] == found["left_out_of_ranking"] == 0
    json.dumps(found, allow_nan=False)


def test_ties_are_half_in_order():
    found = multi_label_metrics([[0.5], [0.5], [0.5], [0.5]], [[1], [0], [0], [0]])
    assert found["macro_auroc"] == 0.5
    assert found["map"] == 0.25  # of all that have the one score, a quarter is right


def test_classes_without_a_positive_or_without_a_negative():
    scores = np.array([[0.9, 0.2, 0.9, 0.6], [0.1, 0.3, 0.8, 0.2]])
    labels = np.array([[1, 0, 1, 0], [0, 0, 1, 0]])
    found = multi_label_metrics(scores, labels)
    assert (found["macro_auroc"], found["map"], found["left_out_of_ranking"]) == (1, 1, 3)
    assert [row["auroc"] for row in found["classes"]] == [1, None, None, None]
    # F1: 1, none (nothing is or is predicted), 1, 0 (predicted once, and never there).
    assert [row["f1"] for row in found["classes"]] == [1, None, 1, 0]
    assert (found["macro_f1"], found["left_out"]) == (pytest.approx(2 / 3), 1)
    nothing = multi_label_metrics(scores[:, 1:2], labels[:, 1:2])
    assert nothing["macro_auroc"] is nothing["map"] is nothing["macro_f1"] is None
    assert nothing["micro_f1"] is None


def test_several_labels_as_scikit_learn_has_it():
    rng = np.random.default_rng(0)
    labels = rng.random((200, 5)) < 0.3
    logits = (rng.normal(size=(200, 5)) + 2 * labels - 1).round(1)  # with ties
    found = multi_label_metrics(logits, labels.astype(float), from_logits=True)
    assert found["macro_auroc"] == pytest.approx(metrics.roc_auc_score(labels, logits))
    assert found["map"] == pytest.approx(metrics.average_precision_score(labels, logits))
    for average in ("macro", "micro"):
        wanted = metrics.f1_score(labels, logits >= 0, average=average)
        assert found[f"{average}_f1"] == pytest.approx(wanted)
    assert multi_label_metrics(1 / (1 + np.exp(-logits)), labels) == found


SCORES, LABELS = np.full((3, 2), 0.5), np.array([0, 1, 1])


@pytest.mark.parametrize(
    "function, scores, labels, options, argument",
    [
        (single_label_metrics, SCORES * np.nan, LABELS, {}, "scores"),
        (single_label_metrics, SCORES * np.inf, LABELS, {}, "scores"),
        (single_label_metrics, SCORES[0], LABELS, {}, "scores"),
        (single_label_metrics, SCORES[:0], LABELS[:0], {}, "scores"),
        (single_label_metrics, SCORES, LABELS[:2], {}, "labels"),
        (single_label_metrics, SCORES, LABELS - 1, {}, "labels"),
        (single_label_metrics, SCORES, LABELS + 1, {}, "labels"),
        (single_label_metrics, SCORES, LABELS * 1.0, {}, "labels"),
        (single_label_metrics, SCORES, LABELS, {"class_names": ["a"]}, "class_names"),
        (multi_label_metrics, SCORES * np.nan, np.eye(3)[:, :2], {}, "scores"),
        (multi_label_metrics, SCORES * 4, np.eye(3)[:, :2], {}, "scores"),
        (multi_label_metrics, SCORES, LABELS, {}, "labels"),
        (multi_label_metrics, SCORES, np.eye(3)[:, :2] * 2, {}, "labels"),
        (multi_label_metrics, SCORES, np.eye(3)[:, :2] * np.nan, {}, "labels"),
        (multi_label_metrics, SCORES, np.eye(3)[:, :2], {"class_names": ["a"] * 3}, "class_names"),
    ],
)
def test_what_does_not_fit_is_named(function, scores, labels, options, argument):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        function(scores, labels, **options)
