"""Gradients written by hand, for CPUs.

Automatic differentiation keeps every intermediate tensor, and on CPUs TensorFlow goes over memory
once for each operation: together these took as long as the matrix products. Here a part keeps its
inputs only, works the rest out again for its gradient, and is one loop that XLA compiles, whether
or not the step around it is compiled. The numbers are those of the plain formulas, but for
rounding.
"""

import functools
import math
import weakref

import keras
from keras import ops

from keras_mae.layers.kernels import plain
from keras_mae.types import Tensor

# What normalised tensors were made of, by their ids, for as long as they exist.
_origins: dict = {}


def layer_norm(x, gamma, beta, epsilon):
    weights = [_tensor(weight) for weight in (gamma, beta)]
    normalized = _layer_norm_by_hand(epsilon)(x, *weights)
    _origins[id(normalized)] = (x, *weights, epsilon)
    weakref.finalize(normalized, _origins.pop, id(normalized), None)
    return normalized


def dense(x, layer):
    """Keep what `x` was normalised from, if it was, instead of `x`.

    The normalisation then is part of this kernel, and no other use of its result is left for the
    compiler to compute.
    """
    if id(x) not in _origins:
        return layer(x)
    x, gamma, beta, epsilon = _origins[id(x)]
    weights = map(_tensor, (layer.kernel, layer.bias))
    return _layer_norm_dense_by_hand(epsilon)(x, gamma, beta, *weights)


def gelu(x):
    return _gelu_by_hand(x)


def gelu_dense(x, layer):
    return _gelu_dense_by_hand(x, *map(_tensor, (layer.kernel, layer.bias)))


def attention(
    projected: list[Tensor], num_heads: int, attention_mask: Tensor | None, first_query: int
) -> Tensor:
    return plain.attention(projected, num_heads, attention_mask, first_query, _attend)


def _attend(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None) -> Tensor:
    return _attend_by_hand(attention_mask)(query, key, value)


def _tensor(variable):
    """Return a variable as a tensor: TensorFlow wants gradients by hand to be of no variables.

    What Keras converts may be the variable still; what it reshapes is not.
    """
    return ops.reshape(variable, variable.shape)


def _compiled(function):
    """Let XLA compile a pointwise function to one loop, on TensorFlow; others do so by themselves.

    Shapes and dtypes are the key of what has been compiled: `tf.function` itself would warn that it
    is traced often, as it is where many models are made.
    """
    if keras.backend.backend() != "tensorflow":
        return function

    @functools.cache
    def traced(*signature):
        import tensorflow as tf

        specs = [tf.TensorSpec(shape, dtype) for shape, dtype in signature]
        with tf.init_scope():
            compiled = tf.function(function, jit_compile=True, autograph=False)
            return compiled.get_concrete_function(*specs)

    @functools.wraps(function)
    def call(*tensors):
        tensors = [ops.convert_to_tensor(tensor) for tensor in tensors]
        return traced(*((tuple(t.shape), t.dtype) for t in tensors))(*tensors)

    return call


@_compiled
def _gelu_forward(x):
    return ops.cast(plain.gelu(ops.cast(x, "float32")), x.dtype)


@_compiled
def _gelu_backward(x, upstream):
    """Return the gradient, and GELU itself once more."""
    x32, upstream32 = ops.cast(x, "float32"), ops.cast(upstream, "float32")
    cumulative = 0.5 * (1 + ops.erf(x32 * math.sqrt(0.5)))
    density = ops.exp(-0.5 * x32 * x32) * (2 * math.pi) ** -0.5
    dx = upstream32 * (cumulative + x32 * density)
    return ops.cast(dx, x.dtype), ops.cast(x32 * cumulative, x.dtype)


@ops.custom_gradient
def _gelu_by_hand(x):
    def gradient(*upstream):
        dx, _ = _gelu_backward(x, upstream[0])
        return dx

    return _gelu_forward(x), gradient


@ops.custom_gradient
def _gelu_dense_by_hand(x, kernel, bias):
    def gradient(*upstream):
        (upstream,) = upstream
        dx, y = _gelu_backward(x, ops.matmul(upstream, ops.transpose(kernel)))
        return dx, *_dense_gradients(y, upstream)

    return ops.add(ops.matmul(_gelu_forward(x), kernel), bias), gradient


