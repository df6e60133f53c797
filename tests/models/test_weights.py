import logging

import numpy as np
import pytest

from keras_mae import MaskedAutoencoder
from keras_mae.layers import sincos_positions
from keras_mae.models import ViTClassifier
from keras_mae.models.weights import assign_weights, get_weights, named_weights

SMALL = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_hidden_dim": 8,
    "decoder_num_layers": 1,
    "decoder_num_heads": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["self", "masked", "cross"])
def test_every_weight_has_one_name(attention):
    model = MaskedAutoencoder(**SMALL, decoder_attention=attention)
    for part in (model, model.encoder, ViTClassifier(model, 3, head_norm="batch")):
        named = named_weights(part)
        assert {id(w) for w in named.values()} == {id(w) for w in part.weights}
    assert "encoder.blocks.1.mlp.hidden.kernel" in named


def test_names_that_do_not_fit_raise_with_both_lists_and_change_nothing():
    model = MaskedAutoencoder(**SMALL)
    before = get_weights(model)
    weights = {name: value + 1 for name, value in before.items()}
    weights["decoder.extra"] = weights.pop("decoder.norm.beta")
    weights["encoder.norm.beta"] = np.zeros(3)
    with pytest.raises(ValueError) as error:
        assign_weights(model, weights, (4, 4), unknown=("other.name",))
    message = str(error.value)
    assert "Missing: decoder.norm.beta\n" in message
    assert "Left over: decoder.extra, other.name\n" in message
    assert "encoder.norm.beta (expected (16,), received (3,))" in message
    for name, value in get_weights(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_skip_leaves_weights_as_they_are():
    model = MaskedAutoencoder(**SMALL)
    before = get_weights(model)
    weights = {name: value + 1 for name, value in before.items() if name != "decoder.norm.beta"}
    assign_weights(model, weights, (4, 4), skip=("decoder.*", "encoder.norm.gamma"))
    for name, value in get_weights(model).items():
        kept = name.startswith("decoder.") or name == "encoder.norm.gamma"
        np.testing.assert_array_equal(value, before[name] + (not kept))


def test_positions_follow_the_grid_and_the_log_says_so(caplog):
    model = MaskedAutoencoder(**SMALL)
    weights = get_weights(MaskedAutoencoder(**{**SMALL, "image_size": (8, 24)}))
    weights["decoder.positions.table"] = np.random.default_rng(0).normal(size=(13, 8))
    with caplog.at_level(logging.INFO):
        assign_weights(model, weights, (2, 6))
    np.testing.assert_array_equal(model.encoder.positions.table, sincos_positions(16, (4, 4)))
    assert "encoder.positions.table: sine-cosine table computed for grid (4, 4)" in caplog.text
    assert "decoder.positions.table: learned table resampled from grid (2, 6)" in caplog.text
