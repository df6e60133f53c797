"""From the bytes of an image file to its pixels: the one door to all formats.

`decode_image` gives what a file stores, by the module of `decoders` for its format. Most files
need not go through it:

Plain JPEGs, nearly all of a large data set, go to TensorFlow, which can decode only the part that
a crop needs. But TensorFlow ignores EXIF rotation, misreads CMYK, alpha and 16 bits, accepts some
truncated files, and one that it refuses ends the whole run without a name. So a JPEG goes there
only if a strict check of its header and markers finds nothing out of the ordinary; every other
file goes to Pillow, where an error is an exception that can be caught.
"""

import functools
import re
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from PIL import Image

from keras_mae.data.decoders import dicom, numpy, pillow, png, tiff
from keras_mae.data.decoders.base import Decoded, Facts, open_file, silence
from keras_mae.data.sensor import grey_of
from keras_mae.files import printable
from keras_mae.types import AnyPath

# In JPEG's coded pixels, 0xFF is followed by 0 or by a restart marker; by anything else it ends
# them. To be found at the very end of the file only.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
# Sampling factors (luma, chroma, chroma) in use: 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1.
_SAMPLINGS = {b"\x11\x11\x11", b"\x21\x11\x11", b"\x12\x11\x11", b"\x22\x11\x11", b"\x41\x11\x11"}
_ORIENTATION = 0x0112
# How many bytes of a file tell its format.
_HEAD = 132


def decode_image(data: bytes) -> Decoded:
    """Decode an image file of any format as it is stored, upright; its content says which format.

    Args:
        data: bytes of the whole file.
    Returns:
        `Decoded`: pixels `(H, W, C)` in the file's own dtype and units, alpha, missing values.
    Raises:
        Exception: whatever the library for the format raises for a file that is damaged, cut or
            too large; there is no one base class.
    Example:
        decoded = decode_image(Path("slice.dcm").read_bytes())
        decoded.pixels.dtype  # int16
    """
    return _decoder_of(data[:_HEAD]).decode(data)


def image_facts(file: AnyPath | bytes) -> Facts:
    """Return size, channels and depth of an image file from its header; no pixel is decoded.

    Args:
        file: path, of which the beginning is read where the format allows, or bytes.
    Raises:
        Exception: whatever the library for the format raises.
    """
    with open_file(file) as opened:
        head = opened.read(_HEAD)
    return _decoder_of(head).facts(file)


def load_image(
    path: AnyPath, channels: int | None = 3, background: float | Sequence[float] = 0
) -> np.ndarray:
    """Read a picture of a person's own, with its own values.

    Grey is repeated for three channels. Colour is made grey for one: uint8 as Pillow does it,
    others in float32 by the same weights (ITU-R 601-2). What is transparent is composed on the
    background, `alpha * pixel + (1 - alpha) * background`, rounded in whole numbers. Nothing is
    scaled or cut; values that the file marks as missing stay as they are stored.

    Args:
        path: path of an image file in any format that `decode_image` reads.
        channels: int, 1 (grey), 3 (colour), or the number of bands that the file must have; None
            for those that it has.
        background: float, or one for each stored channel, in the file's own units.
    Returns:
        array `(H, W, channels)` in the file's own dtype, turned upright.
    Raises:
        ValueError: if `path` is not a readable image, `channels` is not what it has or can be made
            of it, or `background` does not fit.
    Example:
        load_image("photograph.jpg").max()  # 255, of uint8
        load_image("scan.dcm", channels=1).min()  # -1024, of int16
    """
    if channels is not None and (not isinstance(channels, int) or channels < 1):
        raise ValueError(f"`channels` must be a positive int or None. Received: {channels!r}")
    try:
        with open(path, "rb") as file:
            decoded = decode_image(file.read())
    except Exception as error:
        raise ValueError(
            f"`path` must be an image file that can be read. Received: {printable(path)!r} "
            f"({reason_of(error)})"
        ) from error
    pixels = decoded.pixels
    if decoded.alpha is not None:
        pixels = _composed(pixels, decoded.alpha, background)
    stored = pixels.shape[2]
    if channels in (None, stored):
        return pixels
    if channels == 3 and stored == 1:
        return np.repeat(pixels, 3, axis=2)
    if channels == 1 and stored == 3:
        return grey_of(pixels)
    raise ValueError(
        f"`channels` must be {stored}, as {printable(path)!r} has them. Received: {channels}"
    )


def _decoder_of(head: bytes) -> ModuleType:
    """Return the module of `decoders` that reads a file with these first bytes."""
    if dicom.is_dicom(head):
        return dicom
    if head[:4] in tiff.MAGIC:
        return tiff
    if head.startswith(numpy.MAGIC):
        return numpy
    return png if png.is_deep(head) else pillow


