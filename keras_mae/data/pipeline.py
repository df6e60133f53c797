"""Batches for pre-training and for measuring: from a source to normalised images.

Nothing here has a state: which image comes where is told in `keras_mae.data.stream`.
"""

from collections.abc import Sequence

import tensorflow as tf

from keras_mae.data import augment, dense, stream
from keras_mae.data.dense_source import DENSE_TASKS
from keras_mae.data.skips import SkipLog
from keras_mae.data.sources.base import Source
from keras_mae.types import Size


def pretrain_dataset(
    source: Source,
    *,
    image_size: Size,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    value_range: tuple[float, float] | None = None,
    seed: int = 0,
    start_step: int = 0,
    augmentation: str | None = None,
    crop_area: Sequence[float] | None = None,
    crop_aspect: Sequence[float] | None = None,
    flips: str | None = None,
    resize: str = "bilinear",
    crops_per_image: int = 1,
    shard_index: int = 0,
    num_shards: int = 1,
    on_skip: SkipLog | None = None,
    with_labels: bool = False,
    normalize: bool = True,
    num_parallel_calls: int = tf.data.AUTOTUNE,
    prefetch: int = tf.data.AUTOTUNE,
) -> tf.data.Dataset:
    """An endless stream of randomly augmented batches.

    Each epoch is a new permutation of the source's examples; an epoch's end may fall inside a
    batch. The batches are a function of the arguments alone: the dataset with `start_step=s`
    starts with exactly the batch that one started at 0 gives after s others. An image that cannot
    be read leaves its place to another, chosen by (seed, epoch, example, attempt), so nothing
    after it moves.

    Args:
        source: a `Source`.
        image_size: int or `(H, W)`, pixels.
        batch_size: int, images in a global batch, the crops of one image counted each.
        mean, std: a float for each channel, of values mapped to [0, 1].
        value_range: (low, high), the stored values that are mapped to 0 and 1, as a model has
            them; see `keras_mae.data.sensor.Sensor.seen_by`. None: the source's own.
        seed: int >= 0.
        start_step: int >= 0, number of global batches to pass over.
        augmentation: "crop" (random resized crop, and a flip), "shift" (up to 2 pixels each way,
            padded with the lowest value), "none" (the evaluation transform), or None: the
            source's own.
        crop_area: (low, high), range of a crop's share of the image's area. None: .2 to 1.
        crop_aspect: (low, high), range of a crop's width / height, relative to that of
            `image_size`. None: 3/4 to 4/3.
        flips: "none", "horizontal", "both" or "dihedral", see `keras_mae.data.augment.random_flip`.
            None: "horizontal" with "crop", else "none".
        resize: "bilinear" or "bicubic" (antialiased).
        crops_per_image: int. Several crops of each decoded image, next to each other in the
            batch. An epoch then has `crops_per_image * num_examples` images.
        shard_index, num_shards: this worker's number and how many there are. The workers' batches
            of a step, put one after the other, are the global batch.
        on_skip: a `SkipLog` that names broken images and stops the run when there are too many.
            None: a new one, in memory.
        with_labels: bool. Give `(images, labels)` with int64 labels.
        normalize: bool. False leaves images of 8 bits as they are, uint8: a fourth of the bytes on
            the way to the device. Our models take both, and normalise these themselves.
        num_parallel_calls, prefetch: as in `tf.data`, but that `AUTOTUNE` is one call a CPU; they
            do not change what comes out.
    Returns:
        Dataset of float32 `(batch_size // num_shards, H, W, C)`: `(x - mean) / std`, where x are
        the values mapped to [0, 1]; or of uint8, x being value / 255.
    Raises:
        ValueError: if an argument does not fit; each message names it.
    """
    views = stream.make_views(
        source,
        image_size=image_size,
        augmentation=augmentation,
        resize=resize,
        crop_area=crop_area,
        crop_aspect=crop_aspect,
        flips=flips,
    )
    stream.check_at_least(seed=(seed, 0), start_step=(start_step, 0))
    stream.check_shards(batch_size, shard_index, num_shards, crops_per_image)
    stream.check_labels(source, with_labels)
    if with_labels:
        source = source.labelled()
    finish = stream.normalizer(mean, std, source.channels, views.image_size)
    per_step = batch_size // crops_per_image  # examples in a global batch

    def finished(images, labels):
        if normalize or images.dtype != tf.uint8:
            images = finish(images)
        return (images, tf.repeat(labels, crops_per_image, axis=0)) if with_labels else images

    dataset = stream.training_batches(
        source,
        views,
        batch_size=per_step,
        places=stream.own_places(per_step, shard_index, num_shards),
        seed=seed,
        start_step=start_step,
        sensor=source.sensor.seen_by(mean, value_range),
        on_skip=on_skip,
        views_per_example=crops_per_image,
        num_parallel_calls=num_parallel_calls,
    )
    dataset = dataset.map(finished, num_parallel_calls=2)
    return dataset.with_options(stream.options()).prefetch(prefetch)


