"""Decoding: every format as Pillow reads it, by whichever way it goes."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_mae.data import load_image, load_source
from keras_mae.data.decode import plain_jpeg_size
from keras_mae.data.reader import Reader


def encode(image, form="JPEG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def xmp_turned():
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'


# name -> function from an RGB picture to the bytes of a file
FILES = {
    "baseline.jpg": lambda image: encode(image, quality=90),
    "optimised.jpg": lambda image: encode(image, quality=60, optimize=True),
    "444.jpg": lambda image: encode(image, subsampling=0),
    "restarts.jpg": lambda image: encode(image, restart_marker_blocks=4),
    "upright.jpg": lambda image: encode(image, exif=turned(1)),
    "grey.jpg": lambda image: encode(image.convert("L")),
    "progressive.jpg": lambda image: encode(image, progressive=True),
    "cmyk.jpg": lambda image: encode(image.convert("CMYK")),
    "turned.jpg": lambda image: encode(image, exif=turned(6)),
    "xmp.jpg": lambda image: encode(image, xmp=xmp_turned()),
    "trailing.jpg": lambda image: encode(image) + b"bytes that do not belong here",
    "rgb.png": lambda image: encode(image, "PNG"),
    "grey.png": lambda image: encode(image.convert("L"), "PNG"),
    "turned.png": lambda image: encode(image, "PNG", exif=turned(3)),
    "alpha.png": lambda image: encode(half_clear(image), "PNG"),
    "palette.png": lambda image: encode(image.quantize(16), "PNG"),
    "bits.png": lambda image: encode(image.convert("1"), "PNG"),
    "picture.webp": lambda image: encode(image, "WEBP", lossless=True),
    "picture.bmp": lambda image: encode(image, "BMP"),
    "picture.tif": lambda image: encode(image, "TIFF"),
    "moving.gif": lambda image: encode(
        image, "GIF", save_all=True, append_images=[ImageOps.invert(image)]
    ),
    "png_named.jpg": lambda image: encode(image, "PNG"),
    "jpg_named.png": lambda image: encode(image),
}
FAST = {"baseline.jpg", "optimised.jpg", "444.jpg", "restarts.jpg", "upright.jpg", "grey.jpg"}
FAST |= {"jpg_named.png", "progressive.jpg", "trailing.jpg"}


def half_clear(image):
    image = image.convert("RGBA")
    image.putalpha(128)
    return image


def pillow(data, mode="RGB"):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode)
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", FILES)
def test_every_file_is_read_as_pillow_does(tmp_path, picture, name, channels):
    data = FILES[name](picture())
    (tmp_path / name).write_bytes(data)
    expected = pillow(data, "RGB" if channels == 3 else "L")
    if name != "alpha.png":  # which is composed
        assert np.array_equal(load_image(tmp_path / name, channels), expected)

    source = load_source(f"folder:{tmp_path}")
    source.channels = channels
    handle, _ = Reader(source).example(0)
    assert (handle.height, handle.width) == expected.shape[:2]
    if name == "alpha.png":  # half of it is the mean colour
        share = 128 / 255
        expected = share * expected + (1 - share) * 255 * np.array(source.mean)
    # What is composed is rounded, as all that is stored in 8 bits.
    np.testing.assert_allclose(handle.whole(), expected, rtol=0, atol=0.501 * (name == "alpha.png"))
    # Boxes at the edges, at the decoder's blocks of 16, and at neither.
    for top, left, height, width in [
        (0, 0, 60, 60),
        (3, 16, 33, 32),
        (7, 5, 41, 44),
        (59, 59, 1, 1),
    ]:
        crop = Reader(source).example(0)[0].crop([top, left, height, width])
        whole = handle.whole()[top : top + height, left : left + width]
        assert np.array_equal(crop, whole)
    if channels == 3:
        assert (plain_jpeg_size(data) is not None) == (name in FAST)


def test_load_image_gives_an_images_own_values(tmp_path):
    values = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32, 1)
    Image.fromarray(values[..., 0]).save(tmp_path / "deep.png")
    for channels, expected in ((1, values), (3, np.repeat(values, 3, 2)), (None, values)):
        pixels = load_image(tmp_path / "deep.png", channels)
        assert pixels.dtype == np.uint16 and np.array_equal(pixels, expected)


RAMP = np.linspace(0, 1, 96 * 96).reshape(96, 96)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "pixels",
    [
        (RAMP * 65535).astype("uint16"),
        (RAMP * 4095).astype("uint16"),
        (RAMP * 65535).astype("int32"),
        (RAMP * 4000 - 1000).astype("int32"),
        RAMP.astype("float32"),
        (RAMP * 65535).astype("float32"),
    ],
    ids=lambda pixels: f"{pixels.dtype}-{pixels.max():g}",
)
def test_no_level_of_a_deep_image_is_lost(tmp_path, pixels, channels):
    Image.fromarray(pixels).save(tmp_path / "deep.tif")
    loaded = load_image(tmp_path / "deep.tif", channels)
    assert loaded.dtype == pixels.dtype
    assert np.array_equal(loaded, np.repeat(pixels[..., None], channels, 2))


def test_deep_colour_is_made_grey_in_float32(tmp_path):
    np.save(tmp_path / "colour.npy", np.array([[[1000, 2000, 3000]]], np.uint16))
    grey = load_image(tmp_path / "colour.npy", 1)
    assert grey.dtype == np.float32
    np.testing.assert_allclose(grey, 0.299 * 1000 + 0.587 * 2000 + 0.114 * 3000, rtol=1e-6)


def test_what_is_transparent_shows_the_background(tmp_path):
    """200 with alpha 51/255 on black is 40; on 100, 120."""
    pixels = np.array([[[200, 0, 10, 51], [7, 8, 9, 255], [1, 2, 3, 0]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    black = load_image(tmp_path / "alpha.png")
    assert black.dtype == np.uint8 and black.tolist() == [[[40, 0, 2], [7, 8, 9], [0, 0, 0]]]
    light = load_image(tmp_path / "alpha.png", background=(100, 0, 255))
    assert light.tolist() == [[[120, 0, 206], [7, 8, 9], [100, 0, 255]]]
    with pytest.raises(ValueError, match="`background`"):
        load_image(tmp_path / "alpha.png", background=(1, 2))


def test_bands_are_loaded_as_they_are_or_refused(tmp_path):
    bands = np.arange(5 * 4 * 12, dtype=np.int16).reshape(5, 4, 12)
    np.save(tmp_path / "bands.npy", bands)
    for channels in (12, None):
        assert np.array_equal(load_image(tmp_path / "bands.npy", channels), bands)
    for channels in (1, 3, 4):
        with pytest.raises(ValueError, match="`channels`"):
            load_image(tmp_path / "bands.npy", channels)


def test_only_whole_upright_headers_are_plain(picture):
    data = encode(picture(), quality=90)
    assert plain_jpeg_size(data) == (60, 80)
    for cut in (0, 1, 2, 10, 100):
        assert plain_jpeg_size(data[:cut]) is None
    assert plain_jpeg_size(data, channels=1) is None
    assert plain_jpeg_size(encode(picture().convert("L")), channels=1) == (60, 80)


@pytest.mark.slow
def test_what_is_damaged_is_what_pillow_says(picture, tmp_path):
    """Whatever is done to a file, its pixels are Pillow's, or both refuse it."""
    image, rng, accepted, refused = picture(), np.random.RandomState(0), 0, 0
    whole = [encode(image, quality=q, optimize=q < 80) for q in (50, 75, 95)]
    path = tmp_path / "damaged.jpg"
    path.write_bytes(whole[0])
    reader = Reader(load_source(f"folder:{tmp_path}"))
    for number in range(1500):
        data = bytearray(whole[number % 3])
        for _ in range(rng.randint(1, 4)):
            data[rng.randint(2, 700 if number % 2 else len(data))] = rng.randint(256)
        if number % 10 == 0:
            data = data[: rng.randint(len(data))]
        data = bytes(data)
        try:
            expected = pillow(data)
        except Exception:
            expected = None
        if expected is not None and expected.size > 750_000:
            continue
        path.write_bytes(data)
        try:
            pixels = reader.example(0)[0].whole()
        except Exception:
            refused += 1
            assert expected is None
            continue
        accepted += 1
        assert np.array_equal(pixels, expected)
    assert accepted > 500 and refused > 50


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"no image at all" * 100])
def test_load_image_names_the_file(tmp_path, content):
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"`path`.*bad\.jpg"):
        load_image(tmp_path / "bad.jpg")
    with pytest.raises(ValueError, match="missing.png"):
        load_image(tmp_path / "missing.png")


