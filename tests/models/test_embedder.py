"""The embedder: an encoder's tokens, pooled and whitened; in its file and its exports."""

import keras
import numpy as np
import pytest

import keras_mae
from keras_mae import ViTClassifier, ViTEmbedder, ViTEncoder
from keras_mae.layers.pooling import pool_tokens
from keras_mae.models.weights import get_weights

ENCODER = {"image_size": (8, 12), "patch_size": 2, "hidden_dim": 16, "num_layers": 2}
ENCODER |= {"num_heads": 2, "channels": 1}
IMAGES = np.random.default_rng(0).normal(size=(40, 8, 12, 1)).astype("float32")


@pytest.fixture(scope="module")
def encoder():
    return ViTEncoder(**ENCODER)


def test_features_are_the_pooled_tokens_of_the_encoder(encoder):
    for pooling in ("token", "mean", "both", "mean_std", "grid:2", "grid:3"):
        tokens = encoder(IMAGES[:3], last_blocks=2)
        embedder = ViTEmbedder(encoder, pooling, pooled_blocks=2)
        expected = pool_tokens(tokens, pooling, 1, (4, 6))
        np.testing.assert_allclose(embedder(IMAGES[:3]), expected, atol=1e-6)
        assert embedder.compute_output_shape((3,)) == tuple(expected.shape)


def test_its_file_keeps_the_whitening(encoder, tmp_path):
    plain = ViTEmbedder(encoder, "mean")
    white = plain.whitened(np.asarray(plain(IMAGES)), 4)
    found = np.asarray(white(IMAGES))
    np.testing.assert_allclose(found.T @ found / 40, np.eye(4), atol=1e-2)
    white.save(tmp_path / "model.keras")
    for loaded in (
        keras.models.load_model(tmp_path / "model.keras"),
        keras_mae.load_pretrained(tmp_path / "model.keras"),
    ):
        np.testing.assert_array_equal(loaded(IMAGES), found)
    assert {"whitening.origin", "whitening.kernel"} < set(get_weights(white))
    assert keras_mae.load_encoder(tmp_path / "model.keras").count_params() == encoder.count_params()


def test_what_does_not_fit_is_refused(encoder):
    for arguments in ({"pooling": "grid:5"}, {"pooling": "max"}):
        with pytest.raises(ValueError, match="`pooling`"):
            ViTEmbedder(encoder, **arguments)
    with pytest.raises(ValueError, match="`pooled_blocks`"):
        ViTEmbedder(encoder, pooled_blocks=3)
    with pytest.raises(ValueError, match="`whiten`"):
        ViTEmbedder(encoder, whiten=0)
    plain = ViTEmbedder(encoder)
    white = plain.whitened(np.asarray(plain(IMAGES)), 4)
    with pytest.raises(ValueError, match="`whiten`"):
        white.whitened(np.asarray(white(IMAGES)), 2)


def test_a_classifier_of_a_grid_whitens_before_its_head(encoder, tmp_path):
    model = ViTClassifier(
        encoder, 3, pooling="grid:2", head_norm="batch", trainable_blocks=0, whiten=5
    )
    pooled = np.asarray(ViTEmbedder(encoder, "grid:2")(IMAGES))
    assert model.whitening.adapt(pooled) == 5
    model.head.kernel.assign(np.random.default_rng(1).normal(size=(5, 3)))
    expected = np.asarray(model.whitening(pooled)) @ np.asarray(model.head.kernel)
    np.testing.assert_allclose(model(IMAGES), expected, atol=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras_mae.load_pretrained(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    for arguments in ({}, {"trainable_blocks": 0, "pooling": "mean"}):
        with pytest.raises(ValueError, match="`whiten`"):
            ViTClassifier(encoder, 3, whiten=5, **arguments)
    with pytest.raises(ValueError, match="whiten"):
        keras_mae.save_pretrained(model, tmp_path / "other", format="meta")
