"""Batches with label maps or boxes, and the way back from a model's canvas to the stored image.

Nothing here has a state (see `keras_mae.data.stream`): an image and its target are a function of
(seed, epoch, example).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mae.data import augment, stream
from keras_mae.data.dense_augment import (
    LARGE_JITTER,
    SMALL_JITTER,
    UNIFORMS_PER_IMAGE,
    fitted,
    jittered,
)
from keras_mae.data.dense_reader import DenseReader
from keras_mae.data.dense_source import IGNORED
from keras_mae.types import Tensor

AUGMENTATIONS = ("crop", "none")
# From so many training images on, `LARGE_JITTER` is the default.
LARGE_SET = 10_000
NO_CLASS = -1  # what pads boxes and classes
# Floats that scores on the stored pixels take at a time.
_MOST_VALUES = 2**24


def training_dataset(
    source,
    task,
    *,
    image_size,
    batch_size,
    mean,
    std,
    value_range,
    seed,
    start_step,
    augmentation,
    scale_jitter,
    flips,
    resize,
    shard_index,
    num_shards,
    on_skip,
    num_parallel_calls,
    prefetch,
):
    """An endless stream of augmented batches: see `finetune_dataset`."""
    source = source.for_task(task)
    canvas = augment.check_image_size(image_size)
    augment.check_resize(resize)
    augmentation = source.augmentation if augmentation is None else augmentation
    if augmentation not in AUGMENTATIONS:
        raise ValueError(
            f"`augmentation` must be one of {', '.join(AUGMENTATIONS)} for the task {task!r}. "
            f"Received: {augmentation!r}"
        )
    flips = stream.default_flips(flips, augmentation, source)
    flips = flips if augmentation == "crop" else "none"
    jitter = _check_jitter(scale_jitter, source)
    stream.check_at_least(seed=(seed, 0), start_step=(start_step, 0))
    stream.check_shards(batch_size, shard_index, num_shards)
    finish = _Finish(source, canvas, mean, std, resize)
    reader = DenseReader(source, source.sensor.seen_by(mean, value_range), on_skip, flips)
    places = stream.own_places(batch_size, shard_index, num_shards)
    numbered = stream.Numbering(places, batch_size, source.num_examples, seed)

    def load(number):
        (example,), (epoch,), (key,) = map(tf.unstack, numbered(number[tf.newaxis]))
        uniforms = tf.random.stateless_uniform((UNIFORMS_PER_IMAGE,), key, alg="philox")
        handle = reader.read(example, [key[0], epoch], uniforms[0])
        if augmentation == "none":
            placement = fitted(handle.size, canvas)
        else:
            placement = jittered(handle.size, canvas, uniforms[1:], jitter)
        return finish(handle.image, handle.target, placement)

    most = np.iinfo(np.int64).max
    dataset = tf.data.Dataset.range(start_step * len(places), most)
    dataset = dataset.map(load, num_parallel_calls=num_parallel_calls)
    dataset = stream.endless(dataset.batch(len(places), drop_remainder=True))
    return dataset.with_options(stream.options()).prefetch(prefetch)


def evaluation_dataset(
    source,
    task,
    *,
    image_size,
    batch_size,
    mean,
    std,
    value_range,
    with_labels,
    with_weights,
    resize,
    shard_index,
    num_shards,
    on_skip,
    num_parallel_calls,
    prefetch,
):
    """Every image once, whole, without randomness: see `eval_dataset`."""
    source = source.for_task(task)
    canvas = augment.check_image_size(image_size)
    augment.check_resize(resize)
    stream.check_shards(batch_size, shard_index, num_shards)
    if num_shards > 1 and not with_weights:
        raise ValueError(f"`num_shards` must be 1 without weights. Received: {num_shards}")
    reader = DenseReader(source, source.sensor.seen_by(mean, value_range), on_skip)
    reader.check_readable()
    finish = _Finish(source, canvas, mean, std, resize)
    num_examples = source.num_examples
    places = stream.own_places(batch_size, shard_index, num_shards)

    def load(example):
        handle = reader.read(example, None)
        made = finish(handle.image, handle.target, fitted(handle.size, canvas))
        return *made, handle.ok

    def load_or_fill(number):
        """Number in this worker's stream -> (image, labels, weight)."""
        batch, place = number // len(places), number % len(places)
        example = batch * batch_size + places[0] + place

        def loaded():
            image, labels, ok = load(example)
            return tf.where(ok, image, 0.0), labels, tf.cast(ok, tf.float32)

        def filled():
            return tf.zeros((*canvas, source.channels)), finish.nothing(), tf.constant(0.0)

        return tf.cond(example < num_examples, loaded, filled)

    def without_ok(images, labels, _):
        return (images, labels) if with_labels else images

    if with_weights:
        dataset = tf.data.Dataset.range(-(-num_examples // batch_size) * len(places))
        dataset = dataset.map(load_or_fill, num_parallel_calls=num_parallel_calls)
        dataset = dataset.batch(len(places), drop_remainder=True)
    else:
        dataset = tf.data.Dataset.range(num_examples)
        dataset = dataset.map(load, num_parallel_calls=num_parallel_calls)
        dataset = dataset.filter(lambda _, __, ok: ok).batch(batch_size).map(without_ok)
    return dataset.with_options(stream.options()).prefetch(prefetch)


def stored_labels(
    scores: Tensor, stored_size: tuple[int, int], image_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Return the best class of each stored pixel, from scores on the canvas.

    The scores of the part of the canvas that the image covers are resized, then compared. Those
    around it, which nothing has taught, take no part.

    Args:
        scores: float `(h, w, num_classes)`, logits or probabilities of one image as `eval_dataset`
            gives it. They may be coarser than the canvas.
        stored_size: `(height, width)` of the stored label map.
        image_size: `(H, W)` of the canvas; None: that of the scores.
    Returns:
        uint8 array of shape `stored_size`.
    """
    scores = tf.cast(scores, tf.float32)
    height, width, num_classes = scores.shape
    canvas = image_size or (height, width)
    scale = float(fitted(tf.constant(stored_size), canvas).scale)
    scales = [canvas[0] / (scale * height), canvas[1] / (scale * width)]
    # A little less, so that a rounded float adds no row.
    rows, columns = (
        max(1, math.ceil(side / s - 1e-3)) for side, s in zip(stored_size, scales, strict=True)
    )
    scores = scores[:rows, :columns]
    step = max(1, _MOST_VALUES // (stored_size[1] * num_classes))
    parts = []
    for top in range(0, stored_size[0], step):
        resized = tf.raw_ops.ScaleAndTranslate(
            images=scores[None],
            size=(min(step, stored_size[0] - top), stored_size[1]),
            scale=scales,
            translation=[-float(top), 0.0],
            kernel_type="triangle",
            antialias=True,
        )
        parts.append(tf.argmax(resized[0], axis=-1).numpy())
    return np.concatenate(parts).astype("uint8")


def stored_boxes(
    boxes: Any, stored_size: tuple[int, int], image_size: tuple[int, int]
) -> np.ndarray:
    """Return boxes on the canvas as boxes in the stored image, cut at its border.

    Args:
        boxes: float `(n, 4)`: left, top, right, bottom in pixels of an image as `eval_dataset`
            gives it.
        stored_size: `(height, width)` of the stored image, upright.
        image_size: `(H, W)` of the canvas.
    Returns:
        float64 array `(n, 4)`.
    """
    scale = float(fitted(tf.constant(stored_size), image_size).scale)
    height, width = stored_size
    return np.clip(np.asarray(boxes, "float64") / scale, 0, [width, height, width, height])


def coco_results(
    source: Any,
    record: int,
    boxes: Any,
    classes: Sequence[int],
    scores: Sequence[float],
    image_size: tuple[int, int],
) -> list[dict[str, Any]]:
    """Return what was found in an image in COCO's format: the source's ids, stored pixels, xywh.

    Args:
        source: a `DenseSource` of the task "detect".
        record: int, of the source.
        boxes, image_size: as in `stored_boxes`.
        classes: n ints, in [0, num_classes).
        scores: n floats.
    Returns:
        list of dicts "image_id", "category_id", "bbox", "score", of plain values. Boxes that lie
        beside the image have no area, and are left out.
    """
    size = source.target_size(record) or source.record_size(record)
    corners = stored_boxes(boxes, size, image_size)
    found = []
    for (left, top, right, bottom), label, score in zip(corners, classes, scores, strict=True):
        if right <= left or bottom <= top:
            continue
        found.append(
            {
                "image_id": source.image_id(record),
                "category_id": source.category_ids[int(label)],
                "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
                "score": float(score),
            }
        )
    return found


class _Finish:
    """Put an image and its target on the canvas, and make them what a model takes."""

    def __init__(self, source, canvas, mean, std, resize):
        self.canvas, self.resize, self.is_map = canvas, resize, source.task == "segment"
        self.normalize = stream.normalizer(mean, std, source.channels, canvas)
        self.fill = 255 * np.broadcast_to(np.asarray(mean, "float32"), (source.channels,))
        self.most = 0 if self.is_map else source.most_boxes

    def __call__(self, image, target, placement):
        """Return `(image, labels)`: labels are a map, or a dict of padded boxes and classes."""
        image = self.normalize(placement.image(image, self.fill, self.resize))
        if self.is_map:
            return image, placement.label_map(target)
        boxes, is_target = placement.boxes(target[0])
        boxes = tf.boolean_mask(boxes, is_target)
        return image, self._padded(boxes, tf.boolean_mask(target[1], is_target))

    def nothing(self):
        """Return the labels of an image that is not there."""
        if self.is_map:
            return tf.fill(self.canvas, IGNORED)
        return self._padded(tf.zeros((0, 4)), tf.zeros((0,), tf.int32))

    def _padded(self, boxes, classes):
        more = self.most - tf.shape(boxes)[0]
        boxes = tf.pad(boxes, [[0, more], [0, 0]], constant_values=float(NO_CLASS))
        classes = tf.pad(classes, [[0, more]], constant_values=NO_CLASS)
        return {
            "boxes": tf.ensure_shape(boxes, (self.most, 4)),
            "classes": tf.ensure_shape(classes, (self.most,)),
        }


def _check_jitter(scale_jitter, source):
    if scale_jitter is None:
        return LARGE_JITTER if source.num_examples >= LARGE_SET else SMALL_JITTER
    low, high = scale_jitter
    if not 0 < low <= high:
        raise ValueError(
            f"`scale_jitter` must be (low, high), greater than 0. Received: {tuple(scale_jitter)}"
        )
    return float(low), float(high)
