"""The numbered stream: which image comes where, as a function of (seed, step) alone.

Every pipeline here is made of these parts, and none of them has a state. The images of a run are
numbered from 0 on. A number gives the epoch and the position in it; a permutation keyed by
(seed, epoch) gives the example; (seed, epoch, example) keys the random numbers. So a dataset can
start at any step, and any worker can compute its part, without what came before.
"""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from keras_mae.data import augment
from keras_mae.data.reader import make_reader
from keras_mae.data.sources.base import Source
from keras_mae.pixels import scale_and_offset

AUGMENTATIONS = ("crop", "shift", "none")


def training_batches(
    source,
    transform,
    *,
    batch_size,
    places,
    seed,
    start_step,
    sensor=None,
    on_skip=None,
    make_reader=make_reader,
    num_parallel_calls=tf.data.AUTOTUNE,
):
    """Return an endless dataset of the batches that one worker trains on.

    Each epoch is a new permutation of the examples; its end may fall inside a batch. A broken
    image leaves its place to another, chosen by (seed, epoch, example, attempt), so that nothing
    after it moves.

    Args:
        source: a `Source`.
        transform: function from a reader's handle and a key, int64 `(2,)`, unique to (seed, epoch,
            example), to a tensor: the image or images made of the example.
        batch_size: int, examples in a global batch.
        places: ints in [0, batch_size): which of them this worker reads, in this order.
        seed: int >= 0.
        start_step: int >= 0, number of global batches to pass over.
        sensor: `Sensor`, how pixels are seen, or None: the source's own.
        on_skip: a `SkipLog`, or None for a new one, in memory.
        make_reader: function of `(source, sensor, on_skip)` to a reader.
        num_parallel_calls: as in `tf.data`.
    Returns:
        Dataset of `(transformed, labels)`: what `transform` gives, stacked to
        `(len(places), ...)`, and int64 `(len(places),)`, -1 where there are no labels; of several
        labels an image, `(len(places), num_classes)` of 0 and 1.
    """
    reader = make_reader(source, sensor, on_skip)
    num_examples = source.num_examples
    places = tf.constant(places, tf.int64)
    count = len(places)

    def load(number):
        """Number in this worker's stream -> what is made of one image, and its label."""
        slot = number // count * batch_size + places[number % count]
        epoch, position = slot // num_examples, slot % num_examples
        example = permute(position, [seed, epoch], num_examples)
        handle = reader.read(example, [seed, epoch])
        key = tf.stack([tf.constant(seed, tf.int64), epoch * num_examples + example])
        return transform(handle, key), handle.label

    dataset = tf.data.Dataset.range(start_step * count, np.iinfo(np.int64).max)
    dataset = dataset.map(load, num_parallel_calls=num_parallel_calls)
    return endless(dataset.batch(count, drop_remainder=True))


def own_places(batch_size, shard_index, num_shards):
    """Return the places of a worker's images in the global batch: the workers' parts in turn.

    Args:
        batch_size: int, a multiple of `num_shards`.
        shard_index, num_shards: this worker's number and how many there are.
    Returns:
        int64 array `(batch_size // num_shards,)`.
    """
    share = batch_size // num_shards
    return np.arange(shard_index * share, (shard_index + 1) * share, dtype=np.int64)


def permute(position, key, count):
    """Return the example at a position of an epoch: a permutation, without a table.

    Args:
        position: int64 scalar tensor in [0, count).
        key: [seed, epoch], what names the permutation.
        count: int, number of examples.
    """
    if count == 1:
        return tf.zeros_like(position)
    return tf.random.experimental.index_shuffle(position, key, max_index=count - 1)


