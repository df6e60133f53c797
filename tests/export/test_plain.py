"""The forward pass in plain operations is the model's."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from shaken import encoder, normalised, shake

from keras_mae import ViTClassifier, ViTEmbedder
from keras_mae.export.plain import function_of_weights, normalising_projection, plain_function
from keras_mae.export.source import model_outputs

pytestmark = pytest.mark.export

VARIANTS = {
    "one channel": {},
    "channels that differ, patch not square": {
        "channels": 3,
        "patch_size": (4, 7),
        "mean": (0.1, 0.5, 0.8),
        "std": (0.2, 0.3, 0.5),
    },
    "image not square": {"image_size": (16, 28)},
    "no final norm, large epsilon": {"final_norm": False, "norm_epsilon": 0.1},
    "other parts": {
        "layer_scale": 0.5,
        "pre_norm": True,
        "num_class_tokens": 3,
        "num_registers": 2,
    },
    "more heads, narrow mlp": {"num_heads": 8, "mlp_dim": 24},
}


def pixels(model, count=3):
    shape = (count, *model.image_size, model.channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype("float32")


def assert_equal(model, images, batch_size=None):
    vit = getattr(model, "encoder", model)
    wanted = model_outputs(model, keras.ops.convert_to_tensor(normalised(vit, images)))
    got = plain_function(model, batch_size)(tf.constant(images))
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(got[name], value, atol=2e-5 * scale, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_encoders(name):
    model = encoder(**VARIANTS[name])
    assert_equal(model, pixels(model))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean_std", "grid:3"])
@pytest.mark.parametrize("whiten", [None, 4])
def test_embedders(pooling, whiten):
    model = ViTEmbedder(encoder(**VARIANTS["other parts"]), pooling, 2, whiten)
    shake(model.encoder)
    images = pixels(model.encoder)
    if whiten:
        plain = ViTEmbedder(model.encoder, pooling, 2)
        model = plain.whitened(np.asarray(plain(normalised(model.encoder, images))), 2)
    assert_equal(model, images)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["token", "both", "mean_std", "grid:2"])
def test_classifiers_of_several_class_tokens(pooling):
    model = shake(ViTClassifier(encoder(**VARIANTS["other parts"]), 5, pooling=pooling))
    assert_equal(model, pixels(model.encoder))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_batches(batch_size):
    model = encoder()
    assert_equal(model, pixels(model, batch_size or 5), batch_size)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pooling, head_norm, pooled_blocks",
    [
        ("token", None, 1),
        ("both", "batch", 1),
        ("both", "batch", 2),
        ("mean", "layer", 1),
        ("mean", "layer", 2),
        ("mean", None, 1),
    ],
)
def test_classifiers(pooling, head_norm, pooled_blocks):
    model = ViTClassifier(
        encoder(), 5, pooling=pooling, head_norm=head_norm, pooled_blocks=pooled_blocks
    )
    model = shake(model)
    if head_norm == "batch":
        variance = model.feature_norm.moving_variance
        variance.assign(np.linspace(0.5, 2, variance.shape[0]))
    assert_equal(model, pixels(model.encoder))


def test_weights_may_be_given_as_arguments():
    model = shake(ViTClassifier(encoder(), 5, pooling="both", head_norm="batch"))
    images = tf.constant(pixels(model.encoder))
    function, weights = function_of_weights(model)
    assert list(weights) == [f"weight_{i}" for i in range(len(weights))]
    wanted = plain_function(model)(images)
    for name, value in function(images, *map(tf.constant, weights.values())).items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-6, err_msg=name)
    # They are what it computes with: all zero, and all classes are alike.
    zeros = [tf.zeros(array.shape) for array in weights.values()]
    np.testing.assert_allclose(function(images, *zeros)["probabilities"], 0.2, atol=1e-7)


def test_the_graph_has_no_size_of_a_batch():
    model = encoder()
    graph = plain_function(model).get_concrete_function().graph
    assert {"Tile", "BroadcastTo", "Shape"}.isdisjoint(op.type for op in graph.get_operations())


def test_the_projection_takes_the_normalisation_in_by_hand():
    model = encoder(patch_size=28, hidden_dim=4, num_heads=1, mean=(0.5,), std=(0.25,))
    kernel = np.full((784, 4), 0.5)
    weights = {
        "encoder.patch_embedding.projection.kernel": kernel,
        "encoder.patch_embedding.projection.bias": np.ones(4),
    }
    kernel, bias = normalising_projection(model, weights)
    # A white image is (1 - .5) / .25 = 2 everywhere: 784 * 2 * .5 + 1.
    np.testing.assert_allclose(np.full(784, 255.0) @ kernel + bias, 785.0, rtol=1e-5)
    # A black one is -2.
    np.testing.assert_allclose(bias, -783.0, rtol=1e-5)
