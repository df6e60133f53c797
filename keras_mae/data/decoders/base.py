"""What a decoder gives: the pixels that a file stores, none of them changed.

No decoder converts depth, range or colours to what a model wants: `keras_mae.data.sensor` does.
"""

import dataclasses

import numpy as np

# Larger images are refused, as Pillow refuses them: their header may lie.
MAX_PIXELS = 178_956_970


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
