"""What is packed of an image: its file as it is, or a smaller one of the same depth."""

import io
import math
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from keras_mae.data.decode import decode_image, image_facts


def packed_bytes(data: Any, shorter_side: int | None = None, jpeg_quality: int = 90) -> bytes:
    """Return the bytes to pack, of what a source gives: a file that the decoders read.

    An image file whose shorter side is not above `shorter_side` is kept as it is. A larger one is
    shrunk, antialiased, and encoded again: as JPEG; as PNG if it has alpha; as `.npy` if it has
    more than 8 bits, or other than 1 or 3 channels. There, missing values become NaN in float32.
    Pixels that lie in memory are packed without loss: as PNG, or `.npy`.

    Args:
        data: bytes of an image file, or an array `(H, W, C)`.
        shorter_side: int >= 1, pixels. None: nothing is shrunk.
        jpeg_quality: int from 1 to 100.
    Raises:
        Exception: whatever a decoder raises of a broken file that it was asked to shrink.
    """
    if isinstance(data, np.ndarray):
        size = _shrunk_size(data.shape[0], data.shape[1], shorter_side)
        return _lossless(data if size is None else _resize(data, size, None))
    if shorter_side is None:
        return data
    if data.startswith(b"\xff\xd8"):
        return _shrink_jpeg(data, shorter_side, jpeg_quality)
    facts = image_facts(data)
    size = _shrunk_size(facts.height, facts.width, shorter_side)
    if size is None:
        return data
    image = decode_image(data)
    if image.alpha is not None:
        return _shrink_with_alpha(data, image, size)
    pixels = _resize(image.pixels, size, image.missing)
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        return _npy(pixels)
    return _jpeg(_picture(pixels), jpeg_quality)


def _shrunk_size(height, width, shorter_side):
    """`(height, width)` with the shorter side as wanted, or None where nothing is to be shrunk."""
    shorter = min(height, width)
    if shorter_side is None or shorter <= shorter_side:
        return None
    return tuple(math.ceil(side * shorter_side / shorter) for side in (height, width))


def _shrink_jpeg(data, shorter_side, quality):
    with Image.open(io.BytesIO(data)) as image:
        size = _shrunk_size(image.height, image.width, shorter_side)
        if size is None:
            return data
        # It has the decoder skip to 1/2, 1/4 or 1/8, at least twice what is wanted.
        image.thumbnail(size[::-1], Image.Resampling.BICUBIC, reducing_gap=2.0)
        upright = ImageOps.exif_transpose(image)
    return _jpeg(upright if upright.mode in ("L", "RGB") else upright.convert("RGB"), quality)


def _shrink_with_alpha(data, image, size):
    """PNG has alpha at 8 and 16 bits. Where it has not, what is there is kept whole."""
    pixels, channels = image.pixels, image.pixels.shape[2]
    if channels not in (1, 3) or pixels.dtype not in (np.uint8, np.uint16):
        return data
    highest = np.iinfo(pixels.dtype).max
    alpha = _resize(image.alpha[..., None], size, None)
    # What cannot be seen must not colour what can.
    seen = _resize(pixels * image.alpha[..., None], size, None) / np.maximum(alpha, 1e-6)
    both = np.concatenate([seen, alpha * highest], axis=-1)
    both = np.clip(np.rint(both), 0, highest).astype(pixels.dtype)
    return _png(both)


def _resize(pixels, size, missing):
    """Resize each channel in float32, without values outside the range of those that are there.

    Args:
        pixels: array `(H, W, C)`.
        size: `(height, width)`.
        missing: bool `(H, W, C)`, values that are none, or None. Not finite ones are none, too.
    Returns:
        array `(height, width, C)` of the dtype of `pixels`, of float64 and where values are
        missing float32; NaN where most of what a pixel is made of is missing.
    """
    values = pixels.astype(np.float32)
    lacks = ~np.isfinite(values) if missing is None else missing | ~np.isfinite(values)
    if not lacks.any():
        resized = _resize_channels(values, size)
        if np.issubdtype(pixels.dtype, np.integer):
            return np.rint(resized).astype(pixels.dtype)
        return resized
    share = _resize_channels((~lacks).astype(np.float32), size)
    known = _resize_channels(np.where(lacks, np.float32(0), values), size)
    return np.where(share > 0.5, known / np.maximum(share, 1e-6), np.float32(np.nan))


def _resize_channels(values, size):
    # Bilinear is antialiased in Pillow, and unlike bicubic makes no value that was not between
    # those it is made of.
    channels = [
        np.asarray(Image.fromarray(channel).resize(size[::-1], Image.Resampling.BILINEAR))
        for channel in np.moveaxis(values, -1, 0).copy()
    ]
    return np.stack(channels, axis=-1)


def _lossless(pixels):
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        return _png(pixels)
    return _npy(pixels)


def _picture(pixels):
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _jpeg(picture, quality):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _png(pixels):
    """PNG of uint8 or uint16 `(H, W, C)`, C from 1 to 4, of which Pillow writes 8 bits only."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        return tf.io.encode_png(pixels).numpy()


def _npy(pixels):
    file = io.BytesIO()
    np.save(file, pixels, allow_pickle=False)
    return file.getvalue()