def permute_each(positions, keys, count):
    """Return `permute` of int64 `(n,)` positions with a key each, int64 `(n, 2)`."""
    if count == 1:
        return tf.zeros_like(positions)
    # `index_shuffle` is said to take such keys too, but puts its own constant before the first key
    # instead of before each (TensorFlow 2.21): this is its operation.
    keys = tf.pad(keys, [[0, 0], [1, 0]], constant_values=498247692)
    return tf.raw_ops.RandomIndexShuffle(
        index=positions, seed=keys, max_index=np.int64(count - 1), rounds=4
    )


@dataclasses.dataclass(frozen=True)
class Views:
    """How a training image is made of a decoded one.

    Attributes:
        augmentation: one of `AUGMENTATIONS`, see `pretrain_dataset`.
        image_size: `(H, W)` in pixels.
        resize: "bilinear" or "bicubic".
        area: range of the share of the image's area that a crop has.
        aspect: range of a crop's width / height, relative to that of `image_size`.
        flips: one of `augment.FLIPS`.
        source: the `Source` that the examples are of.
    """

    augmentation: str
    image_size: tuple[int, int]
    resize: str
    area: tuple[float, float]
    aspect: tuple[float, float]
    flips: str
    source: Source

    def __call__(self, handle, uniforms):
        """Return one augmented view, float32 `(H, W, C)`, 0-255, not normalised.

        Args:
            handle: a reader's handle.
            uniforms: float32 `(augment.UNIFORMS_PER_IMAGE,)` in [0, 1), all its randomness.
        """
        size, source = self.image_size, self.source
        if self.augmentation == "none":
            return fixed_view(handle, size, self.resize, source)
        if self.augmentation == "shift":
            image = augment.random_shift(handle.whole(), uniforms[:2])
            if source.image_size == size:
                image = tf.ensure_shape(image, (*size, source.channels))
            image = augment.random_flip(image, uniforms[2], self.flips)
        else:
            tries = tf.reshape(uniforms[1:], (augment.CROP_TRIES, 4))
            box = augment.random_crop_box(
                handle.height,
                handle.width,
                tries,
                area=self.area,
                aspect=self.aspect,
                target=size[1] / size[0],
            )
            image = augment.random_flip(handle.crop(box), uniforms[0], self.flips)
        image = augment.resize_image(image, size, self.resize)
        return tf.ensure_shape(image, (*size, source.channels))


def make_views(
    source,
    *,
    image_size,
    augmentation=None,
    resize="bilinear",
    crop_area=None,
    crop_aspect=None,
    flips=None,
    default_area=augment.CROP_AREA,
):
    """Return the `Views` of a data set's arguments; see `pretrain_dataset` for what each means.

    Raises:
        ValueError: if an argument does not fit.
    """
    image_size = augment.check_image_size(image_size)
    augment.check_resize(resize)
    augmentation = check_augmentation(augmentation, source)
    flips = default_flips(flips, augmentation, source)
    area = _check_range("crop_area", crop_area or default_area, 1)
    aspect = _check_range("crop_aspect", crop_aspect or augment.CROP_ASPECT, np.inf)
    return Views(augmentation, image_size, resize, area, aspect, flips, source)


def default_flips(flips, augmentation, source):
    """Return one of `augment.FLIPS`, the source's own for None, or raise a ValueError."""
    if flips is None:
        flips = source.flips or ("horizontal" if augmentation == "crop" else "none")
    augment.check_flips(flips)
    return flips


def _check_range(name, value, most):
    low, high = value if len(value) == 2 else (value[0], value[0])
    if not 0 < low <= high <= most:
        limit = " and at most 1" if most == 1 else ""
        raise ValueError(
            f"`{name}` must be (low, high), greater than 0{limit}. Received: {tuple(value)}"
        )
    return float(low), float(high)


def fixed_view(handle, image_size, resize, source):
    """Return an example's image for measuring, float32 `(H, W, C)`, 0-255, without randomness.

    The middle is cut out; images that all have one size are resized whole.
    """
    whole = source.image_size is not None
    return augment.evaluation_pixels(handle.whole(), image_size, resize, whole)


