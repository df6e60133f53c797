"""An image on its way to a batch: decoded when its pixels are wanted, no more than needed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg

# The fractions of its size at which a JPEG can be decoded for less.
_FRACTIONS = (8, 4, 2)


class Handle:
    """An image that was read: pixels, or a plain JPEG that is decoded when they are asked for.

    Args:
        pixels: array `(H, W, C)`, uint8 or float32 from 0 to 255; None for a JPEG.
        jpeg: bytes of a JPEG of which `keras_mae.data.decode.plain_jpeg_size` has told the size.
        size: its (height, width).
        channels: 1 or 3, the JPEG's wanted.
        otherwise: function without arguments that decodes it more patiently, where simplejpeg
            refuses it.
    Attributes:
        height, width: ints, in pixels.
        pixels: array `(H, W, C)`, None of a JPEG that is not wholly decoded yet.
    """

    def __init__(
        self,
        pixels: Any = None,
        jpeg: Any = None,
        size: tuple[int, int] | None = None,
        channels: int = 3,
        otherwise: Callable[[], np.ndarray] | None = None,
    ) -> None:
        self.pixels, self._jpeg, self._channels = pixels, jpeg, channels
        self._otherwise = otherwise
        self.height: int
        self.width: int
        self.height, self.width = pixels.shape[:2] if size is None else size

    def whole(self) -> np.ndarray:
        """Return all pixels, `(H, W, C)`.

        Raises:
            Exception: of any kind, if the JPEG is damaged.
        """
        if self.pixels is None:
            try:
                self.pixels = _decode(self._jpeg, self._channels)
            except ValueError:
                if self._otherwise is None:
                    raise
                self.pixels = self._otherwise()
        return self.pixels

    def crop(self, box: np.ndarray, least: tuple[int, int] | None = None) -> np.ndarray:
        """Return the pixels of a box.

        Args:
            box: 4 ints: top, left, height, width.
            least: `(H, W)` that the crop is to be resized to, if it need not be exact: a JPEG is
                then decoded at a half, a fourth or an eighth of its size where that leaves the box
                at least so large, by averages of pixels. Its border is then that of the nearest
                whole pixels.
        Returns:
            array `(h, w, C)`; h and w are the box's, or a fraction of them.
        Raises:
            Exception: of any kind, if the JPEG is damaged.
        """
        top, left, height, width = (int(number) for number in box)
        part, pixels = self._part(height, width, least), None
        if part > 1:
            try:
                pixels = _decode(self._jpeg, self._channels, part, (self.height, self.width))
            except ValueError:  # the whole is tried otherwise
                part = 1
        pixels = self.whole() if pixels is None else pixels
        top, left, height, width = top // part, left // part, height // part, width // part
        return pixels[top : top + height, left : left + width]

    def _part(self, height, width, least):
        """Return by how much a JPEG may be decoded smaller for a box of this size."""
        if self.pixels is not None or least is None:
            return 1
        fits = (p for p in _FRACTIONS if height >= p * least[0] and width >= p * least[1])
        return next(fits, 1)

    def may_shrink(self, least: tuple[int, int]) -> bool:
        """Return whether `crop` can give less than the stored pixels, for some box."""
        is_large = self.height >= 2 * least[0] and self.width >= 2 * least[1]
        return self._jpeg is not None and is_large


def _decode(jpeg, channels, part=1, size=(0, 0)):
    # By the accurate transform and with smoothed colours, as Pillow does: equal to the byte.
    least = {}
    if part > 1:
        height, width = (-(-side // part) for side in size)
        least = {"min_height": height, "min_width": width, "min_factor": part}
    return simplejpeg.decode_jpeg(jpeg, "GRAY" if channels == 1 else "RGB", **least)
