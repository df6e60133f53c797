"""The pipeline: a function of (seed, epoch, example), whatever the step it starts at."""

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_mae.data import ArraySource, SkipLog, eval_dataset, load_source, pretrain_dataset

PLAIN = {"mean": (0.0,), "std": (1.0,)}


class Numbered(ArraySource):
    """Example i is a 6 x 6 image of the grey value i + 1."""

    name = "numbered"
    channels = 1
    image_size = (6, 6)
    augmentation = "shift"
    num_classes = 255

    def key(self, record):
        return str(record)

    def record_labels(self):
        return np.arange(self.num_records)

    def image_reader(self):
        return lambda record: np.full((6, 6, 1), record + 1, np.uint8)


def take(source, count, **settings):
    settings = {"image_size": 6, "batch_size": 4, **PLAIN, **settings}
    return [batch.numpy() for batch in pretrain_dataset(source, **settings).take(count)]


def numbers(batches):
    """Which examples of `Numbered` these are: the middle of an image is never shifted out."""
    return np.rint(np.concatenate(batches)[:, 3, 3, 0] * 255).astype(int) - 1


def test_each_example_once_an_epoch_in_a_new_order():
    # 10 examples in batches of 4: the epochs end inside batches.
    order = numbers(take(Numbered(10), 10)).reshape(4, 10)
    assert (np.sort(order, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in order}) == 4
    other = numbers(take(Numbered(10), 10, seed=1)).reshape(4, 10)
    assert not (order == other).all(axis=1).any()
    # A single example has but one order.
    assert numbers(take(Numbered(1), 3)).tolist() == [0] * 12


@pytest.mark.parametrize("size", [2, 3, 100])
def test_every_size_is_shuffled_to_a_permutation(size):
    order = numbers(take(Numbered(size), 1, batch_size=size))
    assert sorted(order) == list(range(size))


@pytest.fixture(params=["mnist5k", "photos", "folder"])
def case(request, make_folder):
    """(source, settings) of one source of each kind."""
    if request.param == "folder":
        source = load_source(f"folder:{make_folder(7, broken=1)}")
        (source.root / "000.jpg").rename(source.root / "000.png")
        source = load_source(f"folder:{source.root}")
    else:
        source = load_source(request.param).subset(np.arange(0, 640, 64))
    size = 28 if request.param == "mnist5k" else (24, 16)
    settings = {"image_size": size, "mean": source.mean, "std": source.std}
    return source, {**settings, "on_skip": SkipLog(max_bad_fraction=0.5)}


@pytest.mark.slow
def test_start_step_is_skipping(case):
    source, settings = case
    whole = take(source, 9, **settings)
    for step in (1, 7):
        assert_equal(take(source, 2, start_step=step, **settings), whole[step : step + 2])


@pytest.mark.slow
def test_two_passes_are_equal_and_two_seeds_are_not(case):
    source, settings = case
    first = take(source, 3, num_parallel_calls=1, **settings)
    assert_equal(first, take(source, 3, num_parallel_calls=4, **settings))
    other = take(source, 3, seed=1, **settings)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.slow
def test_shards_make_up_the_global_batch(case):
    source, settings = case
    whole = take(source, 3, batch_size=8, **settings)
    for count in (2, 4):
        shards = [
            take(source, 3, batch_size=8, num_shards=count, shard_index=index, **settings)
            for index in range(count)
        ]
        assert_equal([np.concatenate(parts) for parts in zip(*shards, strict=True)], whole)
    settings |= {"batch_size": 8, "num_shards": 4, "shard_index": 3}
    assert_equal(take(source, 1, start_step=2, **settings), [whole[2][6:]])


@pytest.mark.slow
def test_crops_of_one_image_differ_and_resume(case):
    source, settings = case
    whole = take(source, 4, batch_size=6, crops_per_image=3, with_labels=False, **settings)
    assert whole[0].shape[0] == 6
    assert not np.array_equal(whole[0][0], whole[0][1])
    rest = take(source, 2, batch_size=6, crops_per_image=3, start_step=2, **settings)
    assert_equal(rest, whole[2:])
    settings |= {"batch_size": 12, "crops_per_image": 3}
    halves = [take(source, 1, num_shards=2, shard_index=index, **settings)[0] for index in (0, 1)]
    assert_equal([np.concatenate(halves)], take(source, 1, **settings))


def test_crops_keep_their_image_and_label():
    dataset = pretrain_dataset(
        Numbered(5), image_size=6, batch_size=6, crops_per_image=2, with_labels=True, **PLAIN
    )
    for images, labels in dataset.take(5):
        assert numbers([images]).tolist() == labels.numpy().tolist()
        assert (labels[0::2] == labels[1::2]).numpy().all()


def test_an_example_is_augmented_anew_each_epoch(mnist):
    one = mnist.subset([0])
    images = take(one, 4, image_size=28, batch_size=1)
    assert len({image.tobytes() for image in images}) > 1


