"""The forward pass written out in plain TensorFlow operations, for converters to other formats.

Runtimes know a GELU, a layer normalisation or an attention by the pattern of its operations. Keras
leaves other patterns: traced from the Keras model, none is fused. Here they are written as ONNX
Runtime and LiteRT look for them. Every export is compared with the Keras model after it is
written, so the two cannot drift apart.
"""

import math

import numpy as np
import tensorflow as tf

from keras_mae.export.compare import SUPPRESSION
from keras_mae.layers.boxes import best_boxes, decode
from keras_mae.layers.feature_pyramid import part_of
from keras_mae.layers.pooling import EPSILON, grid_shares
from keras_mae.layers.transformer import NORM_EPSILON
from keras_mae.models.detector import ViTDetector
from keras_mae.models.segmenter import ViTSegmenter
from keras_mae.models.weights import get_weights
from keras_mae.pixels import deviation_and_offset, subtract_low
from keras_mae.poolings import grid_cells


def plain_function(model, batch_size=None):
    """Return a model's forward pass as a `tf.function` whose weights are constants.

    Nothing in it depends on the batch's size but the `-1` of reshapes: no tiled class token, which
    would keep the size it was traced with.

    Args:
        model: `ViTEncoder`, or a model with a head or a pooling, of the `KINDS` of
            `keras_mae.export.source`, computing in float32.
        batch_size: int; None for any.
    Returns:
        `tf.function` of `images`, float32 `(batch_size, H, W, C)`, in the model's value range: they
        are normalised by the patch embedding, whose weights take the mean and deviation in. It
        gives what `keras_mae.export.source.model_outputs` gives.
    """
    forward = _Forward(model, batch_size)
    return tf.function(forward, input_signature=[forward.images], autograph=False)


def function_of_weights(model):
    """Return the forward pass as a function of the images and the weights.

    For converters that copy constants again and again: tf2onnx takes 20 GB for ViT-B/16's.

    Args:
        model: see `plain_function`.
    Returns:
        `(function, weights)`: a `tf.function` of `images`, `weight_0`, `weight_1`, ..., for batches
        of any size, and a dict of float32 arrays, such as "weight_0", to call it with.
    """
    forward, used = _Forward(model, None), []

    def note(array):
        used.append(np.asarray(array, "float32"))
        return tf.constant(array)

    def function(images, *tensors):
        remaining = iter(tensors)
        forward.tensor = lambda _: next(remaining)
        return forward(images)

    # One run notes which arrays are used, in which order; the graph then takes them in that order.
    forward.tensor = note
    forward(tf.zeros((1, *forward.images.shape[1:])))
    weights = {f"weight_{i}": array for i, array in enumerate(used)}
    specs = [tf.TensorSpec(array.shape, tf.float32, name) for name, array in weights.items()]
    return tf.function(function, input_signature=[forward.images, *specs], autograph=False), weights


