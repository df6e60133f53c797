"""Photographs and drawings, all that Pillow reads: JPEG, PNG, GIF, WebP, BMP and many more."""

import contextlib
import io
import re
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from keras_mae.data.decoders.base import (
    Decoded,
    Facts,
    check_size,
    needs_extra,
    open_file,
    scaled_alpha,
    silence,
    turn,
)
from keras_mae.types import AnyPath

ORIENTATION = 0x0112
_GREY = ("1", "L", "LA", "La", "I", "F")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
# Where Pillow looks for an orientation. To look takes longer than to decode a small PNG.
_ORIENTED = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
# Formats whose number of frames is known without decoding them. What follows the photograph in an
# MPO, a camera's JPEG, is a preview or a map of its brightness.
_COUNTED = ("AVIF", "GIF", "PNG", "WEBP")


def decode(data: bytes, frame: int = 0) -> Decoded:
    """Decode an image in any format that Pillow knows, upright.

    Colour of palettes, CMYK, YCbCr, HSV and LAB is RGB. What has more than 8 bits keeps them.

    Args:
        data: bytes of the whole file.
        frame: int, which of several images.
    Raises:
        Exception: whatever Pillow raises; there is no one base class.
    """
    if not data:
        raise ValueError("the file is empty")
    with open_image(data) as image:
        depth = _lost_depth(image, data)
        if depth:
            return _decode_deep(image, data, depth)
        image.seek(frame)
        image.load()  # what a PNG says of itself may come after its pixels
        if image.format != "PNG" or not _ORIENTED.isdisjoint(image.info):
            ImageOps.exif_transpose(image, in_place=True)
        pixels, alpha = _stored(image, data)
        return Decoded(pixels, alpha, frames=num_frames(image))


def facts(file: AnyPath | bytes) -> Facts:
    """Return what the beginning of a file says. Only there is an orientation looked for."""
    with open_image(file) as image:
        width, height = image.size
        # A PNG's EXIF may come after its pixels: to ask for it would decode them.
        is_late = image.format == "PNG" and "exif" not in image.info
        orientation = 1 if is_late else image.getexif().get(ORIENTATION, 1)
        if orientation in (5, 6, 7, 8):
            height, width = width, height
        is_deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
        is_deep = is_deep or image.format in ("JPEG2000", "AVIF") and _is_deep_file(file)
        return Facts(
            height=height,
            width=width,
            channels=1 if image.mode in _GREY or image.mode.startswith("I;16") else 3,
            is_byte=not is_deep,
            has_alpha=image.mode in _WITH_ALPHA or image.has_transparency_data,
        )


def open_image(file: AnyPath | bytes) -> Image.Image:
    """Open a file with Pillow, quietly; only its beginning is read.

    Raises:
        Exception: whatever Pillow raises; ValueError for too large an image, and for EPS, which
            Pillow would give to another program.
    """
    silence("PIL")
    image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    try:
        check_size(image.height, image.width)
        if image.format == "EPS":
            raise ValueError("EPS is a program that draws an image, and is not run")
    except ValueError:
        image.close()
        raise
    return image


def num_frames(image: Image.Image) -> int:
    """Return how many images a file holds; 1 where its later part is broken."""
    if image.format in _COUNTED:
        with contextlib.suppress(Exception):
            return getattr(image, "n_frames", 1)
    return 1