@pytest.mark.parametrize("channels", [0, -1, 2.5, "3"])
def test_load_image_refuses_other_channels(tmp_path, channels):
    with pytest.raises(ValueError, match="`channels`"):
        load_image(tmp_path / "any.png", channels=channels)


def odd_files(folder, picture):
    """Files of which Pillow warns: odd palette, cut EXIF, and more pixels than it likes."""
    palette = picture().quantize(16)
    palette.save(folder / "palette.png", transparency=bytes(range(0, 160, 10)))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01"
    picture().save(folder / "exif.jpg", exif=exif)
    Image.new("L", (9500, 9500)).save(folder / "large.png")
    Image.new("1", (13400, 13400)).save(folder / "bomb.png")
    return folder


@pytest.mark.slow
def test_pillow_warns_of_the_odd_files(tmp_path, picture):
    """So that the next test tests something."""
    folder, seen = odd_files(tmp_path, picture), []
    for name in ("palette.png", "exif.jpg", "large.png"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Image.open(folder / name) as image:
                ImageOps.exif_transpose(image).convert("RGB")
        seen += [name] * bool(caught)
    assert seen == ["palette.png", "exif.jpg", "large.png"]


@pytest.mark.slow
def test_nothing_of_pillows_voice_is_heard(tmp_path, picture):
    """In a process in which each warning is an error, all is read, or skipped by name."""
    odd_files(tmp_path, picture)
    code = """if True:
        import sys
        from keras_mae.data import SkipLog, eval_dataset, load_source
        import warnings
        warnings.simplefilter("error")
        source, log = load_source(f"folder:{sys.argv[1]}"), SkipLog(max_bad_fraction=0.5)
        print(source.typical_size())
        batches = eval_dataset(source, image_size=16, batch_size=2, mean=(0,) * 3, std=(1,) * 3,
                               with_labels=False, on_skip=log)
        print(sum(len(batch) for batch in batches))
        print(*(f"{path} {reason}" for path, reason in log.reasons.items()))
        """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "PIL" not in done.stderr and "Warning" not in done.stderr
    _, read, skipped = done.stdout.splitlines()
    assert read == "3" and f"{tmp_path}/bomb.png DecompressionBombError" in skipped