class _Forward:
    """Pixels to a dict of outputs.

    Attributes:
        images: `tf.TensorSpec` of its argument: values of the model's range.
        tensor: function from an array of weights to the tensor that stands for it.
        shared: dict of those of one pass that stand at several places, by their names.
    """

    def __init__(self, model, batch_size):
        self.model, self.encoder = model, getattr(model, "encoder", model)
        self.weights, self.tensor = get_weights(model), tf.constant
        self.shared = {}
        self.batch = -1 if batch_size is None else batch_size
        shape = (batch_size, *self.encoder.image_size, self.encoder.channels)
        self.images = tf.TensorSpec(shape, tf.float32, "images")

    def __call__(self, images):
        self.shared = {}
        tokens = self.pooled_blocks(images)
        if isinstance(self.model, ViTSegmenter):
            return self.segmentation(tokens)
        if isinstance(self.model, ViTDetector):
            return self.detection(tokens[-1])
        count = self.encoder.num_class_tokens
        blocks = [features(one, count) for one in tokens]
        outputs = blocks[-1]
        if self.model is self.encoder:
            return outputs
        if not hasattr(self.model, "head"):
            return {**outputs, "pooled": self.pooled(blocks)}
        return {**outputs, **self.head(blocks)}

    def pooled_blocks(self, images):
        """Return the tokens `(B, T + N, D)` of each of the last blocks that the model pools."""
        encoder, found = self.encoder, []
        # The scopes name what a quantizer's report speaks of.
        with tf.name_scope("patch_embedding"):
            tokens = self.embed(images)
        for i in range(encoder.num_layers):
            with tf.name_scope(f"block_{i}"):
                tokens = self.block(tokens, f"encoder.blocks.{i}")
            if i >= encoder.num_layers - getattr(self.model, "pooled_blocks", 1):
                found.append(self.output(tokens))
        return found

    def embed(self, images):
        """Cut `(B, H, W, C)` into patches, project them, add class token and positions."""
        encoder = self.encoder
        (p, q), (rows, columns), channels = encoder.patch_size, encoder.grid_size, encoder.channels
        images = subtract_low(images, encoder.value_range)
        x = tf.reshape(images, (self.batch, rows, p, columns, q * channels))
        x = tf.transpose(x, (0, 1, 3, 2, 4))
        x = tf.reshape(x, (self.batch, rows * columns, p * q * channels))
        x = self.affine(x, *normalising_projection(encoder, self.weights))
        table, learned = self.weights["encoder.positions.table"], self.learned_tokens()
        learned[0] += table[0]
        # Tokens of zeros, to which the table adds class tokens and registers.
        table = np.concatenate([learned, table[1:]])
        x = tf.pad(x, ((0, 0), (len(learned), 0), (0, 0))) + self.tensor(table[None])
        return self.norm(x, "encoder.input_norm") if encoder.pre_norm else x

    def learned_tokens(self):
        """Return class tokens and registers, `(T + R, D)`."""
        names = ("encoder.class_token", "encoder.register_tokens")
        return np.concatenate([self.weights[name][0] for name in names if name in self.weights])

    def output(self, x):
        """Return a block's tokens as the encoder gives them."""
        encoder = self.encoder
        if encoder.num_registers:
            first = encoder.num_class_tokens
            last = first + encoder.num_registers
            x = tf.concat([x[:, :first], x[:, last:]], axis=1)
        return self.norm(x, "encoder.norm") if encoder.final_norm else x

    def block(self, x, name):
        # The new branch comes first in the sum: that is where a search for attention begins.
        with tf.name_scope("attention"):
            y = self.attention(self.norm(x, f"{name}.attention_norm"), f"{name}.attention")
            x = self.scaled(y, f"{name}.attention_scale") + x
        with tf.name_scope("mlp"):
            y = self.linear(self.norm(x, f"{name}.mlp_norm"), f"{name}.mlp.hidden")
            y = self.linear(self.gelu(y), f"{name}.mlp.output_projection")
            return self.scaled(y, f"{name}.mlp_scale") + x

    def scaled(self, x, name):
        gamma = self.weights.get(f"{name}.gamma")
        return x if gamma is None else x * self.tensor(gamma)

    def attention(self, x, name):
        tokens = len(self.learned_tokens()) + self.encoder.num_patches
        heads = self.encoder.num_heads
        width, head_width = self.encoder.hidden_dim, self.encoder.hidden_dim // heads
        # Three projections: fused attention operators want queries, keys and values apart.
        kernels = np.split(self.weights[f"{name}.query_key_value.kernel"], 3, axis=1)
        biases = np.split(self.weights[f"{name}.query_key_value.bias"], 3)
        query, key, value = (
            tf.transpose(
                tf.reshape(self.affine(x, *pair), (self.batch, tokens, heads, head_width)),
                (0, 2, 1, 3),
            )
            for pair in zip(kernels, biases, strict=True)
        )
        scores = tf.matmul(query, tf.transpose(key, (0, 1, 3, 2)))
        x = tf.matmul(tf.nn.softmax(scores / math.sqrt(head_width)), value)
        x = tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (self.batch, tokens, width))
        return self.linear(x, f"{name}.output_projection")

    def norm(self, x, name, epsilon=None):
        epsilon = self.encoder.norm_epsilon if epsilon is None else epsilon
        with tf.name_scope("norm"):
            centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
            variance = tf.reduce_mean(tf.pow(centred, 2.0), axis=-1, keepdims=True)
            scaled = centred / tf.sqrt(variance + epsilon)
            return scaled * self.once(f"{name}.gamma") + self.once(f"{name}.beta")

    def norm_of_map(self, x, name):
        """Normalise maps `(B, h, w, F)`, of pyramids and heads: their epsilon is their own."""
        # As rows: where maps are transposed for convolutions, ONNX Runtime finds no normalisation.
        _, rows, columns, width = x.shape
        x = self.norm(tf.reshape(x, (self.batch, rows * columns, width)), name, NORM_EPSILON)
        return tf.reshape(x, (self.batch, rows, columns, width))

    def linear(self, x, name):
        return self.affine(x, self.weights[f"{name}.kernel"], self.weights[f"{name}.bias"])

    def affine(self, x, kernel, bias):
        return tf.matmul(x, self.tensor(kernel)) + self.tensor(bias)

    def head(self, blocks):
        """Return a classifier's outputs of the `features` of the blocks that it pools."""
        model, weights = self.model, self.weights
        pooled = self.pooled(blocks)
        if model.head_norm == "batch":
            variance = weights["feature_norm.moving_variance"] + model.feature_norm.epsilon
            mean = self.tensor(weights["feature_norm.moving_mean"])
            pooled = (pooled - mean) * self.tensor(1 / np.sqrt(variance))
        elif model.head_norm == "layer":
            pooled = self.norm(pooled, "feature_norm")
        logits = self.linear(pooled, "head")
        probabilities = tf.sigmoid(logits) if model.multi_label else tf.nn.softmax(logits)
        return {"pooled": pooled, "logits": logits, "probabilities": probabilities}

    def pooled(self, blocks):
        """Return the vectors that a model makes of the `features` of the blocks that it pools."""
        model, count = self.model, self.encoder.num_class_tokens
        cells = grid_cells(model.pooling)
        if cells is not None:
            shares = self.tensor(grid_shares(cells, self.encoder.grid_size).T)
            patches = tf.concat([block["tokens"][:, count:] for block in blocks], axis=-1)
            means = tf.matmul(tf.transpose(patches, (0, 2, 1)), shares)
            means = tf.transpose(means, (0, 2, 1))
            pooled = tf.reshape(means, (self.batch, cells * cells * patches.shape[2]))
        else:
            names = {
                "token": ["cls"],
                "mean": ["pooled"],
                "both": ["cls", "pooled"],
                "mean_std": ["pooled", "deviation"],
            }
            blocks = [{**block, "deviation": deviation(block, count)} for block in blocks]
            parts = [block[name] for name in names[model.pooling] for block in blocks]
            pooled = tf.concat(parts, axis=-1)
        if model.whiten is not None:
            centred = pooled - self.tensor(self.weights["whitening.origin"])
            pooled = tf.matmul(centred, self.tensor(self.weights["whitening.kernel"]))
        return pooled

    def segmentation(self, blocks):
        """Return a segmenter's outputs of the tokens of the blocks that it looks at."""
        model = self.model
        x = self.patch_map(tf.concat(blocks, axis=-1))
        if model.pyramid is not None:
            first, *others = self.levels(x)
            x = first
            for level in others:
                x = x + resized(level, first.shape[1:3])
            x = self.convolution(x, "fusion")
            x = self.gelu(self.norm_of_map(x, "fusion_norm"))
        logits = resized(self.linear(x, "prediction"), self.encoder.image_size)
        label_map = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.uint8)
        return {"logits": logits, "label_map": label_map}

    def detection(self, tokens):
        """Return a detector's outputs of the last block's tokens."""
        model = self.model
        levels = self.levels(self.patch_map(tokens))
        offsets, logits = (
            tf.concat([self.head_of_level(level, head) for level in levels], axis=1)
            for head in (model.box_head, model.class_head)
        )
        boxes = decode(offsets, tf.constant(model.anchors), self.encoder.image_size)
        scores = tf.sigmoid(logits)
        with tf.name_scope(SUPPRESSION):
            found = best_boxes(boxes, scores, **model.suppression)
        return {**found, "candidate_boxes": boxes, "candidate_scores": scores}

    def head_of_level(self, x, head):
        """Return a `DetectionHead`'s outputs of one level, `(B, anchors of the level, O)`."""
        for i in range(head.num_layers):
            x = self.convolution(x, f"{head.name}.conv_{i}")
            x = self.gelu(self.norm_of_map(x, f"{head.name}.norm_{i}"))
        last = f"{head.name}.last"
        x = self.convolution(x, last) + self.once(f"{last}.bias")
        _, rows, columns, channels = x.shape
        anchors = rows * columns * channels // head.outputs
        return tf.reshape(x, (self.batch, anchors, head.outputs))

    def patch_map(self, tokens):
        """Return the patches' tokens in their places, `(B, h, w, D)`."""
        x = tokens[:, self.encoder.num_class_tokens :]
        return tf.reshape(x, (self.batch, *self.encoder.grid_size, x.shape[-1]))

    def levels(self, x):
        """Return the levels of the model's pyramid of a map `(B, h, w, D)`, the finest first."""
        found, scales = [], self.model.pyramid.scales
        for scale in scales:
            if scale < 0.5:
                half, step = found[scales.index(0.5)], int(0.5 / scale)
                found.append(half[:, ::step, ::step])
                continue
            name, level = part_of(scale), x
            if scale == 0.5:
                level = tf.nn.max_pool2d(x, 2, 2, "SAME")
            for i in range(int(math.log2(max(scale, 1)))):
                if i:
                    level = self.gelu(self.norm_of_map(level, f"pyramid.{name}_up_norm"))
                level = self.twice(level, f"pyramid.{name}_up_{i}")
            for kernel in (1, 3):
                level = self.convolution(level, f"pyramid.{name}_conv_{kernel}")
                level = self.norm_of_map(level, f"pyramid.{name}_norm_{kernel}")
            found.append(level)
        return found

    def convolution(self, x, name):
        return tf.nn.conv2d(x, self.once(f"{name}.kernel"), 1, "SAME")

    def once(self, name):
        """Return the tensor of weights that a pass may use again: it is written once."""
        if name not in self.shared:
            self.shared[name] = self.tensor(self.weights[name])
        return self.shared[name]

    def twice(self, x, name):
        """A transposed convolution of 2 x 2 with step 2, as a product: its outputs are apart."""
        kernel = self.weights[f"{name}.kernel"]  # (2, 2, out, in)
        product = np.transpose(kernel, (3, 0, 1, 2)).reshape(kernel.shape[3], -1)
        bias = np.tile(self.weights[f"{name}.bias"], 4)
        return tf.nn.depth_to_space(self.affine(x, product, bias), 2)

    def gelu(self, x):
        return 0.5 * x * (1.0 + tf.math.erf(x / math.sqrt(2)))


