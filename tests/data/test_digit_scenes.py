import numpy as np
import pytest

from keras_mae.data import load_source, open_parts
from keras_mae.data.sources.digit_scenes import TRAIN, DigitScenes


@pytest.fixture(scope="module")
def scenes():
    return DigitScenes()


SOME = [0, 1, 2, 3, 3999, 4000, 4001, 4499]


def test_boxes_are_the_bounds_of_the_labelled_pixels(scenes):
    segment, detect = scenes.for_task("segment"), scenes.for_task("detect")
    for record in SOME:
        labels, (boxes, classes, is_crowd) = segment.target(record), detect.target(record)
        assert labels.shape == (96, 96) and labels.dtype == np.uint8 and not is_crowd.any()
        assert 1 <= len(boxes) <= 5
        rest = labels.copy()
        for (left, top, right, bottom), label in zip(boxes.astype(int), classes, strict=True):
            part = labels[top:bottom, left:right] == label + 1
            assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
            rest[top:bottom, left:right] = 0
        assert not rest.any()  # each labelled pixel is in a box


def test_digits_differ_from_their_ground(scenes):
    segment = scenes.for_task("segment")
    for record in SOME:
        pixels, labels = segment.read(record)[0].astype(int), segment.target(record)
        assert pixels.shape == (96, 96, 3)
        for label in set(labels.flat) - {0}:
            inside = pixels[labels == label].mean()
            rows, columns = np.nonzero(labels == label)
            around = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
            ground = pixels[around][labels[around] == 0].mean()
            assert abs(inside - ground) > 20


def test_held_out_scenes_have_other_digits(scenes):
    assert not set(scenes._pools[0]) & set(scenes._pools[1])
    assert [len(pool) for pool in scenes._pools] == [4000, 1000]
    mnist = load_source("mnist5k")
    np.testing.assert_array_equal(scenes._pools[1], mnist.split()[1].indices)


def test_the_same_scene_comes_whenever_and_with_any_seed(scenes):
    other = DigitScenes(seed=5)
    for record in reversed(SOME):
        np.testing.assert_array_equal(other.read(record)[0], scenes.read(record)[0])
        ours, theirs = (s.for_task("detect").target(record) for s in (scenes, other))
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
    assert not np.array_equal(scenes.read(0)[0], scenes.read(TRAIN)[0])


def test_it_is_divided_and_without_labels_until_a_task_is_chosen(scenes):
    parts = open_parts("digit_scenes:32")
    assert (parts.train.num_examples, parts.heldout.num_examples) == (4000, 500)
    assert parts.test is None and parts.train.num_classes is None
    chosen = open_parts("digit_scenes:32", task="segment")
    assert chosen.heldout.num_classes == 11 and chosen.heldout.class_names[:2] == [
        "background",
        "0",
    ]
    assert scenes.for_task("detect").num_classes == 10


def test_the_truth_in_cocos_format_is_what_the_targets_are(scenes):
    part = scenes.for_task("detect").subset(SOME)
    truth = part.truth()
    assert [image["id"] for image in truth["images"]] == [record + 1 for record in SOME]
    ids = [annotation["id"] for annotation in truth["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    for record in SOME:
        of_image = [a for a in truth["annotations"] if a["image_id"] == record + 1]
        boxes, classes, _ = part.target(record)
        corners = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in of_image)]
        np.testing.assert_allclose(corners, boxes)
        assert [a["category_id"] - 1 for a in of_image] == classes.tolist()
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        assert [a["area"] for a in of_image] == areas.tolist()


@pytest.mark.parametrize("argument", ["9", "x", "2000", "-96", "96.5"])
def test_a_side_that_is_none_is_an_error(argument):
    with pytest.raises(ValueError, match="`dataset`"):
        load_source(f"digit_scenes:{argument}")


def test_a_task_that_there_are_no_targets_for_is_an_error(scenes, mnist):
    for source, task in ((scenes, "count"), (scenes.for_task("detect"), "classify")):
        with pytest.raises(ValueError, match="`task`"):
            source.for_task(task)
    with pytest.raises(ValueError, match="`task`"):
        mnist.for_task("segment")
    with pytest.raises(ValueError, match="`task`"):
        load_source("mnist5k", task="detect")
