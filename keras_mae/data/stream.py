"""The numbered stream: which image comes where, as a function of (seed, step) alone.

Every pipeline here is made of these parts, and none of them has a state. The images of a run are
numbered from 0 on. A number gives the epoch and the position in it; a permutation keyed by
(seed, epoch) gives the example; (seed, epoch, example) keys the random numbers. So a dataset can
start at any step, and any worker can compute its part, without what came before.
"""

import dataclasses
import functools
import os

import numpy as np
import tensorflow as tf

from keras_mae.data import augment
from keras_mae.data.reader import Reader
from keras_mae.data.sources.base import NO_LABEL, Source
from keras_mae.pixels import scale_and_offset

AUGMENTATIONS = ("crop", "shift", "none")
# Images that are made in one call of Python: what a call costs is shared, and memory stays small.
CHUNK = 16


def training_batches(
    source,
    views,
    *,
    batch_size,
    places,
    seed,
    start_step,
    sensor=None,
    on_skip=None,
    views_per_example=1,
    each=None,
    num_parallel_calls=tf.data.AUTOTUNE,
):
    """Return an endless dataset of the batches that one worker trains on.

    Each epoch is a new permutation of the examples; its end may fall inside a batch. A broken
    image leaves its place to another, chosen by (seed, epoch, example, attempt), so that nothing
    after it moves.

    Args:
        source: a `Source`.
        views: `Views`.
        batch_size: int, examples in a global batch.
        places: ints in [0, batch_size): which of them this worker reads, in this order.
        seed: int >= 0.
        start_step: int >= 0, number of global batches to pass over.
        sensor: `Sensor`, how pixels are seen, or None: the source's own.
        on_skip: a `SkipLog`, or None for a new one, in memory.
        views_per_example: int, how many views are made of an example.
        each: function from an image, uint8 or float32 `(H, W, C)`, and its key, int64 `(2,)`,
            unique to (seed, epoch, example), to an image; or None.
        num_parallel_calls: as in `tf.data`.
    Returns:
        Dataset of `(images, labels)`: `(len(places) * views_per_example, H, W, C)`, views of one
        example next to each other, uint8 or, where the sensor says so, float32, 0-255; and int64
        `(len(places),)`, -1 where there are no labels; of several labels an image,
        `(len(places), num_classes)` of 0 and 1.
    """
    reader = Reader(source, sensor, on_skip)
    count = len(places)
    numbered = Numbering(places, batch_size, source.num_examples, seed)
    shape = (CHUNK, views_per_example, *views.image_size, source.channels)

    def read(examples, epochs, uniforms):
        keys = np.stack([np.full_like(epochs, seed), epochs], axis=1)
        made, labels = reader.batch(examples, views.make, uniforms, keys)
        return np.stack(made), labels

    def load(start):
        """Where a chunk of this worker's stream begins -> its views, labels and keys."""
        examples, epochs, keys = numbered(start + tf.range(CHUNK, dtype=tf.int64))
        uniforms = tf.stack(
            [
                tf.random.stateless_uniform(
                    (views_per_example, augment.UNIFORMS_PER_IMAGE),
                    key,
                    alg="philox",  # the default algorithm depends on the device
                )
                for key in tf.unstack(keys)
            ]
        )
        images, labels = tf.numpy_function(
            read, [examples, epochs, uniforms], [tf.as_dtype(reader.dtype), tf.int64]
        )
        images = tf.ensure_shape(images, shape)
        return images, tf.ensure_shape(labels, (CHUNK, *reader.label_shape)), keys

    dataset = tf.data.Dataset.range(start_step * count, np.iinfo(np.int64).max - CHUNK, CHUNK)
    dataset = dataset.map(load, num_parallel_calls=num_parallel_calls)
    if each is not None:

        def apply(images, labels, key):
            return tf.stack([each(image, key) for image in tf.unstack(images)]), labels, key

        dataset = dataset.unbatch().map(apply, num_parallel_calls=num_parallel_calls)
        dataset = dataset.batch(count, drop_remainder=True)
    else:
        dataset = dataset.rebatch(count, drop_remainder=True)

    def joined(images, labels, _):
        return tf.reshape(images, (count * views_per_example, *shape[2:])), labels

    return endless(dataset.map(joined))