def normalizer(mean, std, channels, image_size):
    """Return a function from pixels 0-255 to normalised images, `(pixel / 255 - mean) / std`.

    Args:
        mean, std: a float for each channel, of images in [0, 1].
        channels: int, the source's.
        image_size: `(H, W)` of the images to come, as `(..., H, W, C)`.
    Raises:
        ValueError: if `mean` or `std` has another number of floats, or `std` is not above 0.
    """
    for name, value in (("mean", mean), ("std", std)):
        if len(np.atleast_1d(value)) != channels:
            raise ValueError(
                f"`{name}` must be {channels} floats, one for each channel of the source. "
                f"Received: {value!r}"
            )
    mean, std = np.atleast_1d(mean), np.atleast_1d(std)
    if not (std > 0).all():
        raise ValueError(f"`std` must be floats above 0. Received: {tuple(std.tolist())}")
    # A whole row of pixels at a time: broadcasting three numbers over the last axis is not
    # vectorised, and costs four times as much.
    scale, offset = (np.tile(values, image_size[1]) for values in scale_and_offset(mean, std))

    def normalize(pixels):
        rows = tf.reshape(pixels, (*pixels.shape[:-2], -1))
        return tf.reshape(rows * scale + offset, pixels.shape)

    return normalize


def check_at_least(**bounds):
    """Raise a ValueError unless each argument is an int of its bound or more.

    Args:
        bounds: name=(value, smallest).
    Example: `check_at_least(batch_size=(batch_size, 1), seed=(seed, 0))`
    """
    for name, (value, smallest) in bounds.items():
        if not isinstance(value, (int, np.integer)) or value < smallest:
            raise ValueError(f"`{name}` must be an int of {smallest} or more. Received: {value!r}")


def check_shards(batch_size, shard_index, num_shards, crops_per_image=1):
    """Raise a ValueError unless each of `num_shards` workers gets an equal part of a batch."""
    check_at_least(
        batch_size=(batch_size, 1),
        shard_index=(shard_index, 0),
        num_shards=(num_shards, 1),
        crops_per_image=(crops_per_image, 1),
    )
    if shard_index >= num_shards:
        raise ValueError(f"`shard_index` must be less than {num_shards=}. Received: {shard_index}")
    if batch_size % (crops_per_image * num_shards):
        of = "num_shards" if crops_per_image == 1 else "crops_per_image * num_shards"
        raise ValueError(
            f"`batch_size` must be a multiple of {of} = {crops_per_image * num_shards}. "
            f"Received: {batch_size}"
        )


def check_augmentation(augmentation, source):
    """Return one of `AUGMENTATIONS`, the source's own for None, or raise a ValueError."""
    augmentation = source.augmentation if augmentation is None else augmentation
    if augmentation not in AUGMENTATIONS:
        raise ValueError(
            f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}. Received: {augmentation!r}"
        )
    return augmentation


def check_labels(source, with_labels):
    """Raise a ValueError if labels are wanted of a source that has none, or other targets."""
    if with_labels and (source.num_classes is None or source.task != "classify"):
        raise ValueError(
            f"`with_labels` must be False for {source.name!r}, which has no labels. "
            f"Received: {with_labels}"
        )


def endless(dataset):
    """Return the dataset, said to have no end: it has more steps than any run takes."""
    return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def options():
    """Return the `tf.data.Options` of all pipelines: the order is fixed, nothing is tuned."""
    options = tf.data.Options()
    # The same order whatever the number of threads.
    options.deterministic = True
    # Workers are given their part by the stream: TensorFlow must not cut it again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # All CPUs from the first image on, as `AUTOTUNE` now means. TensorFlow's tuner would have to
    # find that out, and its thread may miss that a dataset is over: then all waits, for as long as
    # the dataset has lived, up to a minute.
    options.autotune.enabled = False
    options.autotune.initial_parallelism = os.cpu_count()
    return options
