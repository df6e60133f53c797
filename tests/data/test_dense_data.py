"""Batches with targets: functions of (seed, step), and the way back to the stored image."""

import numpy as np
import pytest

from keras_mae.data import balanced_subset, eval_dataset, finetune_dataset, load_source
from keras_mae.data.dense import coco_results, stored_boxes, stored_labels

TASKS = ("segment", "detect")


@pytest.fixture(scope="module")
def scenes():
    return load_source("digit_scenes:32").subset(range(0, 4000, 400))  # 10: epochs end in batches


def arrays(batches):
    """Each batch as a list of arrays."""
    for images, labels, *rest in batches:
        parts = labels.values() if isinstance(labels, dict) else [labels]
        yield [np.asarray(part) for part in (images, *parts, *rest)]


def training(source, task, steps, **overrides):
    settings = {"image_size": (32, 48), "batch_size": 4, "mean": (0.5,) * 3, "std": (1.0,) * 3}
    settings |= {"num_classes": 11, "flips": "both", **overrides}
    return list(arrays(finetune_dataset(source, task=task, **settings).take(steps)))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_stream_that_starts_later_is_the_same_to_the_bit(scenes, task):
    whole = training(scenes, task, 5)
    for expected, received in zip(whole[3:], training(scenes, task, 2, start_step=3), strict=True):
        for ours, theirs in zip(expected, received, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(training(scenes, task, 1, seed=1)[0][0], whole[0][0])


@pytest.mark.parametrize("task", ["segment", pytest.param("detect", marks=pytest.mark.slow)])
def test_shards_make_up_the_global_batch(scenes, task):
    (whole,) = training(scenes, task, 1)
    parts = [training(scenes, task, 1, num_shards=2, shard_index=n)[0] for n in range(2)]
    for place, expected in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([p[place] for p in parts]), expected)


