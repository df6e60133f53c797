"""One harness for every layer and model: what must hold of each, whatever it computes."""

import inspect
import json

import keras
import numpy as np
import tensorflow as tf

TOLERANCE = {"mixed_bfloat16": 0.1, "mixed_float16": 0.02}


def check_layer(
    cls, config, inputs, path, *, call=None, weights=(0, 0), dtypes="compute", close=True
):
    """Check one layer or model in all the ways that do not depend on what it computes.

    Args:
        cls: the class.
        config: dict, its constructor's arguments.
        inputs: dict, call argument -> NumPy array, in the order of the call's arguments.
        path: a directory to save in.
        call: dict, further call arguments that are not tensors.
        weights: (trainable, non-trainable), the exact numbers of values.
        dtypes: "compute", or the outputs' dtypes whatever the policy, in order ("compute" among
            them).
        close: bool. Whether outputs under mixed policies are to be near those in float32.
    Returns:
        (the layer, its outputs), for further checks.
    """
    call = call or {}
    layer = cls(**config)
    outputs = _flat(_call(layer, inputs, call))
    _check_config(cls, layer)
    counts = [sum(int(np.prod(w.shape)) for w in group) for group in _weights(layer)]
    assert tuple(counts) == tuple(weights), f"(trainable, non-trainable) weights: {counts}"
    _check_symbolic(layer, inputs, call, outputs)
    _check_compiled(layer, inputs, call, outputs)
    _check_saved(layer, inputs, call, outputs, path)
    for policy in TOLERANCE:
        _check_policy(cls, config, layer, policy, inputs, call, outputs, dtypes, close)
    return layer, outputs


def _call(layer, inputs, call):
    first, *others = inputs
    return layer(inputs[first], **{name: inputs[name] for name in others}, **call)


def _flat(outputs):
    return [tf.convert_to_tensor(value) for value in keras.tree.flatten(outputs)]


def _weights(layer):
    return layer.trainable_weights, layer.non_trainable_weights


def _assert_equal(values, expected, rtol=0.0, atol=0.0):
    assert len(values) == len(expected)
    for value, other in zip(values, expected, strict=True):
        value, other = np.asarray(value, "float64"), np.asarray(other, "float64")
        np.testing.assert_allclose(value, other, rtol=rtol, atol=atol)


def _check_config(cls, layer):
    config = layer.get_config()
    arguments = set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(config), f"not in the config: {arguments - set(config)}"
    assert set(config) <= arguments | {"name", "trainable", "dtype"}
    assert cls.from_config(config).get_config() == config
    # What a file holds: the config as JSON, lists in place of tuples.
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    assert keras.saving.deserialize_keras_object(stored).get_config() == config


def _symbols(inputs):
    return {
        name: keras.Input(value.shape[1:], dtype=str(value.dtype), name=name)
        for name, value in inputs.items()
    }


def _check_symbolic(layer, inputs, call, outputs):
    symbolic = keras.tree.flatten(_call(layer, _symbols(inputs), call))
    assert len(symbolic) == len(outputs)
    for symbol, value in zip(symbolic, outputs, strict=True):
        assert symbol.shape == (None, *value.shape[1:])
        assert symbol.dtype == value.dtype.name


def _check_compiled(layer, inputs, call, outputs):
    compiled = tf.function(
        lambda *values: _call(layer, dict(zip(inputs, values, strict=True)), call),
        jit_compile=True,
    )
    tensors = [tf.constant(value) for value in inputs.values()]
    _assert_equal(_flat(compiled(*tensors)), outputs, rtol=1e-5, atol=1e-5)


def _check_saved(layer, inputs, call, outputs, path):
    if isinstance(layer, keras.Model):
        layer.save(path / "model.keras")
        loaded = keras.saving.load_model(path / "model.keras")
    else:
        symbols = _symbols(inputs)
        model = keras.Model(symbols, _call(layer, symbols, call))
        model.save(path / "layer.keras")
        loaded = keras.saving.load_model(path / "layer.keras").get_layer(layer.name)
    assert type(loaded) is type(layer)
    assert loaded.get_config() == layer.get_config()
    assert [w.path for w in loaded.weights] == [w.path for w in layer.weights]
    _assert_equal(_flat(_call(loaded, inputs, call)), outputs)


def _check_policy(cls, config, layer, policy, inputs, call, outputs, dtypes, close):
    # By argument, not globally: what a layer does not hand down to its parts then shows.
    mixed = cls(**config, dtype=policy)
    _call(mixed, inputs, call)
    mixed.set_weights(layer.get_weights())
    values = _flat(_call(mixed, inputs, call))
    compute = keras.dtype_policies.get(policy).compute_dtype
    names = [dtypes] * len(values) if isinstance(dtypes, str) else dtypes
    expected = [compute if name == "compute" else name for name in names]
    assert [value.dtype.name for value in values] == expected
    assert all(w.dtype == "float32" for w in mixed.weights)
    if close:
        values = [tf.cast(value, "float32") for value in values]
        _assert_equal(values, outputs, rtol=TOLERANCE[policy], atol=TOLERANCE[policy])
    assert cls.from_config(mixed.get_config()).get_config() == mixed.get_config()
