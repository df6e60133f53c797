"""Uniform noise that is a function of (seed, step, image), however many replicas share a batch.

This is the one place under `layers/` that asks which backend runs: only TensorFlow replicates a
model's code over devices, and only there would each replica draw the same numbers.
"""

from typing import Any

import keras
from keras import ops

from keras_mae.types import Shape, Tensor


def global_uniform(
    shape: Shape, seed_generator: keras.random.SeedGenerator, share: tuple[Any, Any] | None = None
) -> Tensor:
    """Draw uniform noise for this replica's images, and advance the generator by one.

    Each replica draws the global batch's noise and keeps its own rows, so that no two replicas
    share noise, and a batch gets the same noise on one device as on many.

    Args:
        shape: (B, ...). This replica's B images; B may be a scalar tensor.
        seed_generator: `keras.random.SeedGenerator`; its state is (seed, number of draws).
        share: what `replica_share` returns; None where all replicas have equally many images.
    Returns:
        float32 of `shape` in [0, 1). The same numbers eagerly, in a graph and under XLA.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.random.uniform(shape, dtype="float32", seed=seed_generator)
    seed = ops.cast(seed_generator.next(), "int32")
    return _tensorflow_uniform(shape, seed, *(share or _equal_share(shape[0])))


def replica_share(size: Any) -> tuple[Any, Any]:
    """Return which rows of the global batch this replica has, as `(total, first)`.

    Replicas share out a last, smaller batch unequally; some may have nothing.

    Args:
        size: this replica's number of images: an int, where all have as many, or a scalar tensor.
    Returns:
        ints or int32 scalar tensors: the global batch's number of images, and how many of them come
        before this replica's.
    """
    if keras.backend.backend() != "tensorflow":
        return size, 0
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if isinstance(size, int) or context is None or context.num_replicas_in_sync == 1:
        return _equal_share(size)
    replica = context.replica_id_in_sync_group
    mine = tf.one_hot(replica, context.num_replicas_in_sync, dtype="int32") * size
    sizes = context.all_reduce(tf.distribute.ReduceOp.SUM, mine)
    return tf.reduce_sum(sizes), tf.cumsum(sizes, exclusive=True)[replica]


def fixed_uniform(shape: Shape, seed: Any) -> Tensor:
    """Draw uniform noise that is the same at each call, without any state.

    Args:
        shape: (B, ...).
        seed: int.
    Returns:
        float32 of `shape` in [0, 1); on TensorFlow, the first draw of a generator with this seed.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.random.uniform(shape, dtype="float32", seed=seed)
    seed = ops.convert_to_tensor([seed, 0], "int32")
    return _tensorflow_uniform(shape, seed, shape[0], 0)


def _equal_share(size: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return size, 0
    return size * context.num_replicas_in_sync, size * context.replica_id_in_sync_group


def _tensorflow_uniform(shape: Shape, seed: Tensor, total: Any, first: Any) -> Tensor:
    import tensorflow as tf

    size, rest = shape[0], list(shape[1:])
    # Philox by name: the default algorithm gives other numbers under XLA. So does TensorFlow's own
    # way from bits to floats, hence ours: the 24 highest bits, as many as float32 holds.
    bits = tf.random.stateless_uniform(
        [total, *rest], seed, None, None, dtype="uint32", alg="philox"
    )
    noise = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, "uint32")), "float32") * 2.0**-24
    if total is size:
        return noise
    return tf.slice(noise, [first, *([0] * len(rest))], [size, *rest])
