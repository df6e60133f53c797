"""What Pillow makes of an image file, to compare with: 8 bits, the high ones, without alpha."""

import io

import numpy as np
from PIL import Image, ImageOps


def read_with_pillow(file, channels=3):
    """Return uint8 `(H, W, channels)` of a path, file object, or bytes, upright.

    Args:
        file: path, file object, or bytes.
        channels: 1 or 3.
    """
    if isinstance(file, bytes):
        file = io.BytesIO(file)
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        # Of no use without alpha, and of some palettes Pillow cannot convert it.
        image.info.pop("transparency", None)
        if image.mode.startswith("I;16"):  # of which `convert` would cut all above 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)
