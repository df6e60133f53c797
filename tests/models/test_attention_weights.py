"""The weights of attention that can be looked at: those that the blocks compute."""

import math

import numpy as np
import pytest
from tiny import IMAGE, N, images, shake, tiny

from keras_mae import ViTEncoder


def encoder_of(**sizes):
    """An encoder whose every weight counts, with a sharp attention."""
    encoder = ViTEncoder(
        IMAGE[:2], IMAGE[2], patch_size=2, hidden_dim=16, num_layers=3, num_heads=2, **sizes
    )
    return shake(encoder, scale=0.5)


def norm(x, layer):
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + layer.epsilon) * layer.gamma + layer.beta


def block_by_hand(block, x):
    """Return a block's attention weights and its output, in float64."""

    def dense(x, layer):
        return x @ np.asarray(layer.kernel, "float64") + np.asarray(layer.bias, "float64")

    heads, attention = block.num_heads, block.attention
    query, key, value = (
        part.reshape(*part.shape[:2], heads, -1).transpose(0, 2, 1, 3)
        for part in np.split(
            dense(norm(x, block.attention_norm), attention.query_key_value), 3, axis=-1
        )
    )
    scores = np.exp(query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1]))
    weights = scores / scores.sum(axis=-1, keepdims=True)
    mixed = (weights @ value).transpose(0, 2, 1, 3).reshape(x.shape)
    x = x + dense(mixed, attention.output_projection)
    hidden = dense(norm(x, block.mlp_norm), block.mlp.hidden)
    phi = 0.5 * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2)))
    return weights, x + dense(hidden * phi, block.mlp.output_projection)


@pytest.mark.parametrize(
    "sizes", [{}, {"num_class_tokens": 2, "num_registers": 3}, {"pre_norm": True}]
)
def test_weights_are_those_of_numpy_and_make_the_blocks_output(sizes):
    encoder = encoder_of(**sizes)
    x = encoder._embed(images())
    tokens = N + encoder.num_class_tokens + encoder.num_registers
    found = encoder.attention_weights(images())
    assert len(found) == 3
    x = np.asarray(x, "float64")
    for block, weights in zip(encoder.blocks, found, strict=True):
        assert weights.shape == (4, 2, tokens, tokens)
        np.testing.assert_allclose(np.sum(weights, axis=-1), 1, atol=1e-6)
        by_hand, x = block_by_hand(block, x)
        np.testing.assert_allclose(weights, by_hand, atol=2e-5)
    # Nobody looks at all alike: else any weights would pass.
    assert np.std(found[0]) > 0.01
    # What these weights make of the values is what the encoder gives.
    patches = np.delete(x, np.s_[encoder.num_class_tokens : tokens - N], axis=1)
    np.testing.assert_allclose(encoder(images()), norm(patches, encoder.norm), atol=1e-4)


def test_weights_of_visible_patches_only():
    encoder = encoder_of()
    keep = np.tile(np.array([[7, 3, 20]], "int32"), (4, 1))
    for weights in encoder.attention_weights(images(), keep):
        assert weights.shape == (4, 2, 4, 4)
        np.testing.assert_allclose(np.sum(weights, axis=-1), 1, atol=1e-6)


def test_looking_changes_no_number():
    encoder = encoder_of()
    before = np.asarray(encoder(images()))
    encoder.attention_weights(images())
    np.testing.assert_array_equal(encoder(images()), before)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`images`"):
        encoder_of().attention_weights(images()[:, :4])


def test_a_mask_of_ones_own_is_the_one_that_noise_would_draw():
    model = shake(tiny())
    drawn = model.reconstruct(images(), seed=3)
    own = model.reconstruct(images(), mask=drawn["mask"])
    np.testing.assert_array_equal(own["mask"], drawn["mask"])
    for name in ("prediction", "loss", "reconstruction", "masked_image"):
        np.testing.assert_allclose(own[name], drawn[name], atol=2e-5)


def test_one_mask_is_for_all_images():
    model = shake(tiny())
    mask = np.zeros(N, bool)
    mask[[0, 5, 23]] = True
    result = model.reconstruct(images(), mask=mask)
    np.testing.assert_array_equal(result["mask"], np.tile(mask, (4, 1)))
    rows = [model.reconstruct(images()[i : i + 1], mask=mask)["loss"] for i in range(4)]
    np.testing.assert_allclose(result["loss"], np.mean(rows), rtol=1e-4)


@pytest.mark.parametrize("ratio, hidden", [(0.25, 6), (0.5, 12), (0.9, 22)])
@pytest.mark.parametrize("masking", ["random", "block", "grid", None])
def test_masks_of_any_ratio_and_strategy_can_be_drawn(ratio, hidden, masking):
    model = tiny()
    mask = np.asarray(model.draw_mask(5, ratio, masking, seed=1))
    assert set(np.unique(mask)) == {0, 1}
    np.testing.assert_array_equal(mask.sum(axis=1), hidden)
    np.testing.assert_array_equal(mask, model.draw_mask(5, ratio, masking, seed=1))


def test_without_arguments_masks_are_the_models():
    model = tiny(masking="block", mask_ratio=0.5)
    drawn = model.reconstruct(images(), seed=7)["mask"]
    np.testing.assert_array_equal(model.draw_mask(4, seed=7), drawn)


@pytest.mark.parametrize(
    "mask", [np.ones(N), np.zeros(N), np.ones(N - 1), np.triu(np.ones((4, N)))]
)
def test_masks_that_cannot_be_are_refused(mask):
    with pytest.raises(ValueError, match="`mask`"):
        tiny().reconstruct(images(), mask=mask)


def test_a_mask_and_noise_together_are_refused():
    model = tiny()
    with pytest.raises(ValueError, match="`noise`"):
        model.reconstruct(images(), noise=np.zeros((4, model.noise_size)), mask=np.arange(N) < 3)
