"""Labelled batches for fine-tuning: augmented, mixed, and a function of (seed, step) alone.

As in `keras_mae.data.pipeline`, nothing here has a state. The numbers of one image are keyed by
(seed, epoch, example), those of a batch by (seed, step).
"""

import numpy as np
import tensorflow as tf

from keras_mae.data import augment, pipeline
from keras_mae.data.mixing import mix, random_erasing
from keras_mae.data.randaugment import RandAugment
from keras_mae.data.reader import make_reader

CROP_AREA = (0.08, 1.0)
# What a key is folded with, so that no two draws share their numbers.
_OPERATIONS, _ERASING, _NOISE, _MIXING = range(1, 5)


def finetune_dataset(
    source,
    *,
    image_size,
    batch_size,
    mean,
    std,
    num_classes,
    seed=0,
    start_step=0,
    augmentation=None,
    resize="bicubic",
    randaugment=(0, 0),
    erasing=0.0,
    mixup=0.0,
    cutmix=0.0,
    on_skip=None,
    num_parallel_calls=tf.data.AUTOTUNE,
    prefetch=tf.data.AUTOTUNE,
):
    """An endless stream of augmented, normalised batches with labels as distributions.

    The dataset with `start_step=s` starts with exactly the batch that one started at 0 gives after
    s others; epochs are permutations, and a broken image leaves its place to another, all as in
    `pretrain_dataset`.

    Args:
        source: a labelled `Source`.
        image_size: int or `(H, W)`, pixels.
        batch_size: int, images in a global batch.
        mean, std: a float for each channel, of images in [0, 1].
        num_classes: int, at least the source's. Width of the labels.
        seed: int >= 0.
        start_step: int >= 0, number of batches to pass over.
        augmentation: "crop" (random resized crop of .08-1 of the area, and a flip), "shift" (up to
            2 pixels each way, padded with black), "none", or None: the source's own.
        resize: "bilinear" or "bicubic" (antialiased).
        randaugment: (number of operations, magnitude 0-10), see `RandAugment`; (0, 0): off. It
            comes before normalising.
        erasing: float in [0, 1]. Chance that a box of an image is replaced by noise, after
            normalising.
        mixup, cutmix: floats of 0 or more, see `keras_mae.data.mixing.mix`; 0: off.
        on_skip: a `SkipLog`, or None for a new one, in memory.
        num_parallel_calls, prefetch: as in `tf.data`; they do not change what comes out.
    Returns:
        Dataset of float32 `(batch_size, H, W, C)`, `(pixel / 255 - mean) / std`, and float32
        `(batch_size, num_classes)`, each row of sum 1.
    Raises:
        ValueError: if an argument does not fit; each message names it.
    """
    image_size = augment.check_image_size(image_size)
    augment.check_resize(resize)
    augmentation = check_augmentation(source.augmentation if augmentation is None else augmentation)
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("num_classes", num_classes, 1),
        ("seed", seed, 0),
        ("start_step", start_step, 0),
    ):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name}: expected an int of {least} or more, got {value!r}.")
    pipeline._check_labels(source, with_labels=True)
    reader = make_reader(source, on_skip)
    normalise = pipeline._normaliser(mean, std, source.channels, image_size)
    num_examples = source.num_examples
    operations = None
    if randaugment[0]:
        # Black is the background where images are padded with it, else there is none.
        colour = 0.0 if augmentation == "shift" else 255 * np.asarray(mean, "float32")
        fill = np.broadcast_to(colour, (source.channels,))
        operations = RandAugment(*randaugment, source.channels, fill)

    def load(number):
        """Number in the stream -> one image `(H, W, C)` and its label."""
        epoch, position = number // num_examples, number % num_examples
        example = pipeline._permute(position, [seed, epoch], num_examples)
        key = tf.stack([tf.constant(seed, tf.int64), epoch * num_examples + example])
        uniforms = tf.random.stateless_uniform((augment.UNIFORMS_PER_IMAGE,), key, alg="philox")
        handle = reader.read(example, [seed, epoch])
        image = _augment(handle, uniforms, augmentation, image_size, resize, source)
        if operations is not None:
            image = operations(image, _fold(key, _OPERATIONS))
        image = normalise(image)
        if erasing:
            image = _erase(image, key, erasing)
        return image, handle.label

    def finish(step, batch):
        images, labels = batch
        key = _fold(tf.stack([tf.constant(seed, tf.int64), step]), _MIXING)
        return mix(images, tf.one_hot(labels, num_classes), key, mixup, cutmix)

    dataset = tf.data.Dataset.range(start_step * batch_size, np.iinfo(np.int64).max)
    dataset = dataset.map(load, num_parallel_calls=num_parallel_calls)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    dataset = dataset.enumerate(start=start_step).map(finish, num_parallel_calls=2)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return dataset.with_options(pipeline._options()).prefetch(prefetch)


