"""The vision transformer encoder: all patches of an image, or the visible ones only."""

import inspect
import math
from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_mae.layers.arguments import (
    check_dtype,
    check_layer_scale,
    check_positive_int,
    check_rate,
    grid_size,
    pair,
)
from keras_mae.layers.patches import PatchEmbedding, gather_tokens, patchify
from keras_mae.layers.positions import PositionTable
from keras_mae.layers.transformer import TransformerBlock, layer_norm, recomputed
from keras_mae.models.inputs import normalized
from keras_mae.models.openers import HUB_SCHEME, open_encoder, open_model
from keras_mae.models.weights import assign_weights, get_weights
from keras_mae.pixels import BYTE_RANGE, check_value_range
from keras_mae.presets import preset_config
from keras_mae.types import Shape, Size, Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def pixel_statistics(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return `(mean, std)` as tuples of one float a channel.

    Args:
        mean, std: sequences of `channels` floats, of pixels in [0, 1]; or None: ImageNet's for
            three channels, else .5 for each.
        channels: int.
    Raises:
        ValueError: if a length is not `channels`, or a deviation is not positive.
    """
    default = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels,) * 2
    statistics = []
    for name, value, fallback in (("mean", mean, default[0]), ("std", std, default[1])):
        try:
            values = tuple(float(v) for v in (fallback if value is None else value))
        except TypeError:  # one number, say
            values = ()
        if len(values) != channels or (name == "std" and min(values) <= 0):
            raise ValueError(
                f"`{name}` must hold one {'positive ' if name == 'std' else ''}number for each of "
                f"the {channels} channels. Received: {value}"
            )
        statistics.append(values)
    return statistics[0], statistics[1]


def check_width(hidden_dim: int, num_heads: int, prefix: str = "") -> None:
    """Raise a ValueError unless heads divide the width, and the width has a position table."""
    check_positive_int(hidden_dim, f"{prefix}hidden_dim")
    check_positive_int(num_heads, f"{prefix}num_heads")
    if hidden_dim % num_heads:
        raise ValueError(
            f"`{prefix}num_heads` must divide `{prefix}hidden_dim`, {hidden_dim}. "
            f"Received: {num_heads}"
        )
    if hidden_dim % 4:
        raise ValueError(
            f"`{prefix}hidden_dim` must be a multiple of 4, for the 2-D sine-cosine positions. "
            f"Received: {hidden_dim}"
        )


def check_last_blocks(count: object, num_layers: int, name: str) -> None:
    """Raise a ValueError unless `count` is a number of an encoder's blocks, at least 1."""
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= num_layers:
        raise ValueError(
            f"`{name}` must be an int from 1 to the encoder's {num_layers} blocks. "
            f"Received: {count!r}"
        )


@keras.saving.register_keras_serializable(package="keras_mae")
class ViTEncoder(keras.Model):
    """A vision transformer without a head: images to tokens.

    Without `keep_ids` the graph holds no mask and nothing random (drop path in training aside).

    Args:
        image_size: int or (H, W), multiples of the patch.
        channels: int C.
        patch_size: int or (p, q).
        hidden_dim: int D, a multiple of 4 and of `num_heads`.
        num_layers: int. Transformer blocks.
        num_heads: int. Attention heads of a block.
        mlp_dim: int. Hidden width of a block's MLP; None for `4 * hidden_dim`.
        drop_path: float in [0, 1). Rate of the last block; it grows linearly from 0 at the first.
        learned_positions: bool. Whether the table of positions, sine-cosine at first, is trained.
        final_norm: bool. Whether the tokens are normalised at the end; False for heads that
            normalise after pooling.
        norm_epsilon: float. Added to the variance by all LayerNorms: 1e-6 in the reference, 1e-12
            in most files of other libraries.
        mean, std: C floats each. Statistics of the pixels, in [0, 1], that the model's images are
            normalised with; kept in the config for heads, exports and figures. None: ImageNet's
            for three channels, else .5.
        value_range: (low, high), the values of the sensor that are mapped to 0 and 1. Like the
            statistics it changes nothing in the model: it says what exports take.
        layer_scale: float, what the factors of `LayerScale` in each block are at first; None for
            none.
        pre_norm: bool. Whether the tokens are normalised before the first block too.
        num_class_tokens: int T. Only the first one has a position.
        num_registers: int. Further learned tokens that take part in attention and are not returned.
        seed: int. Start of drop path's random numbers.
    Call arguments:
        images: float `(B, H, W, C)`, `((value - low) / (high - low) - mean) / std`; or, where the
            value range is 0 to 255, uint8, which is normalised here.
        keep_ids: int32 `(B, K)`: the patches to encode; None for all, in order.
        training: bool. Whether drop path is on.
        last_blocks: int n, 1 to `num_layers`. Tokens of so many last blocks are returned side by
            side, the last block's at the end.
        kept: bool `(B, R)`, as `draw` returns it: what drop path keeps; None: drawn.
    Returns:
        float `(B, T + N, n D)`, or `(B, T + K, n D)` in the order of `keep_ids`: the class tokens
        first, the final LayerNorm applied to each block's tokens if there is one.
    Raises:
        ValueError: naming the argument that does not fit; for images of another size or dtype.
    Reference: Dosovitskiy et al. 2020, arXiv:2010.11929; He et al. 2021, arXiv:2111.06377;
        registers: Darcet et al. 2023, arXiv:2309.16588.
    """

    def __init__(
        self,
        image_size: Size = 224,
        channels: int = 3,
        patch_size: Size = 16,
        hidden_dim: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_dim: int | None = None,
        drop_path: float = 0.0,
        learned_positions: bool = False,
        final_norm: bool = True,
        norm_epsilon: float = 1e-6,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        value_range: Sequence[float] = BYTE_RANGE,
        seed: int = 0,
        layer_scale: float | None = None,
        pre_norm: bool = False,
        num_class_tokens: int = 1,
        num_registers: int = 0,
        **kwargs: Any,
    ) -> None:
        check_dtype(kwargs.get("dtype"))
        super().__init__(**kwargs)
        self.image_size = pair(image_size, "image_size")
        self.patch_size = pair(patch_size, "patch_size")
        check_positive_int(channels, "channels")
        check_positive_int(num_layers, "num_layers")
        check_width(hidden_dim, num_heads)
        check_rate(drop_path, "drop_path")
        check_layer_scale(layer_scale)
        check_positive_int(num_class_tokens, "num_class_tokens")
        if num_registers != 0:
            check_positive_int(num_registers, "num_registers")
        self.channels = channels
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.mlp_dim = 4 * hidden_dim if mlp_dim is None else mlp_dim
        self.drop_path = drop_path
        self.learned_positions = learned_positions
        self.final_norm = final_norm
        self.norm_epsilon = norm_epsilon
        self.seed = seed
        self.layer_scale = layer_scale
        self.pre_norm = pre_norm
        self.num_class_tokens = num_class_tokens
        self.num_registers = num_registers
        self.mean, self.std = pixel_statistics(mean, std, channels)
        self.value_range = check_value_range(value_range)
        self.grid_size = grid_size(self.image_size, self.patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

        policy = self.dtype_policy
        self.patch_embedding = PatchEmbedding(hidden_dim, name="patch_embedding", dtype=policy)
        self.positions = PositionTable(
            self.grid_size, learned=learned_positions, name="positions", dtype=policy
        )
        self.blocks = [
            TransformerBlock(
                num_heads,
                self.mlp_dim,
                drop_path=drop_path * i / max(num_layers - 1, 1),
                seed=seed * num_layers + i,
                norm_epsilon=norm_epsilon,
                layer_scale=layer_scale,
                name=f"block_{i}",
                dtype=policy,
            )
            for i in range(num_layers)
        ]
        self.input_norm = layer_norm("input_norm", policy, norm_epsilon) if pre_norm else None
        self.norm = layer_norm("norm", policy, norm_epsilon) if final_norm else None
        # Whether blocks that are trained are computed again for the gradient. A model that trains
        # sets it; it changes no number and is not part of the config.
        self.recompute = False
        self.build((None, *self.image_size, channels))

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """Make an encoder of a named architecture, randomly initialised, or of weights on the hub.

        Args:
            name: one of `keras_mae.list_presets()`; or `hf://OWNER/NAME[@REVISION][/FILE]`,
                whatever holds an encoder there.
            **overrides: any arguments of `ViTEncoder`, in place of the preset's or the file's;
                positions follow an `image_size`.
        Raises:
            ValueError: for an unknown name or argument.
        Example:
            encoder = ViTEncoder.from_preset("mae_vit_tiny_patch16", image_size=64)
        """
        valid = {*inspect.signature(cls.__init__).parameters, "dtype"} - {"self", "kwargs"}
        unknown = sorted(set(overrides) - valid)
        if unknown:
            raise ValueError(f"`overrides` must be among {sorted(valid)}. Received: {unknown}")
        if name.startswith(HUB_SCHEME):
            encoder = open_encoder(open_model(name))
            return encoder.adapted(**overrides) if overrides else encoder
        config = preset_config(name)
        config = {key: v for key, v in config.items() if not key.startswith("decoder_")}
        return cls(**{**config, **overrides})

    def build(self, input_shape: Shape) -> None:
        if self.built:
            return
        patch_values = self.patch_size[0] * self.patch_size[1] * self.channels
        num_tokens = self.num_class_tokens + self.num_registers + self.num_patches
        tokens_shape = (None, num_tokens, self.hidden_dim)
        self.class_token = self.add_weight(
            name="class_token",
            shape=(1, self.num_class_tokens, self.hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self.register_tokens = None
        if self.num_registers:
            self.register_tokens = self.add_weight(
                name="register_tokens",
                shape=(1, self.num_registers, self.hidden_dim),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
            )
        self.patch_embedding.build((None, self.num_patches, patch_values))
        self.positions.build(tokens_shape)
        for block in self.blocks:
            block.build(tokens_shape)
        for norm in (self.input_norm, self.norm):
            if norm is not None:
                norm.build(tokens_shape)

    @property
    def no_weight_decay(self) -> list[Any]:
        """The weights, beside vectors, that weight decay leaves alone."""
        return [self.class_token, *self._registers()]

    def _registers(self) -> list[Any]:
        return [] if self.register_tokens is None else [self.register_tokens]

    def draw(self, count: Tensor, share: tuple[Any, Any] | None = None) -> Tensor | None:
        """Return a new `kept` for `count` images, or None where there is no drop path.

        `share` as in `layers.randomness.global_uniform`.
        """
        drawn = [block.draw(count, share) for block in self.blocks if block.drop_path]
        return ops.concatenate(drawn, axis=1) if drawn else None

    def call(
        self,
        images: Tensor,
        keep_ids: Tensor | None = None,
        training: bool = False,
        last_blocks: int = 1,
        kept: Tensor | None = None,
    ) -> Tensor:
        check_last_blocks(last_blocks, self.num_layers, "last_blocks")
        x = self._embed(images, keep_ids)
        recompute = self.recompute and training
        if recompute and kept is None:
            kept = self.draw(ops.shape(x)[0])
        outputs = []
        for i, block in enumerate(self.blocks):
            block_kept = None
            if kept is not None and block.drop_path:
                block_kept, kept = kept[:, :2], kept[:, 2:]
            run = recomputed(block) if recompute else block
            x = run(x, kept=block_kept, training=training)
            if i >= self.num_layers - last_blocks:
                outputs.append(self._output(x))
        return outputs[0] if last_blocks == 1 else ops.concatenate(outputs, axis=-1)

    def attention_weights(self, images: Tensor, keep_ids: Tensor | None = None) -> list[Tensor]:
        """Return the weights of each block's attention, as the block computes them.

        It is for looking: a call keeps none of them. Rows and columns are all tokens: class tokens,
        registers, then patches in the image's order (or that of `keep_ids`).

        Args:
            images, keep_ids: as of a call.
        Returns:
            list of a float `(B, heads, T + R + N, T + R + N)` for each block, the first one first;
            row t is what token t takes of each token, and its sum is 1.
        Raises:
            ValueError: for images of another size or dtype.
        Example:
            last = encoder.attention_weights(images)[-1]
            of_class_token = last[:, :, 0, encoder.num_class_tokens + encoder.num_registers :]
        """
        x, found = self._embed(images, keep_ids), []
        for block in self.blocks:
            found.append(block.attention_weights(x))
            x = block(x)
        return found

    def _embed(self, images: Tensor, keep_ids: Tensor | None = None) -> Tensor:
        """Return the tokens that the first block takes, `(B, T + R + K, D)`."""
        patches = patchify(normalized(images, self), self.patch_size)
        if keep_ids is not None:
            patches = gather_tokens(patches, keep_ids)
        x = self.patch_embedding(patches)
        learned = [ops.cast(token, x.dtype) for token in (self.class_token, *self._registers())]
        shapes = [(ops.shape(x)[0], *token.shape[1:]) for token in learned]
        learned = [ops.broadcast_to(*pair) for pair in zip(learned, shapes, strict=True)]
        x = self.positions(ops.concatenate([*learned, x], axis=1), keep_ids)
        return x if self.input_norm is None else self.input_norm(x)

    def _output(self, x: Tensor) -> Tensor:
        """Return a block's tokens without the registers, normalised at the end."""
        if self.num_registers:
            first, last = self.num_class_tokens, self.num_class_tokens + self.num_registers
            x = ops.concatenate([x[:, :first], x[:, last:]], axis=1)
        return x if self.norm is None else self.norm(x)

    @property
    def num_output_blocks(self) -> int:
        """The greatest `last_blocks`."""
        return self.num_layers

    def adapted(self, without_norm: bool = False, **changes: Any) -> Self:
        """Return a copy with the same weights, all of them trainable.

        Args:
            without_norm: bool. Whether the copy ends without a norm.
            **changes: arguments of `ViTEncoder` that the copy is to differ in. For another
                `image_size`, sine-cosine positions are computed anew, learned ones resampled.
        """

        if without_norm:
            changes["final_norm"] = False
        copy = type(self).from_config({**self.get_config(), **changes, "trainable": True})
        skip = () if copy.final_norm else ("encoder.norm.*",)
        assign_weights(copy, get_weights(self), self.grid_size, skip=skip)
        return copy

    def frozen_parts(self, trainable_blocks: float) -> list[Any]:
        """Return the layers and variables that `ViTClassifier(trainable_blocks=...)` freezes.

        Raises:
            ValueError: if `trainable_blocks` is not 0, 0.5, or a number of blocks.
        """
        valid = [0, 0.5, *range(1, self.num_layers + 1)]
        if isinstance(trainable_blocks, bool) or trainable_blocks not in valid:
            raise ValueError(
                "`trainable_blocks` must be None, 0, 0.5, or an int up to the encoder's "
                f"{self.num_layers} blocks. Received: {trainable_blocks!r}"
            )
        frozen = [self.class_token, *self._registers(), self.patch_embedding, self.positions]
        frozen += [norm for norm in (self.input_norm, self.norm) if norm is not None]
        frozen += self.blocks[: self.num_layers - math.ceil(trainable_blocks)]
        if trainable_blocks == 0.5:
            frozen += [self.blocks[-1].attention_norm, self.blocks[-1].attention]
        return frozen

    def compute_output_shape(
        self, input_shape: Shape, keep_ids_shape: Shape | None = None
    ) -> Shape:
        num_patches = self.num_patches if keep_ids_shape is None else keep_ids_shape[1]
        return input_shape[0], self.num_class_tokens + num_patches, self.hidden_dim

    def compute_output_spec(
        self,
        images: Tensor,
        keep_ids: Tensor | None = None,
        training: bool = False,
        last_blocks: int = 1,
        kept: Tensor | None = None,
    ) -> Any:
        # `compute_output_shape` is given shapes only, and cannot know of `last_blocks`.
        check_last_blocks(last_blocks, self.num_layers, "last_blocks")
        shape = self.compute_output_shape(
            images.shape, None if keep_ids is None else keep_ids.shape
        )
        shape = (*shape[:-1], last_blocks * self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "channels": self.channels,
            "patch_size": self.patch_size,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "drop_path": self.drop_path,
            "learned_positions": self.learned_positions,
            "final_norm": self.final_norm,
            "norm_epsilon": self.norm_epsilon,
            "mean": self.mean,
            "std": self.std,
            "value_range": self.value_range,
            "seed": self.seed,
            "layer_scale": self.layer_scale,
            "pre_norm": self.pre_norm,
            "num_class_tokens": self.num_class_tokens,
            "num_registers": self.num_registers,
        }
