"""A format from outside the library: a file of NumPy arrays, and the forward pass in NumPy."""

import math

import numpy as np

from keras_mae.export import Format, Option, Written


class Runner:
    """Images to outputs in float64, by nothing but NumPy."""

    batch_size = None

    def __init__(self, path):
        with np.load(path) as file:
            self.weights = {name: file[name].astype("float64") for name in file}

    def linear(self, x, name):
        return x @ self.weights[f"{name}.kernel"] + self.weights[f"{name}.bias"]

    def norm(self, x, name):
        variance = x.var(axis=-1, keepdims=True)
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + self.weights["epsilon"])
        return x * self.weights[f"{name}.gamma"] + self.weights[f"{name}.beta"]

    def attention(self, x, name):
        batch, tokens, width = x.shape
        heads = int(self.weights["heads"])
        x = self.linear(x, f"{name}.query_key_value")
        x = x.reshape(batch, tokens, 3, heads, -1).transpose(2, 0, 3, 1, 4)
        scores = np.exp(x[0] @ x[1].swapaxes(-1, -2) / math.sqrt(width / heads))
        x = scores / scores.sum(axis=-1, keepdims=True) @ x[2]
        return self.linear(x.swapaxes(1, 2).reshape(batch, tokens, width), f"{name}.out")

    def __call__(self, images):
        weights = self.weights
        x = (images / 255 - weights["mean"]) / weights["std"]
        batch, height, width, channels = x.shape
        (p, q), positions = weights["patch"].astype(int), weights["encoder.positions.table"]
        x = x.reshape(batch, height // p, p, width // q, q, channels).transpose(0, 1, 3, 2, 4, 5)
        x = self.linear(
            x.reshape(batch, -1, p * q * channels), "encoder.patch_embedding.projection"
        )
        cls = np.repeat(weights["encoder.class_token"], batch, axis=0)
        x = np.concatenate([cls, x], axis=1) + positions
        for i in range(int(weights["layers"])):
            name = f"encoder.blocks.{i}"
            x = x + self.attention(self.norm(x, f"{name}.attention_norm"), f"{name}.attention")
            y = self.linear(self.norm(x, f"{name}.mlp_norm"), f"{name}.mlp.hidden")
            y = y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2
            x = x + self.linear(y, f"{name}.mlp.out")
        x = self.norm(x, "encoder.norm")
        return {"tokens": x, "cls": x[:, 0], "pooled": x[:, 1:].mean(axis=1)}


class NumpyZip(Format):
    """Weights of an encoder in one `.npz`."""

    OPTIONS = (Option("bits", int, 32, "bits of a weight.", choices=(16, 32)),)
    BOUNDS = {"float32": {"difference": 2e-5}, "float16": {"difference": 1e-2}}
    Runner = Runner

    def write(self, source, directory, images):
        from keras_mae.models.weights import get_weights

        encoder, precision = source.encoder, f"float{self.bits}"
        arrays = {
            name.replace("output_projection", "out"): value.astype(precision)
            for name, value in get_weights(source.model).items()
        }
        arrays.update(
            mean=encoder.mean,
            std=encoder.std,
            patch=encoder.patch_size,
            heads=encoder.num_heads,
            layers=encoder.num_layers,
            epsilon=encoder.norm_epsilon,
        )
        directory.mkdir()
        np.savez_compressed(directory / "weights.npz", **arrays)
        return Written("weights.npz", precision, {}, {"bits": self.bits})