def eval_dataset(
    source: Source,
    *,
    image_size: Size,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    task: str | None = None,
    value_range: tuple[float, float] | None = None,
    with_labels: bool = True,
    with_weights: bool = False,
    resize: str = "bicubic",
    shard_index: int = 0,
    num_shards: int = 1,
    on_skip: SkipLog | None = None,
    num_parallel_calls: int = tf.data.AUTOTUNE,
    prefetch: int = tf.data.AUTOTUNE,
) -> tf.data.Dataset:
    """Every example once, in the source's order, without randomness; the last batch is partial.

    An image is resized so that 256/224 of the wanted size fits, and its middle is cut out; where
    the source's images all have one size, they are resized whole, or left as they are. An image
    that cannot be read is left out, with its label.

    Args:
        source: a `Source`.
        image_size: int or `(H, W)`, pixels.
        batch_size: int, images in a global batch.
        mean, std, value_range: as in `pretrain_dataset`.
        task: "segment" or "detect" of a source with such targets. The whole image is then resized,
            antialiased, to the largest size that fits, and lies at the top left; around it is the
            mean colour. `keras_mae.data.dense` has the way back. None: the source's.
        with_labels: bool. Give `(images, labels)`, of the images that have a label; else images
            only.
        with_weights: bool. Give `(images, labels, weights)`, in batches that are all full: weights
            are float32, 1 for an image, 0 for a broken one and for what fills the last batch.
            Labels are -1 where there are none.
        resize: "bicubic" (antialiased) or "bilinear".
        shard_index, num_shards: this worker's number and how many there are, with weights only.
            The workers' batches of a step, put one after the other, are the global batch.
        on_skip: a `SkipLog`, or None for a new one, in memory.
        num_parallel_calls, prefetch: as in `pretrain_dataset`.
    Returns:
        Dataset of float32 `(b, H, W, C)` and, with labels, int64 `(b,)`, b <= batch_size; with
        weights, b is `batch_size // num_shards`. Of several labels an image, labels are
        `(b, num_classes)` of 0 and 1. With a task, label maps or a dict of boxes and classes, as in
        `finetune_dataset`.
    Raises:
        ValueError: if an argument does not fit, or labels are wanted of a source without.
    """
    task = source.task if task is None else task
    if task in DENSE_TASKS:
        return dense.evaluation_dataset(
            source,
            task,
            image_size=image_size,
            batch_size=batch_size,
            mean=mean,
            std=std,
            value_range=value_range,
            with_labels=with_labels,
            with_weights=with_weights,
            resize=resize,
            shard_index=shard_index,
            num_shards=num_shards,
            on_skip=on_skip,
            num_parallel_calls=num_parallel_calls,
            prefetch=prefetch,
        )
    source = source.for_task(task)
    image_size = augment.check_image_size(image_size)
    augment.check_resize(resize)
    stream.check_shards(batch_size, shard_index, num_shards)
    if num_shards > 1 and not with_weights:
        raise ValueError(f"`num_shards` must be 1 without weights. Received: {num_shards}")
    stream.check_labels(source, with_labels and not with_weights)
    if with_labels and not with_weights:
        source = source.labelled()
    view = stream.FixedView(image_size, resize, source)
    normalize = stream.normalizer(mean, std, source.channels, image_size)
    options = {
        "batch_size": batch_size,
        "sensor": source.sensor.seen_by(mean, value_range),
        "on_skip": on_skip,
        "num_parallel_calls": num_parallel_calls,
    }

    def finished(images, labels):
        return (normalize(images), labels) if with_labels else normalize(images)

    def finished_and_weighted(images, labels, weights):
        is_good = tf.reshape(weights > 0, (-1, 1, 1, 1))
        return tf.where(is_good, normalize(images), 0.0), labels, weights

    if with_weights:
        places = stream.own_places(batch_size, shard_index, num_shards)
        dataset = stream.weighted_batches(source, view, places=places, **options)
        dataset = dataset.map(finished_and_weighted, num_parallel_calls=2)
    else:
        dataset = stream.evaluation_batches(source, view, **options)
        dataset = dataset.map(finished, num_parallel_calls=2)
    return dataset.with_options(stream.options()).prefetch(prefetch)
