"""DICOM: the values that a file's own header makes of its stored bits (extra `sensors`)."""

import io
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_mae.data.decoders.base import (
    MAX_BYTES,
    Decoded,
    Facts,
    check_size,
    needs_extra,
    open_file,
    silence,
)
from keras_mae.types import AnyPath

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # pydicom makes all RGB
_WHOLE = ("uint16", "int16", "uint32", "int32", "int64")
# What is read of a header for its facts.
_HEADER = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *("ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    "RedPaletteColorLookupTableDescriptor",
)


def is_dicom(head: bytes) -> bool:
    """Whether the first 132 bytes are those of a DICOM file."""
    return head[128:132] == b"DICM"


def decode(data: bytes) -> Decoded:
    """Decode the first frame.

    Grey: the stored bits with their sign; inverted over these bits where low is white
    (MONOCHROME1); then times the slope plus the intercept, or through the modality's table. Whole
    numbers stay whole where slope and intercept are. Padding is missing. Colour is RGB.

    Raises:
        ValueError: if pydicom is not installed, or the header does not fit an image.
        Exception: whatever pydicom raises.
    """
    _check_deflated(data)
    dataset = _read(io.BytesIO(data))
    _check(dataset)
    if not any(name in dataset for name in _PIXELS):
        raise ValueError("a DICOM file must hold an image. Received: none of " + ", ".join(_PIXELS))
    from pydicom.pixels import apply_color_lut, pixel_array

    # All bits of a word: which of them count is decided below.
    stored = pixel_array(dataset, index=0, correct_unused_bits=False)
    stored = np.ascontiguousarray(stored, stored.dtype.newbyteorder("="))
    photometric = str(dataset.PhotometricInterpretation)
    frames = max(int(dataset.get("NumberOfFrames") or 1), 1)
    if photometric == "PALETTE COLOR":
        words, _ = _values(stored, dataset)
        return Decoded(apply_color_lut(words, dataset), frames=frames)
    if stored.ndim == 3:
        if photometric not in _COLOURS:
            raise ValueError(
                f"colours must be one of {', '.join(_COLOURS)}. Received: {photometric}"
            )
        return Decoded(stored, frames=frames)
    if stored.dtype.kind == "f":
        return _grey(stored, _equals_padding(stored, stored, dataset), frames)
    if dataset.BitsAllocated == 1:
        is_white = stored.astype(bool) ^ (photometric == "MONOCHROME1")
        return _grey(is_white * np.uint8(255), None, frames)
    values, (lowest, highest) = _values(stored, dataset)
    missing = _equals_padding(values, stored, dataset)
    if photometric == "MONOCHROME1":
        values = (lowest + highest - values.astype(np.int64)).astype(values.dtype)
    return _grey(_in_units(values, (lowest, highest), dataset), missing, frames)


def facts(file: AnyPath | bytes) -> Facts:
    """Return what the header says; the pixels are not read."""
    with open_file(file) as opened:
        _check_deflated(opened.read(1024), opened)
        opened.seek(0)
        dataset = _read(opened, stop_before_pixels=True, specific_tags=list(_HEADER))
    _check(dataset)
    is_palette = str(dataset.PhotometricInterpretation) == "PALETTE COLOR"
    channels = 3 if is_palette else int(dataset.SamplesPerPixel)
    if is_palette:
        is_byte = dataset.RedPaletteColorLookupTableDescriptor[2] == 8
    elif channels == 1 and dataset.get("ModalityLUTSequence"):
        is_byte = dataset.ModalityLUTSequence[0].LUTDescriptor[2] == 8
    else:
        is_byte = dataset.BitsAllocated == 8 and not dataset.get("PixelRepresentation")
        is_byte = is_byte and (channels > 1 or _rescale(dataset) == (1.0, 0.0))
    is_byte = is_byte or dataset.BitsAllocated == 1
    return Facts(int(dataset.Rows), int(dataset.Columns), channels, bool(is_byte))


def _read(file: Any, **options: Any) -> "Dataset":
    try:
        import pydicom
    except ImportError:
        raise needs_extra("a DICOM file") from None
    silence("pydicom")
    return pydicom.dcmread(file, **options)


