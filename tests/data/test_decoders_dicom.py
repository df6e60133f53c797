"""DICOM files, written by pydicom: stored bits, sign, slope, padding, colours, frames."""

import io

import numpy as np
import pytest

from keras_mae.data.decode import decode_image, image_facts

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)


def dataset(
    words, stored=None, signed=0, kind="MONOCHROME2", syntax=ExplicitVRLittleEndian, **tags
):
    """A data set whose pixels are `words`, `([frames,] H, W[, 3])`, uint8 or uint16."""
    words = np.asarray(words)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = SecondaryCaptureImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    samples = 3 if words.ndim == 3 and words.shape[-1] == 3 else 1
    image.Rows, image.Columns = words.shape[-3:-1] if samples == 3 else words.shape[-2:]
    image.SamplesPerPixel, image.PhotometricInterpretation = samples, kind
    if samples == 3:
        image.PlanarConfiguration = 0
    image.BitsAllocated = 8 * words.dtype.itemsize
    image.BitsStored = stored or image.BitsAllocated
    image.HighBit, image.PixelRepresentation = image.BitsStored - 1, signed
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    image.PixelData = words.astype(words.dtype.newbyteorder(order)).tobytes()
    image["PixelData"].VR = "OB" if words.dtype == np.uint8 else "OW"
    for name, value in tags.items():
        setattr(image, name, value)
    return image


def write(image):
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


def encode(words, *arguments, **options):
    return write(dataset(words, *arguments, **options))


def pixels_of(data):
    decoded, facts = decode_image(data), image_facts(data)
    assert (facts.height, facts.width, facts.channels) == decoded.pixels.shape
    assert facts.is_byte == (decoded.pixels.dtype == np.uint8)
    return decoded.pixels


def words_of(values, bits=12, rubbish=(0xA000, 0x5000, 0xF000, 0)):
    """Words of 16 bits whose lower ones are the values; what lies above means nothing."""
    values = np.asarray(values)
    above = np.resize(rubbish, values.shape)
    return ((values & (2**bits - 1)) | above).astype(np.uint16)


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
    ],
)
def test_each_level_of_12_bits_is_kept(syntax):
    pixels = pixels_of(encode(RAMP, stored=12, syntax=syntax))
    assert pixels.dtype == np.uint16 and np.array_equal(pixels[..., 0], RAMP)


def test_stored_bits_have_their_sign_and_nothing_of_the_others():
    values = np.array([[-1024, -1000, -500, -1], [0, 1, 40, 1500]])
    signed = pixels_of(encode(words_of(values), stored=12, signed=1))
    assert signed.dtype == np.int16 and np.array_equal(signed[..., 0], values)
    unsigned = pixels_of(encode(words_of([[0, 1], [2048, 4095]]), stored=12))
    assert np.array_equal(unsigned[..., 0], [[0, 1], [2048, 4095]])


def test_stored_bits_may_be_the_high_ones_of_a_word():
    image = dataset((RAMP << 4) | 7, stored=12, HighBit=15)
    assert np.array_equal(pixels_of(write(image))[..., 0], RAMP)


def test_each_file_has_its_own_slope_and_intercept():
    words = np.full((4, 4), 20000, np.uint16)
    for slope, expected in (("0.00001", 0.2), ("0.00008", 1.6)):
        pixels = pixels_of(encode(words, RescaleSlope=slope, RescaleIntercept="0"))
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels, expected, rtol=1e-6)


def test_whole_numbers_stay_whole():
    pixels = pixels_of(encode(RAMP, stored=12, RescaleSlope="1", RescaleIntercept="-1024"))
    assert pixels.dtype == np.int16
    assert np.array_equal(pixels[..., 0], RAMP.astype(int) - 1024)
    doubled = pixels_of(encode(RAMP.astype(np.uint8), RescaleSlope="2", RescaleIntercept="0"))
    assert doubled.max() == 510


def test_a_fine_slope_far_from_zero_keeps_its_levels():
    tags = {"RescaleSlope": "0.001", "RescaleIntercept": "1000000"}
    assert len(np.unique(pixels_of(encode(RAMP, stored=12, **tags)))) == 4096


