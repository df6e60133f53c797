"""From the bytes of an image file to its pixels: the one door to all formats.

`decode_image` gives what a file stores, by the module of `decoders` for its format. Most files
need not go through it:

Plain JPEGs, nearly all of a large data set, go to simplejpeg, which is the fastest, and can decode
for a part of the work at a part of the size (`keras_mae.data.handle`). But it ignores EXIF
rotation, and makes grey of colour otherwise than Pillow. So a JPEG goes there only if a check of
its header finds nothing out of the ordinary. Every other file, and one at which simplejpeg takes
offence, goes to Pillow.
"""

import re
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import simplejpeg
from PIL import Image

from keras_mae.data.decoders import dicom, numpy, pillow, png, tiff
from keras_mae.data.decoders.base import Decoded, Facts, open_file, silence
from keras_mae.data.sensor import grey_of
from keras_mae.files import printable
from keras_mae.types import AnyPath

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
    """Height and width of a JPEG that simplejpeg decodes to exactly what Pillow does, else None.

    Plain means: grey or colour of 8 bits, upright, and grey where grey is wanted. Damage behind the
    header is found when it is decoded.

    Args:
        data: bytes of the whole file.
        channels: 1 or 3, wanted.
    """
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        # A grey value from colour is rounded otherwise in Pillow than in libjpeg.
        if colors not in (("Gray",) if channels == 1 else ("Gray", "YCbCr", "RGB")):
            return None
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and height * width > limit:
            return None
        return None if any(map(_is_turned, _app1_segments(data))) else (height, width)
    except (IndexError, ValueError):  # broken, or it points beyond the file: Pillow decides
        return None


def _app1_segments(data):
    """Return the bodies of a JPEG's segments for EXIF and XMP, before its pixels."""
    position, found = 2, []
    while True:
        if data[position] != 0xFF:
            raise ValueError("no marker")
        marker = data[position + 1]
        if marker == 0xDA:  # the scan starts
            return found
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        if marker == 0xE1:
            found.append(data[position + 4 : end])
        position = end


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
