"""The linear probe: one linear layer on frozen features."""

import keras
import numpy as np
import tensorflow as tf

from keras_mae.training.optimizers import LARS
from keras_mae.training.schedules import scaled_learning_rate, steps_of, warmup_cosine

LEAST_STEPS = 1500
STEPS_PER_EXECUTION = 50


def linear_probe(
    train_features,
    train_labels,
    features,
    labels,
    num_classes,
    epochs=90,
    batch_size=256,
    base_learning_rate=10.0,
    warmup_epochs=10,
    seed=0,
):
    """Train a linear classifier on features that were computed once, and return its accuracy.

    Batch normalisation without scale and offset, a linear layer, LARS with momentum .9 and no
    weight decay, cosine after a warm-up: the recipe of the reference on features without
    augmentation, but for a learning rate that suits some thousands of images (the reference has
    .1, for 1.3 million).

    Args:
        train_features, train_labels: float `(n, D)` and int `(n,)` in [0, num_classes).
        features, labels: float `(m, D)` and int `(m,)`, held out.
        num_classes: int.
        epochs: number of passes over the training features; more where these would be fewer than
            1,500 steps, as of a small set.
        batch_size: int.
        base_learning_rate: float, for 256 images; scaled linearly with the batch.
        warmup_epochs: number, less than `epochs`.
        seed: int. Fixes the initial weights and the order.
    Returns:
        float in [0, 1]: top-1 accuracy on `features`.
    Reference: He et al. 2021, arXiv:2111.06377, appendix A.1, linear probing.
    """
    rng = np.random.default_rng(seed)
    count, dim = train_features.shape
    batch_size = min(batch_size, count)
    # LARS moves a weight by a fixed share of its norm a step: a small set needs more epochs.
    epochs_factor = max(1.0, LEAST_STEPS / steps_of(epochs, count, batch_size))
    total_steps = steps_of(epochs * epochs_factor, count, batch_size)
    schedule = warmup_cosine(
        scaled_learning_rate(base_learning_rate, batch_size),
        steps_of(warmup_epochs * epochs_factor, count, batch_size),
        total_steps,
    )
    initializer = keras.initializers.RandomNormal(stddev=0.01, seed=seed)
    model = keras.Sequential(
        [
            keras.Input((dim,)),
            keras.layers.BatchNormalization(
                center=False, scale=False, epsilon=1e-6, momentum=0.9, dtype="float32"
            ),
            keras.layers.Dense(num_classes, kernel_initializer=initializer, dtype="float32"),
        ]
    )
    tensorflow = keras.backend.backend() == "tensorflow"
    model.compile(
        LARS(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # XLA would take longer to compile than TensorFlow takes; JAX is slow without.
        jit_compile=not tensorflow,
        # A step is so small that to call it takes most of its time. JAX has no loop around it.
        steps_per_execution=STEPS_PER_EXECUTION if tensorflow else 1,
    )
    passes = -(-total_steps * batch_size // count)
    order = np.concatenate([rng.permutation(count) for _ in range(passes)])
    order = order[: total_steps * batch_size].reshape(total_steps, batch_size)
    with tf.device("CPU:0"):
        train_features, train_labels = tf.constant(train_features), tf.constant(train_labels)
    steps = tf.data.Dataset.from_tensor_slices(order).map(
        lambda rows: (tf.gather(train_features, rows), tf.gather(train_labels, rows))
    )
    model.fit(steps.prefetch(tf.data.AUTOTUNE), shuffle=False, verbose=0)
    predicted = model.predict(features, verbose=0).argmax(axis=1)
    return float(np.mean(predicted == np.asarray(labels)))
