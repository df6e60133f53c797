"""Labelled batches for fine-tuning: augmented, mixed, and a function of (seed, step) alone.

Nothing here has a state (see `keras_mae.data.stream`). The random numbers of one image are keyed by
(seed, epoch, example), those of a batch by (seed, step).
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_mae.data import augment, dense, stream
from keras_mae.data.dense_source import DENSE_TASKS
from keras_mae.data.mixing import mix, random_erasing
from keras_mae.data.randaugment import RandAugment
from keras_mae.data.skips import SkipLog
from keras_mae.data.sources import Source
from keras_mae.types import Size, Tensor

CROP_AREA = (0.08, 1.0)
# What a key is folded with, so that no two draws share their numbers.
_OPERATIONS, _ERASING, _NOISE, _MIXING = range(1, 5)


def finetune_dataset(
    source: Source,
    *,
    image_size: Size,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int,
    task: str | None = None,
    value_range: tuple[float, float] | None = None,
    seed: int = 0,
    start_step: int = 0,
    augmentation: str | None = None,
    scale_jitter: Sequence[float] | None = None,
    crop_area: Sequence[float] | None = None,
    crop_aspect: Sequence[float] | None = None,
    flips: str | None = None,
    resize: str = "bicubic",
    randaugment: Sequence[float] = (0, 0),
    erasing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    shard_index: int = 0,
    num_shards: int = 1,
    on_skip: SkipLog | None = None,
    num_parallel_calls: int = tf.data.AUTOTUNE,
    prefetch: int = tf.data.AUTOTUNE,
) -> tf.data.Dataset:
    """An endless stream of augmented, normalised batches with labels as distributions.

    The dataset with `start_step=s` starts with exactly the batch that one started at 0 gives after
    s others; epochs are permutations, and a broken image leaves its place to another, all as in
    `pretrain_dataset`.

    Args:
        source: a labelled `Source`.
        image_size: int or `(H, W)`, pixels.
        batch_size: int, images in a global batch.
        mean, std, value_range: as in `pretrain_dataset`.
        num_classes: int, at least the source's. Width of the labels.
        task: "segment" or "detect" of a source with such targets. Image and target are mirrored,
            scaled and cut together; what lies around the image is the mean colour. Arguments of
            crops, and those that mix or change images, are for classes only. None: the source's.
        seed: int >= 0.
        start_step: int >= 0, number of batches to pass over.
        augmentation, crop_area, crop_aspect, flips: as in `pretrain_dataset`, but that crops are
            .08 to 1 of the area by default.
        scale_jitter: (low, high), with a task: the random scale, relative to the largest at which
            the whole image fits. None: .1 to 2 for 10,000 images or more, else .5 to 2.
        resize: "bilinear" or "bicubic" (antialiased).
        randaugment: (number of operations, magnitude 0-10), see `RandAugment`; (0, 0): off. It
            comes before normalising.
        erasing: float in [0, 1]. Chance that a box of an image is replaced by noise, after
            normalising.
        mixup, cutmix: floats of 0 or more, see `keras_mae.data.mixing.mix`; 0: off.
        shard_index, num_shards: this worker's number and how many there are. The workers' batches
            of a step, put one after the other, are the global batch. Where images are mixed, a
            worker also reads those that its own are mixed with.
        on_skip: a `SkipLog`, or None for a new one, in memory.
        num_parallel_calls, prefetch: as in `tf.data`; they do not change what comes out.
    Returns:
        Dataset of float32 `(batch_size // num_shards, H, W, C)`, as `pretrain_dataset` gives them,
        and float32 `(batch_size // num_shards, num_classes)`, each row of sum 1; of several labels
        an image, 0 and 1 and, mixed, what is between. Images without a label are left out.
        With the task "segment", label maps int32 `(batch_size // num_shards, H, W)`, 255 where
        nothing counts and around the image. With "detect", a dict: "boxes", float32
        `(batch_size // num_shards, n, 4)`, left, top, right, bottom in pixels of the batch, cut at
        its border; "classes", int32 `(batch_size // num_shards, n)`; n is the most that an image of
        the data set has, both are padded with -1. A box of which less than a tenth, or no whole
        pixel, is left is no target, nor is a crowd.
    Raises:
        ValueError: if an argument does not fit; each message names it.
    """
    task = source.task if task is None else task
    if task in DENSE_TASKS:
        for name, value in (
            ("randaugment", randaugment[0]),
            ("erasing", erasing),
            ("mixup", mixup),
            ("cutmix", cutmix),
            ("crop_area", crop_area),
            ("crop_aspect", crop_aspect),
        ):
            if value:
                raise ValueError(f"`{name}` must be left out for {task=}. Received: {value!r}")
        stream.check_at_least(num_classes=(num_classes, source.for_task(task).num_classes))
        return dense.training_dataset(
            source,
            task,
            image_size=image_size,
            batch_size=batch_size,
            mean=mean,
            std=std,
            value_range=value_range,
            seed=seed,
            start_step=start_step,
            augmentation=augmentation,
            scale_jitter=scale_jitter,
            flips=flips,
            resize=resize,
            shard_index=shard_index,
            num_shards=num_shards,
            on_skip=on_skip,
            num_parallel_calls=num_parallel_calls,
            prefetch=prefetch,
        )
    if scale_jitter is not None:
        raise ValueError(
            f"`scale_jitter` must be None without a task that has one. Received: {scale_jitter!r}"
        )
    source = source.for_task(task)
    views = stream.make_views(
        source,
        image_size=image_size,
        augmentation=augmentation,
        resize=resize,
        crop_area=crop_area,
        crop_aspect=crop_aspect,
        flips=flips,
        default_area=CROP_AREA,
    )
    stream.check_at_least(seed=(seed, 0), start_step=(start_step, 0), num_classes=(num_classes, 1))
    stream.check_shards(batch_size, shard_index, num_shards)
    if source.num_classes is None:
        raise ValueError(f"`source` must have labels. Received: {source.name!r}, without any")
    source = source.labelled()
    normalize = stream.normalizer(mean, std, source.channels, views.image_size)
    operations = None
    if randaugment[0]:
        # Black is the background where images are padded with it, else there is none.
        color = 0.0 if views.augmentation == "shift" else 255 * np.asarray(mean, "float32")
        fill = np.broadcast_to(color, (source.channels,))
        operations = RandAugment(randaugment[0], randaugment[1], source.channels, fill)

    def each(image, key):
        """One augmented image `(H, W, C)`, normalised."""
        image = tf.cast(image, tf.float32)
        if operations is not None:
            image = operations(image, _fold(key, _OPERATIONS))
        image = normalize(image)
        return _erase(image, key, erasing) if erasing else image

    changes_each = operations is not None or erasing

    places = own = stream.own_places(batch_size, shard_index, num_shards)
    mirrored = batch_size - 1 - own[::-1]
    if (mixup or cutmix) and mirrored[0] != own[0]:
        # An image is mixed with that at the same place from the other end of the global batch, so
        # this worker reads both. Put one after the other, they are each other's other end.
        places = np.concatenate([own, mirrored])

    def finish(step, batch):
        images, labels = batch
        if not changes_each:
            images = normalize(images)
        key = _fold(tf.stack([tf.constant(seed, tf.int64), step]), _MIXING)
        images, labels = mix(images, targets_of(labels, num_classes), key, mixup, cutmix)
        return images[: len(own)], labels[: len(own)]

    dataset = stream.training_batches(
        source,
        views,
        batch_size=batch_size,
        places=places,
        seed=seed,
        start_step=start_step,
        sensor=source.sensor.seen_by(mean, value_range),
        on_skip=on_skip,
        each=each if changes_each else None,
        num_parallel_calls=num_parallel_calls,
    )
    dataset = dataset.enumerate(start=start_step).map(finish, num_parallel_calls=2)
    return dataset.with_options(stream.options()).prefetch(prefetch)


def features_dataset(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    batch_size: int,
    seed: int = 0,
    start_step: int = 0,
    shard_index: int = 0,
    num_shards: int = 1,
) -> tf.data.Dataset:
    """The same stream for features that were computed once: each epoch a new permutation.

    Args:
        features: float32 `(n, D)`.
        labels: int `(n,)` in [0, num_classes), or `(n, num_classes)` of 0 and 1.
        num_classes, batch_size, seed, start_step, shard_index, num_shards: as in
            `finetune_dataset`.
    Returns:
        Dataset of float32 `(batch_size // num_shards, D)` and float32
        `(batch_size // num_shards, num_classes)`.
    Raises:
        ValueError: if an argument does not fit; each message names it.
    """
    stream.check_at_least(seed=(seed, 0), start_step=(start_step, 0), num_classes=(num_classes, 1))
    stream.check_shards(batch_size, shard_index, num_shards)
    count = len(features)
    places = stream.own_places(batch_size, shard_index, num_shards)
    with tf.device("CPU:0"):
        features, labels = tf.constant(features), tf.constant(labels)

    def load(step):
        """A step -> its batch. Example by example it would take longer than a training step."""
        slots = step * batch_size + places
        keys = tf.stack([tf.fill((len(places),), np.int64(seed)), slots // count], axis=1)
        examples = stream.permute_each(slots % count, keys, count)
        batch = tf.gather(labels, examples)
        return tf.gather(features, examples), targets_of(batch, num_classes)

    dataset = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max // batch_size)
    dataset = stream.endless(dataset.map(load, num_parallel_calls=2))
    return dataset.with_options(stream.options()).prefetch(tf.data.AUTOTUNE)


def targets_of(labels: Tensor, num_classes: int) -> Tensor:
    """Return labels as a loss takes them, float32 `(B, num_classes)`.

    Args:
        labels: int `(B,)`, or `(B, classes)` of 0 and 1 with at most `num_classes` columns.
        num_classes: int.
    """
    if len(labels.shape) == 1:
        return tf.one_hot(labels, num_classes)
    return tf.cast(tf.pad(labels, [[0, 0], [0, num_classes - labels.shape[1]]]), tf.float32)


def balanced_subset(source: Source, count: int, seed: int = 0) -> Source:
    """The same source with `count` labelled examples only, equally many of each class.

    Where `count` is no multiple of the classes, some classes, chosen by the seed, have one more.
    Of images with several labels, label maps or boxes any `count` are taken.

    Args:
        source: a `Source` whose `labels()` are known.
        count: int, from the number of classes to the number of examples.
        seed: int. The subset is a function of the source and the seed.
    Returns:
        A `Source`.
    Raises:
        ValueError: if the labels are not known, `count` does not fit, or a class has too few.
    """
    source = source.labelled()
    labels = source.labels()
    if source.task in DENSE_TASKS:
        labels = np.zeros((source.num_examples, 0), int)
    if labels is None:
        raise ValueError(
            f"`train_examples` must be None for {source.name!r}, whose labels are not known "
            f"without reading it. Received: {count!r}"
        )
    classes = np.unique(labels) if labels.ndim == 1 else np.zeros(1, int)
    if not len(classes) <= count <= len(labels):
        raise ValueError(
            f"`train_examples` must be an int from {len(classes)}, the number of classes, to "
            f"{len(labels)}, that of examples. Received: {count!r}"
        )
    rng = np.random.default_rng(seed)
    share, more = divmod(count, len(classes))
    favoured = set(rng.permutation(classes)[:more].tolist())
    chosen = []
    for label in classes.tolist():
        of_class = labels == label if labels.ndim == 1 else np.ones(len(labels), bool)
        members = rng.permutation(np.flatnonzero(of_class))
        wanted = share + (label in favoured)
        if len(members) < wanted:
            raise ValueError(
                f"`train_examples` must be so few that each class has its share: of class {label}, "
                f"{wanted} are wanted and {len(members)} are there. Received: {count!r}"
            )
        chosen.append(members[:wanted])
    # On their own: broken images among the few are not made good by the many left out.
    return source.subset(np.sort(np.concatenate(chosen))).apart()


def _erase(image, key, chance):
    uniforms = tf.random.stateless_uniform(
        (4 * augment.CROP_TRIES + 1,), _fold(key, _ERASING), alg="philox"
    )
    tries = tf.reshape(uniforms[1:], (augment.CROP_TRIES, 4))
    noise = tf.random.stateless_normal(image.shape, _fold(key, _NOISE), alg="philox")
    return tf.cond(uniforms[0] < chance, lambda: random_erasing(image, tries, noise), lambda: image)


def _fold(key, number):
    return tf.random.experimental.stateless_fold_in(key, number, alg="philox")