def features_dataset(features, labels, *, num_classes, batch_size, seed=0, start_step=0):
    """The same stream for features that were computed once: each epoch a new permutation.

    Args:
        features: float32 `(n, D)`.
        labels: int `(n,)` in [0, num_classes).
        num_classes, batch_size, seed, start_step: as in `finetune_dataset`.
    Returns:
        Dataset of float32 `(batch_size, D)` and float32 `(batch_size, num_classes)`.
    """
    count = len(features)
    with tf.device("CPU:0"):
        features, labels = tf.constant(features), tf.constant(labels)

    def load(numbers):
        """Numbers in the stream -> their batch. One by one they would take longer than a step."""
        keys = tf.stack([tf.fill((batch_size,), np.int64(seed)), numbers // count], axis=1)
        examples = pipeline._permute_each(numbers % count, keys, count)
        batch = tf.gather(labels, examples)
        return tf.gather(features, examples), tf.one_hot(batch, num_classes)

    dataset = tf.data.Dataset.range(start_step * batch_size, np.iinfo(np.int64).max)
    dataset = dataset.batch(batch_size, drop_remainder=True).map(load, num_parallel_calls=2)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return dataset.with_options(pipeline._options()).prefetch(tf.data.AUTOTUNE)


def balanced_subset(source, count, seed=0):
    """The same source with `count` examples only, equally many of each class.

    Where `count` is no multiple of the classes, some classes, chosen by the seed, have one more.

    Args:
        source: a `Source` whose `labels()` are known.
        count: int, from the number of classes to the number of examples.
        seed: int. The subset is a function of the source and the seed.
    Returns:
        A `Source`.
    Raises:
        ValueError: if the labels are not known, `count` does not fit, or a class has too few.
    """
    labels = source.labels()
    if labels is None:
        raise ValueError(
            f"train_examples: expected None for {source.name!r}, whose labels are not known "
            f"without reading it; got {count!r}."
        )
    classes = np.unique(labels)
    if not len(classes) <= count <= len(labels):
        raise ValueError(
            f"train_examples: expected an int from {len(classes)}, the number of classes, to "
            f"{len(labels)}, that of examples; got {count!r}."
        )
    rng = np.random.default_rng(seed)
    share, more = divmod(count, len(classes))
    favoured = set(rng.permutation(classes)[:more].tolist())
    chosen = []
    for label in classes.tolist():
        members = rng.permutation(np.flatnonzero(labels == label))
        wanted = share + (label in favoured)
        if len(members) < wanted:
            raise ValueError(
                f"train_examples: {wanted} examples of class {label} are wanted and "
                f"{len(members)} are there; got {count!r}."
            )
        chosen.append(members[:wanted])
    return source.subset(np.sort(np.concatenate(chosen)))


def check_augmentation(augmentation):
    if augmentation not in pipeline.AUGMENTATIONS:
        raise ValueError(
            f"augmentation: expected one of {', '.join(pipeline.AUGMENTATIONS)}; "
            f"got {augmentation!r}."
        )
    return augmentation


def _augment(handle, uniforms, augmentation, image_size, resize, source):
    """float32 `(H, W, C)`, 0-255, of one image."""
    if augmentation == "none":
        return pipeline._evaluate(handle, image_size, resize, source)
    if augmentation == "shift":
        image = augment.random_shift(handle.whole(), uniforms[:2])
        if source.image_size == image_size:
            return tf.ensure_shape(tf.cast(image, tf.float32), (*image_size, source.channels))
    else:
        tries = tf.reshape(uniforms[1:], (augment.CROP_TRIES, 4))
        box = augment.random_crop_box(
            handle.height, handle.width, tries, area=CROP_AREA, target=image_size[1] / image_size[0]
        )
        image = augment.random_flip(handle.crop(box), uniforms[0])
    image = augment.resize_image(image, image_size, resize)
    return tf.ensure_shape(image, (*image_size, source.channels))


def _erase(image, key, chance):
    uniforms = tf.random.stateless_uniform(
        (4 * augment.CROP_TRIES + 1,), _fold(key, _ERASING), alg="philox"
    )
    tries = tf.reshape(uniforms[1:], (augment.CROP_TRIES, 4))
    noise = tf.random.stateless_normal(image.shape, _fold(key, _NOISE), alg="philox")
    return tf.cond(uniforms[0] < chance, lambda: random_erasing(image, tries, noise), lambda: image)


def _fold(key, number):
    return tf.random.experimental.stateless_fold_in(key, number, alg="philox")
