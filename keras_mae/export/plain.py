"""The forward pass written out in plain TensorFlow operations, for converters to other formats.

Runtimes know a GELU, a layer normalisation or an attention by the pattern of their operations, and
the patterns that Keras leaves are others: traced from the Keras model, none is fused. Here they
are written as ONNX Runtime and LiteRT look for them. Numbers stay the model's to rounding, and
every export is compared with the Keras model after it is written, so the two cannot drift apart.
"""

import math

import numpy as np
import tensorflow as tf

from keras_mae.models.weights import get_weights


def plain_function(model, batch_size=None):
    """Return a model's forward pass as a `tf.function` whose weights are constants.

    Nothing in it depends on the batch's size but the `-1` of reshapes: no tiled class token, which
    would keep the size it was traced with.

    Args:
        model: `ViTEncoder` or `ViTClassifier`, computing in float32.
        batch_size: int; None for any.
    Returns:
        `tf.function` of `images`, float32 `(batch_size, H, W, C)`, pixels 0-255: they are
        normalised by the patch embedding, whose weights take the mean and deviation in. It gives
        what `keras_mae.export.card.model_outputs` gives.
    """
    encoder = getattr(model, "encoder", model)
    weights = get_weights(model)
    outputs = _Forward(encoder, weights, batch_size)
    if model is not encoder:
        outputs = _with_head(outputs, model, weights)
    spec = _images_spec(encoder, batch_size)
    return tf.function(outputs, input_signature=[spec], autograph=False)


def function_of_weights(model):
    """Return the forward pass as a function of the images and the weights.

    For converters that copy constants again and again: tf2onnx takes 20 GB for ViT-B/16's.

    Args:
        model: see `plain_function`.
    Returns:
        `(function, weights)`: a `tf.function` of `images`, `weight_0`, `weight_1`, ..., for batches
        of any size, and a dict of float32 arrays, such as "weight_0", to call it with.
    """
    encoder, weights = getattr(model, "encoder", model), get_weights(model)
    forward = outputs = _Forward(encoder, weights, None)
    if model is not encoder:
        outputs = _with_head(forward, model, weights)
    # One run notes which arrays are used, in which order; the graph then takes them in that order.
    forward.noted = []
    outputs(tf.zeros((1, *encoder.image_size, encoder.channels)))
    arrays = {f"weight_{i}": np.asarray(v, "float32") for i, v in enumerate(forward.noted)}

    def function(images, *tensors):
        forward.given = iter(tensors)
        return outputs(images)

    specs = [tf.TensorSpec(array.shape, tf.float32, name) for name, array in arrays.items()]
    specs = [_images_spec(encoder, None), *specs]
    return tf.function(function, input_signature=specs, autograph=False), arrays


def _images_spec(encoder, batch_size):
    shape = (batch_size, *encoder.image_size, encoder.channels)
    return tf.TensorSpec(shape, tf.float32, "images")


