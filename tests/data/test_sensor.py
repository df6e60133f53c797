"""From stored pixels to a model's, with numbers worked out by hand."""

import numpy as np
import pytest
from PIL import Image

from keras_mae.data import SensorOptions, eval_dataset, load_source, pretrain_dataset
from keras_mae.data.decoders.base import Decoded, Facts
from keras_mae.data.sensor import Sensor, Tally, auto_range, grey_of, measure

RAMP = np.arange(4096, dtype="uint16").reshape(64, 64, 1)


def plain(channels=1, **changes):
    return Sensor(channels=channels, mean=(0.5,) * channels, std=(1.0,) * channels, **changes)


def measured(images, **options):
    """The `Sensor` of `Decoded` images."""

    def facts(record):
        pixels = images[record].pixels
        is_byte = pixels.dtype == np.uint8
        return Facts(*pixels.shape, is_byte, images[record].alpha is not None)

    return measure(
        np.arange(len(images)), facts, images.__getitem__, SensorOptions(**options), None
    )


def test_each_level_is_an_input_of_its_own():
    seen = plain(wide_range=(0.0, 4095.0)).see(Decoded(RAMP))
    assert seen.dtype == np.float32 and len(np.unique(seen)) == 4096
    np.testing.assert_allclose(seen / 255, RAMP / 4095, atol=1e-7)
    assert seen.min() == 0 and seen.max() == 255


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("float32", 0.0, 1.0),
        ("float32", -3.5, 2999.25),
        ("float64", 1e6, 1e6 + 1),
        ("int32", 1_000_000_000, 1_000_004_095),
        ("int16", -1024, 3071),
    ],
)
def test_values_are_mapped_as_numpy_maps_them(dtype, low, high):
    ramp = np.linspace(low, high, 4096).astype(dtype).reshape(64, 64, 1)
    seen = plain(wide_range=(float(low), float(high))).see(Decoded(ramp))
    expected = np.clip((ramp.astype("float64") - low) / (high - low), 0, 1)
    np.testing.assert_allclose(seen / 255, expected, rtol=0, atol=1e-6)


def test_eight_bits_stay_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype="uint8")
    assert plain(3).see(Decoded(pixels)) is pixels
    assert (plain(3).see(Decoded(pixels[..., :1])) == np.repeat(pixels[..., :1], 3, 2)).all()
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(plain().see(Decoded(pixels))[..., 0], grey)
    np.testing.assert_array_equal(grey_of(pixels)[..., 0], grey)
    # 3 of 5 said to be white: 51 * 5 = 255.
    seen = plain(3, byte_range=(0.0, 51.0)).see(Decoded(np.full((2, 2, 3), 30, "uint8")))
    np.testing.assert_allclose(seen, 150, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 700], "uint16"), (0, 1023)),
        (np.array([3, 1024], "uint16"), (0, 2047)),
        (np.array([0, 4095], "int32"), (0, 4095)),
        (np.array([0, 4096], "int32"), (0, 8191)),
        (np.array([-1024, 3071], "int16"), (-4096, 4095)),
        (np.array([-1024, 1023], "int16"), (-1024, 1023)),
        (np.array([-1, 0], "int16"), (-1, 0)),
        (np.array([0], "uint16"), (0, 1)),
        (np.linspace(0, 1, 1001).astype("float32"), (0.001, 0.999)),
        (np.array([2.5, 2.5]), (2.5, 3.5)),
        (1e6 + np.linspace(0, 1, 1001), (1e6 + 0.001, 1e6 + 0.999)),
    ],
)
def test_the_automatic_range(values, expected):
    assert auto_range([values]) == expected
    # Of several images, that of all of them.
    assert auto_range([values[:1], values[1:], values[:0]]) == auto_range([values])


def test_missing_values_are_no_part_of_range_or_statistics():
    land = np.linspace(100, 200, 64).reshape(8, 8, 1).astype("float32")
    image, missing = land.copy(), np.zeros((8, 8, 1), bool)
    image[:2], missing[:2] = -9999, True
    image[2, 0] = np.nan  # without a word in the file
    sensor = measured([Decoded(image, missing=missing)] * 4)
    left = np.delete(land[2:].ravel(), 0)
    low, high = np.percentile(np.tile(left, 4), (0.1, 99.9))
    np.testing.assert_allclose(sensor.wide_range, (low, high), rtol=1e-5)
    mapped = np.clip((left - low) / (high - low), 0, 1)
    np.testing.assert_allclose((sensor.mean[0], sensor.std[0]), (mapped.mean(), mapped.std()), 1e-4)
    assert any("26.6%" in line for line in sensor.lines)  # 17 of 64

    tally = Tally()
    seen = sensor.see(Decoded(image, missing=missing), tally) / 255
    np.testing.assert_allclose(seen[:2], sensor.mean[0], atol=1e-6)
    np.testing.assert_allclose(seen[2, 0], sensor.mean[0], atol=1e-6)
    np.testing.assert_allclose(np.delete(seen[2:].ravel(), 0), mapped, atol=1e-5)
    assert (tally.values, tally.missing) == (64, 17)
    assert tally.clipped == 0
    with pytest.raises(ValueError, match="no pixel"):
        sensor.see(Decoded(np.full((2, 2, 1), np.nan, "float32")))


