"""Intersection over union, of the pixels of a whole set."""

import numpy as np
import pytest

from keras_mae.evaluation import PixelCounts, segmentation_metrics


def test_a_matrix_worked_out_by_hand():
    # Class 0: 3 of 3 + 1 labelled, and 2 more found: 3 / 6. Class 1: 4 / 7. Class 2 is nowhere.
    found = segmentation_metrics([[3, 1, 0], [2, 4, 0], [0, 0, 0]], ["sky", "tree", "sea"])
    assert found["iou"] == [3 / 6, 4 / 7, None]
    assert found["mean_iou"] == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert found["pixel_accuracy"] == 7 / 10 and found["class_names"][2] == "sea"
    assert found["confusion_matrix"] == [[3, 1, 0], [2, 4, 0], [0, 0, 0]]


def test_a_class_that_is_only_predicted_counts():
    assert segmentation_metrics([[3, 1], [0, 0]])["iou"] == [0.75, 0.0]


def test_the_counts_are_of_the_set_however_it_is_divided():
    random = np.random.default_rng(0)
    truth = random.choice([0, 1, 2, 3, 255], (6, 20, 30)).astype("uint8")
    predicted = random.integers(0, 4, truth.shape).astype("uint8")
    expected = np.zeros((5, 5), int)
    for row in range(5):
        for column in range(5):
            expected[row, column] = np.sum((truth == row) & (predicted == column))
    for size in (1, 4, 6):
        counts = PixelCounts(5)
        for start in range(0, 6, size):
            counts.add(truth[start : start + size], predicted[start : start + size])
        np.testing.assert_array_equal(counts.matrix, expected)
    assert counts.matrix.sum() == np.sum(truth != 255)
    assert counts.metrics()["iou"][4] is None


def test_many_classes_do_not_run_over():
    counts = PixelCounts(200)
    labels = np.arange(200, dtype="uint8")
    counts.add(labels, labels[::-1])
    np.testing.assert_array_equal(counts.matrix, np.eye(200)[::-1])


def test_pixels_of_no_class_count_nothing():
    counts = PixelCounts(2)
    counts.add(np.full((3, 4), 255), np.zeros((3, 4), int))
    found = counts.metrics()
    assert found["mean_iou"] == 0.0 and found["pixel_accuracy"] == 0.0
    assert found["iou"] == [None, None]


def test_an_argument_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match="`num_classes`"):
        PixelCounts(0)
    counts = PixelCounts(2)
    for argument, truth, predicted in (
        ("truth", [0, 2], [0, 1]),
        ("truth", [0, -1], [0, 1]),
        ("predicted", [0, 1], [0, 2]),
        ("predicted", [0, 1], [0, 1, 1]),
    ):
        with pytest.raises(ValueError, match=f"`{argument}`"):
            counts.add(truth, predicted)
    assert counts.matrix.sum() == 0
    with pytest.raises(ValueError, match="`matrix`"):
        segmentation_metrics([[1, 2]])
    with pytest.raises(ValueError, match="`class_names`"):
        segmentation_metrics([[1, 2], [3, 4]], ["a"])