def test_shift_pads_with_black_and_then_normalises():
    """The faulty order puts 0 after normalising: the mean colour instead of black."""
    mean, std = (0.25,), (0.5,)
    images = np.concatenate(take(Numbered(200), 50, mean=mean, std=std))
    values = np.unique(np.rint((images * 0.5 + 0.25) * 255)).astype(int)
    assert values[0] == 0 and values[1:].tolist() == list(range(1, 201))
    np.testing.assert_allclose(images.min(), (0 - 0.25) / 0.5, atol=1e-6)
    # Up to two pixels each way: of 25 shifts, one in five has a given row black.
    black = (images[:, :, :, 0] < -0.499).all(axis=2)
    assert not black[:, 2:4].any()
    for row, share in [(0, 0.4), (1, 0.2), (4, 0.2), (5, 0.4)]:
        assert abs(black[:, row].mean() - share) < 0.12


def test_normalised_by_hand():
    source = Numbered(4)
    settings = {"image_size": 6, "batch_size": 4, "mean": (0.2,), "std": (0.5,)}
    images = next(iter(eval_dataset(source, with_labels=False, **settings)))
    expected = (np.arange(1, 5) / 255 - 0.2) / 0.5
    np.testing.assert_allclose(images[:, 0, 0, 0], expected, rtol=1e-6)


def test_static_shapes_and_no_end(mnist):
    dataset = pretrain_dataset(mnist, image_size=(28, 36), batch_size=8, num_shards=2, **PLAIN)
    assert dataset.element_spec == tf.TensorSpec((4, 28, 36, 1), tf.float32)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    assert next(iter(dataset)).shape == (4, 28, 36, 1)


def test_all_cpus_are_used_at_once_and_no_tuner_is_waited_for(mnist):
    for make in (pretrain_dataset, eval_dataset):
        dataset = make(mnist, image_size=28, batch_size=8, **PLAIN)
        tuning = dataset.options().autotune
        assert tuning.enabled is False
        assert tuning.initial_parallelism == os.cpu_count()


def test_late_steps_start_at_once(mnist):
    assert take(mnist, 1, image_size=28, batch_size=4096, start_step=10**9)[0].shape[0] == 4096


@pytest.mark.slow
def test_crop_decodes_and_resizes_the_box(tmp_path, picture):
    """The same box from a JPEG, which is decoded when it is cut, and from another format."""
    picture(120, 160).save(tmp_path / "a.jpg", quality=95)
    source = load_source(f"folder:{tmp_path}")
    settings = {"image_size": (90, 120), "batch_size": 1, "mean": (0,) * 3, "std": (1,) * 3}
    jpeg = take(source, 8, **settings)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "b.png")
    (tmp_path / "a.jpg").unlink()
    png = take(load_source(f"folder:{tmp_path}"), 8, **settings)
    assert_equal(jpeg, png)
    settings["resize"] = "bicubic"
    assert not np.array_equal(take(source.__class__(str(tmp_path)), 1, **settings)[0], png[0])


def test_eval_is_in_order_with_a_partial_batch(mnist):
    part = mnist.subset(np.arange(0, 5000, 500))
    dataset = eval_dataset(part, image_size=28, batch_size=4, **PLAIN)
    images, labels = (np.concatenate(x) for x in zip(*dataset.as_numpy_iterator(), strict=True))
    assert [len(batch) for batch, _ in dataset] == [4, 4, 2]
    assert labels.tolist() == part.labels().tolist()
    np.testing.assert_allclose(images * 255, mnist.images[::500], atol=1e-4)
    resized = next(iter(eval_dataset(part, image_size=(14, 32), batch_size=4, **PLAIN)))[0]
    expected = Image.fromarray(mnist.images[0, ..., 0]).resize((32, 14), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(resized[0, ..., 0] * 255, expected, atol=1e-3)


@pytest.mark.slow
def test_no_augmentation_is_the_evaluation(case):
    source, settings = case
    good = source.subset([2, 3])
    settings = {**settings, "batch_size": 2}
    trained = take(good, 1, augmentation="none", resize="bicubic", **settings)[0]
    measured = next(iter(eval_dataset(good, with_labels=False, **settings)))
    order = [0, 1] if np.allclose(trained[0], measured[0]) else [1, 0]
    assert np.array_equal(trained, tf.gather(measured, order))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 10, "num_shards": 4}, "batch_size"),
        ({"batch_size": 4, "crops_per_image": 3}, "batch_size"),
        ({"shard_index": 2, "num_shards": 2}, "shard_index"),
        ({"seed": -1}, "seed"),
        ({"start_step": 1.5}, "start_step"),
        ({"augmentation": "cut"}, "augmentation"),
        ({"resize": "nearest"}, "resize"),
        ({"mean": (0.5,) * 3}, "mean"),
        ({"std": (0.0,)}, "std"),
        ({"image_size": "28"}, "image_size"),
    ],
)
def test_arguments_that_do_not_fit(mnist, settings, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        take(mnist, 1, **{"image_size": 28, **settings})


def test_labels_of_a_source_without():
    with pytest.raises(ValueError, match="`with_labels`"):
        eval_dataset(load_source("photos"), image_size=8, batch_size=1, mean=(0,) * 3, std=(1,) * 3)


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)


def test_labels_of_a_split_alone_are_refused():
    class Forgetful(Numbered):
        def record_labels(self):
            return np.arange(len(self.indices))

    train = Forgetful(10).subset(range(8))
    with pytest.raises(ValueError, match="each of its 10 records, .*Received: 8"):
        train.labels()
