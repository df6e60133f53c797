"""Whitening against NumPy, and on features that have fewer directions than are asked for."""

import numpy as np
import pytest

from keras_mae.layers.whitening import Moments, Whitening, rank_note

RNG = np.random.default_rng(0)


def test_two_directions_by_hand():
    # Along (1, 1) the deviation is 2, across it 1; the mean is (10, 0).
    along, across = np.array([1, 1]) / np.sqrt(2), np.array([1, -1]) / np.sqrt(2)
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    features = signs @ np.stack([2 * along, across]) + [10, 0]
    whitening = Whitening.fitted_to(features, 2)
    np.testing.assert_allclose(np.abs(whitening(features)), 1, atol=1e-5)
    np.testing.assert_allclose(np.asarray(whitening(features))[:, 0], signs[:, 0], atol=1e-5)
    np.testing.assert_allclose(np.abs(whitening([[10.0, 0.0] + along])), [[0.5, 0]], atol=1e-5)


def test_it_is_the_singular_value_decomposition():
    features = RNG.normal(size=(200, 12)) @ RNG.normal(size=(12, 12)) + RNG.normal(size=12)
    centred = features - features.mean(0)
    left, _, _ = np.linalg.svd(centred, full_matrices=False)
    found = np.asarray(Whitening.fitted_to(features, 5)(features.astype("float32")))
    np.testing.assert_allclose(np.abs(found), np.sqrt(200) * np.abs(left[:, :5]), atol=2e-3)
    np.testing.assert_allclose(found.T @ found / 200, np.eye(5), atol=1e-4)


def test_moments_of_parts_are_those_of_the_whole():
    features = RNG.normal(size=(50, 6)) + 100
    parts = Moments()
    for part in np.split(features, [1, 1, 20, 49]):
        parts.add(part)
    assert parts.count == 50
    np.testing.assert_allclose(parts.mean, features.mean(0))
    np.testing.assert_allclose(parts.scatter / 50, np.cov(features.T, bias=True), atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_of_copies_only_as_many_components_as_there_are_directions(offset):
    different = RNG.normal(size=(6, 48)).astype("float32") + np.float32(offset)
    features = different[[0, 1, 2, 3, 4, 5, 3, 3, 5]]
    whitening = Whitening.fitted_to(features, 64)
    assert whitening.num_components == 5  # of six points
    found = np.asarray(whitening(features))
    assert np.abs(found).max() <= np.sqrt(9) + 1e-3
    np.testing.assert_array_equal(found[3], found[6])
    assert rank_note(64, 5).startswith("Whitened to 5 components, not 64")
    assert rank_note(5, 5) == ""


def test_a_layer_of_given_width_has_zeros_beyond_the_rank():
    features = RNG.normal(size=(4, 8)).astype("float32")
    whitening = Whitening(6)
    assert whitening.adapt(features) == 3
    found = np.asarray(whitening(features))
    assert found.shape == (4, 6) and np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, 3:], 0)
    assert whitening.trainable_weights == []


def test_equal_features_and_broken_ones_are_refused():
    with pytest.raises(ValueError, match="`whiten`"):
        Whitening.fitted_to(np.ones((5, 3)), 2)
    for features in (np.full((2, 2), np.nan), np.zeros(3)):
        with pytest.raises(ValueError, match="`features`"):
            Moments().add(features)
    with pytest.raises(ValueError, match="`features`"):
        Moments().principal()
    with pytest.raises(ValueError, match="`num_components`"):
        Whitening(0)
