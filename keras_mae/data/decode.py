"""From the bytes of an image file to pixels, as Pillow reads it, at TensorFlow's speed.

Plain JPEGs, nearly all of a large data set, go to TensorFlow, which can decode only the part that
a crop needs. But TensorFlow ignores EXIF rotation, misreads CMYK, alpha and 16 bits, accepts some
truncated files, and one that it refuses ends the whole run without a name. So a JPEG goes there
only if a strict check of its header and markers finds nothing out of the ordinary; every other
file goes to Pillow, where an error is an exception that can be caught.
"""

import functools
import io
import logging
import re
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from keras_mae.files import printable
from keras_mae.types import AnyPath

# In JPEG's coded pixels, 0xFF is followed by 0 or by a restart marker; by anything else it ends
# them. To be found at the very end of the file only.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
# Sampling factors (luma, chroma, chroma) in use: 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1.
_SAMPLINGS = {b"\x11\x11\x11", b"\x21\x11\x11", b"\x12\x11\x11", b"\x22\x11\x11", b"\x41\x11\x11"}
_ORIENTATION = 0x0112
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


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
    _silence_pillow()
    try:
        exif.load(body)
        return exif.get(_ORIENTATION, 1) != 1
    except Exception:  # damaged EXIF: Pillow's own reading of the file decides
        return True


def read_with_pillow(file: Any, channels: int = 3) -> np.ndarray:
    """Decode an image file in any format that Pillow knows, upright.

    The first frame of an animation; colours without their alpha; CMYK and palettes as RGB; 16-bit
    grey by its high byte (Pillow's own `convert` would cut all above 255 to white).

    Args:
        file: path, file object, or bytes.
        channels: 1 or 3.
    Returns:
        uint8 array `(H, W, channels)`.
    Raises:
        Exception: whatever Pillow raises; there is no one base class.
    """
    if isinstance(file, bytes):
        if not file:
            raise ValueError("the file is empty")
        file = io.BytesIO(file)
    _silence_pillow()
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        # Of no use without alpha, and of some palettes Pillow cannot convert it.
        image.info.pop("transparency", None)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def header_size(file: AnyPath | bytes) -> tuple[int, int]:
    """Return `(height, width)` of an image file as it is seen upright, from its beginning alone.

    Args:
        file: path or bytes.
    Raises:
        Exception: whatever Pillow raises.
    """
    _silence_pillow()
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        width, height = image.size
        # A PNG's EXIF may come after its pixels: to ask for it would decode them.
        exif = {} if image.format == "PNG" else image.getexif()
        return (width, height) if exif.get(_ORIENTATION, 1) >= 5 else (height, width)


def _silence_pillow():
    """Keep to ourselves what Pillow says of odd files: they are read, or named with a reason.

    `warnings.catch_warnings` is not for threads, so the filter stays, for Pillow's modules alone.
    It is put in again where somebody has put another before it.
    """
    if warnings.filters[:1] != [_QUIET]:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    logger = logging.getLogger("PIL")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def load_image(path: AnyPath, channels: int = 3) -> np.ndarray:
    """Read a picture of a person's own.

    Args:
        path: path of an image file in any common format.
        channels: 1 (grey) or 3 (RGB).
    Returns:
        uint8 array `(H, W, channels)`, 0-255, turned upright by its EXIF tag.
    Raises:
        ValueError: if `path` is not a readable image, or `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 1 or 3. Received: {channels!r}")
    try:
        return read_with_pillow(path, channels)
    except Exception as error:
        raise ValueError(
            f"`path` must be an image file that can be read. Received: {printable(path)!r} "
            f"({reason_of(error)})"
        ) from error


def reason_of(error: BaseException) -> str:
    """One line that says why an image could not be read, without its address in memory."""
    text = re.sub(r"<_io\.BytesIO object at 0x\w+>", "its content", str(error))
    return f"{type(error).__name__}: {' '.join(text.split())}"


def decode_image(data):
    from keras_mae.data.decoders.base import Decoded

    with Image.open(io.BytesIO(data)) as image:
        mode = image.mode
    return Decoded(read_with_pillow(data, 1 if mode in ("1", "L", "I;16") else 3))


def image_facts(file):
    from keras_mae.data.decoders.base import Facts

    height, width = header_size(file)
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        return Facts(height, width, 1 if image.mode in ("1", "L", "I;16") else 3, True)
