"""Two replicas: masks of their own, together those of one device; and the same update."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import images, shake, tiny


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


def test_a_replica_without_an_image_does_no_harm(replicas):
    data = tf.data.Dataset.from_tensor_slices(images(5)).batch(4)  # the last batch: one image
    with replicas.scope():
        model = made()
    assert np.isfinite(model.fit(data, verbose=0).history["loss"][0])
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
