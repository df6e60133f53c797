"""Values of any sensor to normalised images and back, against NumPy in float64."""

import numpy as np
import pytest

from keras_mae import pixels

MEAN, STD = (0.485, 0.1), (0.229, 0.5)


def by_numpy(values, mean, std, value_range):
    low, high = value_range
    values = values.astype("float64")
    return ((values - low) / (high - low) - np.array(mean)) / np.array(std)


def spread(value_range, count=500):
    """Return float32 values `(count, 2)` over a range."""
    low, high = value_range
    values = np.random.default_rng(0).uniform(low, high, (count, 2)).astype("float32")
    return np.clip(values, np.float32(low), np.float32(high))


@pytest.mark.parametrize(
    "value_range",
    [
        (0, 255),
        (0, 4095),
        (0, 65535),
        (-1024, 3071),
        (0.0, 1.5),
        (0.1, 0.3),
        (-273.15, 1000.1),
        (1e6, 1e6 + 1),
        (1000.1, 1000.2),
        (-1e-4, 1e-4),
    ],
)
def test_normalised_as_numpy_does_it_in_float64(value_range):
    values = spread(value_range)
    got = pixels.normalize(values, MEAN, STD, value_range)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, by_numpy(values, MEAN, STD, value_range), atol=1e-6)


def test_bytes_are_scaled_by_one_product_and_one_sum():
    """To the last bit what models of 0-255 were trained with."""
    values = np.arange(256, dtype="float32")[:, None].repeat(2, axis=1)
    std = np.array(STD)
    scale, offset = (1 / (255 * std)).astype("float32"), (-np.array(MEAN) / std).astype("float32")
    for value_range in ((), ((0, 255),), ((0.0, 255.0),)):
        got = pixels.normalize(values, MEAN, STD, *value_range)
        np.testing.assert_array_equal(got, values * scale + offset)
        for own, wanted in zip(
            pixels.scale_and_offset(MEAN, STD, *value_range), (scale, offset), strict=True
        ):
            np.testing.assert_array_equal(own, wanted)


@pytest.mark.parametrize("value_range", [(0, 4095), (-1024, 3071)])
def test_each_level_is_an_input_of_its_own(value_range):
    values = np.arange(value_range[0], value_range[1] + 1, dtype="float32")[:, None]
    got = pixels.normalize(values, (0.3,), (0.2,), value_range)
    assert len(np.unique(got)) == len(values) == 4096
    # (0 - .3) / .2 and (1 - .3) / .2
    np.testing.assert_allclose(got[[0, -1], 0], [-1.5, 3.5], atol=1e-6)


def test_back_to_the_unit_range_or_to_values():
    values = spread((-1024, 3071))
    images = pixels.normalize(values, MEAN, STD, (-1024, 3071))
    np.testing.assert_allclose(
        pixels.denormalize(images, MEAN, STD), (values + 1024) / 4095, atol=1e-6
    )
    back = pixels.denormalize(images, MEAN, STD, (-1024, 3071))
    np.testing.assert_allclose(back, values, atol=1e-3)
    # Beyond the range all is cut.
    far = pixels.denormalize(np.array([[-99.0, 99.0]]), MEAN, STD, (-1024, 3071))
    np.testing.assert_array_equal(far, [[-1024, 3071]])


@pytest.mark.parametrize(
    "value_range, dtype",
    [
        ((0, 255), "uint8"),
        ((16, 235), "uint8"),
        ((0, 256), "uint16"),
        ((0, 4095), "uint16"),
        ((0, 65535), "uint16"),
        ((-1, 255), "int16"),
        ((-1024, 3071), "int16"),
        ((-32768, 32767), "int16"),
        ((0, 65536), "float32"),
        ((-1, 32768), "float32"),
        ((0.0, 1.5), "float32"),
        ((0.5, 4095.5), "float32"),
        ((0, 1), "float32"),
        ((-1, 1), "float32"),
    ],
)
def test_dtype_of_a_range(value_range, dtype):
    assert pixels.pixel_dtype(value_range) == dtype


@pytest.mark.parametrize(
    "wrong",
    [(5, 5), (3, 1), (0,), (0, 1, 2), 255, None, "ab", (0, np.inf), (np.nan, 1), (1e9, 1e9 + 1)],
)
def test_ranges_that_are_none(wrong):
    with pytest.raises(ValueError, match="`value_range`"):
        pixels.check_value_range(wrong)