def _stored(image: Image.Image, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Return pixels `(H, W, C)` of a loaded image, and its alpha or None."""
    mode, hidden = image.mode, image.info.pop("transparency", None)
    if mode in ("La", "RGBa"):
        mode = mode.upper()
        image = image.convert(mode)
    elif mode == "PA" or (mode == "P" and image.palette and image.palette.mode == "RGBA"):
        mode = "RGBA"
        image = image.convert(mode)
    if mode in ("LA", "RGBA"):
        samples = np.asarray(image)
        return samples[..., :-1], scaled_alpha(samples[..., -1], 255)
    alpha = None if hidden is None else _alpha_of(image, hidden, data)
    if mode.startswith("I;16"):
        pixels = np.asarray(image).astype("uint16")
    elif mode in ("I", "F"):
        pixels = np.asarray(image)
    else:
        wanted = "L" if mode in _GREY else "RGB"
        pixels = np.asarray(image if mode == wanted else image.convert(wanted))
    return pixels.reshape(*pixels.shape[:2], -1), alpha


def _alpha_of(image: Image.Image, hidden: Any, data: bytes) -> np.ndarray | None:
    """Return the alpha that a transparent colour, or a palette's alphas, make.

    Args:
        hidden: what Pillow calls `transparency`: an index, a grey value, a colour, or bytes with
            the alpha of the palette's first colours.
    """
    if image.mode == "P":
        table = np.full(256, 255, np.uint8)
        if isinstance(hidden, bytes):
            table[: len(hidden)] = np.frombuffer(hidden, np.uint8)[:256]
        elif 0 <= hidden < 256:
            table[hidden] = 0
        return scaled_alpha(table[np.asarray(image)], 255)
    pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
    colour = np.asarray(hidden, np.int64)
    if image.mode == "1":
        colour = np.where(colour > 0, 255, 0)
    elif image.format == "PNG" and image.mode == "L" and data[24] < 8:
        # In the file's own depth of 2 or 4 bits; Pillow has stretched the pixels to 8.
        colour = colour * (255 // (2 ** data[24] - 1))
    is_hidden = (pixels.reshape(*pixels.shape[:2], -1) == colour).all(axis=-1)
    return scaled_alpha(~is_hidden)


def _lost_depth(image: Image.Image, data: bytes) -> int:
    """Return the bits of a sample where Pillow would cut them to 8, or stretch them; else 0."""
    if image.format in ("JPEG2000", "AVIF"):
        return _depth_of(data)
    tiles = getattr(image, "tile", None) or [("", None, 0, ())]
    codec, arguments = tiles[0][0], tiles[0][3]
    if image.format == "PPM" and codec in ("ppm", "ppm_plain") and image.mode != "1":
        highest = arguments[-1]
        return int(highest).bit_length() if highest > 255 else 0
    return 16 if codec == "SGI16" else 0


def _is_deep_file(file: AnyPath | bytes) -> bool:
    with open_file(file) as opened:
        return _depth_of(opened.read(1 << 16)) > 8


def _depth_of(data: bytes) -> int:
    """Return the bits of a sample of a JPEG 2000 (marker SIZ) or AVIF (box av1C), 0 for up to 8."""
    if match := re.search(rb"\xff\x4f\xff\x51.{38}(.)", data[: 1 << 16], re.DOTALL):
        depth = (match[1][0] & 0x7F) + 1
        return depth if depth > 8 else 0
    if match := re.search(rb"av1C..(.)", data[: 1 << 16], re.DOTALL):
        return (12 if match[1][0] & 0x20 else 10) if match[1][0] & 0x40 else 0
    return 0


def _decode_deep(image: Image.Image, data: bytes, depth: int) -> Decoded:
    """Decode more than 8 bits a sample with imagecodecs, none of them lost."""
    if image.format not in ("JPEG2000", "AVIF"):
        raise ValueError(f"{image.format} images of {depth} bits a sample cannot be read; use PNG")
    try:
        import imagecodecs
    except ImportError:
        raise needs_extra(f"{image.format} of {depth} bits a sample") from None
    check_size(image.height, image.width, 2 * len(image.getbands()))
    if image.format == "AVIF":
        pixels = imagecodecs.avif_decode(data, index=0)
    else:
        pixels = imagecodecs.jpeg2k_decode(data)
    pixels = turn(pixels.reshape(*pixels.shape[:2], -1), image.getexif().get(ORIENTATION, 1))
    alpha = None
    if image.mode in _WITH_ALPHA:
        pixels, alpha = pixels[..., :-1], scaled_alpha(pixels[..., -1], 2**depth - 1)
    return Decoded(pixels, alpha, frames=num_frames(image))
