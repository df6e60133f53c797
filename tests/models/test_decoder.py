"""The decoder's three kinds of attention: who sees whom."""

import numpy as np
import pytest
from tiny import GRID, N, P, shake

from keras_mae import MAEDecoder
from keras_mae.layers import gather_tokens

CONFIG = {"grid_size": GRID, "patch_dim": P, "input_dim": 16, "hidden_dim": 12}
CONFIG |= {"num_layers": 2, "num_heads": 3}
RNG = np.random.default_rng(0)
ORDER = np.stack([RNG.permutation(N) for _ in range(2)]).astype("int32")
KEEP_IDS, REMOVED_IDS = ORDER[:, :6], ORDER[:, 6:]
LATENT = RNG.normal(size=(2, 7, 16)).astype("float32")


def decoder(attention="self"):
    return shake(MAEDecoder(**CONFIG, attention=attention))


def test_self_attention_equals_an_unshuffled_recomputation():
    """Mask tokens in the places of the hidden patches, and every token in the image's order."""
    model = decoder()
    projected = model.projection(LATENT).numpy()
    mask_token = np.asarray(model.mask_token)
    tokens = np.tile(mask_token, (2, 1 + N, 1))
    tokens[:, 0] = projected[:, 0]
    for image in range(2):
        tokens[image, 1 + KEEP_IDS[image]] = projected[image, 1:]
    x = tokens + np.asarray(model.positions.table)
    for block in model.blocks:
        x = block(x)
    full = model.prediction(model.norm(x))[:, 1:]
    np.testing.assert_allclose(
        model(LATENT, KEEP_IDS, REMOVED_IDS), gather_tokens(full, REMOVED_IDS), atol=1e-4
    )
    np.testing.assert_allclose(
        model(LATENT, KEEP_IDS, REMOVED_IDS, predict_visible=True),
        gather_tokens(full, ORDER),
        atol=1e-4,
    )


@pytest.mark.parametrize("attention", ["self", "masked", "cross"])
def test_predicting_visible_patches_too_leaves_the_hidden_ones(attention):
    model = decoder(attention)
    both = model(LATENT, KEEP_IDS, REMOVED_IDS, predict_visible=True)
    hidden = model(LATENT, KEEP_IDS, REMOVED_IDS)
    assert both.shape == (2, N, P)
    assert hidden.shape == (2, 18, P)
    np.testing.assert_allclose(both[:, 6:], hidden, atol=1e-5)


@pytest.mark.parametrize("attention, alone", [("self", False), ("masked", True), ("cross", True)])
def test_hidden_queries_see_each_other_only_in_self_attention(attention, alone):
    model = decoder(attention)
    whole = model(LATENT, KEEP_IDS, REMOVED_IDS).numpy()
    subset = model(LATENT, KEEP_IDS, REMOVED_IDS[:, 4:9]).numpy()
    assert np.allclose(subset, whole[:, 4:9], atol=1e-5) == alone


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["self", "masked", "cross"])
def test_all_queries_see_all_latents(attention):
    model = decoder(attention)
    expected = model(LATENT, KEEP_IDS, REMOVED_IDS).numpy()
    for token in range(7):  # the class token among them
        latent = LATENT.copy()
        latent[:, token, :8] += 1
        changed = np.abs(model(latent, KEEP_IDS, REMOVED_IDS).numpy() - expected).max(axis=-1)
        assert changed.min() > 1e-6


@pytest.mark.parametrize("attention", ["self", "masked", "cross"])
def test_predictions_follow_the_order_of_the_queries_and_not_of_the_kept(attention):
    model = decoder(attention)
    expected = model(LATENT, KEEP_IDS, REMOVED_IDS).numpy()
    turned = model(LATENT, KEEP_IDS, REMOVED_IDS[:, ::-1]).numpy()
    np.testing.assert_allclose(turned[:, ::-1], expected, atol=1e-5)
    latent = LATENT[:, [0, *range(6, 0, -1)]]
    other = model(latent, KEEP_IDS[:, ::-1], REMOVED_IDS)
    np.testing.assert_allclose(other, expected, atol=1e-5)


@pytest.mark.parametrize("attention", ["self", "masked", "cross"])
def test_the_places_of_latents_count(attention):
    model = decoder(attention)
    expected = model(LATENT, KEEP_IDS, REMOVED_IDS).numpy()
    other = model(LATENT, np.roll(KEEP_IDS, 1, axis=1), REMOVED_IDS).numpy()
    assert np.abs(other - expected).max() > 1e-3


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            {"attention": "full"},
            r"`decoder_attention` must be one of \['self', 'masked', 'cross'\]",
        ),
        ({"num_heads": 5}, "`decoder_num_heads` must divide `decoder_hidden_dim`, 12. Received: 5"),
        ({"hidden_dim": 6}, "`decoder_hidden_dim` must be a multiple of 4"),
        ({"num_layers": 0}, "`decoder_num_layers` must be an int of at least 1"),
        ({"mlp_dim": -1}, "`decoder_mlp_dim` must be an int of at least 1"),
        ({"patch_dim": 0}, "`patch_dim` must be an int of at least 1"),
        ({"input_dim": None}, "`input_dim` must be an int of at least 1"),
        ({"dtype": "half"}, "`dtype` must be a Keras dtype policy of floats"),
    ],
)
def test_arguments_that_do_not_fit(overrides, message):
    with pytest.raises(ValueError, match=message):
        MAEDecoder(**{**CONFIG, **overrides})
