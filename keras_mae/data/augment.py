"""What happens to one decoded image; every random choice comes from outside.

The functions take the random numbers they use (`uniforms`, in [0, 1)), so the same numbers give
the same image, also after a resume. Pixels are uint8, or float32 from 0 to 255, and stay so.
"""

import math
import operator
from typing import Any

import cv2
import numpy as np
from PIL import Image

from keras_mae.types import Size

CROP_AREA = (0.2, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_TRIES = 10
# Uniform numbers that one random crop with flip, or one shift, uses at most.
UNIFORMS_PER_IMAGE = 4 * CROP_TRIES + 1
SHIFT_PIXELS = 2
EVALUATION_RATIO = 256 / 224
RESIZES = ("bilinear", "bicubic")
FLIPS = ("none", "horizontal", "both", "dihedral")


def random_crop_boxes(
    sizes: np.ndarray,
    uniforms: np.ndarray,
    *,
    area: tuple[float, float] = CROP_AREA,
    aspect: tuple[float, float] = CROP_ASPECT,
    target: float = 1.0,
) -> np.ndarray:
    """The boxes of random resized crops, one an image.

    Of ten random boxes the first that fits in the image is taken; if none does, the largest
    centred box of an accepted aspect.

    Args:
        sizes: int `(n, 2)`, height and width of the images in pixels.
        uniforms: float32 `(n, 10, 4)` in [0, 1): area, aspect, top, left of each try.
        area: range of a box's share of the image's area, uniform.
        aspect: range of a box's width / height, log-uniform, relative to `target`.
        target: float, width / height of the image that the crop is resized to.
    Returns:
        int32 `(n, 4)`: top, left, height, width in pixels.
    """
    sizes = np.asarray(sizes, "int32").reshape(-1, 2)
    rows, columns = sizes.astype("float32").T
    low, high = math.log(aspect[0] * target), math.log(aspect[1] * target)
    span = np.float32(area[1] - area[0])
    areas = (rows * columns)[:, None] * (np.float32(area[0]) + span * uniforms[..., 0])
    aspects = np.exp(np.float32(low) + np.float32(high - low) * uniforms[..., 1])
    widths = np.rint(np.sqrt(areas * aspects)).astype("int32")
    heights = np.rint(np.sqrt(areas / aspects)).astype("int32")
    fits = (widths > 0) & (widths <= sizes[:, 1:]) & (heights > 0) & (heights <= sizes[:, :1])
    images, first = np.arange(len(sizes)), fits.argmax(axis=1)  # the first True
    found = fits[images, first]
    boxes = np.stack([heights[images, first], widths[images, first]], axis=1)
    largest = np.stack(
        [
            _largest(rows, columns / np.float32(math.exp(low))),
            _largest(columns, rows * np.float32(math.exp(high))),
        ],
        axis=1,
    )
    boxes = np.where(found[:, None], boxes, largest)
    # A half in place of the random numbers centres the box.
    place = np.where(found[:, None], uniforms[images, first, 2:], np.float32(0.5))
    free = sizes - boxes
    corners = np.floor(place * (free + 1).astype("float32")).astype("int32")
    corners = np.minimum(corners, free)  # float32 may round up to free + 1
    return np.concatenate([corners, boxes], axis=1)


def _largest(size, allowed):
    return np.maximum(np.rint(np.minimum(size, allowed)), 1).astype("int32")


def random_flip(image: np.ndarray, uniform: float, flips: str = "horizontal") -> np.ndarray:
    """Mirror or turn an image, each way that is allowed with equal chance.

    Args:
        image: `(H, W, C)`.
        uniform: float in [0, 1).
        flips: "none"; "horizontal": mirrored left and right or not; "both": also up and down;
            "dihedral": the eight ways to lay down a square, for images without an up. A turn by a
            quarter makes `(W, H, C)` of `(H, W, C)`.
    """
    way = flip_way(uniform, flips)
    if way & 3:
        # 1: around the upright axis, 0: around the lying one, -1: around both.
        image = _with_channels(cv2.flip(image, {1: 1, 2: 0, 3: -1}[way & 3]), image)
    return image.transpose(1, 0, 2) if way & 4 else image


def flip_way(uniform: float, flips: str) -> int:
    """Return which way a uniform number stands for, an int in [0, 8).

    Bit 0: mirrored left and right; bit 1: up and down; bit 2: then rows become columns.
    """
    if flips == "none":
        return 0
    if flips == "horizontal":
        return int(uniform < 0.5)
    ways = 4 if flips == "both" else 8
    return min(int(np.float32(uniform) * np.float32(ways)), ways - 1)


def random_shift(image: np.ndarray, uniforms: np.ndarray, pixels: int = SHIFT_PIXELS) -> np.ndarray:
    """Move an image by up to `pixels` each way; what comes in is 0 (black).

    Shift before normalising: zeros put in afterwards are not black but the mean colour, and the
    border so drawn is what the model then learns to rebuild.

    Args:
        image: `(H, W, C)`, 0-255.
        uniforms: float32 `(2,)` in [0, 1): vertical, horizontal. A half keeps the image in place.
        pixels: int, largest shift.
    Returns:
        The shifted image, same shape and dtype.
    """
    height, width, channels = image.shape
    top, left = (int(number * np.float32(2 * pixels + 1)) for number in uniforms)
    padded = np.zeros((height + 2 * pixels, width + 2 * pixels, channels), image.dtype)
    padded[pixels : pixels + height, pixels : pixels + width] = image
    return padded[top : top + height, left : left + width]


def resize_image(
    image: np.ndarray, image_size: tuple[int, int], resize: str = "bilinear"
) -> np.ndarray:
    """Resize to `image_size`.

    Args:
        image: uint8 or float32 `(H, W, C)`, 0-255.
        image_size: `(H, W)` in pixels.
        resize: "bilinear" (fast; shrinking skips pixels), by OpenCV; or "bicubic" (antialiased), by
            Pillow and equal to it.
    Returns:
        `(H, W, C)` of the same dtype, 0-255.
    """
    height, width = image_size
    if image.shape[:2] == (height, width):
        return image
    if resize == "bilinear":
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return _with_channels(resized, image)
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return _bicubic(image, width, height)
    # Pillow takes floats and other numbers of channels one by one.
    channels = [_bicubic(image[..., i], width, height) for i in range(image.shape[2])]
    # Weights are partly negative: values can leave the range.
    return np.clip(np.stack(channels, axis=2), 0, 255)


def _bicubic(image, width, height):
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _with_channels(made, image):
    """Return what OpenCV made of an image: it drops the axis of a single channel."""
    return made.reshape(*made.shape[:2], image.shape[2])


def check_image_size(image_size: Any) -> tuple[int, int]:
    """`(H, W)` of ints from an int or a pair.

    Raises:
        ValueError: if it is neither, or not positive.
    """
    pair = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    try:
        height, width = (operator.index(size) for size in pair)
        if height < 1 or width < 1:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"`image_size` must be a positive int or (height, width). Received: {image_size!r}"
        ) from None
    return height, width


