"""The proof: real images, and how two outputs are compared."""

import math

import numpy as np
import pytest
from shaken import digits, encoder

from keras_mae.data import eval_dataset, load_source
from keras_mae.export.compare import compare, compare_file
from keras_mae.export.formats.litert import LiteRT
from keras_mae.export.formats.saved_model import SavedModel
from keras_mae.export.verify import over_bound, sample_images
from keras_mae.pixels import normalize

pytestmark = pytest.mark.export


def test_compare_by_hand():
    wanted = np.array([[3.0, 4.0], [0.6, 0.8]], "float32")
    # The second image is turned by a right angle; the first keeps its direction.
    got = np.array([[3.3, 4.4], [0.8, -0.6]], "float32")
    result = compare(got, wanted)
    assert result["max_abs_difference"] == pytest.approx(1.4)
    # Root mean square of 3, 4, .6, .8.
    assert result["difference"] == pytest.approx(1.4 / math.sqrt(26 / 4))
    assert result["min_cosine"] == pytest.approx(0.0, abs=1e-6)


def test_small_numbers_are_compared_absolutely():
    wanted = np.full((1, 4), 1e-3, "float32")
    result = compare(wanted + 5e-4, wanted)
    assert result["difference"] == result["max_abs_difference"] == pytest.approx(5e-4, rel=1e-3)


@pytest.mark.parametrize("got", [np.full((2, 3), np.nan), np.full((2, 3), np.inf), np.ones((2, 4))])
def test_what_is_not_finite_or_of_another_shape_is_over_every_bound(got):
    result = compare(got, np.ones((2, 3), "float32"))
    assert over_bound(result, {"difference": 1e9})
    assert over_bound(result, {"min_cosine": -1})


def test_bounds():
    result = {"difference": 2e-5, "min_cosine": 0.98}
    assert over_bound(result, {"difference": 1e-4, "min_cosine": 0.9}) == ""
    assert "difference is 2e-05" in over_bound(result, SavedModel.BOUNDS["float32"])
    assert "min_cosine is 0.98" in over_bound(result, LiteRT.BOUNDS["int8"])


def test_images_are_normalised_as_in_the_pipeline():
    model, source = encoder(), load_source("mnist5k").subset(np.arange(9))
    statistics = {"mean": model.mean, "std": model.std, "with_labels": False}
    (wanted,) = eval_dataset(source, image_size=28, batch_size=9, **statistics)
    got = normalize(source.images[source.indices].astype("float32"), model.mean, model.std)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.slow
def test_check_images_are_real_and_fit():
    images, name = sample_images(encoder(), count=5)
    assert (images.shape, images.dtype, name) == ((5, 28, 28, 1), np.uint8, "mnist5k")
    assert 10 < images.mean() < 100
    photos, name = sample_images(encoder(channels=3, mean=None, std=None, image_size=(8, 12)))
    assert (photos.shape, name) == ((16, 8, 12, 3), "photos")
    with pytest.raises(ValueError, match="`check_dataset`"):
        sample_images(encoder(), "photos")
    for wrong in ("photos", "folder:there_is_none"):
        with pytest.raises(ValueError, match="`ranges`"):
            sample_images(encoder(), wrong, argument="ranges")


@pytest.mark.parametrize(
    "changes, dtype, low, high",
    [
        ({"channels": 12, "value_range": (0, 4095)}, "uint16", 0, 4095),
        ({"channels": 1, "value_range": (-1024, 3071)}, "int16", -1024, 3071),
        ({"channels": 2, "value_range": (0, 1.5)}, "float32", 0, 1.5),
        ({"channels": 2}, "uint8", 0, 255),  # no embedded images have two
    ],
)
def test_smooth_random_images_stand_for_other_sensors(changes, dtype, low, high):
    model = encoder(**changes, mean=None, std=None, num_layers=1)
    images, name = sample_images(model, count=3)
    assert images.shape == (3, 28, 28, model.channels) and images.dtype == dtype
    assert name == "smooth random values"
    # The whole range in each band; neighbours are alike, images and bands are not.
    np.testing.assert_allclose(images.min(axis=(1, 2)), low)
    np.testing.assert_allclose(images.max(axis=(1, 2)), high)
    unit = (images.astype("float64") - low) / (high - low)
    assert np.abs(np.diff(unit, axis=1)).mean() < 0.15
    flat = np.moveaxis(unit, -1, 1).reshape(3 * model.channels, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(len(flat))).max() < 0.9
    np.testing.assert_array_equal(sample_images(model, count=3)[0], images)


def test_images_of_a_data_set_are_in_the_models_range():
    digits = load_source("mnist5k").subset(np.arange(4))
    pixels = digits.images[digits.indices].astype("float64")
    for value_range in ((-1024, 3071), (0, 1.5)):
        images, name = sample_images(encoder(value_range=value_range, num_layers=1), digits, 4)
        low, high = value_range
        wanted = low + pixels / 255 * (high - low)
        assert name == "mnist5k"
        if images.dtype == np.int16:
            assert np.abs(images - wanted).max() <= 0.501  # rounded, not cut
        else:
            np.testing.assert_allclose(images, wanted, atol=1e-6)


class Batches:
    """A runner that returns the images' first row, and notes the batches that it was given."""

    def __init__(self, batch_size):
        self.batch_size, self.seen = batch_size, []

    def __call__(self, images):
        self.seen.append(len(images))
        rows = images[:, 0, :, 0].astype("float32")
        return {"tokens": rows[:, None], "cls": rows, "pooled": rows}


@pytest.mark.parametrize("batch_size, sizes", [(None, [1] * 5 + [3, 2] + [5]), (4, [4, 4])])
def test_all_images_are_compared_in_every_size_of_batch(batch_size, sizes):
    images, runner = digits(5), Batches(batch_size)
    reference = {"images": images, "normalised": images, **Batches(None)(images)}
    result = compare_file(runner, reference)
    assert runner.seen[: len(sizes)] == sizes  # then it is timed
    assert result["difference"] == 0 and result["num_images"] == 5
    reference["cls"] = reference["cls"] + np.eye(5, 28, dtype="float32")
    assert compare_file(runner, reference)["max_abs_difference"] == 1


def test_an_output_that_is_missing_is_named():
    images = digits(2)
    reference = {"images": images, "normalised": images, "logits": np.zeros((2, 3), "float32")}
    with pytest.raises(ValueError, match="logits"):
        compare_file(Batches(None), reference)
