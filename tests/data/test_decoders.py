"""Decoders of Pillow's formats, of 16-bit PNG and of NumPy's files: pixels, alpha, facts."""

import io
import os
import subprocess
import sys
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tifffile
from PIL import Image, PngImagePlugin
from pillow_oracle import read_with_pillow

from keras_mae.data.decode import decode_image, image_facts
from keras_mae.data.decoders import base

RNG = np.random.RandomState(0)
RGB = RNG.randint(0, 256, (40, 50, 3)).astype(np.uint8)
DEEP = RNG.randint(0, 65536, (20, 30, 4)).astype(np.uint16)


def encode(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def array_file(array, save=np.save, **options):
    file = io.BytesIO()
    save(file, array, **options)
    return file.getvalue()


def decode(data):
    """Decode, and check that the header says the same."""
    decoded, facts = decode_image(data), image_facts(data)
    assert (facts.height, facts.width, facts.channels) == decoded.pixels.shape
    assert facts.is_byte == (decoded.pixels.dtype == np.uint8)
    assert facts.has_alpha or decoded.alpha is None
    assert decoded.alpha is None or decoded.alpha.dtype == np.float32
    return decoded


def in_mode(mode):
    image = Image.fromarray(RGB)
    if mode in ("PA", "La"):
        image = image.convert("LA")
    if mode == "RGBa":
        image = image.convert("RGBA")
    return image.convert(mode)


FORMATS = {
    "PNG": ["1", "L", "P", "LA", "RGB", "RGBA"],
    "GIF": ["1", "L", "P", "RGB"],
    "WEBP": ["L", "RGB", "RGBA"],
    "JPEG": ["L", "RGB", "CMYK", "YCbCr"],
    "JPEG2000": ["L", "LA", "RGB", "RGBA", "YCbCr"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "PPM": ["1", "L", "RGB"],
    "TGA": ["1", "L", "P", "LA", "RGB", "RGBA"],
    "PCX": ["1", "L", "P", "RGB"],
    "QOI": ["RGB", "RGBA"],
    "SGI": ["L", "RGB", "RGBA"],
}


@pytest.mark.parametrize("form, mode", [(form, mode) for form in FORMATS for mode in FORMATS[form]])
def test_opaque_8_bits_are_what_pillow_reads(form, mode):
    data = encode(in_mode(mode), form)
    decoded = decode(data)
    assert decoded.alpha is None and decoded.frames == 1
    for channels in (3, 1):
        expected = read_with_pillow(data, channels)
        if decoded.pixels.shape[2] == channels:
            assert np.array_equal(decoded.pixels, expected)
        elif channels == 3:
            assert np.array_equal(np.repeat(decoded.pixels, 3, 2), expected)


@pytest.mark.parametrize("mode", ["PA", "LA", "La", "RGBA", "RGBa", "RGBX", "HSV", "LAB", "P"])
def test_each_mode_of_pillow_has_pixels(mode, monkeypatch):
    """Also those that no common file opens in: the image is handed over in this mode."""
    image = Image.fromarray(RGB, "LAB") if mode == "LAB" else in_mode(mode)
    upright = image.convert(mode.upper()) if mode in ("La", "RGBa") else image
    expected = np.asarray(upright.convert("RGB"))
    image.format = "TEST"
    monkeypatch.setattr(Image, "open", lambda file: image)
    pixels = decode_image(b"any").pixels
    assert np.array_equal(np.broadcast_to(pixels, expected.shape), expected)


@pytest.mark.parametrize(
    "mode, dtype", [("I;16", "u2"), ("I;16B", ">u2"), ("I", "i4"), ("F", "f4")]
)
def test_deep_modes_of_pillow_keep_all(mode, dtype, monkeypatch):
    values = (np.arange(4096).reshape(64, 64) * 16 - (2000 if mode in "IF" else 0)).astype(dtype)
    image = Image.fromarray(values)
    assert image.mode == mode
    image.format = "TEST"
    monkeypatch.setattr(Image, "open", lambda file: image)
    pixels = decode_image(b"any").pixels
    assert pixels.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(pixels[..., 0], values)


def test_alpha_of_a_channel():
    alpha = RNG.randint(0, 256, (40, 50)).astype(np.uint8)
    for mode, form in (("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TGA")):
        image = in_mode(mode)
        image.putalpha(Image.fromarray(alpha))
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        decoded = decode(encode(image, form, **options))
        np.testing.assert_allclose(decoded.alpha, alpha / 255, atol=1e-7)
        assert np.array_equal(decoded.pixels, np.asarray(image)[..., :-1])


def hidden_where(data, expected):
    decoded = decode(data)
    assert np.array_equal(decoded.alpha, np.where(expected, 0, 1))
    return decoded


def test_a_transparent_colour_is_alpha():
    hidden = np.zeros((40, 50), bool)
    hidden[:5] = True
    pixels = RGB.copy()
    pixels[~hidden & (pixels == (0, 255, 0)).all(-1)] = 1
    pixels[hidden] = (0, 255, 0)
    data = encode(Image.fromarray(pixels), transparency=(0, 255, 0))
    assert np.array_equal(hidden_where(data, hidden).pixels, pixels)
    grey = np.maximum(RGB[..., 0], 1)
    grey[hidden] = 0
    hidden_where(encode(Image.fromarray(grey), transparency=0), hidden)
    hidden_where(encode(Image.fromarray(~hidden), transparency=0), hidden)
    hidden_where(encode(Image.fromarray(hidden), transparency=1), hidden)


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_index_of_a_palette_is_alpha(form):
    indices = np.kron(np.eye(2), np.ones((8, 8))).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette([255, 0, 255, 200, 40, 90])
    decoded = hidden_where(encode(image, form, transparency=0), indices == 0)
    assert (decoded.pixels[indices == 1] == (200, 40, 90)).all()


def test_a_palette_may_have_an_alpha_for_each_colour():
    indices = np.arange(4, dtype=np.uint8).reshape(2, 2)
    image = Image.fromarray(indices, "P")
    image.putpalette([10, 20, 30] * 4)
    decoded = decode(encode(image, transparency=bytes([0, 51, 255])))
    np.testing.assert_allclose(decoded.alpha, [[0, 0.2], [1, 1]], atol=1e-7)


def test_grey_of_few_bits_has_its_transparent_level():
    """2 bits: level 1 of 0-3, which Pillow makes 85."""
    header = b"\0\0\0\x04\0\0\0\x01\x02\0\0\0\0"
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(8)
    for kind, content in (
        (b"IHDR", header),
        (b"tRNS", b"\0\x01"),
        (b"IDAT", zlib.compress(bytes([0, 0b00011011]))),
        (b"IEND", b""),
    ):
        PngImagePlugin.putchunk(file, kind, content)
    decoded = decode(file.getvalue())
    assert decoded.pixels.tolist() == [[[0], [85], [170], [255]]]
    assert decoded.alpha.tolist() == [[1, 0, 1, 1]]


def test_files_that_look_alike_are_alike_whatever_colour_hides():
    """A channel, a colour, an index of a palette, a TIFF's sample: all say what is transparent."""
    colour, green, pink = (200, 40, 90), (0, 255, 0), (255, 0, 255)
    opaque = np.kron(np.eye(2), np.ones((32, 32))).astype(bool)

    def picture(hidden):
        pixels = np.full((64, 64, 4), (*hidden, 0), np.uint8)
        pixels[opaque] = (*colour, 255)
        return pixels

    palette = Image.fromarray(opaque.astype(np.uint8), "P")
    palette.putpalette([*pink, *colour])
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, picture(pink), photometric="rgb", extrasamples=["unassalpha"])
    files = [
        encode(Image.fromarray(picture(green))),
        encode(Image.fromarray(picture(pink))),
        encode(Image.fromarray(picture(green)[..., :3]), transparency=green),
        encode(palette, transparency=0),
        encode(palette, "GIF", transparency=0),
        encode(Image.fromarray(picture(green)), "WEBP", lossless=True, exact=True),
        tiff.getvalue(),
        deep_png(picture(pink).astype(np.uint16) * 257),
    ]
    for data in files:
        decoded = hidden_where(data, ~opaque)
        scale = 1 if decoded.pixels.dtype == np.uint8 else 257
        assert (decoded.pixels[opaque] == scale * np.array(colour)).all()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(form):
    frames = [Image.fromarray(RGB // (1 + number)) for number in range(3)]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
    decoded = decode(data)
    assert decoded.frames == 3
    assert np.array_equal(decoded.pixels, read_with_pillow(data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form in ("JPEG", "PNG", "WEBP"):
        data = encode(Image.fromarray(RGB), form, exif=exif)
        assert np.array_equal(decode(data).pixels, read_with_pillow(data))
    assert np.array_equal(
        base.turn(RGB, orientation), read_with_pillow(encode(Image.fromarray(RGB), exif=exif))
    )


def test_a_bomb_and_a_program_are_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for read in (decode_image, image_facts):
        with pytest.raises(ValueError, match="13400 x 13400"):
            read(encode(Image.new("1", (13400, 13400))))
    with pytest.raises(ValueError, match="EPS"):
        decode_image(encode(Image.fromarray(RGB), "EPS"))
    with pytest.raises(ValueError, match="empty"):
        decode_image(b"")


def deep_png(pixels):
    return tf.io.encode_png(pixels).numpy()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_keeps_16_bits(channels):
    pixels = DEEP[..., :channels]
    decoded = decode(deep_png(pixels))
    colours = channels - (channels in (2, 4))
    assert decoded.pixels.dtype == np.uint16
    assert np.array_equal(decoded.pixels, pixels[..., :colours])
    if colours < channels:
        np.testing.assert_allclose(decoded.alpha, pixels[..., -1] / 65535, atol=1e-7)
    else:
        assert decoded.alpha is None


def with_chunk(data, kind, content):
    """Put a chunk behind the header of a PNG."""
    file = io.BytesIO()
    PngImagePlugin.putchunk(file, kind, content)
    return data[:33] + file.getvalue() + data[33:]


def test_a_transparent_colour_of_16_bits_is_compared_with_all_of_them():
    pixels = np.full((4, 6, 3), (256, 512, 768), np.uint16)
    pixels[0] = (257, 512, 768)  # the same high bytes
    data = with_chunk(deep_png(pixels), b"tRNS", pixels[1, 0].astype(">u2").tobytes())
    expected = np.zeros((4, 6), bool)
    expected[1:] = True
    assert np.array_equal(hidden_where(data, expected).pixels, pixels)
    grey = deep_png(pixels[..., :1])
    hidden_where(with_chunk(grey, b"tRNS", pixels[1, 0, :1].astype(">u2").tobytes()), expected)


@pytest.mark.parametrize("orientation", [3, 6])
def test_png_of_16_bits_is_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = with_chunk(deep_png(DEEP[..., :3]), b"eXIf", exif.tobytes()[6:])
    assert np.array_equal(decode(data).pixels, base.turn(DEEP[..., :3], orientation))


def test_png_of_16_bits_that_is_cut_or_changed_is_an_error():
    data = deep_png(DEEP[..., :3])
    for cut in (1, 20, len(data) // 2, len(data) - 40):
        with pytest.raises(Exception, match=".+"):
            decode_image(data[:-cut])
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    with pytest.raises(Exception, match=".+"):
        decode_image(bytes(changed))


def test_png_of_16_bits_is_decoded_in_a_pipeline_by_several_threads():
    data = [deep_png(DEEP + np.uint16(number)) for number in range(8)]

    def read(number):
        return decode_image(data[int(number)]).pixels

    dataset = tf.data.Dataset.range(8).map(
        lambda number: tf.numpy_function(read, [number], tf.uint16), num_parallel_calls=4
    )
    for number, pixels in enumerate(dataset):
        assert np.array_equal(pixels, (DEEP + np.uint16(number))[..., :3])
    with ThreadPoolExecutor(4) as pool:
        for number, pixels in enumerate(pool.map(read, range(8))):
            assert np.array_equal(pixels, (DEEP + np.uint16(number))[..., :3])


def test_each_level_of_12_bits_is_kept():
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for data in (encode(Image.fromarray(ramp)), deep_png(ramp[..., None]), array_file(ramp)):
        assert np.array_equal(decode(data).pixels[..., 0], ramp)
    colour = np.stack([ramp, ramp[::-1], ramp.T], axis=-1)
    assert np.array_equal(decode(deep_png(colour)).pixels, colour)


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_deep_jpeg_2000_keeps_its_levels(bits, channels):
    codecs = pytest.importorskip("imagecodecs")
    pixels = np.ascontiguousarray(DEEP[..., :channels] & (2**bits - 1))
    data = codecs.jpeg2k_encode(pixels.squeeze(), level=0, bitspersample=bits)
    decoded = decode(data)
    assert np.array_equal(decoded.pixels, pixels[..., : min(channels, 3)])
    assert (decoded.alpha is None) == (channels < 4)


def test_deep_avif_keeps_its_levels():
    codecs = pytest.importorskip("imagecodecs")
    pixels = np.ascontiguousarray(DEEP[..., :3] % 1024)
    decoded = decode(codecs.avif_encode(pixels, level=100, bitspersample=10))
    assert decoded.pixels.dtype == np.uint16 and np.array_equal(decoded.pixels, pixels)


@pytest.mark.parametrize("highest", [1023, 65535])
def test_formats_that_would_lose_bits_are_refused(highest):
    with pytest.raises(ValueError, match="bits"):
        decode_image(b"P6 5 4 %d\n" % highest + bytes(5 * 4 * 6))


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">i2", "u4", ">i8", "f2", ">f4", "f8"])
def test_arrays_are_as_saved(dtype):
    array = (RNG.rand(7, 5, 12) * 100).astype(dtype)
    for stored in (array, np.asfortranarray(array), array[..., 0]):
        pixels = decode(array_file(stored)).pixels
        assert pixels.dtype == np.dtype(dtype).newbyteorder("=")
        assert pixels.flags.c_contiguous and np.array_equal(np.squeeze(pixels), stored)


def test_arrays_of_booleans_are_0_and_255():
    array = RNG.rand(7, 5) > 0.5
    assert np.array_equal(decode(array_file(array)).pixels[..., 0], np.where(array, 255, 0))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_of_arrays(save):
    array, other = RNG.rand(7, 5), RNG.rand(3, 3)
    for names in ({"only": array}, {"y": other, "image": array}, {"x": array, "label": other}):
        file = io.BytesIO()
        save(file, **names)
        assert np.array_equal(decode(file.getvalue()).pixels[..., 0], array)
    file = io.BytesIO()
    save(file, a=array, b=array)
    for read in (decode_image, image_facts):
        with pytest.raises(ValueError, match="image, x, data"):
            read(file.getvalue())


@pytest.mark.parametrize(
    "array",
    [
        np.ones((4, 5), complex),
        np.array([[{}]], object),
        np.zeros((4, 5), [("r", "u1"), ("g", "u1")]),
        np.zeros((4, 5), "U3"),
        np.zeros((4, 5), "M8[s]"),
        np.zeros(20),
        np.zeros((2, 3, 4, 5)),
        np.zeros((0, 5)),
        np.zeros((4, 5, 0)),
    ],
    ids=lambda array: f"{array.dtype.kind}-{array.shape}",
)
def test_arrays_that_are_no_images_are_refused(array):
    for read in (decode_image, image_facts):
        with pytest.raises(ValueError, match="array|pixels"):
            read(array_file(array))


def test_no_memory_is_taken_for_an_array_that_is_not_there():
    data = array_file(np.zeros((30, 40)))
    more = data.replace(b"(30, 40)", b"(99, 99)")
    for broken in (data[:-1], data[:200], data[:40], data[:9], more):
        with pytest.raises(Exception, match=".+"):
            decode_image(broken)
    huge = data.replace(b"(30, 40), }      ", b"(30000, 30000), }")
    for read in (decode_image, image_facts):
        with pytest.raises(ValueError, match="30000"):
            read(huge)


def test_an_archive_that_grows_beyond_bounds_is_refused(monkeypatch):
    file = io.BytesIO()
    np.savez_compressed(file, image=np.zeros((999, 999)))
    data = file.getvalue()
    assert decode(data).pixels.shape == (999, 999, 1) and len(data) < 20_000
    monkeypatch.setattr(base, "MAX_BYTES", 1_000_000)
    for read in (decode_image, image_facts):
        with pytest.raises(ValueError, match="1000000 bytes"):
            read(data)


def test_a_member_that_holds_more_than_its_array_is_no_memory():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", array_file(np.ones((2, 3))) + bytes(10_000_000))
    assert decode(file.getvalue()).pixels.shape == (2, 3, 1)


def test_facts_are_read_from_a_path(tmp_path):
    for name, data in {
        "a.jpg": encode(Image.fromarray(RGB), "JPEG"),
        "b.png": deep_png(DEEP),
        "c.npy": array_file(DEEP),
        "d.tif": encode(Image.fromarray(RGB), "TIFF"),
        "e": array_file(DEEP, np.savez),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert image_facts(tmp_path / name) == image_facts(data)


@pytest.mark.slow
def test_nothing_of_the_libraries_voices_is_heard(tmp_path):
    """In a process in which each warning is an error, as the first image of each kind."""
    odd = {
        "a.tif": odd_tiff(),
        "b.npy": array_file(np.array([[1e300, np.nan]])),
        "c.png": deep_png(DEEP),
    }
    pydicom = pytest.importorskip("pydicom")
    image = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    image.Rows -= 1  # more pixels than it says
    file = io.BytesIO()
    image.save_as(file)
    odd["d.dcm"] = file.getvalue().replace(b"1.3.6.1.4.1.5962", b"01.03.x.1.4.1.59", 1)
    for name, data in odd.items():
        (tmp_path / name).write_bytes(data)
    code = """if True:
        import sys, warnings
        from pathlib import Path
        from keras_mae.data.decode import decode_image, image_facts
        warnings.simplefilter("error")
        print("here", file=sys.stderr, flush=True)
        for file in sorted(Path(sys.argv[1]).iterdir()):
            print(file.name, image_facts(file).height, decode_image(file.read_bytes()).pixels.shape)
        """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.count("\n") == len(odd), done.stderr
    said = done.stderr.split("here\n")[1]
    assert not [line for line in said.splitlines() if "cuda" not in line and "cpu_" not in line]


def odd_tiff():
    """Bytes of a TIFF whose description says nothing that fits."""
    file = io.BytesIO()
    tifffile.imwrite(file, RGB, photometric="rgb", datetime=True, metadata={"axes": "YXS"})
    return file.getvalue().replace(b'{"shape"', b'{"shapx"')