def evaluation_transform(
    image: np.ndarray,
    image_size: Size,
    *,
    resize: str = "bicubic",
    whole: bool = False,
    value_range: tuple[float, float] = (0.0, 255.0),
) -> np.ndarray:
    """The transform for measuring: no randomness.

    The image is resized so that the wanted size times 256/224 just fits inside it, and the middle
    is cut out. An image that already has the wanted size stays as it is.

    Args:
        image: array `(H, W, C)`, values in `value_range`; others are cut to it.
        image_size: int or `(H, W)` in pixels.
        resize: "bicubic" (antialiased) or "bilinear".
        whole: bool. Resize the whole image and cut nothing off, as small images of one size need.
        value_range: (low, high), the values that become 0 and 1.
    Returns:
        float32 array `(*image_size, C)` in [0, 1], not normalised. Of uint8 images in 0..255, the
        resized values are rounded, as in files.
    Raises:
        ValueError: if `image_size` or `resize` does not fit.
    """
    image_size = check_image_size(image_size)
    check_resize(resize)
    image = np.asarray(image)
    low, high = value_range
    if (low, high) != (0, 255) or image.dtype != np.uint8:
        image = (image.astype("float32") - np.float32(low)) * np.float32(255 / (high - low))
        image = np.clip(image, 0, 255)
    pixels = evaluation_pixels(image, image_size, resize, whole)
    return pixels.astype("float32") / np.float32(255)


def evaluation_pixels(
    image: np.ndarray, image_size: tuple[int, int], resize: str, whole: bool
) -> np.ndarray:
    """`evaluation_transform` for checked arguments, from 0 to 255, in the image's dtype."""
    height, width = image_size
    if whole or image.shape[:2] == image_size:
        return resize_image(image, image_size, resize)
    rows, columns = image.shape[:2]
    size = _inner_size(rows, columns, image_size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return resize_image(image, size, resize)[top : top + height, left : left + width]


def _inner_size(rows: Any, columns: Any, image_size: tuple[int, int]) -> tuple[Any, Any]:
    """Return the (height, width) that an image is resized to before its middle is cut out.

    One side fits exactly, the other is longer, rounded down (as torchvision has it).
    """
    height, width = (int(side * EVALUATION_RATIO) for side in image_size)
    if height * columns >= width * rows:
        return height, columns * height // rows
    return rows * width // columns, width


def fit_inside(image: np.ndarray, image_size: Size, around: Any = 0) -> np.ndarray:
    """Return all of an image in its proportions, in the middle of another size.

    Args:
        image: uint8 or float `(h, w, C)`, 0-255.
        image_size: int or `(H, W)` in pixels.
        around: number, or C of them: what is put where the image does not reach.
    Returns:
        float32 `(H, W, C)`, 0-255.
    """
    height, width = check_image_size(image_size)
    rows, columns = image.shape[:2]
    scale = min(height / rows, width / columns)
    size = max(1, round(rows * scale)), max(1, round(columns * scale))
    resized = image if size == (rows, columns) else resize_image(image, size, "bicubic")
    canvas = np.empty((height, width, image.shape[2]), "float32")
    canvas[:] = around
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    canvas[top : top + size[0], left : left + size[1]] = np.asarray(resized)
    return canvas


def check_resize(resize: str) -> None:
    if resize not in RESIZES:
        raise ValueError(f"`resize` must be one of {', '.join(RESIZES)}. Received: {resize!r}")


def check_flips(flips: str) -> None:
    if flips not in FLIPS:
        raise ValueError(f"`flips` must be one of {', '.join(FLIPS)}. Received: {flips!r}")