class Numbering:
    """Which example lies where in one worker's endless stream.

    Args:
        places, batch_size, seed: as in `training_batches`.
        num_examples: int.
    Call arguments:
        numbers: int64 `(n,)`, places in the worker's stream.
    Returns:
        (examples, epochs, keys): int64 `(n,)`, `(n,)` and `(n, 2)`; a key is unique to (seed,
        epoch, example).
    """

    def __init__(self, places, batch_size, num_examples, seed):
        self.places = tf.constant(places, tf.int64)
        self.batch_size, self.num_examples, self.seed = batch_size, num_examples, seed

    def __call__(self, numbers):
        count = len(self.places)
        slots = numbers // count * self.batch_size + tf.gather(self.places, numbers % count)
        epochs, positions = slots // self.num_examples, slots % self.num_examples
        seeds = tf.fill(tf.shape(numbers), np.int64(self.seed))
        named = tf.stack([seeds, epochs], axis=1)
        examples = permute_each(positions, named, self.num_examples)
        return examples, epochs, tf.stack([seeds, epochs * self.num_examples + examples], axis=1)


def evaluation_batches(
    source, view, *, batch_size, sensor=None, on_skip=None, num_parallel_calls=tf.data.AUTOTUNE
):
    """Return a dataset of every example once, in the source's order; the last batch is partial.

    Args:
        source, sensor, on_skip, num_parallel_calls: as in `training_batches`.
        view: function from a `Handle` to `(H, W, C)`.
        batch_size: int.
    Returns:
        Dataset of `(images, labels)`, without those that are broken.
    """
    reader = Reader(source, sensor, on_skip)
    reader.check_readable()

    def load(start):
        numbers = tf.range(start, tf.minimum(start + CHUNK, source.num_examples))
        images, labels, weights = _read_each(reader, view, numbers)
        is_good = weights > 0
        return tf.boolean_mask(images, is_good), tf.boolean_mask(labels, is_good)

    dataset = tf.data.Dataset.range(0, source.num_examples, CHUNK)
    dataset = dataset.map(load, num_parallel_calls=num_parallel_calls)
    return dataset.rebatch(batch_size)


