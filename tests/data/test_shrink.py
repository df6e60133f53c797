"""What is packed of an image: kept as it is, or shrunk at its own depth."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_mae.data.shrink import packed_bytes


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("side", [60, 61, None])
def test_what_is_not_larger_is_kept_to_the_byte(picture, kind, side):
    data = encoded(picture(60, 80), kind)
    assert packed_bytes(data, side) == data
    turned = encoded(picture(80, 60), kind)
    assert packed_bytes(turned, side) == turned


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(60, 80), (80, 60), (61, 97), (1000, 333)])
def test_the_shorter_side_is_what_was_asked_for(picture, kind, size):
    image = opened(packed_bytes(encoded(picture(*size), kind), 32))
    assert image.format == "JPEG" and min(image.size) == 32
    height, width = size
    assert image.width / image.height == pytest.approx(width / height, rel=0.05)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_is_shrunk_looks_as_before(picture, kind):
    image = picture(400, 480)
    small = opened(packed_bytes(encoded(image, kind, quality=95), 50))
    expected = np.asarray(image.resize((60, 50), Image.Resampling.BICUBIC), float)
    assert np.abs(np.asarray(small, float) - expected).mean() < 4


def test_the_pattern_of_single_pixels_becomes_its_mean():
    """Without antialiasing, every other column would be all that is left: 0 or 255."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = 255
    for data in (encoded(Image.fromarray(pixels), "JPEG", quality=100), npy(pixels), pixels):
        image = np.asarray(opened(packed_bytes(data, 16)))
        assert np.abs(image[2:-2, 2:-2].astype(float) - 127.5).max() < 8


def test_a_photograph_is_turned_upright(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = opened(packed_bytes(encoded(picture(60, 80), "JPEG", exif=exif), 30))
    assert image.size == (30, 40) and 0x0112 not in image.getexif()


def test_the_quality_of_jpeg(picture):
    data = encoded(picture(200, 200))
    sizes = [len(packed_bytes(data, 100, quality)) for quality in (30, 60, 95)]
    assert sizes == sorted(set(sizes))
    assert (
        opened(packed_bytes(encoded(picture(200, 200).convert("CMYK"), "JPEG"), 64)).mode == "RGB"
    )
    assert opened(packed_bytes(encoded(picture(200, 200).convert("L"), "JPEG"), 64)).mode == "L"


def test_alpha_is_kept_and_what_cannot_be_seen_colours_nothing():
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:, :20] = (200, 100, 50, 255)
    pixels[:, 20:] = (0, 255, 0, 0)
    image = opened(packed_bytes(encoded(Image.fromarray(pixels)), 10))
    assert image.format == "PNG" and image.mode == "RGBA" and image.size == (10, 10)
    small = np.asarray(image).astype(int)
    seen = small[..., 3] > 8
    assert 40 <= seen.sum() <= 60 and small[..., 3].max() == 255
    assert np.abs(small[seen][:, :3] - (200, 100, 50)).max() <= 8


def test_alpha_of_16_bits_is_kept_with_its_levels():
    import tensorflow as tf

    ramp = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40)
    pixels = np.stack([ramp, 2 * ramp, 3 * ramp, np.full_like(ramp, 65535)], axis=-1)
    pixels[:20, :20, 3] = 0
    data = packed_bytes(tf.io.encode_png(pixels).numpy(), 20)
    small = tf.io.decode_png(data, dtype=tf.uint16).numpy().astype(int)
    assert small.shape == (20, 20, 4) and small[..., 3].max() == 65535
    seen = small[12:, 12:]
    assert len(np.unique(seen[..., 0])) == seen[..., 0].size
    assert np.abs(seen[..., 1] - 2 * seen[..., 0]).max() <= 2


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 12])
def test_above_8_bits_nothing_is_quantised(dtype, channels):
    rng = np.random.RandomState(0)
    pixels = rng.uniform(-1000 if dtype == "int16" else 0, 4095, (32, 48, channels)).astype(dtype)
    small = np.load(io.BytesIO(packed_bytes(npy(pixels), 16)))
    assert small.shape == (16, 24, channels) and small.dtype == dtype
    for channel in range(channels):
        expected = Image.fromarray(pixels[..., channel].astype(np.float32)).resize(
            (24, 16), Image.Resampling.BILINEAR
        )
        difference = small[..., channel].astype(float) - np.asarray(expected)
        assert np.abs(difference).max() <= (0.5 if dtype != "float32" else 0)
    assert small.min() >= pixels.min() and small.max() <= pixels.max()
    assert len(np.unique(small)) > 256


def test_other_than_1_or_3_channels_of_bytes():
    pixels = np.arange(16 * 16 * 5, dtype=np.uint8).reshape(16, 16, 5)
    small = np.load(io.BytesIO(packed_bytes(npy(pixels), 8)))
    assert small.shape == (8, 8, 5) and small.dtype == np.uint8


def test_missing_values_are_no_part_of_those_beside_them():
    pixels = np.full((16, 16, 1), 7, np.float32)
    pixels[:, 8:] = np.nan
    small = np.load(io.BytesIO(packed_bytes(npy(pixels), 4)))[..., 0]
    np.testing.assert_allclose(small[:, :2], 7, rtol=1e-6)
    assert np.isnan(small[:, 2:]).all()


def test_pixels_in_memory():
    for channels, mode in ((3, "RGB"), (1, "L")):
        pixels = np.random.RandomState(0).randint(0, 256, (9, 7, channels), dtype=np.uint8)
        image = opened(packed_bytes(pixels))
        assert image.mode == mode
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)
    deep = np.arange(63, dtype=np.int32).reshape(9, 7, 1)
    assert np.array_equal(np.load(io.BytesIO(packed_bytes(deep))), deep)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_broken_file_raises_where_it_has_to_be_shrunk(picture, kind):
    data = encoded(picture(60, 80), kind)
    data = data[: len(data) // 2]
    assert packed_bytes(data) == data
    with pytest.raises(Exception, match="."):
        packed_bytes(data, 32)
