"""What a decoder gives: the pixels that a file stores, none of them changed.

A decoder is a module with two functions, `decode(data: bytes) -> Decoded` and
`facts(file) -> Facts`, of a path or bytes. No decoder converts depth, range or colours to what a
model wants: `keras_mae.data.sensor` does.
"""

import dataclasses
import io
import itertools
import logging
import re
import warnings
from typing import Any, BinaryIO

import numpy as np

from keras_mae.types import AnyPath

# Larger images are refused, as Pillow refuses them: their header may lie.
MAX_PIXELS = 178_956_970
# What the pixels of one image may take in memory: so many in colour with alpha, of 16 bits.
MAX_BYTES = 8 * MAX_PIXELS
# The filters of warnings that `silence` has put in.
_SILENCED: set[tuple[Any, ...]] = set()


@dataclasses.dataclass(slots=True)
class Decoded:
    """An image as its file stores it, upright.

    Attributes:
        pixels: array `(H, W, C)` of any integer or float dtype, in the file's own units; colour
            without its alpha. 1-bit images are uint8, 0 and 255.
        alpha: float32 `(H, W)` in [0, 1], 0 transparent, or None where all is opaque.
        missing: bool `(H, W, C)`, values that are no data, or None where there is none. NaN and
            infinity need not be in it.
        frames: int, how many images the file holds, of which this is the first.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    missing: np.ndarray | None = None
    frames: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What an image's header says of it, before its pixels are decoded.

    Attributes:
        height, width: ints, pixels, of the image upright.
        channels: int, alpha not counted.
        is_byte: bool. Whether the pixels will be uint8.
        has_alpha: bool. Whether some pixels may be transparent.
    """

    height: int
    width: int
    channels: int
    is_byte: bool
    has_alpha: bool = False


def open_file(file: AnyPath | bytes) -> BinaryIO:
    """Return an open file of a path or of bytes; the caller closes it."""
    return io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb")


def check_size(height: int, width: int, bytes_per_pixel: int = 1) -> None:
    """Refuse sizes that no memory may be taken for.

    Args:
        height, width: ints, as a header gives them.
        bytes_per_pixel: int, of all channels together.
    Raises:
        ValueError: if there is no pixel, more than `MAX_PIXELS`, or more than `MAX_BYTES`.
    """
    pixels = height * width
    if min(height, width) < 1 or pixels > MAX_PIXELS or pixels * bytes_per_pixel > MAX_BYTES:
        raise ValueError(
            f"an image must have 1 to {MAX_PIXELS} pixels and take {MAX_BYTES} bytes at most. "
            f"Received: {height} x {width} pixels of {bytes_per_pixel} bytes"
        )


def scaled_alpha(values: np.ndarray, highest: float = 1.0) -> np.ndarray | None:
    """Return stored alpha `(H, W)`, 0 to `highest`, as float32 in [0, 1]; None if all is opaque."""
    if (values >= highest).all():
        return None
    alpha = np.clip(values.astype("float64") / highest, 0.0, 1.0)
    return np.nan_to_num(alpha).astype("float32")


def turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array `(H, W, ...)` upright by the value of an EXIF or TIFF orientation tag, 1-8.

    Any other value leaves it as it is.
    """
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def needs_extra(what: str) -> ValueError:
    """Return the error that says which extra of the package reads `what`."""
    return ValueError(f'{what} needs: pip install "keras_mae[sensors]"')


def silence(package: str) -> None:
    """Keep to ourselves what a library says of odd files: they are read, or named with a reason.

    `warnings.catch_warnings` is not for threads, so the filter stays, for the modules of this
    package alone. It is put in again where somebody has put another before it.
    """
    wanted = ("ignore", None, Warning, re.compile(rf"{package}\."), 0)
    before = itertools.takewhile(lambda entry: entry != wanted, warnings.filters)
    if wanted not in warnings.filters or not _SILENCED.issuperset(before):
        warnings.filterwarnings("ignore", module=wanted[3].pattern)
    _SILENCED.add(wanted)
    logger = logging.getLogger(package)
    if logger.level in (logging.NOTSET, logging.WARNING):  # nobody has set another
        logger.setLevel(logging.CRITICAL)
