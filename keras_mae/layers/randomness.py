"""Uniform noise that is a function of (seed, step, image), however many replicas share a batch.

This is the one place under `layers/` that asks which backend runs: only TensorFlow replicates a
model's code over devices, and only there would each replica draw the same numbers.
"""

import keras
from keras import ops


def global_uniform(shape, seed_generator):
    """Draw uniform noise for this replica's images, and advance the generator by one.

    Each replica draws the global batch's noise and keeps its own rows, so that no two replicas
    share noise, and a batch gets the same noise on one device as on many (where replicas have
    equally many images).

    Args:
        shape: (B, ...). This replica's B images; B may be a scalar tensor.
        seed_generator: `keras.random.SeedGenerator`; its state is (seed, number of draws).
    Returns:
        float32 of `shape` in [0, 1). The same numbers eagerly, in a graph and under XLA.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.random.uniform(shape, dtype="float32", seed=seed_generator)
    seed = ops.cast(seed_generator.next(), "int32")
    return _tensorflow_uniform(shape, seed, *_replica())


def fixed_uniform(shape, seed):
    """Draw uniform noise that is the same at each call, without any state.

    Args:
        shape: (B, ...).
        seed: int.
    Returns:
        float32 of `shape` in [0, 1); on TensorFlow, the first draw of a generator with this seed.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.random.uniform(shape, dtype="float32", seed=seed)
    return _tensorflow_uniform(shape, ops.convert_to_tensor([seed, 0], "int32"), 1, 0)


def _replica():
    """Return (number of replicas, this replica's index) of the running `tf.distribute` strategy."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 1, 0
    return context.num_replicas_in_sync, context.replica_id_in_sync_group


def _tensorflow_uniform(shape, seed, num_replicas, replica):
    import tensorflow as tf

    size, rest = shape[0], list(shape[1:])
    # Philox by name: the default algorithm gives other numbers under XLA. So does TensorFlow's own
    # way from bits to floats, hence ours: the 24 highest bits, as many as float32 holds.
    bits = tf.random.stateless_uniform(
        [size * num_replicas, *rest], seed, None, None, dtype="uint32", alg="philox"
    )
    noise = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, "uint32")), "float32") * 2.0**-24
    if num_replicas == 1:
        return noise
    return tf.slice(noise, [replica * size, *([0] * len(rest))], [size, *rest])
