"""An evaluation cut over workers: each image once, in full batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_mae.data import SkipLog, eval_dataset, load_source

BATCH = 6


def shards(source, num_shards, **kwargs):
    """Return a list of the batches `(images, labels, weights)` of each shard."""
    return [
        [
            [np.array(part) for part in batch]
            for batch in eval_dataset(
                source,
                image_size=28,
                batch_size=BATCH,
                mean=source.mean,
                std=source.std,
                with_weights=True,
                num_shards=num_shards,
                shard_index=index,
                **kwargs,
            )
        ]
        for index in range(num_shards)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5, 6, 13])
@pytest.mark.parametrize("num_shards", [1, 2, 3])
def test_together_the_shards_are_the_whole_and_what_fills_up_weighs_nothing(count, num_shards):
    source = load_source("mnist5k").subset(np.arange(count) * 300)
    parts = shards(source, num_shards)
    assert {len(part) for part in parts} == {-(-count // BATCH)}  # all workers take as many steps
    in_order = [batch for step in zip(*parts, strict=True) for batch in step]
    images, labels, weights = (np.concatenate(values) for values in zip(*in_order, strict=True))
    assert {len(batch[0]) for batch in in_order} == {BATCH // num_shards}
    np.testing.assert_array_equal(weights, np.arange(len(weights)) < count)
    whole = eval_dataset(source, image_size=28, batch_size=count, mean=source.mean, std=source.std)
    expected_images, expected_labels = next(iter(whole))
    np.testing.assert_array_equal(images[:count], expected_images)
    np.testing.assert_array_equal(labels[:count], expected_labels)
    assert not images[count:].any()


@pytest.mark.slow
def test_a_broken_image_keeps_its_place_and_weighs_nothing(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(7):
        pixels = rng.integers(0, 255, size=(30, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"not an image")
    source = load_source(f"folder:{tmp_path}")
    (part,) = shards(source, 1, on_skip=SkipLog(max_bad_fraction=1))
    assert [list(weights) for _, _, weights in part] == [[1, 1, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0]]
    assert all((labels[weights == 0] == -1).all() for _, labels, weights in part)


@pytest.mark.slow
def test_a_classifier_measures_the_same_on_shards_as_on_the_whole():
    """Labels of what fills up are -1: a row of zeros as one-hot, and weightless."""
    source = load_source("mnist5k").subset(np.arange(13) * 300)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])
    entropy = keras.metrics.CategoricalCrossentropy(from_logits=True, name="entropy")
    model.compile(loss="mse", weighted_metrics=["accuracy", entropy])
    pixels = {"image_size": 28, "batch_size": BATCH, "mean": source.mean, "std": source.std}

    def one_hot(images, labels, *weights):
        return images, tf.one_hot(labels, 10), *weights

    whole = eval_dataset(source, **pixels).map(one_hot)
    expected = model.evaluate(whole, verbose=0, return_dict=True)
    sums, count = dict.fromkeys(("accuracy", "entropy"), 0.0), 0.0
    for index in range(2):
        settings = {"with_weights": True, "num_shards": 2, "shard_index": index, **pixels}
        part = eval_dataset(source, **settings).map(one_hot)
        weight = sum(float(tf.reduce_sum(weights)) for _, _, weights in part)
        found = model.evaluate(part, verbose=0, return_dict=True)
        sums = {name: total + weight * found[name] for name, total in sums.items()}
        count += weight
    assert count == 13
    for name, total in sums.items():
        assert total / 13 == pytest.approx(expected[name], rel=1e-5)


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"num_shards": 2}, "num_shards"),
        ({"num_shards": 2, "shard_index": 2, "with_weights": True}, "shard_index"),
        ({"num_shards": 4, "with_weights": True}, "batch_size"),
    ],
)
def test_what_does_not_fit_is_named(arguments, name):
    source = load_source("mnist5k")
    with pytest.raises(ValueError, match=f"`{name}`"):
        eval_dataset(
            source, image_size=28, batch_size=BATCH, mean=source.mean, std=source.std, **arguments
        )
