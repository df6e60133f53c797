"""What happens to one decoded image, in TensorFlow; every random choice comes from outside.

The functions take the random numbers they use (`uniforms`, in [0, 1)), so the same numbers give
the same image: eagerly, in a graph, and after a resume.
"""

import math
import operator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mae.types import Size, Tensor

CROP_AREA = (0.2, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_TRIES = 10
# Uniform numbers that one random crop with flip, or one shift, uses at most.
UNIFORMS_PER_IMAGE = 4 * CROP_TRIES + 1
SHIFT_PIXELS = 2
EVALUATION_RATIO = 256 / 224
RESIZES = ("bilinear", "bicubic")
FLIPS = ("none", "horizontal", "both", "dihedral")


def random_crop_box(
    height: Tensor,
    width: Tensor,
    uniforms: Tensor,
    *,
    area: tuple[float, float] = CROP_AREA,
    aspect: tuple[float, float] = CROP_ASPECT,
    target: float = 1.0,
) -> Tensor:
    """The box of a random resized crop.

    Of ten random boxes the first that fits in the image is taken; if none does, the largest
    centred box of an accepted aspect.

    Args:
        height, width: int32 scalar tensors, size of the image in pixels.
        uniforms: float32 `(10, 4)` in [0, 1): area, aspect, top, left of each try.
        area: range of the box's share of the image's area, uniform.
        aspect: range of the box's width / height, log-uniform, relative to `target`.
        target: float, width / height of the image that the crop is resized to.
    Returns:
        int32 `(4,)`: top, left, height, width in pixels.
    """
    rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    low, high = math.log(aspect[0] * target), math.log(aspect[1] * target)
    areas = rows * columns * (area[0] + (area[1] - area[0]) * uniforms[:, 0])
    aspects = tf.exp(low + (high - low) * uniforms[:, 1])
    widths = tf.cast(tf.round(tf.sqrt(areas * aspects)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(areas / aspects)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = tf.argmax(fits)  # the first True
    found = fits[first]
    box_height = tf.where(found, heights[first], _largest(rows, columns / math.exp(low)))
    box_width = tf.where(found, widths[first], _largest(columns, rows * math.exp(high)))
    # A half in place of the random numbers centres the box.
    place = tf.where(found, uniforms[first, 2:], 0.5)
    free = tf.stack([height - box_height, width - box_width])
    corner = tf.cast(tf.floor(place * tf.cast(free + 1, tf.float32)), tf.int32)
    corner = tf.minimum(corner, free)  # float32 may round up to free + 1
    return tf.concat([corner, [box_height, box_width]], axis=0)


def _largest(size, allowed):
    return tf.cast(tf.maximum(tf.round(tf.minimum(size, allowed)), 1.0), tf.int32)


def random_flip(image: Tensor, uniform: Tensor, flips: str = "horizontal") -> Tensor:
    """Mirror or turn an image, each way that is allowed with equal chance.

    Args:
        image: `(H, W, C)`.
        uniform: scalar in [0, 1).
        flips: "none"; "horizontal": mirrored left and right or not; "both": also up and down;
            "dihedral": the eight ways to lay down a square, for images without an up. A turn by a
            quarter makes `(W, H, C)` of `(H, W, C)`.
    """
    if flips == "none":
        return image
    way = flip_way(uniform, flips)
    image = tf.cond(way % 2 == 1, lambda: tf.reverse(image, axis=[1]), lambda: image)
    if flips == "horizontal":
        return image
    image = tf.cond(way // 2 % 2 == 1, lambda: tf.reverse(image, axis=[0]), lambda: image)
    if flips == "both":
        return image
    return tf.cond(way >= 4, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)


def flip_way(uniform: Tensor, flips: str) -> Tensor:
    """Return which way a uniform number stands for, int32 in [0, 8).

    Bit 0: mirrored left and right; bit 1: up and down; bit 2: then rows become columns.
    """
    if flips == "none":
        return tf.constant(0)
    if flips == "horizontal":
        return tf.cast(uniform < 0.5, tf.int32)
    ways = 4 if flips == "both" else 8
    return tf.minimum(tf.cast(uniform * ways, tf.int32), ways - 1)


def random_shift(image: Tensor, uniforms: Tensor, pixels: int = SHIFT_PIXELS) -> Tensor:
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
    padded = tf.pad(image, [[pixels, pixels], [pixels, pixels], [0, 0]])
    corner = tf.cast(tf.floor(uniforms * (2 * pixels + 1)), tf.int32)
    return tf.slice(padded, tf.concat([corner, [0]], axis=0), tf.shape(image))


def resize_image(image: Tensor, image_size: Any, resize: str = "bilinear") -> Tensor:
    """Resize to `image_size`.

    Args:
        image: uint8 or float `(H, W, C)`, 0-255.
        image_size: `(H, W)` in pixels, ints or int32 tensors.
        resize: "bilinear" (fast; shrinking skips pixels) or "bicubic" (antialiased, as Pillow's).
    Returns:
        float32 `(H, W, C)`, 0-255.
    """
    image = tf.cast(image, tf.float32)  # TensorFlow resizes floats faster than bytes
    if resize == "bilinear":
        return tf.image.resize(image, image_size, "bilinear")
    # Bicubic weights are partly negative: values can leave the range.
    return tf.clip_by_value(tf.image.resize(image, image_size, "bicubic", antialias=True), 0, 255)


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
    image: Tensor,
    image_size: Size,
    *,
    resize: str = "bicubic",
    whole: bool = False,
    value_range: tuple[float, float] = (0.0, 255.0),
) -> Tensor:
    """The transform for measuring: no randomness.

    The image is resized so that the wanted size times 256/224 just fits inside it, and the middle
    is cut out. An image that already has the wanted size stays as it is.

    Args:
        image: `(H, W, C)`, array or tensor, values in `value_range`; others are cut to it.
        image_size: int or `(H, W)` in pixels.
        resize: "bicubic" (antialiased) or "bilinear".
        whole: bool. Resize the whole image and cut nothing off, as small images of one size need.
        value_range: (low, high), the values that become 0 and 1.
    Returns:
        float32 tensor `(*image_size, C)` in [0, 1], not normalised.
    Raises:
        ValueError: if `image_size` or `resize` does not fit.
    """
    image_size = check_image_size(image_size)
    check_resize(resize)
    image = tf.convert_to_tensor(image)
    low, high = value_range
    if (low, high) != (0, 255):
        image = (tf.cast(image, tf.float32) - low) * (255 / (high - low))
        image = tf.clip_by_value(image, 0.0, 255.0)
    return evaluation_pixels(image, image_size, resize, whole) / 255.0


def evaluation_pixels(
    image: Tensor, image_size: tuple[int, int], resize: str, whole: bool
) -> Tensor:
    """`evaluation_transform` for checked arguments, in float32 0-255."""
    height, width = image_size
    rows, columns = tf.shape(image)[0], tf.shape(image)[1]

    def transformed():
        if whole:
            return resize_image(image, image_size, resize)
        inner_height = int(height * EVALUATION_RATIO)
        inner_width = int(width * EVALUATION_RATIO)
        # One side fits exactly, the other is longer, rounded down (as torchvision has it).
        size = tf.where(
            inner_height * columns >= inner_width * rows,
            tf.stack([inner_height, columns * inner_height // rows]),
            tf.stack([rows * inner_width // columns, inner_width]),
        )
        resized = resize_image(image, size, resize)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        return resized[top : top + height, left : left + width]

    fits = (rows == height) & (columns == width)
    result = tf.cond(fits, lambda: tf.cast(image, tf.float32), transformed)
    return tf.ensure_shape(result, (height, width, image.shape[-1]))


def fit_inside(image: Tensor, image_size: Size, around: Any = 0) -> np.ndarray:
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
