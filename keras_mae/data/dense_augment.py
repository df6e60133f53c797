"""Move an image with its label map or its boxes; every random choice comes from outside.

An image is mirrored or turned first, and then placed on a canvas of the model's size by one scale
and one shift. Image, map and boxes are moved by the same numbers, so a box lies where its pixels
lie to a fraction of a pixel: x on the image is `scale * x + left` on the canvas, x = 0 being the
left border of the first pixel.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_mae.data import augment
from keras_mae.data.dense_source import IGNORED
from keras_mae.types import Tensor

# Uniform numbers that one image uses: flip, scale, top, left.
UNIFORMS_PER_IMAGE = 4
# What a scale is relative to: the largest at which the whole image fits. See Ghiasi et al. 2021,
# arXiv:2012.07177: "large scale jittering", and the milder one of earlier recipes for small sets.
LARGE_JITTER, SMALL_JITTER = (0.1, 2.0), (0.5, 2.0)
# A box of which less than this share is left on the canvas is no target: nobody could tell what it
# is. Nor is one thinner than a pixel.
LEAST_SHARE = 0.1
_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where an image lies on a canvas.

    Attributes:
        canvas: `(H, W)` in pixels, ints.
        scale: float32 scalar tensor, pixels of the canvas a pixel of the image.
        corner: float32 `(2,)`, top and left of the image on the canvas; negative where it is cut.
    """

    canvas: tuple[int, int]
    scale: Tensor
    corner: Tensor

    def image(self, image: Tensor, fill: Tensor, resize: str) -> Tensor:
        """Return an image on the canvas, antialiased.

        Args:
            image: float `(h, w, C)`, 0-255.
            fill: float32 `(C,)`, what lies around the image.
            resize: "bilinear" or "bicubic".
        Returns:
            float32 `(H, W, C)`, 0-255.
        """
        # Around the image the operation puts zeros.
        placed = tf.raw_ops.ScaleAndTranslate(
            images=(tf.cast(image, tf.float32) - fill)[None],
            size=self.canvas,
            scale=tf.stack([self.scale, self.scale]),
            translation=self.corner,
            kernel_type=_KERNELS[resize],
            antialias=True,
        )[0]
        placed = tf.clip_by_value(placed + fill, 0.0, 255.0)
        return tf.ensure_shape(placed, (*self.canvas, image.shape[-1]))

    def label_map(self, labels: Tensor) -> Tensor:
        """Return a label map on the canvas: of each pixel the label that its middle lies on.

        Args:
            labels: uint8 `(h, w)`.
        Returns:
            int32 `(H, W)`, 255 around the map.
        """
        places = []
        for axis in range(2):
            middles = tf.range(self.canvas[axis], dtype=tf.float32) + 0.5
            places.append(tf.cast(tf.floor((middles - self.corner[axis]) / self.scale), tf.int32))
        # A row and a column of 255 more; all that lies outside is read from these.
        size = tf.shape(labels)
        padded = tf.pad(labels, [[0, 1], [0, 1]], constant_values=IGNORED)
        rows, columns = (
            tf.where((place >= 0) & (place < size[axis]), place, size[axis])
            for axis, place in enumerate(places)
        )
        placed = tf.gather(tf.gather(padded, rows), columns, axis=1)
        return tf.ensure_shape(tf.cast(placed, tf.int32), self.canvas)

    def boxes(self, boxes: Tensor, least_share: float = LEAST_SHARE) -> tuple[Tensor, Tensor]:
        """Return boxes on the canvas, cut at its border, and which of them are still targets.

        Args:
            boxes: float32 `(n, 4)`: left, top, right, bottom in pixels of the image.
            least_share: float in [0, 1], see `LEAST_SHARE`.
        Returns:
            float32 `(n, 4)` in pixels of the canvas, and bool `(n,)`.
        """
        moved = boxes * self.scale + tf.tile(self.corner[::-1], [2])
        height, width = (float(size) for size in self.canvas)
        cut = tf.clip_by_value(moved, 0.0, tf.constant([width, height, width, height]))
        sides, whole = cut[:, 2:] - cut[:, :2], moved[:, 2:] - moved[:, :2]
        is_thick = tf.reduce_all(sides >= 1.0, axis=1)
        share = tf.reduce_prod(sides, axis=1) / tf.reduce_prod(whole, axis=1)
        return cut, is_thick & (share >= least_share)


def fitted(size: Tensor, canvas: tuple[int, int]) -> Placement:
    """Return the placement of a whole image: as large as fits, at the top left.

    Args:
        size: int32 `(2,)`, height and width of the image.
        canvas: `(H, W)`, ints.
    """
    return Placement(canvas, _fit(size, canvas), tf.zeros(2))


def jittered(
    size: Tensor, canvas: tuple[int, int], uniforms: Tensor, jitter: tuple[float, float]
) -> Placement:
    """Return a placement of random scale and place.

    Args:
        size, canvas: as in `fitted`.
        uniforms: float32 `(3,)` in [0, 1): scale, top, left.
        jitter: (low, high) of the scale, relative to the largest at which the whole image fits;
            uniform. A side that is larger than the canvas is cut at a random place, one that is
            smaller lies at a random place.
    """
    low, high = jitter
    scale = _fit(size, canvas) * (low + (high - low) * uniforms[0])
    free = tf.constant(canvas, tf.float32) - scale * tf.cast(size, tf.float32)
    return Placement(canvas, scale, free * uniforms[1:])


def flip_boxes(boxes: np.ndarray, size: tuple[int, int], uniform: float, flips: str) -> np.ndarray:
    """Mirror or turn boxes as `keras_mae.data.augment.random_flip` does their image.

    Args:
        boxes: float32 `(n, 4)`: left, top, right, bottom.
        size: height and width of the image before.
        uniform, flips: as in `random_flip`.
    """
    way = augment.flip_way(uniform, flips)
    height, width = size
    left, top, right, bottom = boxes.T
    if way & 1:
        left, right = width - right, width - left
    if way & 2:
        top, bottom = height - bottom, height - top
    if way & 4:
        left, top, right, bottom = top, left, bottom, right
    return np.stack([left, top, right, bottom], axis=1)


def _fit(size, canvas):
    return tf.reduce_min(tf.constant(canvas, tf.float32) / tf.cast(size, tf.float32))
