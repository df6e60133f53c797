"""Gradients by hand, against those of automatic differentiation and of finite differences."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from keras_mae.layers import TransformerBlock
from keras_mae.layers.training_kernels import (
    attend,
    gelu,
    gelu_dense,
    in_use,
    layer_normalization,
    layer_normalization_dense,
    training_kernels,
)

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


X = normal(2, 5, 8)
HEADS = [normal(2, 2, t, 4) for t in (3, 5, 5)]  # three queries, five keys and values
ALLOWED = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]], bool)[None, None]
FUNCTIONS = {
    "gelu": (gelu, [3 * X]),
    "gelu_dense": (gelu_dense, [3 * X, normal(8, 6), normal(6)]),
    "layer_normalization": (
        lambda *inputs: layer_normalization(*inputs, 0.1),
        [X, normal(8), normal(8)],
    ),
    "layer_normalization_dense": (
        lambda x, gamma, beta, *dense: layer_normalization_dense(x, gamma, beta, 0.1, *dense),
        [X, normal(8), normal(8), normal(8, 6), normal(6)],
    ),
    "attend": (attend, HEADS),
    "attend, masked": (lambda *inputs: attend(*inputs, attention_mask=ALLOWED), HEADS),
}


def value_and_gradients(function, inputs, by_hand, upstream=None):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        with training_kernels(by_hand):
            value = function(*inputs)
        upstream = tf.ones_like(value) if upstream is None else tf.cast(upstream, value.dtype)
        total = tf.reduce_sum(tf.cast(value, "float32") * tf.cast(upstream, "float32"))
    return value, *tape.gradient(total, inputs)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_gradient_is_that_of_automatic_differentiation(name, compiled):
    function, inputs = FUNCTIONS[name]
    inputs = [tf.constant(value) for value in inputs]
    upstream = normal(*function(*inputs).shape)
    expected = value_and_gradients(function, inputs, False, upstream)
    found = tf.function(value_and_gradients, jit_compile=compiled)(function, inputs, True, upstream)
    for value, other in zip(found, expected, strict=True):
        assert value.dtype == other.dtype
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_gradient_is_the_slope(name):
    """Along a random direction, by central differences: no shared formula can hide a mistake."""
    function, inputs = FUNCTIONS[name]
    directions = [normal(*value.shape) for value in inputs]
    step = 1e-2

    def total(sign):
        moved = [
            tf.constant(value + sign * step * direction)
            for value, direction in zip(inputs, directions, strict=True)
        ]
        return float(tf.reduce_sum(tf.square(function(*moved))))

    slope = (total(1) - total(-1)) / (2 * step)
    value = function(*map(tf.constant, inputs))
    _, *gradients = value_and_gradients(function, [*map(tf.constant, inputs)], True, 2 * value)
    along = sum(float(tf.reduce_sum(g * d)) for g, d in zip(gradients, directions, strict=True))
    assert along == pytest.approx(slope, rel=2e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_is_computed_in_float32(name, dtype):
    """But for products of matrices, all is rounded once: as exact as the dtype can be."""
    function, inputs = FUNCTIONS[name]
    halves = [tf.cast(value, dtype) for value in inputs]
    expected = value_and_gradients(function, [tf.cast(h, "float32") for h in halves], False)
    found = value_and_gradients(function, halves, True)
    unit = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
    for value, other in zip(found, expected, strict=True):
        assert value.dtype == dtype
        scale = np.abs(other).max() * (1 if name in ("gelu", "layer_normalization") else 8)
        np.testing.assert_allclose(tf.cast(value, "float32"), other, atol=unit * scale)


def kept(by_hand):
    """Return how many numbers a block's forward pass keeps for its gradient."""
    block = TransformerBlock(2, 32)
    block.build((None, 5, 8))

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            with training_kernels(by_hand):
                y = block(x, training=True)
        kept.forward = {op.name for op in tf.compat.v1.get_default_graph().get_operations()}
        return tape.gradient(y, [x, *block.trainable_variables])

    graph = tf.function(step).get_concrete_function(tf.TensorSpec((4, 5, 8))).graph
    tensors = {
        tensor.ref(): tensor
        for op in graph.get_operations()
        if op.name not in kept.forward
        for tensor in op.inputs
        if tensor.op.name in kept.forward and not of_variables_only(tensor.op)
    }
    sizes = [t.shape.num_elements() for t in tensors.values() if t.dtype == tf.float32]
    return sum(sizes)


def of_variables_only(op):
    """Return whether an operation's value is a variable's, or a view of one."""
    if op.type == "ReadVariableOp":
        return True
    inputs = [tensor.op for tensor in op.inputs]
    return bool(inputs) and all(i.type == "Const" or of_variables_only(i) for i in inputs)


def test_less_is_kept_for_the_gradient():
    # Of each token, 8 wide, plain operations keep 224 numbers; by hand, 80 are kept (views of one
    # tensor are counted each).
    assert kept(True) < 0.4 * kept(False)


def test_what_is_computed_again_is_not_kept_after_all():
    """TensorFlow computes what is there twice but once, and keeps it, unless it is kept from it."""

    @tf.function
    def step(upstream, *heads):
        return value_and_gradients(attend, heads, True, upstream)

    context.enable_graph_collection()
    try:
        step(*map(tf.constant, [HEADS[0], *HEADS]))
        graphs = context.export_run_metadata().function_graphs
    finally:
        context.disable_graph_collection()
    nodes = [node for graph in graphs for node in graph.post_optimization_graph.node]
    # Scores and output; for the gradient scores again, and four products.
    assert sum("BatchMatMul" in node.op for node in nodes) == 2 + 1 + 4


def test_they_are_used_inside_only_also_after_an_error():
    assert not in_use()
    with pytest.raises(KeyError), training_kernels():
        assert in_use()
        with training_kernels(False):
            assert not in_use()
        assert in_use()
        raise KeyError
    assert not in_use()


def test_a_block_that_is_evaluated_is_plain_operations():
    block = TransformerBlock(2, 32)
    block.build((None, 5, 8))

    def operations(by_hand):
        def call(x):
            with training_kernels(by_hand):
                return block(x)

        graph = tf.function(call).get_concrete_function(tf.TensorSpec((4, 5, 8))).graph
        return {op.type for op in graph.get_operations()}

    assert "Erf" in operations(False) and not {"IdentityN", "PartitionedCall"} & operations(False)
    assert "IdentityN" in operations(True)