@pytest.mark.parametrize("task", [pytest.param("segment", marks=pytest.mark.slow), "detect"])
def test_full_batches_of_shards_hold_each_image_once(scenes, task):
    settings = {"image_size": 32, "batch_size": 4, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    plain = list(arrays(eval_dataset(scenes, task=task, **settings)))
    shards = [
        list(
            arrays(
                eval_dataset(
                    scenes, task=task, with_weights=True, num_shards=2, shard_index=n, **settings
                )
            )
        )
        for n in range(2)
    ]
    for place in range(len(plain[0])):
        expected = np.concatenate([batch[place] for batch in plain])
        full = [np.concatenate([a[place], b[place]]) for a, b in zip(*shards, strict=True)]
        np.testing.assert_array_equal(np.concatenate(full)[:10], expected)
        weights = np.concatenate([np.r_[a[-1], b[-1]] for a, b in zip(*shards, strict=True)])
        assert weights.tolist() == [1] * 10 + [0] * 2


def test_the_mean_colour_lies_around_an_image(scenes):
    source = load_source("digit_scenes:32").subset([0])
    settings = {"image_size": (32, 48), "batch_size": 1, "mean": (0.2, 0.5, 0.7), "std": (0.1,) * 3}
    ((images, labels),) = eval_dataset(source, task="segment", **settings)
    np.testing.assert_allclose(images[0, :, 32:], 0, atol=1e-4)
    np.testing.assert_array_equal(labels[0, :, 32:], 255)
    seen = images[0, :, :32] * 0.1 + np.array([0.2, 0.5, 0.7])
    np.testing.assert_allclose(seen * 255, source.read(0)[0], atol=1e-2)
    np.testing.assert_array_equal(labels[0, :, :32], source.for_task("segment").target(0))


def test_the_task_of_a_source_is_that_of_its_data_sets(scenes):
    settings = {"image_size": 32, "batch_size": 2, "mean": (0.5,) * 3, "std": (1.0,) * 3}
    batches = finetune_dataset(scenes.for_task("segment"), num_classes=11, **settings)
    assert next(iter(batches))[1].shape == (2, 32, 32)


@pytest.mark.parametrize(
    ("argument", "settings"),
    [
        ("task", {"task": "count"}),
        ("augmentation", {"augmentation": "shift"}),
        ("scale_jitter", {"scale_jitter": (2, 1)}),
        ("scale_jitter", {"scale_jitter": (0, 1)}),
        ("mixup", {"mixup": 0.8}),
        ("randaugment", {"randaugment": (2, 9)}),
        ("crop_area", {"crop_area": (0.5, 1)}),
        ("num_classes", {"num_classes": 5}),
        ("flips", {"flips": "upside"}),
    ],
)
def test_an_argument_that_does_not_fit_is_named(scenes, argument, settings):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        training(scenes, **{"task": "segment", "steps": 1, **settings})


def test_a_jitter_is_for_tasks_only(mnist):
    with pytest.raises(ValueError, match="`scale_jitter`"):
        training(mnist, None, 1, scale_jitter=(0.5, 1), num_classes=10, mean=(0,), std=(1,))


@pytest.mark.parametrize("stored", [(60, 90), (37, 11), (8, 200), (64, 64)])
def test_labels_of_the_canvas_come_back_to_the_stored_map(stored):
    """A map of two halves, seen at another size: only a line between them may move."""
    truth = np.zeros(stored, "uint8")
    truth[:, stored[1] // 2 :] = 1
    truth[: stored[0] // 3] = 2
    scale = min(64 / stored[0], 64 / stored[1])
    rows, columns = (
        np.minimum(((np.arange(64) + 0.5) / scale).astype(int), side - 1) for side in stored
    )
    scores = np.eye(3)[truth[rows][:, columns]]
    found = stored_labels(scores, stored)
    assert found.shape == stored and found.dtype == np.uint8
    assert np.mean(found == truth) > 1 - 2 * max(1, 1 / scale) / min(stored)


def test_coarse_scores_are_those_of_the_whole_canvas():
    """Scores of 4 x 4 on a canvas of 64 x 64, of which an image of 20 x 40 fills the upper half."""
    scores = np.zeros((4, 4, 2))
    scores[:2, :2, 0] = scores[:2, 2:, 1] = 1
    scores[2:] = [[0, 9]]  # around the image
    found = stored_labels(scores, (20, 40), image_size=(64, 64))
    assert (found[:, :19] == 0).all() and (found[:, 21:] == 1).all()


def test_many_rows_at_a_time_or_few_are_the_same(monkeypatch):
    scores = np.random.default_rng(0).random((16, 16, 5))
    whole = stored_labels(scores, (50, 40))
    monkeypatch.setattr("keras_mae.data.dense._MOST_VALUES", 7 * 40 * 5)
    np.testing.assert_array_equal(stored_labels(scores, (50, 40)), whole)


def test_boxes_come_back_to_the_stored_image(scenes):
    found = stored_boxes([[15, 10, 150, 100], [-5, 0, 170, 110]], (60, 90), (120, 150))
    np.testing.assert_allclose(found, [[9, 6, 90, 60], [0, 0, 90, 60]], rtol=1e-6)
    source = scenes.for_task("detect")
    results = coco_results(
        source, 400, [[6, 4, 12, 20], [90, 0, 95, 9]], [3, 0], [0.5, 0.9], (64, 96)
    )
    assert results == [
        {"image_id": 401, "category_id": 4, "bbox": [3.0, 2.0, 3.0, 8.0], "score": 0.5}
    ]


def test_a_few_images_are_any_of_them(scenes):
    few = balanced_subset(scenes.for_task("segment"), 4, seed=1)
    assert few.num_examples == 4 and set(few.indices) <= set(scenes.indices)
    again = balanced_subset(scenes.for_task("segment"), 4, seed=1)
    assert again.indices.tolist() == few.indices.tolist()
    with pytest.raises(ValueError, match="`train_examples`"):
        balanced_subset(scenes.for_task("segment"), 11)
