import numpy as np
import pytest

from keras_mae.data import load_source
from keras_mae.data.finetune import balanced_subset, features_dataset, finetune_dataset

ALL = {"randaugment": (2, 9), "erasing": 0.5, "mixup": 0.8, "cutmix": 1.0}


@pytest.fixture(scope="module")
def digits():
    return load_source("mnist5k")


def batches(source, steps, **overrides):
    arguments = {"image_size": 28, "batch_size": 8, "mean": (0.0,), "std": (1.0,)}
    arguments.update(num_classes=10, **overrides)
    dataset = finetune_dataset(source, **arguments).take(steps)
    return [tuple(map(np.asarray, batch)) for batch in dataset]


@pytest.mark.parametrize("settings", [{}, pytest.param(ALL, marks=pytest.mark.slow)])
def test_a_stream_that_starts_later_is_the_same_to_the_bit(digits, settings):
    few = digits.subset(np.arange(0, 5000, 250))  # 20: epochs end inside batches
    whole = batches(few, 7, **settings)
    for expected, received in zip(
        whole[4:], batches(few, 3, start_step=4, **settings), strict=True
    ):
        np.testing.assert_array_equal(expected[0], received[0])
        np.testing.assert_array_equal(expected[1], received[1])
    other = batches(few, 1, seed=1, **settings)
    assert not np.array_equal(other[0][0], whole[0][0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "num_shards"),
    [
        ({}, 3),
        ({"mixup": 0.8}, 2),
        ({"mixup": 0.8}, 3),  # the worker in the middle mixes its images among themselves
        ({"cutmix": 1.0}, 3),
        pytest.param(ALL, 2, marks=pytest.mark.slow),
    ],
)
def test_shards_make_up_the_global_batch(digits, settings, num_shards):
    few = digits.subset(np.arange(0, 5000, 250))  # 20: epochs end inside batches
    settings = {**settings, "batch_size": 12, "start_step": 1}
    whole = batches(few, 2, **settings)
    parts = [
        batches(few, 2, num_shards=num_shards, shard_index=index, **settings)
        for index in range(num_shards)
    ]
    assert parts[0][0][0].shape[0] == 12 // num_shards
    for step, (images, labels) in enumerate(whole):
        for place, expected in enumerate((images, labels)):
            together = np.concatenate([part[step][place] for part in parts])
            np.testing.assert_array_equal(together, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("mixed", "places"), [({}, (4, 8)), ({"mixup": 0.8}, (4, 12))])
def test_a_worker_reads_its_own_images_and_those_mixed_with_them(make_classes, mixed, places):
    source = load_source(f"folder:{make_classes(8, 8)}")
    settings = {"mean": source.mean, "std": source.std, "prefetch": 0, "num_parallel_calls": 1}
    read = source.read

    def read_in_turn(**shards):
        records = []
        source.read = lambda record: (records.append(record), read(record))[1]
        batches(source, 1, batch_size=16, **shards, **settings, **mixed)
        return records

    whole = read_in_turn()[:16]
    assert sorted(whole) == list(range(16))  # an epoch
    own = read_in_turn(num_shards=4, shard_index=1)[: places[1] - places[0]]
    assert own == whole[places[0] : places[1]]


def test_an_epoch_holds_each_example_once_with_its_label(digits):
    few = digits.subset(np.arange(0, 5000, 125))  # 40
    found = batches(few, 5, augmentation="none")
    images = np.concatenate([b[0] for b in found]).reshape(40, -1)
    labels = np.concatenate([b[1] for b in found])
    original = few.images[few.indices].reshape(40, -1) / 255
    nearest = np.abs(images[:, None] - original[None]).max(-1).argmin(1)
    assert sorted(nearest) == list(range(40))
    np.testing.assert_allclose(images, original[nearest], atol=1e-6)
    np.testing.assert_array_equal(labels, np.eye(10)[few.labels()[nearest]])


def test_digits_are_shifted_and_never_mirrored(digits):
    one = digits.subset([700])
    padded = np.pad(one.images[one.indices[0]][..., 0] / 255, 2)
    shifts = [padded[y : y + 28, x : x + 28] for y in range(5) for x in range(5)]
    seen = set()
    for image in batches(one, 8)[0][0][..., 0]:
        distances = [np.abs(image - shift).max() for shift in shifts]
        assert min(distances) < 1e-6
        seen.add(int(np.argmin(distances)))
    assert len(seen) > 1


def test_mixing_keeps_labels_distributions_and_uses_both_kinds(digits):
    labels = np.concatenate([b[1] for b in batches(digits, 20, mixup=0.8, cutmix=1.0)])
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-5)
    assert ((labels > 0).sum(1) <= 2).all() and ((labels > 0).sum(1) == 2).any()