def test_an_enhanced_image_has_its_slope_in_its_groups():
    values, shared, frame = Dataset(), Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "2", "-10", "US"
    shared.PixelValueTransformationSequence = [values]
    image = dataset(np.stack([RAMP, RAMP + 1]), NumberOfFrames=2)
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = [frame, frame]
    assert np.array_equal(pixels_of(write(image))[..., 0], 2 * RAMP.astype(int) - 10)


@pytest.mark.parametrize("signed", [0, 1])
def test_twins_of_low_white_and_low_black_are_one_picture(signed):
    """v as MONOCHROME1 is 4095 - v, signed -1 - v, as MONOCHROME2; the slope comes after."""
    tags = {"stored": 12, "signed": signed, "RescaleSlope": "2", "RescaleIntercept": "-100"}
    values = np.array([[1000, 1400, 1800], [1900, 2000, 2047]])
    other = -1 - values if signed else 4095 - values
    white = pixels_of(encode(words_of(values), kind="MONOCHROME1", **tags))
    black = pixels_of(encode(words_of(other), kind="MONOCHROME2", **tags))
    assert np.array_equal(white, black)
    assert np.array_equal(black[..., 0], 2 * other - 100)


@pytest.mark.parametrize("bits, entries", [(16, [100, 300, 200, 5]), (8, [100, 30, 200, 5])])
def test_a_modality_table_is_looked_up(bits, entries):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 10, bits], "US"
    table.add_new("LUTData", "US", entries)
    image = dataset(np.array([[10, 11], [12, 13]], np.uint16), ModalityLUTSequence=[table])
    assert pixels_of(write(image)).ravel().tolist() == entries


@pytest.mark.parametrize("kind, padding", [("SS", -2000), ("US", 63536)])
def test_padding_is_missing(kind, padding):
    """Some programs write the padding without the sign that the pixels have."""
    values = np.array([[-2000, -1024], [5, 100]])
    tags = {"RescaleSlope": "1", "RescaleIntercept": "-24"}
    image = dataset(values.astype(np.int16).view(np.uint16), signed=1, **tags)
    image.add_new("PixelPaddingValue", kind, padding)
    decoded = decode_image(write(image))
    assert np.array_equal(decoded.missing[..., 0], [[True, False], [False, False]])
    assert np.array_equal(decoded.pixels[..., 0], values - 24)
    image.add_new("PixelPaddingRangeLimit", "SS", -1024)
    assert decode_image(write(image)).missing[..., 0].tolist() == [[True, True], [False, False]]


def test_padding_in_the_unused_bits_hides_no_value():
    """63536, the word of -2000, has the 12 bits of 2096, which is a value of its own."""
    image = dataset(np.array([[63536, 2096]], np.uint16), stored=12)
    image.add_new("PixelPaddingValue", "US", 63536)
    assert decode_image(write(image)).missing[..., 0].tolist() == [[True, False]]


def test_without_padding_nothing_is_missing():
    image = dataset(RAMP)
    image.add_new("PixelPaddingValue", "US", 5000)
    assert decode_image(write(image)).missing is None


def test_8_bits_are_bytes_and_32_bits_whole():
    assert np.array_equal(pixels_of(encode(RAMP.astype(np.uint8)))[..., 0], RAMP.astype(np.uint8))
    words = RAMP.astype(np.uint32) * 1_000_003
    pixels = pixels_of(encode(words))
    assert pixels.dtype == np.uint32 and np.array_equal(pixels[..., 0], words)


@pytest.mark.parametrize("dtype, name", [("f4", "FloatPixelData"), ("f8", "DoubleFloatPixelData")])
def test_floats_are_as_stored(dtype, name):
    values = np.linspace(-1.5, 3, 20).reshape(4, 5).astype(dtype)
    image = dataset(np.zeros((4, 5), np.uint16))
    for tag in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del image[tag]
    image.BitsAllocated = 8 * values.dtype.itemsize
    setattr(image, name, values.tobytes())
    decoded = decode_image(write(image))
    assert decoded.pixels.dtype == values.dtype and np.array_equal(decoded.pixels[..., 0], values)


