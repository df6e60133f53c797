"""Gradients by hand, against those of automatic differentiation and of finite differences."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from keras_mae.layers import TransformerBlock, kernels

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def norm_dense(x, gamma, beta, kernel, bias, training=False):
    x = kernels.layer_norm(x, gamma, beta, 0.1, training)
    return kernels.dense(x, Linear(kernel, bias), training)


class Linear:
    """What the kernels need of a `Dense` layer, with tensors whose gradients can be taken."""

    def __init__(self, kernel, bias):
        self.kernel, self.bias = kernel, bias

    def __call__(self, x):
        return tf.matmul(x, self.kernel) + self.bias


X = normal(2, 5, 8)
# Three queries, and keys and values of five, of two heads.
HEADS = [normal(2, 3, 8), normal(2, 5, 16)]


def attend(queries, keys_and_values, mask=None, training=False):
    return kernels.attention([queries, keys_and_values], 2, mask, training=training)


ALLOWED = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]], bool)[None, None]
FUNCTIONS = {
    "gelu": (kernels.gelu, [3 * X]),
    "gelu_dense": (
        lambda x, *dense, training=False: kernels.gelu_dense(x, Linear(*dense), training),
        [3 * X, normal(8, 6), normal(6)],
    ),
    "layer_norm": (
        lambda *inputs, training=False: kernels.layer_norm(*inputs, 0.1, training),
        [X, normal(8), normal(8)],
    ),
    "layer_norm, dense": (norm_dense, [X, normal(8), normal(8), normal(8, 6), normal(6)]),
    "attend": (attend, HEADS),
    "attend, masked": (
        lambda *inputs, training=False: attend(*inputs, ALLOWED, training),
        HEADS,
    ),
}


def value_and_gradients(function, inputs, by_hand, upstream=None):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = function(*inputs, training=by_hand)
        upstream = tf.ones_like(value) if upstream is None else tf.cast(upstream, value.dtype)
        total = tf.reduce_sum(tf.cast(value, "float32") * tf.cast(upstream, "float32"))
    return value, *tape.gradient(total, inputs)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        scale = np.abs(other).max() * (1 if name in ("gelu", "layer_norm") else 8)
        np.testing.assert_allclose(tf.cast(value, "float32"), other, atol=unit * scale)


def kept():
    """Return how many numbers a block's forward pass keeps for its gradient."""
    block = TransformerBlock(2, 32)
    block.build((None, 5, 8))

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
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


def test_less_is_kept_for_the_gradient(monkeypatch):
    # Of each token, 8 wide, plain operations keep 224 numbers; by hand, 80 are kept (views of one
    # tensor are counted each).
    by_hand = kept()
    monkeypatch.setattr(kernels, "_trains_on_cpu", lambda: False)
    assert by_hand < 0.4 * kept()


@pytest.mark.slow
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


def operations(training):
    block = TransformerBlock(2, 32)
    block.build((None, 5, 8))
    call = tf.function(lambda x: block(x, training=training))
    graph = call.get_concrete_function(tf.TensorSpec((4, 5, 8))).graph
    return {op.type for op in graph.get_operations()}


def test_only_a_block_that_is_trained_has_gradients_by_hand():
    assert "Erf" in operations(False) and not {"IdentityN", "PartitionedCall"} & operations(False)
    assert "IdentityN" in operations(True)


def test_on_gpus_gradients_are_the_frameworks(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    assert "IdentityN" not in operations(True)


def test_a_normalised_tensor_that_is_used_twice_has_both_gradients():
    def function(x, gamma, beta, kernel, bias, training=False):
        y = kernels.layer_norm(x, gamma, beta, 0.1, training)
        return kernels.dense(y, Linear(kernel, bias), training) + 2 * y[..., :6]

    inputs = [tf.constant(value) for value in FUNCTIONS["layer_norm, dense"][1]]
    expected = value_and_gradients(function, inputs, False)
    for value, other in zip(value_and_gradients(function, inputs, True), expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-5)


def test_nothing_is_remembered_of_tensors_that_are_gone():
    from keras_mae.layers.kernels import by_hand

    before = len(by_hand._origins)
    y = kernels.layer_norm(tf.constant(X), tf.ones(8), tf.zeros(8), 0.1, training=True)
    assert len(by_hand._origins) == before + 1
    del y
    assert len(by_hand._origins) == before


@pytest.mark.slow
@pytest.mark.jax
@pytest.mark.parametrize("form", ["self", "masked", "last block", "cross"])
def test_flash_attention_of_odd_lengths_has_the_plain_ones_numbers(form):
    """cuDNN takes even lengths only; XLA takes the same arguments, without a GPU."""
    jax = pytest.importorskip("jax")
    from keras_mae.layers.kernels import flash

    tokens, width, heads, first = 13, 32, 2, 0
    projected, mask = [normal(3, tokens, 3 * width)], None
    if form == "masked":
        mask = (np.arange(tokens) < 4)[None] | np.eye(tokens, dtype=bool)
        mask = mask[None, None]
    elif form == "last block":
        first = 4
    elif form == "cross":
        projected = [normal(3, 9, width), normal(3, 5, 2 * width)]
    upstream = normal(3, projected[0].shape[1] - first, width)

    def by_hand(projected):
        """Plain attention in jax.numpy."""
        np_ = jax.numpy
        parts = [np_.split(x, c, -1) for x, c in zip(projected, (1, 2), strict=False)]
        q, k, v = sum(parts, []) if form == "cross" else np_.split(projected[0], 3, -1)
        q, k, v = (x.reshape(3, -1, heads, width // heads).swapaxes(1, 2) for x in (q, k, v))
        scores = q[:, :, first:] @ k.swapaxes(2, 3) / np.sqrt(width // heads)
        if mask is not None:
            scores = np_.where(mask[..., first:, :], scores, -1e30)
        return (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(3, -1, width)

    def padded(projected):
        return flash.attention(projected, heads, mask, first, implementation="xla")

    found = []
    for function in (by_hand, padded):
        value, gradient = jax.vjp(function, [jax.numpy.asarray(x) for x in projected])
        found.append([value, *gradient(jax.numpy.asarray(upstream))[0]])
    for expected, got in zip(*found, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