class _Forward:
    """The encoder, images to a dict of outputs; also each of the last blocks' tokens, a list."""

    def __init__(self, encoder, weights, batch_size):
        self.encoder, self.weights = encoder, weights
        self.batch = -1 if batch_size is None else batch_size
        self.noted, self.given = [], None

    def __call__(self, images):
        return self.outputs(self.blocks_tokens(images, 1)[-1])

    @staticmethod
    def outputs(tokens):
        pooled = tf.reduce_mean(tokens[:, 1:], axis=1)
        return {"tokens": tokens, "cls": tokens[:, 0], "pooled": pooled}

    def blocks_tokens(self, images, last_blocks):
        # The scopes name what a quantizer's report speaks of.
        with tf.name_scope("patch_embedding"):
            tokens = self.embed(images)
        found = []
        for i in range(self.encoder.num_layers):
            with tf.name_scope(f"block_{i}"):
                tokens = self.block(tokens, f"encoder.blocks.{i}")
            if i >= self.encoder.num_layers - last_blocks:
                normed = self.encoder.final_norm
                found.append(self.norm(tokens, "encoder.norm") if normed else tokens)
        return found

    def tensor(self, value):
        """Return an array as a constant, or what was given in its place."""
        if self.given is not None:
            return next(self.given)
        self.noted.append(value)
        return tf.constant(value)

    def embed(self, images):
        """Cut `(B, H, W, C)` into patches, project them, add class token and positions."""
        encoder = self.encoder
        (p, q), (rows, columns), channels = encoder.patch_size, encoder.grid_size, encoder.channels
        x = tf.reshape(images, (self.batch, rows, p, columns, q * channels))
        x = tf.transpose(x, (0, 1, 3, 2, 4))
        x = tf.reshape(x, (self.batch, rows * columns, p * q * channels))
        kernel, bias = normalising_projection(encoder, self.weights)
        x = tf.matmul(x, self.tensor(kernel)) + self.tensor(bias)
        table = self.weights["encoder.positions.table"].copy()
        table[0] += self.weights["encoder.class_token"][0, 0]
        # A token of zeros, to which the table adds the class token.
        return tf.pad(x, ((0, 0), (1, 0), (0, 0))) + self.tensor(table[None])

    def block(self, x, name):
        # The new branch comes first in the sum: that is where a search for attention begins.
        with tf.name_scope("attention"):
            x = self.attention(self.norm(x, f"{name}.attention_norm"), f"{name}.attention") + x
        with tf.name_scope("mlp"):
            y = self.linear(self.norm(x, f"{name}.mlp_norm"), f"{name}.mlp.hidden")
            y = 0.5 * y * (1.0 + tf.math.erf(y / math.sqrt(2)))
            return self.linear(y, f"{name}.mlp.output_projection") + x

    def attention(self, x, name):
        # Three projections: fused attention operators want queries, keys and values apart.
        kernels = np.split(self.weights[f"{name}.query_key_value.kernel"], 3, axis=1)
        biases = np.split(self.weights[f"{name}.query_key_value.bias"], 3)
        query, key, value = (
            self.heads(tf.matmul(x, self.tensor(kernel)) + self.tensor(bias))
            for kernel, bias in zip(kernels, biases, strict=True)
        )
        scores = tf.matmul(query, tf.transpose(key, (0, 1, 3, 2)))
        scale = math.sqrt(self.encoder.hidden_dim // self.encoder.num_heads)
        x = tf.matmul(tf.nn.softmax(scores / scale), value)
        x = tf.transpose(x, (0, 2, 1, 3))
        x = tf.reshape(x, (self.batch, 1 + self.encoder.num_patches, self.encoder.hidden_dim))
        return self.linear(x, f"{name}.output_projection")

    def heads(self, x):
        """Split `(B, T, D)` into `(B, heads, T, D / heads)`."""
        heads = self.encoder.num_heads
        shape = (self.batch, 1 + self.encoder.num_patches, heads, self.encoder.hidden_dim // heads)
        return tf.transpose(tf.reshape(x, shape), (0, 2, 1, 3))

    def linear(self, x, name):
        kernel, bias = self.weights[f"{name}.kernel"], self.weights[f"{name}.bias"]
        return tf.matmul(x, self.tensor(kernel)) + self.tensor(bias)

    def norm(self, x, name):
        with tf.name_scope("norm"):
            return self._norm(x, name)

    def _norm(self, x, name):
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.pow(centred, 2.0), axis=-1, keepdims=True)
        scaled = centred / tf.sqrt(variance + self.encoder.norm_epsilon)
        gamma, beta = self.weights[f"{name}.gamma"], self.weights[f"{name}.beta"]
        return scaled * self.tensor(gamma) + self.tensor(beta)


def _with_head(forward, classifier, weights):
    """Return the classifier's forward pass."""
    kernel, bias = weights["head.kernel"], weights["head.bias"]
    if classifier.head_norm == "batch":  # It is affine: the linear layer takes it in.
        scale = 1 / np.sqrt(
            weights["feature_norm.moving_variance"] + classifier.feature_norm.epsilon
        )
        mean = weights["feature_norm.moving_mean"]

    def outputs(images):
        each = [forward.outputs(t) for t in forward.blocks_tokens(images, classifier.pooled_blocks)]
        found = each[-1]
        names = {"token": ["cls"], "mean": ["pooled"], "both": ["cls", "pooled"]}
        parts = [block[name] for name in names[classifier.pooling] for block in each]
        pooled = tf.concat(parts, axis=-1)
        if classifier.head_norm == "batch":
            pooled = (pooled - forward.tensor(mean)) * forward.tensor(scale)
        elif classifier.head_norm == "layer":
            pooled = forward.norm(pooled, "feature_norm")
        logits = tf.matmul(pooled, forward.tensor(kernel)) + forward.tensor(bias)
        found.update(pooled=pooled, logits=logits, probabilities=tf.nn.softmax(logits))
        return found

    return outputs


def normalising_projection(encoder, weights):
    """Return the patch projection for pixels 0-255 instead of normalised ones.

    Eight bits hold pixels exactly; normalised inside the graph, they would be rounded twice more.

    Args:
        encoder: `ViTEncoder`, for its mean and deviation.
        weights: see `keras_mae.models.weights.get_weights`.
    Returns:
        float32 `(kernel, bias)`, `(P, D)` and `(D,)`.
    """
    kernel = weights["encoder.patch_embedding.projection.kernel"].astype("float64")
    bias = weights["encoder.patch_embedding.projection.bias"].astype("float64")
    # A patch's values have the channel last.
    repeats = len(kernel) // encoder.channels
    mean, std = np.tile(encoder.mean, repeats), np.tile(encoder.std, repeats)
    bias = bias - (mean / std) @ kernel
    return (kernel / (255 * std)[:, None]).astype("float32"), bias.astype("float32")
