"""Boxes: anchors, which of them stand for which object, and non-maximum suppression.

A box is (left, top, right, bottom), in pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_mae.types import Tensor

ANCHOR_STRIDES = 4  # sides of a level's smallest anchor, in strides
SIZES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS = (0.5, 1.0, 2.0)
PER_PLACE = len(SIZES) * len(RATIOS)
# An anchor stands for an object from this overlap on; between the two it says nothing.
POSITIVE, NEGATIVE = 0.5, 0.4
# Deviations of centre and log size that regression is scaled with.
VARIANCE = (0.1, 0.1, 0.2, 0.2)
LARGEST_LOG = 4.0


def anchors_of(image_size: tuple[int, int], strides: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return the anchors of all levels: 9 a place, of 3 sizes and 3 shapes, around its middle.

    Args:
        image_size: (H, W).
        strides: (vertical, horizontal) of each level.
    Returns:
        float32 NumPy array `(A, 4)`: level by level, row by row, place by place.
    Reference: Lin et al. 2017, arXiv:1708.02002, section 4.
    """
    found = []
    for vertical, horizontal in strides:
        rows = (np.arange(-(-image_size[0] // vertical)) + 0.5) * vertical
        columns = (np.arange(-(-image_size[1] // horizontal)) + 0.5) * horizontal
        sides = [
            (
                ANCHOR_STRIDES * vertical * size * ratio**0.5,
                ANCHOR_STRIDES * horizontal * size / ratio**0.5,
            )
            for size in SIZES
            for ratio in RATIOS
        ]
        heights, widths = np.array(sides).T
        y, x = np.meshgrid(rows, columns, indexing="ij")
        y, x = y[..., None], x[..., None]
        boxes = [x - widths / 2, y - heights / 2, x + widths / 2, y + heights / 2]
        found.append(np.stack(boxes, axis=-1).reshape(-1, 4))
    return np.concatenate(found).astype("float32")


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Return intersection over union of each box with each other one; 0 for boxes without area.

    Args:
        boxes: float `(..., G, 4)`.
        others: float `(..., A, 4)`.
    Returns:
        float `(..., G, A)`.
    """
    boxes, others = ops.expand_dims(boxes, -2), ops.expand_dims(others, -3)
    low, high = (
        ops.maximum(boxes[..., :2], others[..., :2]),
        ops.minimum(boxes[..., 2:], others[..., 2:]),
    )
    shared = _area(ops.concatenate([low, high], axis=-1))
    return ops.divide_no_nan(shared, _area(boxes) + _area(others) - shared)


def _area(boxes: Tensor) -> Tensor:
    sides = ops.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def match(anchors: Tensor, boxes: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each anchor stands for.

    An anchor stands for the object that it overlaps most, if by half or more; and each object has
    the anchor that overlaps it most.

    Args:
        anchors: float32 `(A, 4)`.
        boxes: float32 `(B, G, 4)`.
        classes: int32 `(B, G)`; -1 for what is no object. Boxes without area are none either.
    Returns:
        `(boxes, classes)`: float32 `(B, A, 4)`, and int32 `(B, A)`, -1 for background, and -2 for
        anchors that say nothing.
    """
    # An object that is none, so that there is one at least.
    boxes = ops.pad(boxes, ((0, 0), (0, 1), (0, 0)))
    classes = ops.pad(classes, ((0, 0), (0, 1)), constant_values=-1)
    is_object = (classes >= 0) & (_area(boxes) > 0)
    shared = ops.where(is_object[..., None], overlaps(boxes, anchors), -1.0)  # (B, G, A)
    best = ops.max(shared, axis=1)
    # The anchor of each object, even if it overlaps it a little only.
    of_object = ops.one_hot(ops.argmax(shared, axis=2), anchors.shape[0], dtype="float32")
    of_object = of_object * ops.cast(shared > 0, "float32")
    is_own = ops.max(of_object, axis=1) > 0
    choice = ops.where(is_own, ops.argmax(of_object * shared, axis=1), ops.argmax(shared, axis=1))
    is_positive = is_own | (best >= POSITIVE)
    found = ops.take_along_axis(classes, choice, axis=1)
    found = ops.where(is_positive, found, ops.where(best >= NEGATIVE, -2, -1))
    return ops.take_along_axis(boxes, choice[..., None], axis=1), found


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return boxes `(..., A, 4)` as offsets of their anchors, in deviations: `decode`'s inverse."""
    middle, size = _middle_and_size(boxes)
    anchor_middle, anchor_size = _middle_and_size(anchors)
    size = ops.maximum(size, 1e-3)
    offsets = [(middle - anchor_middle) / anchor_size, ops.log(size / anchor_size)]
    return ops.concatenate(offsets, axis=-1) / ops.convert_to_tensor(VARIANCE, "float32")


def decode(offsets: Tensor, anchors: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the boxes `(..., A, 4)` that offsets of anchors mean, cut at the image's border."""
    offsets = offsets * ops.convert_to_tensor(VARIANCE, "float32")
    middle, size = _middle_and_size(anchors)
    middle = middle + offsets[..., :2] * size
    half = size * ops.exp(ops.clip(offsets[..., 2:], -LARGEST_LOG, LARGEST_LOG)) / 2
    height, width = image_size
    border = ops.convert_to_tensor([width, height, width, height], "float32")
    return ops.minimum(
        ops.maximum(ops.concatenate([middle - half, middle + half], axis=-1), 0.0), border
    )


def _middle_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


def best_boxes(
    boxes: Tensor,
    scores: Tensor,
    *,
    least_score: float,
    largest_overlap: float,
    max_detections: int,
    num_candidates: int,
) -> dict[str, Tensor]:
    """Return the best boxes of each image, without those that overlap a better one of their class.

    Args:
        boxes: float32 `(B, A, 4)`.
        scores: float32 `(B, A, classes)`, in [0, 1].
        least_score: float. Boxes of lower scores are left out.
        largest_overlap: float. Intersection over union from which on the better box replaces the
            other.
        max_detections: int M.
        num_candidates: int. So many of the best scores are looked at.
    Returns:
        dict, best first, padded: `boxes` float32 `(B, M, 4)`, -1 where there is none; `classes`
        int32 `(B, M)`, -1; `scores` float32 `(B, M)`, 0.
    """
    num_anchors, num_classes = scores.shape[1:]
    flat = ops.reshape(scores, (-1, num_anchors * num_classes))
    count = min(num_candidates, num_anchors * num_classes)
    best, places = ops.top_k(flat, count)  # (B, K), the best first
    places = ops.cast(places, "int32")
    classes = places % num_classes
    boxes = ops.take_along_axis(boxes, (places // num_classes)[..., None], axis=1)
    conflict = overlaps(boxes, boxes) > largest_overlap
    conflict = conflict & (classes[:, :, None] == classes[:, None, :])
    conflict = conflict & ops.convert_to_tensor(np.tri(count, k=-1, dtype=bool))  # with a better
    is_good = best >= least_score

    def survivors(kept: Tensor, _: Any) -> tuple[Tensor, Tensor]:
        return is_good & ~ops.any(conflict & kept[:, None], axis=2), kept

    # A box is out if a better one that stays overlaps it. The best is right at once, the others
    # are as soon as all that are better are.
    kept, _ = ops.while_loop(
        lambda kept, before: ops.any(kept != before), survivors, survivors(is_good, None)
    )
    best = ops.where(kept, best, -1.0)
    best, order = ops.top_k(best, min(max_detections, count))
    order, is_found = ops.cast(order, "int32"), best >= 0
    missing = max_detections - min(max_detections, count)
    boxes = ops.take_along_axis(boxes, order[..., None], axis=1)
    classes = ops.take_along_axis(classes, order, axis=1)
    row = ((0, 0), (0, missing))
    return {
        "boxes": ops.pad(
            ops.where(is_found[..., None], boxes, -1.0), (*row, (0, 0)), constant_values=-1.0
        ),
        "classes": ops.pad(ops.where(is_found, classes, -1), row, constant_values=-1),
        "scores": ops.pad(ops.where(is_found, best, 0.0), row),
    }
