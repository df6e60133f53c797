"""Two replicas: masks of their own, together those of one device; and the same update."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import images, shake, tiny

from keras_mae import ViTClassifier


def made(**overrides):
    keras.utils.set_random_seed(0)
    model = shake(tiny(num_layers=1, decoder_num_layers=1, seed=5, **overrides))
    model.compile(keras.optimizers.SGD(0.1))
    return model


def recorded(model):
    """Record the kept patches of each step, of each replica: lists of (replica, ids)."""
    masks, call = [], model.masking.call

    def masking(noise, num_keep=None):
        keep_ids, removed_ids = call(noise, num_keep)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        tf.py_function(lambda r, ids: masks.append((int(r), ids.numpy())), [replica, keep_ids], [])
        return keep_ids, removed_ids

    model.masking.call = masking
    return masks


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["self", "cross"])
def test_two_replicas_train_as_one_device_does(replicas, attention):
    data = tf.data.Dataset.from_tensor_slices(images(12)).batch(4, drop_remainder=True)
    with replicas.scope():
        model = made(decoder_attention=attention)
    masks = recorded(model)
    history = model.fit(data, verbose=0).history

    single = made(decoder_attention=attention)
    single_masks = recorded(single)
    expected = single.fit(data, verbose=0).history

    # Three steps of two images on each replica: other masks on each, together the single device's.
    by_replica = [[ids for r, ids in masks if r == replica] for replica in (0, 1)]
    assert [len(part) for part in by_replica] == [3, 3]
    for first, second, (_, whole) in zip(*by_replica, single_masks, strict=True):
        assert (first != second).any()
        np.testing.assert_array_equal(np.concatenate([first, second]), whole)

    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    for weight, other in zip(model.get_weights(), single.get_weights(), strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-5)
    assert model.evaluate(data, verbose=0) == pytest.approx(
        single.evaluate(data, verbose=0), rel=1e-5
    )


@pytest.mark.slow
def test_a_replica_without_an_image_does_no_harm(replicas):
    data = tf.data.Dataset.from_tensor_slices(images(5)).batch(4)  # the last batch: one image
    with replicas.scope():
        model = made()
    assert np.isfinite(model.fit(data, verbose=0).history["loss"][0])
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 1])
@pytest.mark.parametrize("kind", ["autoencoder", "classifier"])
def test_unequal_shares_train_as_one_device_does(replicas, kind, count):
    """Three images are two and one, one image leaves a replica without any."""

    def trained():
        keras.utils.set_random_seed(0)
        model = tiny(num_layers=1, decoder_num_layers=1, seed=5)
        data = images(count)
        options = {}
        if kind == "classifier":
            model = ViTClassifier(model, 2, drop_path=0.5, seed=2)
            data = data, np.arange(count) % 2
            options["loss"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        shake(model)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False, **options)
        before = model.get_weights()
        dataset = tf.data.Dataset.from_tensor_slices(data).batch(4)
        loss = model.fit(dataset, verbose=0).history["loss"][0]
        after = model.get_weights()
        return loss, [new - old for new, old in zip(after, before, strict=True)]

    loss, updates = trained()
    with replicas.scope():
        shared_loss, shared_updates = trained()
    assert shared_loss == pytest.approx(loss, rel=1e-5)
    for update, expected in zip(shared_updates, updates, strict=True):
        np.testing.assert_allclose(update, expected, atol=1e-6)
