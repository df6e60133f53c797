import numpy as np
import pytest

from keras_mae import MaskedAutoencoder
from keras_mae.interop.names import (
    our_name,
    reference_name,
    to_our_layout,
    to_reference_layout,
)
from keras_mae.interop.transformers_format import from_transformers, to_transformers
from keras_mae.models import ViTClassifier
from keras_mae.models.weights import get_weights


@pytest.fixture
def model():
    return MaskedAutoencoder(16, 3, (4, 2), 16, 2, 2, None, 8, 2, 2)


def test_names_and_layouts_and_back(model):
    for head_norm in ("layer", "batch"):
        weights = get_weights(model) | get_weights(ViTClassifier(model, 3, head_norm=head_norm))
        theirs = {name: reference_name(name, head_norm == "batch") for name in weights}
        assert len(set(theirs.values())) == len(weights)
        for name, value in weights.items():
            assert our_name(theirs[name]) == name
            laid_out = to_reference_layout(name, value, (4, 2))
            np.testing.assert_array_equal(to_our_layout(name, laid_out), value)


def test_names_of_transformers_and_back(model):
    weights = {reference_name(n): np.asarray(v).T for n, v in get_weights(model).items()}
    for prefix in ("", "vit."):
        back = from_transformers(to_transformers(weights, prefix))
        assert set(back) == set(weights)
        for name, value in weights.items():
            np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize("name", ["norm3.weight", "blocks.0.gamma_1", "blocks.x.norm1.weight", "x"])
def test_unknown_names_have_none(name):
    assert our_name(name) is None
    assert list(from_transformers({name: np.zeros(3)})) == [name]


def test_a_weight_of_ours_alone_has_no_other_name():
    with pytest.raises(ValueError, match="that no other library has: decoder.context_norm.gamma"):
        reference_name("decoder.context_norm.gamma")


def test_a_lone_query_keeps_its_name():
    name = "vit.encoder.layer.0.attention.attention.query.weight"
    assert list(from_transformers({name: np.zeros((4, 4))})) == [name]
