"""TIFF files, written by tifffile and Pillow: bands, depths, alpha, missing values, pages."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from pillow_oracle import read_with_pillow

from keras_mae.data.decode import decode_image, image_facts

RNG = np.random.RandomState(0)
BANDS = RNG.randint(0, 65536, (11, 9, 16)).astype(np.uint16)
GREY = RNG.randint(0, 65536, (20, 30)).astype(np.uint16)
RGB = RNG.randint(0, 256, (40, 50, 3)).astype(np.uint8)
RGBA = RNG.randint(0, 256, (40, 50, 4)).astype(np.uint8)
# One picture in several sizes, as a viewer of large images keeps it.
REDUCED = {"subfiletype": 1, "photometric": "rgb"}


def encode(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, np.ascontiguousarray(pixels), **options)
    return file.getvalue()


def by_pillow(image, **options):
    file = io.BytesIO()
    image.save(file, "TIFF", **options)
    return file.getvalue()


def decode(data):
    """Decode, and check that the header says the same."""
    decoded, facts = decode_image(data), image_facts(data)
    assert (facts.height, facts.width, facts.channels) == decoded.pixels.shape
    assert facts.is_byte == (decoded.pixels.dtype == np.uint8)
    assert facts.has_alpha or decoded.alpha is None
    assert decoded.alpha is None or decoded.alpha.dtype == np.float32
    return decoded


def check(data, expected):
    pixels = decode(data).pixels
    assert pixels.dtype == expected.dtype and np.array_equal(pixels, expected)


LAYOUTS = {
    "separate": {"planarconfig": "separate"},
    "contig": {"planarconfig": "contig"},
    "strips": {"planarconfig": "contig", "rowsperstrip": 2},
    "tiled": {"planarconfig": "separate", "tile": (16, 16)},
    "deflated": {
        "planarconfig": "separate",
        "tile": (16, 16),
        "compression": "deflate",
        "predictor": 2,
    },
    "big": {"planarconfig": "contig", "bigtiff": True, "byteorder": ">"},
    "big end": {"planarconfig": "separate", "byteorder": ">"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("num_bands", [16, 5, 3, 2, 1])
def test_bands_are_where_the_tags_say(layout, num_bands):
    """16 bands of 11 x 9 pixels: neither the shortest axis nor the last is taken for granted."""
    pixels, options = BANDS[..., :num_bands], LAYOUTS[layout]
    is_separate = options["planarconfig"] == "separate"
    stored = pixels.transpose(2, 0, 1) if is_separate else pixels
    extra = {"extrasamples": ["unspecified"] * (num_bands - 1)}
    check(encode(np.squeeze(stored), photometric="minisblack", **extra, **options), pixels)


def test_an_image_of_one_row_or_column_keeps_its_bands():
    for pixels in (BANDS[:1], BANDS[:, :1], BANDS[:1, :1]):
        for planar, stored in (("contig", pixels), ("separate", pixels.transpose(2, 0, 1))):
            check(encode(stored, photometric="minisblack", planarconfig=planar), pixels)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "u4", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_each_type_of_number_is_as_stored(dtype, byteorder):
    low = 0 if dtype[0] == "u" else -50
    pixels = (RNG.rand(20, 30, 1) * 100 + low).astype(dtype)
    check(encode(pixels[..., 0], byteorder=byteorder), pixels)
    check(encode(pixels[..., 0], byteorder=byteorder, compression="zlib"), pixels)
    if dtype[0] == "f":
        pytest.importorskip("imagecodecs")  # writes this predictor
        check(encode(pixels[..., 0], compression="zlib", predictor=3), pixels)


def test_each_level_of_12_bits_is_kept():
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64, 1)
    check(encode(ramp[..., 0]), ramp)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_images_of_pillow_are_as_stored(mode):
    ramp = np.linspace(0, 1, 96 * 96).reshape(96, 96)
    values = {"I;16": ramp * 65535, "I": ramp * 4000 - 1000, "F": ramp}[mode]
    pixels = values.astype({"I;16": "uint16", "I": "int32", "F": "float32"}[mode])
    check(by_pillow(Image.fromarray(pixels)), pixels[..., None])


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_bits_between_8_and_16(bits):
    pytest.importorskip("imagecodecs")
    pixels = GREY % 2**bits
    check(encode(pixels, bitspersample=bits), pixels[..., None])


MODES = ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"]


@pytest.mark.parametrize("turned", [1, 6])
@pytest.mark.parametrize("mode", MODES)
def test_8_bits_are_what_pillow_reads(mode, turned):
    if mode == "YCbCr":  # older ones do not read their own
        pytest.importorskip("PIL", minversion="13")
    image = Image.fromarray(RGB)
    if mode == "PA":
        image = image.convert("LA")
    image = Image.fromarray(RGB, "LAB") if mode == "LAB" else image.convert(mode)
    data = by_pillow(image, tiffinfo={274: turned})
    pixels = decode(data).pixels
    expected = read_with_pillow(data)
    assert np.array_equal(np.broadcast_to(pixels, expected.shape), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation):
    tag = [(274, "H", 1, orientation, True)]
    data = encode(RGB, photometric="rgb", extratags=tag)
    check(data, read_with_pillow(data))
    deep = encode(RGB.astype("f4"), photometric="rgb", extratags=tag)
    check(deep, read_with_pillow(data).astype("f4"))


@pytest.mark.parametrize("compression", ["lzw", "packbits", "zlib", "lzma", "zstd", "jpeg", "webp"])
def test_compressed_pixels_are_the_same(compression):
    pytest.importorskip("imagecodecs")
    data = encode(RGB, photometric="rgb", compression=compression)
    check(data, read_with_pillow(data) if compression == "jpeg" else RGB)


@pytest.mark.parametrize("compression", ["jpeg", "group3", "group4", "tiff_lzw"])
def test_compressions_of_pillow(compression):
    pytest.importorskip("imagecodecs")
    mode = "1" if compression.startswith("group") else "RGB"
    data = by_pillow(Image.fromarray(RGB).convert(mode), compression=compression)
    pixels = read_with_pillow(data)
    check(data, pixels[..., :1] if mode == "1" else pixels)


def test_where_white_is_zero_it_is_turned_over():
    check(encode(GREY, photometric="miniswhite"), 65535 - GREY[..., None])
    grey = RGB[..., :1]
    check(encode(grey[..., 0], photometric="miniswhite"), 255 - grey)
    signed = (GREY[..., None] // 2).astype(np.int16)
    check(encode(signed[..., 0], photometric="miniswhite"), -1 - signed)
    bits = grey > 127
    check(encode(bits[..., 0], photometric="miniswhite"), (~bits * 255).astype(np.uint8))
    check(encode(bits[..., 0], photometric="minisblack"), (bits * 255).astype(np.uint8))
    pytest.importorskip("imagecodecs")
    twelve = encode(GREY % 4096, photometric="miniswhite", bitspersample=12)
    check(twelve, 4095 - GREY[..., None] % 4096)


def test_few_bits_are_stretched_to_bytes():
    pytest.importorskip("imagecodecs")
    levels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    check(encode(levels, bitspersample=4, photometric="minisblack"), 17 * levels[..., None])
    pair = levels % 4
    check(encode(pair, bitspersample=2, photometric="minisblack"), 85 * pair[..., None])


def test_a_palette_becomes_rgb():
    colours = RNG.randint(0, 256, (3, 256)).astype(np.uint16) * 257
    data = encode(RGB[..., 0], photometric="palette", colormap=colours)
    check(data, (colours.T[RGB[..., 0]] // 257).astype(np.uint8))


def test_deep_cmyk_becomes_rgb():
    """Ink c and black k leave (1 - c)(1 - k) of the light."""
    ink = np.array([[[0, 65535, 13107, 0], [0, 0, 0, 52428]]], np.uint16)
    expected = np.array([[[65535, 0, 52428], [13107, 13107, 13107]]], np.uint16)
    check(encode(ink, photometric="separated"), expected)


def test_alpha_is_what_is_said_to_be_alpha():
    decoded = decode(encode(RGBA, photometric="rgb", extrasamples=["unassalpha"]))
    assert np.array_equal(decoded.pixels, RGBA[..., :3])
    np.testing.assert_allclose(decoded.alpha, RGBA[..., 3] / 255, atol=1e-7)
    # A fourth sample of no stated meaning, infrared as a rule, is a band.
    decoded = decode(encode(RGBA, photometric="rgb", extrasamples=["unspecified"]))
    assert decoded.alpha is None and np.array_equal(decoded.pixels, RGBA)
    extras = ["unspecified", "unassalpha", "unspecified"]
    six = np.concatenate([RGBA, RGBA[..., :2]], axis=-1)
    decoded = decode(encode(six, photometric="rgb", extrasamples=extras))
    assert np.array_equal(decoded.pixels, six[..., [0, 1, 2, 3, 5]])
    np.testing.assert_allclose(decoded.alpha, six[..., 4] / 255, atol=1e-7)


def test_alpha_of_16_bits_and_of_floats():
    pair = np.stack([GREY, GREY[::-1]], axis=-1)
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    decoded = decode(encode(pair, extrasamples=["unassalpha"], **options))
    assert np.array_equal(decoded.pixels, pair[..., :1])
    np.testing.assert_allclose(decoded.alpha, pair[..., 1] / 65535, atol=1e-7)
    floats = np.array([[[5.0, 0.25], [7.0, 1.0]]], np.float32)
    decoded = decode(encode(floats, extrasamples=["unassalpha"], **options))
    assert decoded.alpha.tolist() == [[0.25, 1.0]] and decoded.pixels.tolist() == [[[5.0], [7.0]]]


def test_an_opaque_image_has_no_alpha():
    opaque = RGBA.copy()
    opaque[..., 3] = 255
    assert decode(encode(opaque, photometric="rgb", extrasamples=["unassalpha"])).alpha is None


def test_colours_multiplied_by_alpha_are_divided():
    """Stored 100, 50, 0 with alpha 127.5/255 were 200, 100, 0; behind alpha 0 there is nothing."""
    stored = np.array([[[100, 50, 0, 128], [9, 9, 9, 0], [7, 8, 9, 255]]], np.uint8)
    decoded = decode(encode(stored, photometric="rgb", extrasamples=["assocalpha"]))
    assert decoded.pixels.tolist() == [[[199, 100, 0], [0, 0, 0], [7, 8, 9]]]
    halves = np.array([[[0.5, 0.25, 0.0, 0.5]]], np.float32)
    decoded = decode(encode(halves, photometric="rgb", extrasamples=["assocalpha"]))
    assert decoded.pixels.tolist() == [[[1.0, 0.5, 0.0]]]


def nodata(text):
    return {"extratags": [(42113, "s", 0, text, True)]}


@pytest.mark.parametrize(
    "text", ["-9999", "-9999.0", " -9999 ", "nan", "-3.4028234663852886e+38", "-1e400"]
)
def test_gdals_missing_values_of_floats(text):
    pixels = np.full((20, 30), 1.5, np.float32)
    with np.errstate(over="ignore"):
        pixels[:5] = np.float32(float(text))
    decoded = decode(encode(pixels, **nodata(text)))
    assert decoded.missing.shape == (20, 30, 1)
    assert decoded.missing[:5].all() and not decoded.missing[5:].any()


def test_gdals_missing_values_are_compared_in_the_dtype_of_the_pixels():
    tenth = np.array([[0.1, 0.2]], np.float32)
    assert decode(encode(tenth, **nodata("0.1"))).missing.tolist() == [[[True], [False]]]
    large = np.array([[2**63 - 1, 2**63 - 2]], np.int64)
    decoded = decode(encode(large, **nodata(str(2**63 - 1))))
    assert decoded.missing.tolist() == [[[True], [False]]]


@pytest.mark.parametrize("text", ["-9999", "0.5", "1e30", "nan", "inf", "nothing", ""])
def test_a_missing_value_that_no_pixel_can_have(text):
    assert decode(encode(RGB, photometric="rgb", **nodata(text))).missing is None


def test_missing_values_are_of_a_band_and_turned_with_it():
    pixels = np.zeros((2, 3, 2), np.int16)
    pixels[0, 0, 1] = -1
    tags = [*nodata("-1")["extratags"], (274, "H", 1, 6, True)]
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    decoded = decode(encode(pixels, extrasamples=["unspecified"], extratags=tags, **options))
    assert np.argwhere(decoded.missing).tolist() == [[0, 1, 1]]
    assert np.argwhere(decoded.pixels).tolist() == [[0, 1, 1]]


def test_missing_values_where_white_is_zero_are_those_stored():
    pixels = np.array([[0, 255]], np.uint8)
    decoded = decode(encode(pixels, photometric="miniswhite", **nodata("0")))
    assert decoded.missing.tolist() == [[[True], [False]]]
    assert decoded.pixels.tolist() == [[[255], [0]]]


STACK = RNG.randint(0, 65536, (2, 3, 4, 11, 9)).astype(np.uint16)


@pytest.mark.parametrize("kind", [{"ome": True}, {"imagej": True}, {}, {"truncate": True}])
def test_the_axis_c_of_a_stack_holds_the_bands(kind):
    options = {"photometric": "minisblack", "metadata": {"axes": "TZCYX"}, **kind}
    decoded = decode(encode(STACK, **options))
    assert decoded.frames == 6
    assert np.array_equal(decoded.pixels, STACK[0, 0].transpose(1, 2, 0))


@pytest.mark.parametrize("kind", [{"ome": True}, {}])
def test_the_axis_c_may_be_another(kind):
    options = {"photometric": "minisblack", "metadata": {"axes": "TCZYX"}, **kind}
    decoded = decode(encode(STACK, **options))
    assert decoded.frames == 8
    assert np.array_equal(decoded.pixels, STACK[0, :, 0].transpose(1, 2, 0))


@pytest.mark.parametrize("kind", [{"ome": True}, {"imagej": True}, {}])
def test_slices_and_times_are_frames(kind):
    options = {"photometric": "minisblack", "metadata": {"axes": "TZYX"}, **kind}
    decoded = decode(encode(STACK[:, :, 0], **options))
    assert decoded.frames == 6 and np.array_equal(decoded.pixels[..., 0], STACK[0, 0, 0])


def test_pages_without_a_word_are_frames():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in STACK[0, 0]:
            writer.write(page, photometric="minisblack", metadata=None)
    decoded = decode(file.getvalue())
    assert decoded.frames == 4 and np.array_equal(decoded.pixels[..., 0], STACK[0, 0, 0])


def test_thumbnails_and_overviews_are_no_frames():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(RGB[::2, ::2], **REDUCED)
        writer.write(RGB, photometric="rgb")
        writer.write(RGB[::4, ::4], **REDUCED)
        writer.write(255 - RGB, photometric="rgb")
        writer.write(RGB[..., 0] > 9, subfiletype=4, photometric="mask")
    decoded = decode(file.getvalue())
    assert decoded.frames == 2 and np.array_equal(decoded.pixels, RGB)


def ome_xml(names, size_c):
    """OME's description of a series over several files, `names` from a UUID to a file's name."""
    blocks = "".join(
        f'<TiffData IFD="0" FirstC="0" FirstT="{time}" FirstZ="0" PlaneCount="{size_c}">'
        f'<UUID FileName="{name}">{uuid}</UUID></TiffData>'
        for time, (uuid, name) in enumerate(names.items())
    )
    return (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{own}"><Image ID="'
        'Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="9" SizeY="11" '
        f'SizeC="{size_c}" SizeZ="1" SizeT="{len(names)}">{blocks}</Pixels></Image></OME>'
    )


def test_an_image_is_made_of_its_own_file_only(tmp_path, monkeypatch):
    """Two files of one series, each with the bands of its own time; nothing else is opened."""
    names = {"urn:uuid:1": "one.ome.tif", "urn:uuid:2": "two.ome.tif"}
    for time, (uuid, name) in enumerate(names.items()):
        xml = ome_xml(names, 4).replace("{own}", uuid)
        with tifffile.TiffWriter(tmp_path / name) as writer:
            for band, page in enumerate(STACK[time, 0]):
                text = xml if band == 0 else None
                writer.write(page, photometric="minisblack", description=text, metadata=None)
    with tifffile.TiffFile(tmp_path / "one.ome.tif") as tif:  # or the test would test nothing
        assert tif.series[0].shape == (2, 4, 11, 9)
    opened = []
    whole = tifffile.TiffFile.__init__

    def spy(self, file, *arguments, **options):
        opened.append(file)
        whole(self, file, *arguments, **options)

    monkeypatch.setattr(tifffile.TiffFile, "__init__", spy)
    for time, name in enumerate(names.values()):
        decoded = decode_image((tmp_path / name).read_bytes())
        assert np.array_equal(decoded.pixels, STACK[time, 0].transpose(1, 2, 0))
        assert decoded.frames == 1
        assert image_facts(tmp_path / name).channels == 4
    assert len(opened) == 4


def test_a_wrong_description_does_not_hide_the_pages():
    good = encode(GREY, ome=True, metadata={"axes": "YX"})
    start = good.index(b"SizeC=")
    decoded = decode_image(good[:start] + b"SizeX" + good[start + 5 :])
    assert np.array_equal(decoded.pixels[..., 0], GREY)


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib", "rowsperstrip": 4}, {"tile": (16, 16)}, {"compression": "jpeg"}],
)
def test_a_file_that_is_cut_is_an_error(options):
    if options.get("compression") == "jpeg":  # whose decoder makes the rest grey
        pytest.importorskip("imagecodecs")
    data = encode(RGB[..., 0], metadata=None, **options)
    for cut in (1, 2, 10, 100, 500, len(data) - 8):
        with pytest.raises(Exception, match=".+"):
            decode_image(data[:-cut])


@pytest.mark.parametrize("options", [{"compression": "zlib"}, {"compression": "packbits"}])
def test_a_file_without_all_its_strips_is_an_error(options):
    if options["compression"] == "packbits":
        pytest.importorskip("imagecodecs")
    data = bytearray(encode(GREY, metadata=None, rowsperstrip=4, **options))
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        places = [tif.pages[0].tags[code].offset for code in (273, 279)]
    for place in places:  # two strips of five are named
        data[place + 4 : place + 8] = (2).to_bytes(4, "little")
    with pytest.raises(ValueError, match="strips"):
        decode_image(bytes(data))


def test_a_tile_that_is_left_out_holds_no_data():
    pixels = np.ones((32, 32), np.float32)
    data = bytearray(encode(pixels, tile=(16, 16), metadata=None, **nodata("-9999")))
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        tags = [tif.pages[0].tags[code] for code in (324, 325)]
    for tag in tags:  # the offset and the number of bytes of the first of four
        size = {3: 2, 4: 4}[tag.dtype]
        data[tag.valueoffset : tag.valueoffset + size] = bytes(size)
    decoded = decode(bytes(data))
    assert decoded.missing[:16, :16].all() and decoded.missing.sum() == 256


def test_of_a_volume_the_first_slice_is_taken():
    volume = RNG.randint(0, 256, (16, 32, 32)).astype(np.uint8)
    data = encode(volume, volumetric=True, tile=(16, 16, 16), photometric="minisblack")
    assert np.array_equal(decode(data).pixels[..., 0], volume[0])


@pytest.mark.parametrize("back_to", [0, 1])
@pytest.mark.parametrize("options", [{"metadata": {"axes": "CYX"}}, {"ome": True}, {}])
def test_pages_in_a_circle_end(back_to, options):
    """The last page names an earlier one as the next."""
    data = bytearray(encode(STACK[0, 0], photometric="minisblack", **options))
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        offsets = [page.offset for page in tif.pages]
    end = offsets[-1] + 2 + 12 * int.from_bytes(data[offsets[-1] : offsets[-1] + 2], "little")
    assert data[end : end + 4] == bytes(4)
    data[end : end + 4] = offsets[back_to].to_bytes(4, "little")
    decoded = decode(bytes(data))
    assert decoded.frames == 4 and np.array_equal(decoded.pixels[..., 0], STACK[0, 0, 0])


@pytest.mark.parametrize("bands", [b"400000000", b"999999999"])
@pytest.mark.parametrize("truncate", [False, True])
def test_a_description_of_more_bands_than_there_are_takes_no_memory(bands, truncate):
    options = {"metadata": {"axes": "CYX", "note": "x" * 40}, "photometric": "minisblack"}
    good = encode(STACK[0, 0], truncate=truncate, **options)
    text = re.search(rb'\{"shape": \[4.*?\}', good)[0]
    claim = b'{"shape": [%s, 11, 9], "axes": "CYX"}' % bands
    decoded = decode_image(good.replace(text, claim.ljust(len(text))))
    assert np.array_equal(decoded.pixels[..., 0], STACK[0, 0, 0])


def test_a_size_that_is_several_numbers_takes_no_memory():
    data = bytearray(encode(RGB, photometric="rgb", metadata=None))
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        width, height = (tif.pages[0].tags[code] for code in (256, 257))
    data[width.offset + 4 : width.offset + 12] = bytes([9, 0, 0, 0, 8, 0, 0, 0])  # 9, at byte 8
    data[height.valueoffset : height.valueoffset + 4] = b"\xff\xff\xff\x7f"
    for read in (decode_image, image_facts):
        with pytest.raises(Exception, match=".+") as caught:
            read(bytes(data))
        assert not isinstance(caught.value, MemoryError)


def test_too_large_sizes_are_refused_before_memory_is_taken():
    data = bytearray(encode(RGB, photometric="rgb", metadata=None))
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        places = [tif.pages[0].tags[code].valueoffset for code in (256, 257)]
    for place in places:
        data[place : place + 4] = (60_000).to_bytes(4, "little")
    for read in (decode_image, image_facts):
        with pytest.raises(ValueError, match="60000"):
            read(bytes(data))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_numbers_of_no_use_are_refused(dtype):
    with pytest.raises(ValueError, match="complex|COMPLEX"):
        decode_image(encode(np.ones((4, 5), dtype)))


@pytest.mark.slow
def test_without_imagecodecs(tmp_path):
    """8 bits, or one, are read all the same, or else the error says what to install."""
    pytest.importorskip("imagecodecs")
    alpha = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    files = {
        "lzw": encode(RGBA[..., :3], photometric="rgb", compression="lzw"),
        "grey": encode(RGBA[..., 0], photometric="miniswhite", compression="lzw"),
        "alpha": encode(RGBA, compression="lzw", **alpha),
        "jpeg": by_pillow(Image.fromarray(RGB), compression="jpeg"),
        "fax": by_pillow(Image.fromarray(RGB).convert("1"), compression="group4"),
        "zlib": encode(GREY, compression="zlib", predictor=2),
        "deep": encode(GREY, compression="lzw"),
        "band": encode(RGBA, photometric="rgb", extrasamples=["unspecified"], compression="lzw"),
        "twelve": encode(GREY % 4096, bitspersample=12),
    }
    for name, data in files.items():
        (tmp_path / f"{name}.tif").write_bytes(data)
        np.save(tmp_path / f"{name}.npy", decode_image(data).pixels)
    code = """if True:
        import sys
        sys.modules["imagecodecs"] = None
        from pathlib import Path
        import numpy as np
        from keras_mae.data.decode import decode_image
        for file in sorted(Path(sys.argv[1]).glob("*.tif")):
            try:
                pixels = decode_image(file.read_bytes()).pixels
            except ValueError as error:
                print(file.stem, "keras_mae[sensors]" in str(error) and "needs the extra")
            else:
                print(file.stem, np.array_equal(pixels, np.load(file.with_suffix(".npy"))))
        """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    missing = ("band", "deep", "twelve")
    expected = [f"{n} {'needs the extra' if n in missing else True}" for n in sorted(files)]
    assert done.stdout.splitlines() == expected, done.stderr
