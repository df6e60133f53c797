"""Broken images: named once, counted, replaced, and not too many of them."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_mae.data import SkipLog, TooManyBadImages, eval_dataset, load_source, pretrain_dataset
from keras_mae.data.finetune import balanced_subset

SETTINGS = {"image_size": 16, "batch_size": 4, "mean": (0.5,) * 3, "std": (0.5,) * 3}


def batches(source, count, log, **settings):
    settings = {**SETTINGS, "prefetch": 0, "num_parallel_calls": 1, **settings}
    return [x.numpy() for x in pretrain_dataset(source, on_skip=log, **settings).take(count)]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_broken_image_is_named_once(make_folder, tmp_path):
    folder = make_folder(10, broken=2)
    (folder / "empty.png").write_bytes(b"")
    (folder / "directory.jpg").mkdir()
    (folder / "gone.jpg").symlink_to(folder / "nowhere")
    whole = (folder / "000.jpg").read_bytes()
    (folder / "short.jpg").write_bytes(whole[: len(whole) // 2])
    source, path = load_source(f"folder:{folder}"), tmp_path / "skipped.jsonl"
    log = SkipLog(path, max_bad_fraction=0.5)
    batches(source, 4 * 3, log)  # 48 images: three epochs of 16
    names = [line["path"].rsplit("/", 1)[1] for line in lines(path)]
    bad = ["broken000.jpg", "broken001.jpg", "directory.jpg", "empty.png", "gone.jpg", "short.jpg"]
    assert sorted(names) == bad
    # TensorFlow reads ahead, by how much depends on the machine; of 16 images 6 are broken.
    assert log.num_seen >= 48 and abs(log.num_bad - log.num_seen * 6 / 16) <= 6
    reasons = {line["path"].rsplit("/", 1)[1]: line["reason"] for line in lines(path)}
    assert reasons["empty.png"] == "ValueError: the file is empty"
    assert "IsADirectory" in reasons["directory.jpg"]
    assert "FileNotFound" in reasons["gone.jpg"]
    assert "truncated" in reasons["short.jpg"]

    # A resumed run names nothing again; a line cut by a kill is mended.
    with open(path, "a") as file:
        file.write('{"path": "ha')
    again = SkipLog(path, max_bad_fraction=0.5)
    batches(source, 4, again)
    assert len(lines(path)) == 6 and again.num_bad >= 6 and len(again.reasons) == 6


@pytest.mark.slow
def test_no_good_image_moves_or_is_lost(make_folder):
    """With "none", an image is itself: the good ones stand where they stood without bad ones."""
    folder = make_folder(12)
    source = load_source(f"folder:{folder}")
    settings = {"augmentation": "none", "batch_size": 12, "image_size": 8}
    before = batches(source, 2, SkipLog(), **settings)
    for number in (3, 7):
        (folder / f"{number:03d}.jpg").write_bytes(b"broken now")
    after = batches(source, 2, SkipLog(max_bad_fraction=1), **settings)
    for old, new in zip(before, after, strict=True):
        same = (old == new).all(axis=(1, 2, 3))
        assert same.sum() == 10
        # What stands in for a broken one is one of the good ones.
        for image in new[~same]:
            assert (image == new[same]).all(axis=(1, 2, 3)).any()
    again = batches(source, 2, SkipLog(max_bad_fraction=1), **settings)
    assert all(map(np.array_equal, after, again))


@pytest.mark.slow
def test_too_many_stop_the_run_with_a_list(make_folder):
    source = load_source(f"folder:{make_folder(7, broken=3)}")
    log = SkipLog(max_bad_fraction=0.25)
    with pytest.raises(tf.errors.OpError, match=r"max_bad_fraction=0.25.*\n.*broken00\d.jpg: "):
        batches(source, 10, log)
    assert isinstance(log.error, TooManyBadImages)
    assert str(log.error).startswith("3 of all 10 images could not be read")
    assert str(log.error).count("broken00") == 3
    assert len(batches(source, 10, SkipLog(max_bad_fraction=0.3))) == 10


def test_nothing_but_broken_images(make_folder):
    source = load_source(f"folder:{make_folder(0, broken=2000)}")
    log = SkipLog(max_bad_fraction=1)
    with pytest.raises(tf.errors.OpError, match="No readable image"):
        batches(source, 1, log)
    assert str(log.error).count("broken") > 50 and "more" in str(log.error)


def test_a_clear_share_stops_long_before_the_end():
    """Of a million images, 10 % are accepted and 20 % broken: known after about 1,000."""
    log = SkipLog(max_bad_fraction=0.1)
    with pytest.raises(TooManyBadImages, match=r"of the first 10\d\d"):
        for number in range(10_000):
            if number % 5:
                log.seen()
            else:
                log.bad(f"{number}.jpg", "broken", num_known=number // 5, num_examples=1_000_000)
    # At 10 % exactly, or with a bad start, it goes on.
    log = SkipLog(max_bad_fraction=0.1)
    for number in range(10_000):
        if number > 10 and number % 10:
            log.seen()
        else:
            log.bad(f"{number}.jpg", "broken", num_known=number // 10, num_examples=1_000_000)


def test_evaluation_leaves_broken_images_out_with_their_labels(tmp_path):
    for label in range(4):
        (tmp_path / str(label)).mkdir()
        Image.new("RGB", (9, 9), (50 * label,) * 3).save(tmp_path / f"{label}/a.png")
    (tmp_path / "1/a.png").write_bytes(b"broken")
    source, log = load_source(f"folder:{tmp_path}"), SkipLog(max_bad_fraction=0.5)
    settings = {**SETTINGS, "mean": (0,) * 3, "std": (1,) * 3}
    found = [
        (round(float(image[0, 0, 0]) * 255), int(label))
        for images, labels in eval_dataset(source, on_skip=log, **settings)
        for image, label in zip(images, labels, strict=True)
    ]
    assert found == [(0, 0), (100, 2), (150, 3)]
    assert log.num_bad == 1 and list(log.reasons) == [str(tmp_path / "1/a.png")]


def test_share_out_of_range():
    with pytest.raises(ValueError, match="`max_bad_fraction`"):
        SkipLog(max_bad_fraction=1.5)


def held_out_broken(folder, seed=0):
    """The parts of a folder's split, after one image of the held-out one was broken."""
    source = load_source(f"folder:{folder}", seed=seed)
    train, heldout = source.split()
    (folder / heldout.key(heldout.indices[0])).write_bytes(b"broken")
    return train, heldout


