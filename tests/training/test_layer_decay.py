import keras
import numpy as np
import pytest

from keras_mae import ViTEncoder
from keras_mae.models import ViTClassifier
from keras_mae.training import make_adamw, undecayed_variables
from keras_mae.training.layer_decay import layer_rate_scales, variable_depths
from keras_mae.training.optimizers import AdamW


@pytest.fixture
def model():
    encoder = ViTEncoder(
        image_size=8, patch_size=4, hidden_dim=8, num_layers=3, num_heads=2, learned_positions=True
    )
    return ViTClassifier(encoder, 3, pooling="mean")


def test_depth_is_the_models_own(model):
    expected = {
        "class_token": 0,
        "patch_embedding": 0,
        "positions": 0,
        "block_0": 1,
        "block_1": 2,
        "block_2": 3,
        "feature_norm": 4,
        "head": 4,
    }
    parts = [v.path.split("/")[1] for v in model.trainable_variables]
    assert set(parts) == set(expected)
    assert variable_depths(model) == [expected[part] for part in parts]
    # The names play no part in it.
    model.encoder.blocks[0].name = "block_2"
    assert variable_depths(model) == [expected[part] for part in parts]


def test_parts_before_the_blocks_have_the_depth_0():
    parts = {"layer_scale": 0.1, "pre_norm": True, "num_class_tokens": 2, "num_registers": 1}
    model = ViTClassifier(ViTEncoder(8, 3, 4, 8, 2, 2, **parts, name="vit"), 3)
    paths = [variable.path.partition("vit/")[2] for variable in model.trainable_variables]
    depths = dict(zip(paths, variable_depths(model), strict=True))
    assert [depths[n] for n in ("class_token", "register_tokens", "input_norm/gamma")] == [0] * 3
    assert depths["block_1/mlp_scale/gamma"] == 2


def test_rates_follow_the_rule(model):
    scales = layer_rate_scales(model, 0.5)
    assert scales == [0.5 ** (4 - depth) for depth in variable_depths(model)]
    assert layer_rate_scales(model, 1.0) == [1.0] * len(scales)


@pytest.mark.parametrize("value", [0, -0.5, 1.5])
def test_layer_decay_out_of_range(model, value):
    with pytest.raises(ValueError, match="`layer_decay`"):
        layer_rate_scales(model, value)


def test_only_what_is_trained_has_a_rate(model):
    partial = ViTClassifier(model, 3, trainable_blocks=1)
    assert set(variable_depths(partial)) == {3, 4}
    assert len(layer_rate_scales(partial, 0.5)) == len(partial.trainable_variables)


def test_adamw_steps_and_decays_at_each_variables_rate(model):
    variables = model.trainable_variables
    scales = layer_rate_scales(model, 0.5)
    optimizer = make_adamw(model, 0.1, weight_decay=0.2, rate_scales=scales)
    before = [np.array(v) for v in variables]
    optimizer.apply([np.full(v.shape, 3.0, "float32") for v in variables], variables)
    undecayed = {id(v) for v in undecayed_variables(model)}
    for old, variable, scale in zip(before, variables, scales, strict=True):
        decay = 0.0 if id(variable) in undecayed else 0.2
        # Adam's first step is the rate, whatever the gradient.
        expected = old * (1 - 0.1 * scale * decay) - 0.1 * scale
        np.testing.assert_allclose(variable, expected, atol=1e-6)


def test_scales_are_saved_with_the_model(model, tmp_path):
    model.compile(
        make_adamw(model, 0.1, rate_scales=layer_rate_scales(model, 0.5)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.rate_scales == layer_rate_scales(loaded, 0.5)
    undecayed = {id(v) for v in undecayed_variables(loaded)}
    for variable in loaded.trainable_variables:
        assert loaded.optimizer._use_weight_decay(variable) == (id(variable) not in undecayed)


def test_scales_that_do_not_fit():
    with pytest.raises(ValueError, match="`rate_scales`"):
        AdamW(0.1, rate_scales=[-1.0])
    with pytest.raises(ValueError, match="`rate_scales`"):
        AdamW(0.1, rate_scales=[1.0, 1.0]).build([keras.Variable([1.0])])