def test_one_bit_is_0_and_255():
    image = dataset(np.zeros((2, 8), np.uint8), BitsAllocated=1, BitsStored=1, HighBit=0)
    image.PixelData = bytes([0b00000001, 0b10000000])
    expected = np.zeros((2, 8, 1), np.uint8)
    expected[0, 0] = expected[1, 7] = 255
    assert np.array_equal(pixels_of(write(image)), expected)


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_are_rgb_however_they_lie(planar, picture):
    colours = np.asarray(picture())[:20, :24]
    stored = colours.transpose(2, 0, 1) if planar else colours
    image = dataset(colours, kind="RGB", PlanarConfiguration=planar)
    image.PixelData = np.ascontiguousarray(stored).tobytes()
    assert np.array_equal(pixels_of(write(image)), colours)


def test_ybr_becomes_rgb(picture):
    colours = picture().crop((0, 0, 24, 20))
    data = encode(np.asarray(colours.convert("YCbCr")), kind="YBR_FULL")
    away = pixels_of(data).astype(int) - np.asarray(colours)
    assert np.abs(away).max() <= 3


def test_a_palette_becomes_rgb():
    image = dataset(np.array([[0, 1], [2, 1]], np.uint8), kind="PALETTE COLOR")
    tables = {"Red": (10, 20, 30, 0), "Green": (1, 2, 3, 0), "Blue": (7, 8, 9, 0)}
    for name, values in tables.items():
        setattr(image, f"{name}PaletteColorLookupTableDescriptor", [4, 0, 8])
        setattr(image, f"{name}PaletteColorLookupTableData", bytes(values))
    expected = [[[10, 1, 7], [20, 2, 8]], [[30, 3, 9], [20, 2, 8]]]
    assert np.array_equal(pixels_of(write(image)), expected)


def test_of_several_frames_the_first_is_taken():
    decoded = decode_image(encode(np.stack([RAMP, RAMP // 2, RAMP // 3]), NumberOfFrames=3))
    assert decoded.frames == 3 and np.array_equal(decoded.pixels[..., 0], RAMP)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_pixels_are_the_same(syntax):
    image = dataset(RAMP, stored=12, RescaleSlope="1", RescaleIntercept="-1024")
    if syntax == RLELossless:
        image.compress(syntax)
    else:
        codecs = pytest.importorskip("imagecodecs")
        stream = codecs.jpeg2k_encode(RAMP, level=0, codecformat="j2k", bitspersample=12)
        image.PixelData = pydicom.encaps.encapsulate([stream])
        image["PixelData"].is_undefined_length = True
        image["PixelData"].VR = "OB"
        image.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(pixels_of(write(image))[..., 0], RAMP.astype(int) - 1024)


@pytest.mark.parametrize(
    "change",
    [
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 0},
        {"BitsStored": 0},
        {"BitsStored": 17},
        {"HighBit": 3},
        {"SamplesPerPixel": 2},
        {"RescaleSlope": "1e400", "RescaleIntercept": "0"},
        {"NumberOfFrames": 9, "Rows": 65},
    ],
)
def test_a_header_that_does_not_fit_is_an_error(change):
    with pytest.raises(Exception, match=".+"):
        decode_image(encode(RAMP, stored=12, **change))


def test_a_file_without_pixels_is_an_error():
    image = dataset(RAMP)
    del image.PixelData
    with pytest.raises(ValueError, match="PixelData"):
        decode_image(write(image))


def test_a_file_that_inflates_beyond_bounds_is_refused(monkeypatch):
    from keras_mae.data.decoders import dicom

    data = encode(np.zeros((999, 999), np.uint16), syntax=DeflatedExplicitVRLittleEndian)
    assert decode_image(data).pixels.shape == (999, 999, 1) and len(data) < 10_000
    monkeypatch.setattr(dicom, "MAX_BYTES", 1_000_000)
    for read in (decode_image, image_facts):
        with pytest.raises(ValueError, match="1000000 bytes"):
            read(data)


def test_facts_of_a_path(tmp_path):
    (tmp_path / "1.2.840.5").write_bytes(encode(RAMP, stored=12))
    facts = image_facts(tmp_path / "1.2.840.5")
    assert (facts.height, facts.width, facts.channels, facts.is_byte) == (64, 64, 1, False)
