"""What fine-tuning does to images beside cropping: mixing two of them, and erasing a part.

As in `augment.py`, the random numbers come from outside, so the same numbers give the same images.
"""

import numpy as np
import tensorflow as tf

from keras_mae.data.augment import random_crop_boxes

ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 10 / 3)


def mixup(images, labels, share):
    """Blend each image of a batch, and its label, with that at the same place from the other end.

    Args:
        images: float32 `(B, H, W, C)`.
        labels: float32 `(B, classes)`, distributions.
        share: float32 scalar in [0, 1], of the image itself.
    Returns:
        `(images, labels)`, same shapes.
    Reference: Zhang et al. 2017, arXiv:1710.09412.
    """
    return _blend(images, share), _blend(labels, share)


def cutmix(images, labels, share, place):
    """Put a box of another image of the batch into each; labels are blended by area.

    All images of the batch get the box at the same place, from the image at the same place from
    the batch's other end.

    Args:
        images: float32 `(B, H, W, C)`.
        labels: float32 `(B, classes)`, distributions.
        share: float32 scalar in [0, 1], of the image's area that is its own: the box has sides of
            `sqrt(1 - share)`. It is less where the box sticks out of the image.
        place: float32 `(2,)` in [0, 1): the box's centre, vertical and horizontal.
    Returns:
        `(images, labels)`, same shapes; the label's share is that of the pixels.
    Reference: Yun et al. 2019, arXiv:1905.04899.
    """
    size = tf.shape(images)[1:3]
    side = tf.sqrt(1 - share)
    sides = tf.cast(tf.cast(size, tf.float32) * side, tf.int32)
    centre = tf.cast(place * tf.cast(size, tf.float32), tf.int32)
    first = tf.maximum(centre - sides // 2, 0)
    last = tf.minimum(centre - sides // 2 + sides, size)
    inside = _box_mask(first, last, size)
    area = tf.cast(tf.reduce_prod(tf.maximum(last - first, 0)), tf.float32)
    own = 1 - area / tf.cast(tf.reduce_prod(size), tf.float32)
    return tf.where(inside, images[::-1], images), _blend(labels, own)


def mix(images, labels, key, mixup_alpha, cutmix_alpha):
    """Apply mixup or cutmix to a batch; which, and how much, is a function of the key.

    Args:
        images: float32 `(B, H, W, C)`.
        labels: float32 `(B, classes)`, distributions.
        key: int64 `(2,)`.
        mixup_alpha, cutmix_alpha: floats of 0 or more: the share is drawn from Beta(alpha, alpha).
            0: never. With both, each batch takes either with equal chance.
    Returns:
        `(images, labels)`, same shapes.
    """
    if not mixup_alpha and not cutmix_alpha:
        return images, labels
    uniforms = tf.random.stateless_uniform((3,), key, alg="philox")

    def mixed():
        return mixup(images, labels, _beta(key, mixup_alpha))

    def cut():
        return cutmix(images, labels, _beta(key, cutmix_alpha), uniforms[:2])

    if not cutmix_alpha:
        return mixed()
    return tf.cond(uniforms[2] < 0.5, mixed, cut) if mixup_alpha else cut()


def random_erasing(image, uniforms, noise):
    """Replace a random box of 1/50 to 1/3 of an image by noise.

    Args:
        image: float32 `(H, W, C)`, normalised.
        uniforms: float32 `(10, 4)` in [0, 1), see `random_crop_boxes`.
        noise: float32 `(H, W, C)`, what the box is filled with.
    Returns:
        The image, same shape.
    Reference: Zhong et al. 2017, arXiv:1708.04896.
    """
    size = tf.shape(image)[:2]
    box = tf.ensure_shape(tf.numpy_function(_erased_box, [size, uniforms], tf.int32), (4,))
    return tf.where(_box_mask(box[:2], box[:2] + box[2:], size), noise, image)


def _erased_box(size, uniforms):
    sizes, tries = size[np.newaxis], uniforms[np.newaxis]
    return random_crop_boxes(sizes, tries, area=ERASED_AREA, aspect=ERASED_ASPECT)[0]


def _blend(values, share):
    return share * values + (1 - share) * values[::-1]


def _box_mask(first, last, size):
    """bool `(H, W, 1)`: true from `first` = (row, column) up to, without, `last`."""
    rows, columns = tf.range(size[0])[:, None, None], tf.range(size[1])[None, :, None]
    return (rows >= first[0]) & (rows < last[0]) & (columns >= first[1]) & (columns < last[1])


def _beta(key, alpha):
    """float32 scalar from Beta(alpha, alpha)."""
    drawn = tf.random.stateless_gamma((2,), tf.random.experimental.stateless_fold_in(key, 1), alpha)
    total = tf.reduce_sum(drawn)
    # Tiny alphas draw two numbers that may both be 0.
    return tf.where(total > 0, drawn[0] / total, 0.5)