def evaluate(source, log):
    return [x.numpy() for x in eval_dataset(source, with_labels=False, on_skip=log, **SETTINGS)]


@pytest.mark.slow
def test_the_share_is_that_of_all_parts_of_a_split(make_folder):
    train, heldout = held_out_broken(make_folder(60))
    assert heldout.num_examples == 3
    log = SkipLog(max_bad_fraction=0.1)
    assert sum(map(len, evaluate(heldout, log))) == 2
    # So is it for a subset of a part, and with a log of its own.
    assert sum(map(len, evaluate(heldout.subset([2, 0]), SkipLog()))) == 1
    # Of all 60, six may be broken; the seventh stops the run, though it has but 57 of them.
    for record in train.indices[:5]:
        (train.root / train.key(record)).write_bytes(b"broken")
    batches(train, 60, log)
    assert len(log.reasons) == 6
    (train.root / train.key(train.indices[5])).write_bytes(b"broken")
    with pytest.raises(tf.errors.OpError):
        batches(train, 60, log)
    assert str(log.error).startswith("7 of all 60 images could not be read")


def test_few_training_images_are_judged_by_themselves(make_classes):
    train, _ = load_source(f"folder:{make_classes(60, 60)}").split()
    few = balanced_subset(train, 10)
    for record in few.indices[:2]:
        (train.root / train.key(record)).write_bytes(b"broken")
    log = SkipLog(max_bad_fraction=0.1)
    with pytest.raises(tf.errors.OpError):
        batches(few, 10, log)
    assert str(log.error).startswith("2 of all 10 images could not be read")


def test_a_part_without_a_readable_image_is_told_before_it_is_needed(make_folder):
    _, heldout = held_out_broken(make_folder(10))
    log = SkipLog(max_bad_fraction=0.5)
    with pytest.raises(TooManyBadImages, match=heldout.key(heldout.indices[0])):
        eval_dataset(heldout, with_labels=False, on_skip=log, **SETTINGS)
    assert log.error is not None