def resized(x, size):
    """Resize maps `(B, h, w, F)` bilinearly, as the segmenter does."""
    return x if tuple(x.shape[1:3]) == tuple(size) else tf.image.resize(x, size, "bilinear")


def features(tokens, num_class_tokens=1):
    """Return the outputs of an encoder for its tokens `(B, T + N, D)`, with T class tokens."""
    cls = tokens[:, 0]
    if num_class_tokens > 1:
        cls = tf.reduce_mean(tokens[:, :num_class_tokens], axis=1)
    pooled = tf.reduce_mean(tokens[:, num_class_tokens:], axis=1)
    return {"tokens": tokens, "cls": cls, "pooled": pooled}


def deviation(outputs, num_class_tokens=1):
    """Return the standard deviation `(B, D)` of the patches' tokens of `features`."""
    centred = outputs["tokens"][:, num_class_tokens:] - outputs["pooled"][:, None]
    return tf.sqrt(tf.reduce_mean(tf.pow(centred, 2.0), axis=1) + EPSILON)


def normalising_projection(encoder, weights):
    """Return the patch projection for `values - low` instead of normalised images.

    Integers are exact in float32; normalised inside the graph, they would be rounded twice more.

    Args:
        encoder: `ViTEncoder`, for its value range, mean and deviation.
        weights: see `keras_mae.models.weights.get_weights`.
    Returns:
        float32 `(kernel, bias)`, `(P, D)` and `(D,)`.
    """
    kernel = weights["encoder.patch_embedding.projection.kernel"].astype("float64")
    bias = weights["encoder.patch_embedding.projection.bias"].astype("float64")
    # A patch's values have the channel last.
    repeats = len(kernel) // encoder.channels
    deviation, offset = (
        np.tile(values, repeats)
        for values in deviation_and_offset(encoder.mean, encoder.std, encoder.value_range)
    )
    bias = bias + offset @ kernel
    return (kernel / deviation[:, None]).astype("float32"), bias.astype("float32")