def _check(dataset: "Dataset") -> None:
    samples, bits = int(dataset.SamplesPerPixel), int(dataset.BitsAllocated)
    check_size(int(dataset.Rows), int(dataset.Columns), max(samples * bits // 8, 1))
    if samples not in (1, 3) or bits not in (1, 8, 16, 32, 64):
        raise ValueError(
            "a DICOM image must have 1 or 3 samples of 1, 8, 16, 32 or 64 bits. Received: "
            f"{samples} of {bits}"
        )


def _check_deflated(data: bytes, rest: Any = None) -> None:
    """Refuse a compressed header that grows beyond all bounds: pydicom would take the memory."""
    end = 144 + int.from_bytes(data[140:144], "little")
    if _DEFLATED not in data[144 : min(end, 1024)]:
        return
    if rest is not None:
        data += rest.read()
    stream, content, size = zlib.decompressobj(-zlib.MAX_WBITS), data[end:], 0
    while content and not stream.eof:
        size += len(stream.decompress(content, 1 << 20))
        content = stream.unconsumed_tail
        if size > MAX_BYTES:
            raise ValueError(f"a DICOM file must hold {MAX_BYTES} bytes at most when inflated")


def _values(words: np.ndarray, dataset: "Dataset") -> tuple[np.ndarray, tuple[int, int]]:
    """Return the stored bits of words as numbers with their sign, and the range that they have.

    What lies in a word's other bits is an overlay, or nothing.
    """
    allocated = 8 * words.dtype.itemsize
    bits = int(dataset.BitsStored)
    shift = int(dataset.get("HighBit", bits - 1)) - bits + 1
    if not 1 <= bits <= allocated or not 0 <= shift <= allocated - bits:
        raise ValueError(
            f"`HighBit` and `BitsStored` must lie in {allocated} bits. Received: "
            f"{dataset.get('HighBit')} and {bits}"
        )
    kind = "i" if dataset.get("PixelRepresentation") == 1 else "u"
    words = words.view(f"u{words.dtype.itemsize}")
    # To the top, and back down: the shift of a signed number copies its sign.
    moved = (words << (allocated - bits - shift)).view(f"{kind}{words.dtype.itemsize}")
    half = 2 ** (bits - 1)
    span = (-half, half - 1) if kind == "i" else (0, 2 * half - 1)
    return moved >> (allocated - bits), span


def _equals_padding(values: np.ndarray, words: np.ndarray, dataset: "Dataset") -> np.ndarray | None:
    """Return where an image is padded around what was measured."""
    names = ("PixelPaddingValue", "FloatPixelPaddingValue", "DoubleFloatPixelPaddingValue")
    padding = next((dataset[name].value for name in names if name in dataset), None)
    if padding is None or padding == "":
        return None
    limits = (name.replace("Value", "RangeLimit") for name in names)
    limit = next((dataset[name].value for name in limits if name in dataset), padding)
    if values.dtype.kind == "f":
        ends = values.dtype.type(padding), values.dtype.type(limit)
    else:
        bits = 8 * words.dtype.itemsize
        signed = values.dtype.kind == "i"
        ends = _with_sign(int(padding), bits, signed), _with_sign(int(limit), bits, signed)
        stored = int(dataset.BitsStored)
        half = 2 ** (stored - 1)
        lowest, highest = (-half, half - 1) if signed else (0, 2 * half - 1)
        if not all(lowest <= end <= highest for end in ends):  # in a word's other bits, too
            values = words.view(values.dtype)
    missing = (values >= min(ends)) & (values <= max(ends))
    return missing if missing.any() else None


def _with_sign(number: int, bits: int, signed: bool) -> int:
    """Return a number of so many bits that may have been written with the wrong sign."""
    number %= 2**bits
    return number - 2**bits if signed and number >= 2 ** (bits - 1) else number


def _rescale(dataset: "Dataset") -> tuple[float, float]:
    """Return slope and intercept of the first frame; an enhanced image has them in its groups."""
    groups = [dataset]
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in dataset.get(name) or ():
            groups += group.get("PixelValueTransformationSequence") or ()
            break
    for group in groups:
        slope, intercept = group.get("RescaleSlope"), group.get("RescaleIntercept")
        if slope is not None or intercept is not None:
            return float(1 if slope is None else slope), float(intercept or 0)
    return 1.0, 0.0


def _in_units(values: np.ndarray, span: tuple[int, int], dataset: "Dataset") -> np.ndarray:
    """Return stored values times this file's slope plus its intercept, or through its table."""
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        return apply_modality_lut(values, dataset)
    slope, intercept = _rescale(dataset)
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise ValueError(f"slope and intercept must be numbers. Received: {slope}, {intercept}")
    if (slope, intercept) == (1.0, 0.0):
        return values
    ends = [slope * end + intercept for end in span]
    if slope.is_integer() and intercept.is_integer() and max(map(abs, ends)) < 2**62:
        result = values.astype(np.int64) * int(slope) + int(intercept)
        # By what the header allows, not by what is there: the same in all files of a scanner.
        return result.astype(next(kind for kind in _WHOLE if _holds(kind, ends)))
    # float32 only where it tells one level from the next.
    is_fine = np.spacing(np.float32(max(map(abs, ends)))) < abs(slope) / 4
    floats = values.astype(np.float64) * slope + intercept
    return floats.astype(np.float32) if is_fine else floats


def _holds(dtype: str, ends: list[float]) -> bool:
    return np.iinfo(dtype).min <= min(ends) and max(ends) <= np.iinfo(dtype).max


def _grey(values: np.ndarray, missing: np.ndarray | None, frames: int) -> Decoded:
    missing = None if missing is None else missing[..., np.newaxis]
    return Decoded(values[..., np.newaxis], missing=missing, frames=frames)
