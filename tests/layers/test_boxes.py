"""Anchors, matching, offsets and non-maximum suppression, by hand and by plain Python."""

import numpy as np
import pytest

from keras_mae.layers import boxes as box_math

RNG = np.random.default_rng(0)


def random_boxes(*shape, size=100):
    corners = np.sort(RNG.uniform(0, size, (*shape, 2, 2)), axis=-2)
    return corners.reshape(*shape, 4).astype("float32")


def overlap(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - width * height
    return width * height / union if union else 0


def test_overlaps_by_hand():
    boxes = np.array([[0, 0, 4, 4], [2, 2, 2, 8]], "float32")
    others = np.array([[2, 0, 6, 4], [0, 0, 4, 4], [5, 5, 6, 6]], "float32")
    expected = [[8 / 24, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(box_math.overlaps(boxes, others), expected, atol=1e-6)


def test_anchors_stand_around_the_middles_of_their_places():
    anchors = box_math.anchors_of((32, 64), [(16, 16), (32, 32)])
    assert anchors.shape == ((2 * 4 + 1 * 2) * 9, 4)
    middles = (anchors[:, :2] + anchors[:, 2:]) / 2  # (x, y)
    np.testing.assert_allclose(middles[9 * 5], [24, 24])  # second row, second column
    np.testing.assert_allclose(middles[9 * 9], [48, 16])
    sides = anchors[:9, 2:] - anchors[:9, :2]
    np.testing.assert_allclose(sides.prod(1) ** 0.5, np.repeat(64 * 2 ** (np.arange(3) / 3), 3))
    np.testing.assert_allclose(sides[:3, 1] / sides[:3, 0], [0.5, 1, 2], rtol=1e-6)


def test_each_object_has_an_anchor_and_padding_none():
    anchors = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30], [50, 50, 60, 60]])
    boxes = np.array(
        [
            [[0, 0, 10, 9], [28, 8, 40, 20], [5, 5, 5, 9]],  # .9 of the first; little of the second
            [[-1, -1, -1, -1], [-1, -1, -1, -1], [0, 24, 10, 30]],  # .6 of the third
        ],
        "float32",
    )
    classes = np.array([[3, 1, 2], [-1, -1, 0]], "int32")
    found, labels = box_math.match(anchors.astype("float32"), boxes, classes)
    np.testing.assert_array_equal(labels, [[3, 1, -1, -1], [-1, -1, 0, -1]])
    np.testing.assert_array_equal(found[0, :2], boxes[0, :2])
    np.testing.assert_array_equal(found[1, 2], boxes[1, 2])
    # .45 of an anchor that is not its object's best one says nothing.
    anchors = np.array([[0, 0, 10, 10], [0, 0, 10, 4.5]], "float32")
    _, labels = box_math.match(anchors, np.array([[[0, 0, 10, 10]]], "float32"), np.array([[2]]))
    np.testing.assert_array_equal(labels, [[2, -2]])


def test_images_without_a_place_for_objects_are_background():
    anchors = random_boxes(5)
    _, labels = box_math.match(anchors, np.zeros((2, 0, 4), "float32"), np.zeros((2, 0), "int32"))
    np.testing.assert_array_equal(labels, np.full((2, 5), -1))


def test_offsets_and_boxes_are_inverse():
    anchors, boxes = random_boxes(50) + [0, 0, 1, 1], random_boxes(3, 50) + [0, 0, 1, 1]
    anchors, boxes = anchors.astype("float32"), np.minimum(boxes, 100).astype("float32")
    offsets = box_math.encode(boxes, anchors)
    ratio = np.abs(np.asarray(offsets)[..., 2:]).max(-1) * 0.2 < box_math.LARGEST_LOG
    found = np.asarray(box_math.decode(offsets, anchors, (100, 100)))
    np.testing.assert_allclose(found[ratio], boxes[ratio], atol=2e-2)
    # By hand: a step of a tenth of the width to the right, e ** .2 times as high.
    offsets = np.array([[1, 0, 0, 1]], "float32")
    found = box_math.decode(offsets, np.array([[10, 20, 30, 40]], "float32"), (100, 100))
    half = 10 * np.exp(0.2)
    np.testing.assert_allclose(found, [[12, 30 - half, 32, 30 + half]], rtol=1e-5)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_suppression_is_the_greedy_one(num_classes):
    boxes = random_boxes(4, 40, size=30)
    scores = RNG.uniform(size=(4, 40, num_classes)).astype("float32")
    found = box_math.best_boxes(
        boxes, scores, least_score=0.2, largest_overlap=0.3, max_detections=20, num_candidates=500
    )
    for image in range(4):
        order = np.argsort(-scores[image].ravel())
        kept = []
        for place in order:
            box, label = divmod(int(place), num_classes)
            score = scores[image].ravel()[place]
            clear = all(
                c != label or overlap(boxes[image, b], boxes[image, box]) <= 0.3 for b, c, _ in kept
            )
            if score >= 0.2 and clear:
                kept.append((box, label, score))
        kept = kept[:20]
        missing = 20 - len(kept)
        np.testing.assert_allclose(
            found["boxes"][image], [*(boxes[image, b] for b, _, _ in kept), *[[-1] * 4] * missing]
        )
        np.testing.assert_array_equal(
            found["classes"][image], [*(c for _, c, _ in kept), *[-1] * missing]
        )
        np.testing.assert_allclose(
            found["scores"][image], [*(s for _, _, s in kept), *[0] * missing], rtol=1e-6
        )


def test_fewer_candidates_than_detections_are_padded():
    found = box_math.best_boxes(
        random_boxes(2, 3),
        np.full((2, 3, 1), 0.9, "float32"),
        least_score=0.95,
        largest_overlap=0.5,
        max_detections=7,
        num_candidates=9,
    )
    np.testing.assert_array_equal(found["boxes"], np.full((2, 7, 4), -1))
    np.testing.assert_array_equal(found["scores"], np.zeros((2, 7)))