def weighted_batches(
    source,
    view,
    *,
    batch_size,
    places,
    sensor=None,
    on_skip=None,
    num_parallel_calls=tf.data.AUTOTUNE,
):
    """Return a dataset of full batches that hold every example once.

    Args:
        source, view, sensor, on_skip, num_parallel_calls: as in `evaluation_batches`.
        batch_size, places: as in `training_batches`.
    Returns:
        Dataset of `(images, labels, weights)`: weights are float32 `(len(places),)`, 0 for a broken
        image, which is black, and for what fills the last batch.
    """
    reader = Reader(source, sensor, on_skip)
    reader.check_readable()
    count = len(places)
    places = tf.constant(places, tf.int64)
    total = -(-source.num_examples // batch_size) * count

    def load(start):
        numbers = tf.range(start, tf.minimum(start + CHUNK, total))
        examples = numbers // count * batch_size + tf.gather(places, numbers % count)
        return _read_each(reader, view, examples)

    dataset = tf.data.Dataset.range(0, total, CHUNK)
    dataset = dataset.map(load, num_parallel_calls=num_parallel_calls)
    return dataset.rebatch(count, drop_remainder=True)


def _read_each(reader, view, examples):
    """Return (images, labels, weights) of examples, of which those beyond the last are blank."""
    shape = (*view.image_size, reader.sensor.channels)

    def make(pictures, _):
        return [functools.partial(view, picture) for picture in pictures]

    def read(examples):
        there = examples < reader.source.num_examples
        made, known = reader.batch(examples[there], make, np.zeros(there.sum()))
        images = np.zeros((len(examples), *shape), reader.dtype)
        labels = np.full((len(examples), *reader.label_shape), NO_LABEL, np.int64)
        labels[there] = known
        weights = np.zeros(len(examples), "float32")
        for place, image in zip(np.flatnonzero(there), made, strict=True):
            if image is not None:
                images[place], weights[place] = image, 1
        return images, labels, weights

    images, labels, weights = tf.numpy_function(
        read, [examples], [tf.as_dtype(reader.dtype), tf.int64, tf.float32]
    )
    shapes = (None, *shape), (None, *reader.label_shape), (None,)
    return tuple(map(tf.ensure_shape, (images, labels, weights), shapes))


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


def permute_each(positions, keys, count):
    """Return the examples at positions of epochs: permutations, without a table.

    Args:
        positions: int64 `(n,)` in [0, count).
        keys: int64 `(n, 2)`, (seed, epoch), what names the permutation of each.
        count: int, number of examples.
    """
    if count == 1:
        return tf.zeros_like(positions)
    # `tf.random.experimental.index_shuffle` is said to take several keys, but puts its own constant
    # before the first instead of before each (TensorFlow 2.21): this is its operation.
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

    def make(self, pictures, uniforms):
        """Return functions that make the augmented views of pictures, `(v, H, W, C)`, 0-255.

        Args:
            pictures: n `Handle`s.
            uniforms: float32 `(n, v, augment.UNIFORMS_PER_IMAGE)` in [0, 1), all their randomness.
        """
        boxes = [None] * len(pictures)
        if self.augmentation == "crop" and pictures:
            boxes = self._boxes(pictures, uniforms)
        return [
            functools.partial(self._views, picture, numbers, places)
            for picture, numbers, places in zip(pictures, uniforms, boxes, strict=True)
        ]

    def _boxes(self, pictures, uniforms):
        """Return int32 `(n, v, 4)`: the box of each crop."""
        count = uniforms.shape[1]
        sizes = np.array([(picture.height, picture.width) for picture in pictures])
        boxes = augment.random_crop_boxes(
            np.repeat(sizes, count, axis=0),
            uniforms[..., 1:].reshape(-1, augment.CROP_TRIES, 4),
            area=self.area,
            aspect=self.aspect,
            target=self.image_size[1] / self.image_size[0],
        )
        return boxes.reshape(len(pictures), count, 4)

    def _views(self, picture, uniforms, boxes):
        if len(uniforms) > 1 and not picture.may_shrink(self.image_size):
            picture.whole()
        views = [
            self._view(picture, numbers, None if boxes is None else boxes[i])
            for i, numbers in enumerate(uniforms)
        ]
        return views[0][np.newaxis] if len(views) == 1 else np.stack(views)

    def _view(self, picture, uniforms, box):
        if self.augmentation == "none":
            return FixedView(self.image_size, self.resize, self.source)(picture)
        if self.augmentation == "shift":
            image, uniform = augment.random_shift(picture.whole(), uniforms[:2]), uniforms[2]
        else:
            # A bicubic crop is Pillow's to the byte; a bilinear one skips pixels anyway.
            least = self.image_size if self.resize == "bilinear" else None
            image, uniform = picture.crop(box, least), uniforms[0]
        # Turned last, when it is small. A quarter of a turn exchanges the sides.
        is_lying = augment.flip_way(uniform, self.flips) & 4
        size = self.image_size[::-1] if is_lying else self.image_size
        return augment.random_flip(
            augment.resize_image(image, size, self.resize), uniform, self.flips
        )


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


@dataclasses.dataclass(frozen=True)
class FixedView:
    """How an image is made for measuring, `(H, W, C)`, 0-255, without randomness.

    The middle is cut out; images that all have one size are resized whole.
    """

    image_size: tuple[int, int]
    resize: str
    source: Source

    def __call__(self, picture):
        whole = self.source.image_size is not None
        return augment.evaluation_pixels(picture.whole(), self.image_size, self.resize, whole)


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
        shape = tf.shape(pixels)
        rows = tf.cast(tf.reshape(pixels, tf.concat([shape[:-2], [-1]], 0)), tf.float32)
        return tf.ensure_shape(tf.reshape(rows * scale + offset, shape), pixels.shape)

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