def test_what_is_transparent_becomes_the_background():
    pixels = np.full((1, 3, 3), 200, "uint8")
    alpha = np.array([[1, 0.5, 0]], "float32")
    sensor = Sensor(mean=(0.2, 0.4, 0.6))
    expected = [[[200] * 3, [125.5, 151, 176.5], [51, 102, 153]]]
    np.testing.assert_allclose(sensor.see(Decoded(pixels, alpha)), expected, atol=1e-3)
    white = Sensor(background=(255.0,) * 3).see(Decoded(pixels, alpha))
    np.testing.assert_allclose(white[0, :, 0], [200, 227.5, 255], atol=1e-3)
    kept = Sensor(channels=4, mean=(0.5,) * 4).see(Decoded(pixels, alpha))
    np.testing.assert_allclose(kept[0], [[200] * 3 + [a] for a in (255, 127.5, 0)], atol=1e-3)
    opaque = Sensor(channels=4, mean=(0.5,) * 4).see(Decoded(pixels))
    assert (opaque[..., 3] == 255).all()
    # A background in the images' own values, 1000 of 0..4000.
    deep = plain(wide_range=(0.0, 4000.0), background=(1000.0,))
    seen = deep.see(Decoded(np.full((1, 1, 1), 4000, "uint16"), np.zeros((1, 1), "float32")))
    np.testing.assert_allclose(seen, 63.75, atol=1e-4)


@pytest.mark.parametrize(
    ("counts", "options", "channels"),
    [
        ((1, 1), {}, 1),
        ((3, 1), {}, 3),
        ((1, 1, 3), {}, 3),
        ((12, 12, 4), {}, 12),
        ((1, 1), {"channels": 3}, 3),
        ((3, 3), {"channels": 1}, 1),
        ((3, 1), {"channels": 4}, 4),
        ((12, 12), {"bands": (3, 2, 1)}, 3),
        ((12,), {"bands": (5,)}, 1),
    ],
)
def test_channels_are_found_or_asked_for(counts, options, channels):
    rng = np.random.default_rng(0)
    images = [Decoded(rng.integers(0, 4000, (4, 4, n)).astype("uint16")) for n in counts]
    sensor = measured(images, **options)
    assert sensor.channels == channels == len(sensor.mean) == len(sensor.std)
    assert sensor.value_range == (0.0, 4095.0)
    assert sensor.see(images[0]).shape == (4, 4, channels)


def test_bands_are_counted_from_one_and_kept_in_order():
    image = Decoded(np.arange(12, dtype="uint8")[None, None] * np.ones((2, 2, 1), "uint8"))
    seen = plain(3, bands=(3, 2, 12)).see(image)
    assert seen[0, 0].tolist() == [2, 1, 11]
    with pytest.raises(ValueError, match="band 13"):
        plain(1, bands=(13,)).see(image)


def test_other_bands_are_no_image_of_the_set():
    twelve = plain(12)
    for count in (1, 3, 4, 11, 13):
        with pytest.raises(ValueError, match=f"12 channels, got {count}"):
            twelve.see(Decoded(np.zeros((2, 2, count), "uint8")))


def test_statistics_are_imagenets_for_eight_bit_colour_alone():
    rng = np.random.default_rng(0)
    colour = [Decoded(rng.integers(0, 256, (8, 8, 3), dtype="uint8")) for _ in range(3)]
    assert measured(colour).mean == Sensor().mean
    grey = [Decoded(image.pixels[..., :1]) for image in colour]
    values = np.concatenate([image.pixels.ravel() for image in grey]) / 255
    sensor = measured(grey)
    np.testing.assert_allclose((*sensor.mean, *sensor.std), (values.mean(), values.std()), 1e-5)
    assert sensor.value_range == (0, 255)
    deep = [Decoded(image.pixels.astype("uint16") * 16) for image in colour]
    sensor = measured(deep)
    for channel in range(3):
        values = np.concatenate([image.pixels[..., channel].ravel() for image in deep]) / 4095
        np.testing.assert_allclose(sensor.mean[channel], values.mean(), 1e-5)
    assert measured(deep, statistics="imagenet").mean == Sensor().mean
    assert measured(deep, statistics=((0.5,), (0.25,))).std == (0.25,) * 3