def _dense_gradients(x, upstream):
    """Return the gradients of a linear layer's kernel and bias, of its input and its output's."""
    x, upstream = (ops.reshape(t, (-1, t.shape[-1])) for t in (x, upstream))
    return ops.matmul(ops.transpose(x), upstream), ops.sum(upstream, axis=0)


def _normalised(x, epsilon):
    x = ops.cast(x, "float32")
    centred = x - ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
    inverse = ops.rsqrt(variance + epsilon)
    return centred * inverse, inverse


@functools.cache
def _layer_norm_kernels(epsilon):
    """Return the forward and the backward loop."""

    def scaled_and_shifted(y, gamma, beta):
        return y * ops.cast(gamma, "float32") + ops.cast(beta, "float32")

    @_compiled
    def forward(x, gamma, beta):
        y, _ = _normalised(x, epsilon)
        return ops.cast(scaled_and_shifted(y, gamma, beta), x.dtype)

    @_compiled
    def backward(x, gamma, beta, upstream):
        """Return the gradients, and the output once more."""
        y, inverse = _normalised(x, epsilon)
        upstream = ops.cast(upstream, "float32")
        rows = tuple(range(len(upstream.shape) - 1))
        scaled = upstream * ops.cast(gamma, "float32")
        along = ops.mean(scaled * y, axis=-1, keepdims=True)
        dx = inverse * (scaled - ops.mean(scaled, axis=-1, keepdims=True) - y * along)
        dgamma, dbeta = ops.sum(upstream * y, axis=rows), ops.sum(upstream, axis=rows)
        gradients = [ops.cast(g, t.dtype) for g, t in ((dx, x), (dgamma, gamma), (dbeta, beta))]
        return *gradients, ops.cast(scaled_and_shifted(y, gamma, beta), x.dtype)

    return forward, backward


@functools.cache
def _layer_norm_by_hand(epsilon):
    forward, backward = _layer_norm_kernels(epsilon)

    @ops.custom_gradient
    def by_hand(x, gamma, beta):
        def gradient(*upstream):
            *gradients, _ = backward(x, gamma, beta, upstream[0])
            return gradients

        return forward(x, gamma, beta), gradient

    return by_hand


@functools.cache
def _layer_norm_dense_by_hand(epsilon):
    forward, backward = _layer_norm_kernels(epsilon)

    @ops.custom_gradient
    def by_hand(x, gamma, beta, kernel, bias):
        def gradient(*upstream):
            (upstream,) = upstream
            dy = ops.matmul(upstream, ops.transpose(kernel))
            *gradients, y = backward(x, gamma, beta, dy)
            return *gradients, *_dense_gradients(y, upstream)

        return ops.add(ops.matmul(forward(x, gamma, beta), kernel), bias), gradient

    return by_hand


@_compiled
def _softmax_gradient(weights, upstream):
    weights32, upstream = ops.cast(weights, "float32"), ops.cast(upstream, "float32")
    along = ops.sum(weights32 * upstream, axis=-1, keepdims=True)
    return ops.cast(weights32 * (upstream - along), weights.dtype)


def _later(upstream, *tensors):
    """Return tensors that are there once `upstream` is.

    Without this dependency TensorFlow merges the recomputation with the forward value, which is
    then kept.
    """
    if keras.backend.backend() != "tensorflow":
        return tensors
    import tensorflow as tf

    with tf.control_dependencies([upstream]):
        return [tf.identity(tensor) for tensor in tensors]


def _attend_by_hand(attention_mask):
    @ops.custom_gradient
    def by_hand(query, key, value):
        def gradient(*upstream):
            (upstream,) = upstream
            weights = plain.attention_weights(*_later(upstream, query, key), attention_mask)
            dvalue = ops.matmul(ops.transpose(weights, (0, 1, 3, 2)), upstream)
            dweights = ops.matmul(upstream, ops.transpose(value, (0, 1, 3, 2)))
            dscores = _softmax_gradient(weights, dweights)
            dquery = plain.scaled(ops.matmul(dscores, key))
            dkey = ops.matmul(ops.transpose(dscores, (0, 1, 3, 2)), plain.scaled(query))
            return dquery, dkey, dvalue

        return ops.matmul(plain.attention_weights(query, key, attention_mask), value), gradient

    return by_hand
