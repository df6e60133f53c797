"""The way of an image from its source to a normalised batch, as a `tf.data.Dataset`.

Nothing here has a state. The stream of images is numbered; number -> (epoch, position in the
epoch) -> example, by a keyed permutation -> random numbers, keyed by (seed, epoch, example). So a
run can start at any step, and any worker can compute its part, without what came before.
"""

import os

import numpy as np
import tensorflow as tf

from keras_mae.data import augment
from keras_mae.data.reader import cut, make_reader
from keras_mae.data.sources import ArraySource

AUGMENTATIONS = ("crop", "shift", "none")


def pretrain_dataset(
    source,
    *,
    image_size,
    batch_size,
    mean,
    std,
    seed=0,
    start_step=0,
    augmentation=None,
    resize="bilinear",
    crops_per_image=1,
    shard_index=0,
    num_shards=1,
    on_skip=None,
    with_labels=False,
    num_parallel_calls=tf.data.AUTOTUNE,
    prefetch=tf.data.AUTOTUNE,
):
    """An endless stream of randomly augmented, normalised batches.

    Each epoch is a new permutation of the source's examples; an epoch's end may fall inside a
    batch. The batches are a function of the arguments alone: the dataset with `start_step=s`
    starts with exactly the batch that one started at 0 gives after s others. An image that cannot
    be read leaves its place to another, chosen by (seed, epoch, example, attempt), so nothing
    after it moves.

    Args:
        source: a `Source`.
        image_size: int or `(H, W)`, pixels.
        batch_size: int, images in a global batch, the crops of one image counted each.
        mean, std: a float for each channel, of images in [0, 1].
        seed: int >= 0.
        start_step: int >= 0, number of global batches to pass over.
        augmentation: "crop" (random resized crop of .2-1 of the area and 3/4-4/3 of the aspect,
            and a flip), "shift" (up to 2 pixels each way, padded with black), "none" (the
            evaluation transform), or None: the source's own.
        resize: "bilinear" or "bicubic" (antialiased).
        crops_per_image: int. Several crops of each decoded image, next to each other in the
            batch. An epoch then has `crops_per_image * num_examples` images.
        shard_index, num_shards: this worker's number and how many there are. The workers' batches
            of a step, put one after the other, are the global batch.
        on_skip: a `SkipLog` that names broken images and stops the run when there are too many.
            None: a new one, in memory.
        with_labels: bool. Give `(images, labels)` with int64 labels.
        num_parallel_calls, prefetch: as in `tf.data`, but that `AUTOTUNE` is one call a CPU; they
            do not change what comes out.
    Returns:
        Dataset of float32 `(batch_size // num_shards, H, W, C)`: `(pixel / 255 - mean) / std`.
    Raises:
        ValueError: if an argument does not fit; each message names it.
    """
    image_size = augment.check_image_size(image_size)
    augment.check_resize(resize)
    augmentation = source.augmentation if augmentation is None else augmentation
    if augmentation not in AUGMENTATIONS:
        raise ValueError(
            f"augmentation: expected one of {', '.join(AUGMENTATIONS)}; got {augmentation!r}."
        )
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
        ("start_step", start_step, 0),
        ("crops_per_image", crops_per_image, 1),
        ("num_shards", num_shards, 1),
        ("shard_index", shard_index, 0),
    ):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name}: expected an int of {least} or more, got {value!r}.")
    if shard_index >= num_shards:
        raise ValueError(f"shard_index: expected less than {num_shards=}, got {shard_index}.")
    if batch_size % (crops_per_image * num_shards):
        raise ValueError(
            f"batch_size: expected a multiple of crops_per_image * num_shards = "
            f"{crops_per_image * num_shards}, got {batch_size}."
        )
    reader = make_reader(source, on_skip)
    _check_labels(source, with_labels)
    normalise = _normaliser(mean, std, source.channels, image_size)
    per_step = batch_size // crops_per_image  # source images in a global batch
    per_shard = per_step // num_shards
    num_examples = source.num_examples

    def load(number):
        """Number in this worker's stream -> the crops of one image, `(crops, H, W, C)`."""
        step, place = number // per_shard, number % per_shard
        slot = step * per_step + shard_index * per_shard + place  # number in the global stream
        epoch, position = slot // num_examples, slot % num_examples
        example = _permute(position, [seed, epoch], num_examples)
        uniforms = tf.random.stateless_uniform(
            (crops_per_image, augment.UNIFORMS_PER_IMAGE),
            [seed, epoch * num_examples + example],
            alg="philox",  # the default algorithm depends on the device
        )
        handle = reader.read(example, [seed, epoch])
        crops = _augment(handle, uniforms, augmentation, image_size, resize, source)
        return normalise(crops), handle.label

    def finish(crops, labels):
        images = tf.reshape(crops, (per_shard * crops_per_image, *crops.shape[2:]))
        return (images, tf.repeat(labels, crops_per_image)) if with_labels else images

    dataset = tf.data.Dataset.range(start_step * per_shard, np.iinfo(np.int64).max)
    dataset = dataset.map(load, num_parallel_calls=num_parallel_calls)
    dataset = dataset.batch(per_shard, drop_remainder=True).map(finish)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return dataset.with_options(_options()).prefetch(prefetch)


