"""The masked autoencoder of He et al. 2021 (arXiv:2111.06377), from pixels to loss.

    python examples/mae_in_100_lines.py

Read it beside section 3 of the paper. It is written with `keras.ops` alone and takes nothing from
the library but its digits. `keras_mae.MaskedAutoencoder` computes the same loss, faster. In 12
epochs the loss falls from .47 to .27; a predictor of the mean patch of each position has .32.

Shapes: B images of H x W x C pixels, N patches of P values, K of them visible, width D.
"""

import keras
import numpy as np
from keras import ops


def patchify(images, size):
    """Cut images `(B, H, W, C)` into patches `(B, N, P)`, row by row."""
    _, height, width, channels = images.shape
    x = ops.reshape(images, (-1, height // size, size, width // size, size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, (height // size) * (width // size), size * size * channels))


def positions(rows, columns, dim):
    """Return the fixed table `(1, N, D)`: sines and cosines of the column, then of the row."""
    frequencies = 10000.0 ** -(np.arange(dim // 4) / (dim / 4))
    row, column = np.divmod(np.arange(rows * columns), columns)
    angles = [np.outer(column, frequencies), np.outer(row, frequencies)]
    table = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1)
    return ops.convert_to_tensor(table[None], "float32")


def take(tokens, ids):
    """Pick tokens `(B, N, D)` by index `(B, K)`."""
    return ops.take_along_axis(tokens, ids[:, :, None], axis=1)


class MAE(keras.Model):
    """Call it on images `(B, H, W, C)`: it returns each image's loss, `(B,)`.

    `grid` is (rows, columns) of patches; `encoder` and `decoder` are (width, blocks, heads).
    """

    def __init__(self, grid, channels, patch_size, encoder, decoder, mask_ratio=0.75):
        super().__init__()
        self.grid, self.patch_size, self.mask_ratio = grid, patch_size, mask_ratio
        self.parts = {"encoder": encoder, "decoder": decoder}
        self.seed_generator = keras.random.SeedGenerator(0)
        self.w, patch_dim = {}, patch_size * patch_size * channels
        token = keras.initializers.RandomNormal(stddev=0.02)
        self.w["encoder.class_token"] = self.add_weight((1, 1, encoder[0]), token)
        self.w["decoder.mask_token"] = self.add_weight((1, 1, decoder[0]), token)
        self.add_linear("encoder.patch_embedding.projection", patch_dim, encoder[0])
        self.add_linear("decoder.projection", encoder[0], decoder[0])
        self.add_linear("decoder.prediction", decoder[0], patch_dim)
        for part, (dim, num_blocks, _) in self.parts.items():
            for block in [f"{part}.blocks.{i}" for i in range(num_blocks)]:
                self.add_norm(f"{block}.attention_norm", dim)
                self.add_linear(f"{block}.attention.query_key_value", dim, 3 * dim)
                self.add_linear(f"{block}.attention.output_projection", dim, dim)
                self.add_norm(f"{block}.mlp_norm", dim)
                self.add_linear(f"{block}.mlp.hidden", dim, 4 * dim)
                self.add_linear(f"{block}.mlp.output_projection", 4 * dim, dim)
            self.add_norm(f"{part}.norm", dim)

    def add_linear(self, name, inputs, outputs):
        self.w[f"{name}.kernel"] = self.add_weight((inputs, outputs), "glorot_uniform")
        self.w[f"{name}.bias"] = self.add_weight((outputs,), "zeros")

    def add_norm(self, name, dim):
        self.w[f"{name}.gamma"] = self.add_weight((dim,), "ones")
        self.w[f"{name}.beta"] = self.add_weight((dim,), "zeros")

    def linear(self, name, x):
        return ops.matmul(x, self.w[f"{name}.kernel"]) + self.w[f"{name}.bias"]

    def norm(self, name, x):
        mean, variance = ops.moments(x, axes=-1, keepdims=True)
        x = (x - mean) / ops.sqrt(variance + 1e-6)
        return x * self.w[f"{name}.gamma"] + self.w[f"{name}.beta"]

    def attention(self, name, x, heads):
        _, length, dim = x.shape
        x = self.linear(f"{name}.query_key_value", x)
        x = ops.reshape(x, (-1, length, 3, heads, dim // heads))
        query, key, value = ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), 3)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / (dim // heads) ** 0.5
        x = ops.matmul(ops.softmax(scores, axis=-1), value)  # (B, heads, length, D / heads)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, length, dim))
        return self.linear(f"{name}.output_projection", x)

    def mlp(self, name, x):
        hidden = ops.gelu(self.linear(f"{name}.hidden", x), approximate=False)
        return self.linear(f"{name}.output_projection", hidden)

    def transformer(self, part, x):
        _, num_blocks, heads = self.parts[part]
        for b in [f"{part}.blocks.{i}" for i in range(num_blocks)]:
            x = x + self.attention(f"{b}.attention", self.norm(f"{b}.attention_norm", x), heads)
            x = x + self.mlp(f"{b}.mlp", self.norm(f"{b}.mlp_norm", x))
        return self.norm(f"{part}.norm", x)

    def call(self, images, noise=None):
        patches = patchify(images, self.patch_size)
        batch, num_patches, patch_dim = ops.shape(images)[0], *patches.shape[1:]
        if noise is None:
            noise = keras.random.uniform((batch, num_patches), seed=self.seed_generator)
        # Keep the K patches of the lowest noise.
        num_keep = int(num_patches * (1 - self.mask_ratio))
        order = ops.argsort(noise, axis=1)
        keep, hide = order[:, :num_keep], order[:, num_keep:]

        # The encoder sees the class token, whose position is 0, and the visible patches.
        x = self.linear("encoder.patch_embedding.projection", take(patches, keep))
        x = x + take(positions(*self.grid, x.shape[-1]), keep)
        token = ops.broadcast_to(self.w["encoder.class_token"], (batch, 1, x.shape[-1]))
        x = self.transformer("encoder", ops.concatenate([token, x], axis=1))

        # The decoder sees all patches in the image's order, a mask token for each hidden one.
        x = self.linear("decoder.projection", x)
        masks = ops.broadcast_to(self.w["decoder.mask_token"], (batch, hide.shape[1], x.shape[-1]))
        tokens = take(ops.concatenate([x[:, 1:], masks], axis=1), ops.argsort(order, axis=1))
        x = ops.concatenate([x[:, :1], tokens + positions(*self.grid, x.shape[-1])], axis=1)
        prediction = self.linear("decoder.prediction", self.transformer("decoder", x)[:, 1:])

        # The target is each patch with mean 0 and deviation 1. Only hidden patches count.
        target = patches - ops.mean(patches, axis=-1, keepdims=True)
        variance = ops.sum(target**2, axis=-1, keepdims=True) / (patch_dim - 1)
        errors = ops.mean((prediction - target / ops.sqrt(variance + 1e-6)) ** 2, axis=-1)
        return ops.mean(ops.take_along_axis(errors, hide, axis=1), axis=1)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(y_pred)  # what `call` returned


def main(epochs=12, count=4000):
    from keras_mae.data import load_source

    digits = load_source("mnist5k").split()[0]
    images = (digits.images[digits.indices[:count]] / 255.0 - digits.mean) / digits.std
    mae = MAE(grid=(7, 7), channels=1, patch_size=4, encoder=(96, 4, 3), decoder=(64, 2, 4))
    mae.compile(keras.optimizers.AdamW(2e-3, weight_decay=0.05, beta_2=0.95))
    return mae.fit(images.astype("float32"), batch_size=64, epochs=epochs, verbose=2)


if __name__ == "__main__":
    main()