def test_a_range_said_is_that_of_all_images():
    images = [Decoded(np.full((2, 2, 1), 50, dtype)) for dtype in ("uint8", "uint16", "float32")]
    sensor = measured(images, value_range=(0.0, 100.0))
    for image in images:
        np.testing.assert_allclose(sensor.see(image), 127.5, atol=1e-4)


def test_a_model_sees_each_depth_by_its_own_range():
    byte, deep = (
        Decoded(np.full((1, 1, 1), 51, "uint8")),
        Decoded(np.full((1, 1, 1), 819, "uint16")),
    )
    of_bytes = plain(wide_range=(0.0, 4095.0))
    for value_range in ((0.0, 255.0), (0.0, 4095.0)):
        seen = of_bytes.seen_by((0.5,), value_range)
        np.testing.assert_allclose([seen.see(byte), seen.see(deep)], 51, atol=1e-4)
    # The model's range counts, not the data's own.
    seen = of_bytes.seen_by((0.5,), (0.0, 8190.0))
    np.testing.assert_allclose(seen.see(deep), 25.5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("channels", 0),
        ("bands", (0, 1)),
        ("value_range", (5.0, 5.0)),
        ("statistics", "mnist"),
        ("statistics", ((0.5,), (0.0,))),
    ],
)
def test_options_that_do_not_fit_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        SensorOptions(**{name: value})


@pytest.mark.parametrize("options", [{"channels": 5}, {"bands": (4,)}, {"background": (1.0, 2.0)}])
def test_options_that_the_images_cannot_have_are_named(make_folder, options):
    source = load_source(f"folder:{make_folder(3)}", **options)
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        source.sensor  # noqa: B018


@pytest.mark.parametrize("options", [{"channels": 1}, {"statistics": "imagenet"}])
def test_pixels_in_memory_are_what_they_are(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        load_source("mnist5k", **options)


@pytest.fixture
def ramps(tmp_path):
    """A folder of 12-bit ramps in 16-bit PNGs."""
    for number in range(6):
        image = np.roll(RAMP[..., 0], 7 * number, axis=1)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return load_source(f"folder:{tmp_path}")


@pytest.mark.slow
def test_a_folder_of_twelve_bits_keeps_every_level(ramps):
    assert (ramps.channels, ramps.value_range) == (1, (0.0, 4095.0))
    settings = {"image_size": 64, "batch_size": 2, "mean": (0.0,), "std": (1.0,)}
    batch = next(iter(eval_dataset(ramps, with_labels=False, **settings))).numpy()
    for image in batch:
        assert len(np.unique(image)) == 4096
    np.testing.assert_allclose(batch[0, ..., 0], RAMP[..., 0] / 4095, atol=1e-6)
    whole = list(pretrain_dataset(ramps, seed=1, **settings).take(5).as_numpy_iterator())
    later = list(pretrain_dataset(ramps, seed=1, start_step=3, **settings).take(2))
    np.testing.assert_array_equal(whole[3:], later)
    assert all(image.min() >= 0 and image.max() <= 1 for image in whole)
    half = next(
        iter(eval_dataset(ramps, with_labels=False, value_range=(0, 8190), **settings))
    ).numpy()
    np.testing.assert_allclose(half, batch / 2, atol=1e-6)


def test_bands_are_taken_of_images_that_have_as_many_as_the_others():
    """A band's number means another thing in an image of another sensor."""
    rng = np.random.default_rng(0)
    images = [Decoded(rng.integers(0, 4000, (4, 4, n)).astype("uint16")) for n in (12, 12, 4)]
    sensor = measured(images, bands=(4, 3, 2))
    assert sensor.see(images[0]).shape == (4, 4, 3)
    with pytest.raises(ValueError, match="12 bands, got 4"):
        sensor.see(images[2])


def test_deeper_images_among_others_are_said():
    rng = np.random.default_rng(0)
    byte = [Decoded(rng.integers(0, 256, (4, 4, 1), dtype="uint8")) for _ in range(3)]
    deep = Decoded(np.array([[[0], [3000]]], "uint16"))
    sensor = measured([*byte, deep])
    assert sensor.value_range == (0, 255) and sensor.wide_range == (0, 4095)
    (line,) = [line for line in sensor.lines if "8 bits" in line]
    assert line.startswith("1 of 4") and "0 to 4095" in line
    assert not measured(byte).lines and not measured([deep] * 3).lines