@pytest.mark.slow
def test_erasing_leaves_the_rest_of_each_image_as_it_was(digits):
    plain, erased = batches(digits, 1), batches(digits, 1, erasing=1.0)
    kept = plain[0][0] == erased[0][0]
    share = 1 - kept.mean(axis=(1, 2, 3))
    assert (share > 0.015).all() and (share < 0.36).all()
    assert len(np.unique(np.round(share, 4))) > 4


@pytest.mark.slow
def test_colour_photographs_are_cropped_and_flipped(tmp_path):
    source = load_source("photos")
    source.num_classes = 2
    source.labels = lambda: np.arange(source.num_examples) % 2
    arguments = {"image_size": (32, 40), "mean": source.mean, "std": source.std, **ALL}
    images, labels = batches(source, 1, **arguments)[0]
    assert images.shape == (8, 32, 40, 3) and labels.shape == (8, 10)
    assert np.isfinite(images).all() and images.std() > 0.3


def test_features_stream_is_a_permutation_and_starts_anywhere():
    features = np.arange(10, dtype="float32")[:, None]
    labels = np.arange(10)

    def stream(steps, start=0):
        dataset = features_dataset(
            features, labels, num_classes=10, batch_size=5, seed=3, start_step=start
        )
        return [tuple(map(np.asarray, b)) for b in dataset.take(steps)]

    whole = stream(4)
    assert sorted(np.concatenate([whole[0][0], whole[1][0]])[:, 0]) == list(range(10))
    for x, y in whole:
        np.testing.assert_array_equal(y.argmax(1), x[:, 0])
    np.testing.assert_array_equal(stream(1, start=3)[0][0], whole[3][0])
    assert not np.array_equal(whole[0][0], whole[2][0])


@pytest.mark.parametrize("count", [10, 13])
def test_shards_of_features_make_up_the_global_batch(count):
    features = np.arange(count, dtype="float32")[:, None]

    def stream(**shard):
        dataset = features_dataset(
            features, np.arange(count), num_classes=count, batch_size=6, start_step=2, **shard
        )
        return [tuple(map(np.asarray, b)) for b in dataset.take(4)]

    parts = [stream(num_shards=3, shard_index=index) for index in range(3)]
    for step, whole in enumerate(stream()):
        for place in (0, 1):
            together = np.concatenate([part[step][place] for part in parts])
            np.testing.assert_array_equal(together, whole[place])


def test_features_come_in_the_order_of_their_images(digits):
    few = digits.subset(np.arange(0, 5000, 250))  # 20: epochs end inside batches
    features = np.arange(20, dtype="float32")[:, None]
    stream = features_dataset(features, few.labels(), num_classes=10, batch_size=8, seed=3)
    for (_, expected), (_, labels) in zip(batches(few, 7, seed=3), stream.take(7), strict=True):
        np.testing.assert_array_equal(labels, expected)


def test_few_labels_are_balanced_and_fixed_by_the_seed(digits):
    train, _ = digits.split()
    few = balanced_subset(train, 503, seed=4)
    counts = np.bincount(few.labels())
    assert sorted(counts) == [50] * 7 + [51] * 3
    assert set(few.indices) <= set(train.indices)
    assert balanced_subset(train, 503, seed=4).fingerprint() == few.fingerprint()
    assert balanced_subset(train, 503, seed=5).fingerprint() != few.fingerprint()


@pytest.mark.parametrize("count", [9, 5000])
def test_few_labels_must_fit(digits, count):
    with pytest.raises(ValueError, match="`train_examples`"):
        balanced_subset(digits.split()[0], count)


def test_a_class_with_too_few_is_named(digits):
    labels = digits.labels()
    uneven = digits.subset(np.flatnonzero((labels < 2) | (np.arange(5000) % 250 == 0)))
    with pytest.raises(ValueError, match="`train_examples`.* class 2"):
        balanced_subset(uneven, 500)


def test_bad_arguments_are_named(digits):
    for name, value in (("batch_size", 0), ("seed", -1), ("start_step", -1), ("num_classes", 0)):
        with pytest.raises(ValueError, match=f"`{name}`"):
            batches(digits, 1, **{name: value}) if name != "num_classes" else finetune_dataset(
                digits, image_size=28, batch_size=8, mean=(0.0,), std=(1.0,), num_classes=0
            )
    with pytest.raises(ValueError, match="`augmentation`"):
        batches(digits, 1, augmentation="flip")
    for arguments in ({"batch_size": 10, "num_shards": 4}, {"batch_size": 2.5}):
        with pytest.raises(ValueError, match="`batch_size`"):
            batches(digits, 1, **arguments)
        with pytest.raises(ValueError, match="`batch_size`"):
            features_dataset(np.zeros((9, 2)), np.zeros(9, int), num_classes=2, **arguments)
    with pytest.raises(ValueError, match="`shard_index`"):
        batches(digits, 1, num_shards=2, shard_index=2)
    with pytest.raises(ValueError, match="`source`"):
        batches(load_source("photos"), 1)