def eval_dataset(
    source,
    *,
    image_size,
    batch_size,
    mean,
    std,
    with_labels=True,
    with_weights=False,
    resize="bicubic",
    shard_index=0,
    num_shards=1,
    on_skip=None,
    num_parallel_calls=tf.data.AUTOTUNE,
    prefetch=tf.data.AUTOTUNE,
):
    """Every example once, in the source's order, without randomness; the last batch is partial.

    An image is resized so that 256/224 of the wanted size fits, and its middle is cut out; where
    the source's images all have one size, they are resized whole, or left as they are. An image
    that cannot be read is left out, with its label.

    Args:
        source: a `Source`.
        image_size: int or `(H, W)`, pixels.
        batch_size: int, images in a global batch.
        mean, std: a float for each channel, of images in [0, 1].
        with_labels: bool. Give `(images, labels)`, else images only.
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
        weights, b is `batch_size // num_shards`.
    Raises:
        ValueError: if an argument does not fit, or labels are wanted of a source without.
    """
    image_size = augment.check_image_size(image_size)
    augment.check_resize(resize)
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"batch_size: expected an int of 1 or more, got {batch_size!r}.")
    if not 0 <= shard_index < num_shards:
        raise ValueError(f"shard_index: expected less than {num_shards=}, got {shard_index}.")
    if num_shards > 1 and not with_weights:
        raise ValueError(f"num_shards: expected 1 without weights, got {num_shards}.")
    if batch_size % num_shards:
        raise ValueError(f"batch_size: expected a multiple of {num_shards=}, got {batch_size}.")
    reader = make_reader(source, on_skip)
    _check_labels(source, with_labels and not with_weights)
    normalise = _normaliser(mean, std, source.channels, image_size)
    num_examples = source.num_examples

    def load(example):
        handle = reader.read(example, None)
        image = normalise(_evaluate(handle, image_size, resize, source))
        return image, handle.label, handle.ok

    def load_or_fill(number):
        """Number in this worker's stream -> (image, label, weight)."""
        batch, place = number // per_shard, number % per_shard
        example = batch * batch_size + shard_index * per_shard + place
        image, label, weight = tf.cond(
            example < num_examples,
            lambda: _weighted(*load(example)),
            lambda: (tf.zeros((*image_size, source.channels)), np.int64(-1), np.float32(0)),
        )
        return tf.ensure_shape(image, (*image_size, source.channels)), label, weight

    def finish(images, labels, _):
        return (images, labels) if with_labels else images

    if with_weights:
        per_shard = batch_size // num_shards
        dataset = tf.data.Dataset.range(-(-num_examples // batch_size) * per_shard)
        dataset = dataset.map(load_or_fill, num_parallel_calls=num_parallel_calls)
        dataset = dataset.batch(per_shard, drop_remainder=True)
    else:
        dataset = tf.data.Dataset.range(num_examples)
        dataset = dataset.map(load, num_parallel_calls=num_parallel_calls)
        if not isinstance(source, ArraySource):
            dataset = dataset.filter(lambda _, __, ok: ok)
        dataset = dataset.batch(batch_size).map(finish)
    return dataset.with_options(_options()).prefetch(prefetch)


def _weighted(image, label, ok):
    """A broken image is black, with weight 0."""
    return tf.where(ok, image, 0.0), label, tf.cast(ok, tf.float32)


def _augment(handle, uniforms, augmentation, image_size, resize, source):
    """float32 `(crops, H, W, C)`, 0-255, of one image."""
    count = uniforms.shape[0]
    if augmentation == "none":
        return tf.stack([_evaluate(handle, image_size, resize, source)] * count)
    # For a single crop the decoder need not decode the rest.
    image = None if augmentation == "crop" and count == 1 else handle.whole()
    target = image_size[1] / image_size[0]
    crops = []
    for numbers in tf.unstack(uniforms):
        if augmentation == "shift":
            crop = augment.random_shift(image, numbers[:2])
        else:
            tries = tf.reshape(numbers[1:], (augment.CROP_TRIES, 4))
            box = augment.random_crop_box(handle.height, handle.width, tries, target=target)
            crop = handle.crop(box) if image is None else cut(image, box)
            crop = augment.random_flip(crop, numbers[0])
        crop = augment.resize_image(crop, image_size, resize)
        crops.append(tf.ensure_shape(crop, (*image_size, source.channels)))
    return tf.stack(crops)


def _evaluate(handle, image_size, resize, source):
    """float32 `(H, W, C)`, 0-255, without randomness."""
    whole = source.image_size is not None
    return augment.evaluation_pixels(handle.whole(), image_size, resize, whole)


def _permute(position, key, count):
    """The example at a position of the epoch that `key` = [seed, epoch] names: a permutation."""
    if count == 1:
        return tf.zeros_like(position)
    return tf.random.experimental.index_shuffle(position, key, max_index=count - 1)


def _permute_each(positions, keys, count):
    """`_permute` of `(n,)` positions with a key each, `(n, 2)`."""
    if count == 1:
        return tf.zeros_like(positions)
    # `index_shuffle` is said to take such keys too, but puts its own constant before the first key
    # instead of before each (TensorFlow 2.21): this is its operation.
    keys = tf.pad(keys, [[0, 0], [1, 0]], constant_values=498247692)
    return tf.raw_ops.RandomIndexShuffle(
        index=positions, seed=keys, max_index=np.int64(count - 1), rounds=4
    )


def _normaliser(mean, std, channels, image_size):
    """Function from pixels 0-255, `(..., H, W, C)`, to (pixel / 255 - mean) / std."""
    for name, value in (("mean", mean), ("std", std)):
        if len(np.atleast_1d(value)) != channels:
            raise ValueError(
                f"{name}: expected {channels} floats, one a channel of the source, got {value!r}."
            )
    mean, std = np.atleast_1d(mean).astype(np.float64), np.atleast_1d(std).astype(np.float64)
    if not (std > 0).all():
        raise ValueError(f"std: expected floats above 0, got {tuple(std)!r}.")
    # A whole row of pixels at a time: broadcasting three numbers over the last axis is not
    # vectorised, and costs four times as much.
    scale = np.tile(1 / (255 * std), image_size[1]).astype(np.float32)
    offset = np.tile(-mean / std, image_size[1]).astype(np.float32)

    def normalise(pixels):
        rows = tf.reshape(pixels, (*pixels.shape[:-2], -1))
        return tf.reshape(rows * scale + offset, pixels.shape)

    return normalise


def _check_labels(source, with_labels):
    if with_labels and source.num_classes is None:
        raise ValueError(
            f"with_labels: expected False for the source {source.name!r}, which has no labels."
        )


def _options():
    options = tf.data.Options()
    # The same order whatever the number of threads.
    options.deterministic = True
    # Workers are given their shard above: TensorFlow must not cut it again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # All CPUs from the first image on, as `AUTOTUNE` now means. TensorFlow's tuner would have to
    # find that out, and its thread may miss that a dataset is over: then all waits, for as long as
    # the dataset has lived, up to a minute.
    options.autotune.enabled = False
    options.autotune.initial_parallelism = os.cpu_count()
    return options
