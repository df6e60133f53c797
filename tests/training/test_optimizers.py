import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mae
from keras_mae.training import LARS, make_adamw, undecayed_variables
from keras_mae.training.optimizers import AdamW


@pytest.fixture
def mae():
    return keras_mae.MaskedAutoencoder(
        image_size=8,
        channels=1,
        patch_size=4,
        hidden_dim=8,
        num_layers=1,
        num_heads=2,
        decoder_hidden_dim=8,
        decoder_num_layers=1,
        decoder_num_heads=2,
        mask_ratio=0.5,
    )


def test_decay_leaves_vectors_and_tokens_alone(mae):
    undecayed = {v.path for v in undecayed_variables(mae)}
    decayed = {v.path for v in mae.trainable_variables} - undecayed
    assert all(path.endswith("kernel") for path in decayed)
    # Patches, qkv, output, two of the MLP; projection, prediction, and the decoder block's four.
    assert len(decayed) == 1 + 4 + 1 + 1 + 4
    assert any("class_token" in path for path in undecayed)
    assert any("mask_token" in path for path in undecayed)


def test_learned_positions_are_not_decayed():
    encoder = keras_mae.ViTEncoder(
        image_size=8, patch_size=4, hidden_dim=8, num_layers=1, num_heads=2, learned_positions=True
    )
    assert any(v is encoder.positions.table for v in undecayed_variables(encoder))


def test_zero_gradients_decay_matrices_only(mae):
    optimizer = make_adamw(mae, learning_rate=0.1, weight_decay=0.5)
    before = [np.array(v) for v in mae.trainable_variables]
    zeros = [np.zeros(v.shape, "float32") for v in mae.trainable_variables]
    optimizer.apply(zeros, mae.trainable_variables)
    undecayed = {id(v) for v in undecayed_variables(mae)}
    for old, variable in zip(before, mae.trainable_variables, strict=True):
        factor = 1.0 if id(variable) in undecayed else 1 - 0.1 * 0.5
        np.testing.assert_allclose(np.array(variable), old * factor, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_a_loaded_model_decays_as_before(mae, tmp_path, dtype):
    mae = keras_mae.MaskedAutoencoder.from_config({**mae.get_config(), "dtype": dtype})
    mae.compile(make_adamw(mae, learning_rate=0.1, weight_decay=0.5))
    mae.save(tmp_path / "mae.keras")
    loaded = keras.models.load_model(tmp_path / "mae.keras")
    optimizer = getattr(loaded.optimizer, "inner_optimizer", loaded.optimizer)
    undecayed = {id(v) for v in undecayed_variables(loaded)}
    for variable in loaded.trainable_variables:
        assert optimizer._use_weight_decay(variable) == (id(variable) not in undecayed)


def test_adamw_first_step_by_hand():
    dense = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((1,)), dense])
    dense.kernel.assign([[2.0]])
    optimizer = make_adamw(model, learning_rate=0.1, weight_decay=0.05)
    optimizer.apply([np.array([[3.0]], "float32")], [dense.kernel])
    # Bias-corrected moments of the first step are g and g^2: a step of lr * sign(g), after decay.
    assert float(dense.kernel[0, 0]) == pytest.approx(2.0 * (1 - 0.005) - 0.1, abs=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_adamw_steps_by_hand(fused, monkeypatch):
    """Five steps in NumPy, by Kingma and Ba's algorithm 1, with decay and a scale of the rate."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 4)), 1e-3 * rng.normal(size=(5, 3, 4))
    weight, mean, square = start.copy(), 0, 0
    for step, gradient in enumerate(gradients, start=1):
        weight -= 0.05 * 0.1 * weight
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        corrected = np.sqrt(square / (1 - 0.95**step))
        # An epsilon as large as the gradients: where it is added shows.
        weight -= 0.05 * mean / (1 - 0.9**step) / (corrected + 1e-3)

    if not fused:  # as on other backends
        monkeypatch.setattr(keras.backend, "backend", lambda: "another")
        monkeypatch.delattr(AdamW, "_fused_update")
    variable = keras.Variable(start)
    optimizer = AdamW(0.1, weight_decay=0.1, beta_2=0.95, epsilon=1e-3, rate_scales=[0.5])
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, "float32")], [variable])
    np.testing.assert_allclose(variable, weight, rtol=1e-5)


def test_a_gradient_is_applied_without_waiting_for_the_others():
    """It can then be freed: else all of them are in memory at once."""
    variables = [keras.Variable([1.0]), keras.Variable([1.0])]
    optimizer = AdamW(0.1, weight_decay=0.1)
    optimizer.build(variables)

    @tf.function
    def step(x):
        optimizer.apply([tf.sin(x), tf.cos(x)], variables)

    graph = step.get_concrete_function(tf.TensorSpec((1,))).graph
    updates = [op for op in graph.get_operations() if op.type == "ResourceApplyAdam"]
    needs = [{op.type for op in ancestors(update)} & {"Sin", "Cos"} for update in updates]
    assert needs == [{"Sin"}, {"Cos"}]


def ancestors(op):
    """Return all operations that one waits for."""
    found, todo = set(), [op]
    while todo:
        op = todo.pop()
        new = {tensor.op for tensor in op.inputs} | {*op.control_inputs}
        todo += new - found
        found |= new
    return found


def test_lars_by_hand():
    weight = keras.Variable([[3.0, 4.0]])  # norm 5
    bias = keras.Variable([1.0])
    optimizer = LARS(learning_rate=2.0, momentum=0.5, lars_weight_decay=0.1, trust_coefficient=0.01)
    gradients = [np.array([[0.3, 0.4]], "float32"), np.array([2.0], "float32")]
    optimizer.apply(gradients, [weight, bias])
    # u = g + .1 w = (.6, .8), norm 1; scaled by .01 * 5 / 1 = .05: m = (.03, .04).
    np.testing.assert_allclose(weight, [[3 - 0.06, 4 - 0.08]], rtol=1e-6)
    np.testing.assert_allclose(bias, [1 - 4.0], rtol=1e-6)
    optimizer.apply(gradients, [weight, bias])
    w = np.array([2.94, 3.92])
    u = np.array([0.3, 0.4]) + 0.1 * w
    m = 0.5 * np.array([0.03, 0.04]) + u * 0.01 * np.linalg.norm(w) / np.linalg.norm(u)
    np.testing.assert_allclose(weight, [w - 2 * m], rtol=1e-6)
    np.testing.assert_allclose(bias, [-3 - 2 * (0.5 * 2 + 2)], rtol=1e-6)


def test_lars_moves_a_weight_of_zeros():
    weight = keras.Variable([[0.0, 0.0]])
    LARS(learning_rate=1.0).apply([np.array([[1.0, 2.0]], "float32")], [weight])
    np.testing.assert_allclose(weight, [[-1.0, -2.0]])


def test_lars_config_round_trip():
    optimizer = LARS(0.3, momentum=0.8, lars_weight_decay=0.2, trust_coefficient=0.02)
    config = keras.saving.serialize_keras_object(optimizer)
    assert keras.saving.deserialize_keras_object(config).get_config() == optimizer.get_config()