def _composed(
    pixels: np.ndarray, alpha: np.ndarray, background: float | Sequence[float]
) -> np.ndarray:
    behind = np.asarray(background, np.float64)
    if behind.shape not in ((), (1,), pixels.shape[2:]) or not np.isfinite(behind).all():
        raise ValueError(
            f"`background` must be a number, or one for each of {pixels.shape[2]} channels. "
            f"Received: {background!r}"
        )
    share = alpha[..., np.newaxis].astype(np.float64)
    values = share * pixels + (1.0 - share) * behind
    if pixels.dtype.kind == "f":
        return values.astype(pixels.dtype)
    limits = np.iinfo(pixels.dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(pixels.dtype)


def plain_jpeg_size(data: bytes, channels: int = 3) -> tuple[int, int] | None:
    """Height and width of a JPEG that TensorFlow decodes to exactly what Pillow does, else None.

    Plain means: one baseline scan of 8 bits with 1 or 3 channels, upright, complete, with sound
    tables and no stray markers, so that nothing the decoder meets is a fatal error.

    Args:
        data: bytes of the whole file.
        channels: 1 or 3, wanted.
    """
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        return None
    try:
        return _parse_jpeg(data, channels)
    except (IndexError, ValueError):  # the header ends or points beyond the file
        return None


def _parse_jpeg(data, channels):
    position, frame, quantization, huffman = 2, None, set(), set()
    while True:
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        body = data[position + 4 : end]
        position = end
        if marker == 0xDB:  # quantisation tables
            tables = _quantization_tables(body)
            if tables is None:
                return None
            quantization |= tables
        elif marker == 0xC4:  # Huffman tables
            tables = _huffman_tables(body)
            if tables is None:
                return None
            huffman |= tables
        elif marker == 0xC0:  # baseline frame
            if frame is not None or body[0] != 8 or len(body) != 6 + 3 * body[5]:
                return None
            frame = body
        elif marker == 0xE1:  # EXIF or XMP
            if _is_turned(body):
                return None
        elif marker == 0xDD:  # restart interval
            if len(body) != 2:
                return None
        elif marker == 0xDA:  # the scan starts
            break
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE):  # application data, comment
            return None
    if frame is None or _MARKER.search(data, position, len(data) - 2):
        return None
    return _check_scan(frame, body, channels, quantization, huffman)


def _check_scan(frame, scan, channels, quantization, huffman):
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    components = frame[5]
    # A grey value from colour is rounded otherwise in Pillow than in libjpeg.
    if components not in (1, 3) or (components == 3 and channels == 1):
        return None
    limit = Image.MAX_IMAGE_PIXELS
    if height * width == 0 or (limit is not None and height * width > limit):
        return None
    if frame[7::3] not in _SAMPLINGS and not (components == 1 and frame[7] == 0x11):
        return None
    if not quantization.issuperset(frame[8::3]):
        return None
    # The scan must hold all channels of the frame, in order, with tables that exist.
    if scan[0] != components or scan[-3:] != b"\x00\x3f\x00" or len(scan) != 4 + 2 * components:
        return None
    if scan[1:-3:2] != frame[6::3] or len(set(frame[6::3])) != components:
        return None
    for table in scan[2:-3:2]:
        if table >> 4 not in huffman or 0x10 | (table & 15) not in huffman:
            return None
    return height, width


@functools.lru_cache(maxsize=256)  # most files of a data set share theirs
def _quantization_tables(body):
    found = set()
    while body:
        precision, number = body[0] >> 4, body[0] & 15
        size = 1 + 64 * (precision + 1)
        if precision > 1 or number > 3 or len(body) < size:
            return None
        found.add(number)
        body = body[size:]
    return frozenset(found)


@functools.lru_cache(maxsize=256)
def _huffman_tables(body):
    found = set()
    while body:
        kind, counts = body[0], body[1:17]
        symbols = body[17 : 17 + sum(counts)]
        if kind not in (0, 1, 2, 3, 0x10, 0x11, 0x12, 0x13) or len(counts) < 16:
            return None
        if not 1 <= sum(counts) <= 256 or len(symbols) != sum(counts):
            return None
        code = 0
        for length, count in enumerate(counts, start=1):
            code = (code << 1) + count
            if code > 1 << length:  # more codes than this length has
                return None
        if kind < 4 and max(symbols) > 15:
            return None
        found.add(kind)
        body = body[17 + sum(counts) :]
    return frozenset(found)


def _is_turned(body):
    """Whether EXIF or XMP asks for a rotation; True also where that cannot be told."""
    if not body.startswith(b"Exif\0\0"):
        return b"Orientation" in body
    exif = Image.Exif()
    silence("PIL")
    try:
        exif.load(body)
        return exif.get(_ORIENTATION, 1) != 1
    except Exception:  # damaged EXIF: Pillow's own reading of the file decides
        return True


def header_size(file: AnyPath | bytes) -> tuple[int, int]:
    """Return `(height, width)` of an image file as it is seen upright, from its header alone.

    Args:
        file: path or bytes.
    Raises:
        Exception: whatever the library for the format raises.
    """
    facts = image_facts(file)
    return facts.height, facts.width


def reason_of(error: BaseException) -> str:
    """One line that says why an image could not be read, without its address in memory."""
    text = re.sub(r" ?<_io\.BytesIO object at 0x\w+>", "", str(error))
    return f"{type(error).__name__}: {' '.join(text.split())}"
