"""The decoder: from the visible patches' tokens to the hidden patches' pixels."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.layers.arguments import check_dtype, check_positive_int, pair
from keras_mae.layers.positions import PositionTable
from keras_mae.layers.transformer import TransformerBlock, layer_norm, recomputed
from keras_mae.models.encoder import check_width
from keras_mae.types import Shape, Size, Tensor

ATTENTION = ("self", "masked", "cross")


@keras.saving.register_keras_serializable(package="keras_mae")
class MAEDecoder(keras.Model):
    """A small transformer that predicts hidden patches; used in pre-training only.

    Tokens stay in the shuffled order of the masking, visible ones first: attention does not care
    for order, each token carries its own position, and so nothing needs to be put back in place.

    Args:
        grid_size: (rows, columns) of the patch grid.
        patch_dim: int P. Values of a patch.
        input_dim: int. Width of the encoder's tokens.
        hidden_dim: int. Width of the decoder, a multiple of 4 and of `num_heads`.
        num_layers: int. Transformer blocks.
        num_heads: int. Attention heads of a block.
        mlp_dim: int. Hidden width of a block's MLP; None for `4 * hidden_dim`.
        attention: "self": all tokens attend to all (the paper's). "masked": a token attends to
            the visible tokens and itself. "cross": hidden positions only are decoded, and attend
            to the encoder's tokens only; any share of them can be decoded.
        norm_epsilon: float. Added to the variance by all LayerNorms.
        num_class_tokens: int T. Only the first one has a position.
    Call arguments:
        latent: float `(B, T + K, E)`, the encoder's tokens, class tokens first.
        keep_ids: int32 `(B, K)`, the patches they stand for.
        query_ids: int32 `(B, M)`, the hidden patches to predict.
        predict_visible: bool. Whether the visible patches are predicted too.
        training: bool.
    Returns:
        float `(B, M, P)` in the order of `query_ids`; with `predict_visible`, `(B, K + M, P)`, the
        patches of `keep_ids` first.
    Raises:
        ValueError: naming the argument that does not fit.
    Reference: He et al. 2021, arXiv:2111.06377, section 3; for "cross" Fu et al. 2024,
        arXiv:2401.14391 (here the latents keep the decoder's positions and are normalised once).
    """

    def __init__(
        self,
        grid_size: Size,
        patch_dim: int,
        input_dim: int,
        hidden_dim: int = 512,
        num_layers: int = 8,
        num_heads: int = 16,
        mlp_dim: int | None = None,
        attention: str = "self",
        norm_epsilon: float = 1e-6,
        num_class_tokens: int = 1,
        **kwargs: Any,
    ) -> None:
        check_dtype(kwargs.get("dtype"))
        super().__init__(**kwargs)
        if attention not in ATTENTION:
            raise ValueError(
                f"`decoder_attention` must be one of {list(ATTENTION)}. Received: {attention!r}"
            )
        check_positive_int(num_layers, "decoder_num_layers")
        check_width(hidden_dim, num_heads, prefix="decoder_")
        check_positive_int(4 if mlp_dim is None else mlp_dim, "decoder_mlp_dim")
        check_positive_int(patch_dim, "patch_dim")
        check_positive_int(input_dim, "input_dim")
        check_positive_int(num_class_tokens, "num_class_tokens")
        self.grid_size = pair(grid_size, "grid_size")
        self.patch_dim = patch_dim
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.mlp_dim = 4 * hidden_dim if mlp_dim is None else mlp_dim
        self.attention = attention
        self.norm_epsilon = norm_epsilon
        self.num_class_tokens = num_class_tokens

        policy = self.dtype_policy
        cross = attention == "cross"
        self.projection = keras.layers.Dense(hidden_dim, name="projection", dtype=policy)
        self.positions = PositionTable(self.grid_size, name="positions", dtype=policy)
        self.context_norm: Any = None
        if cross:
            self.context_norm = layer_norm("context_norm", policy, norm_epsilon)
        self.blocks = [
            TransformerBlock(
                num_heads,
                self.mlp_dim,
                cross=cross,
                norm_epsilon=norm_epsilon,
                name=f"block_{i}",
                dtype=policy,
            )
            for i in range(num_layers)
        ]
        self.norm = layer_norm("norm", policy, norm_epsilon)
        self.prediction = keras.layers.Dense(patch_dim, name="prediction", dtype=policy)
        self.recompute = False  # as a `ViTEncoder`'s
        self.build((None, None, input_dim))

    def build(self, input_shape: Shape) -> None:
        if self.built:
            return
        self.mask_token = self.add_weight(
            name="mask_token",
            shape=(1, 1, self.hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        num_tokens = self.num_class_tokens + self.grid_size[0] * self.grid_size[1]
        tokens_shape = (None, num_tokens, self.hidden_dim)
        self.projection.build((None, None, self.input_dim))
        self.positions.build(tokens_shape)
        context_shapes: tuple[Shape, ...] = ()
        if self.context_norm is not None:
            self.context_norm.build(tokens_shape)
            context_shapes = (tokens_shape,)
        for block in self.blocks:
            block.build(tokens_shape, *context_shapes)
        self.norm.build(tokens_shape)
        self.prediction.build(tokens_shape)

    @property
    def no_weight_decay(self) -> list[Any]:
        """The weights, beside vectors, that weight decay leaves alone."""
        return [self.mask_token]

    def call(
        self,
        latent: Tensor,
        keep_ids: Tensor,
        query_ids: Tensor,
        predict_visible: bool = False,
        training: bool = False,
    ) -> Tensor:
        context = self.projection(latent)
        if self.attention == "cross" and predict_visible:
            query_ids = ops.concatenate([keep_ids, query_ids], axis=1)
        batch, num_queries = ops.shape(query_ids)[0], query_ids.shape[1]
        mask_token = ops.cast(self.mask_token, context.dtype)
        queries = ops.broadcast_to(mask_token, (batch, num_queries, self.hidden_dim))
        x = ops.concatenate([context, queries], axis=1)
        x = self.positions(x, ops.concatenate([keep_ids, query_ids], axis=1))
        num_context = self.num_class_tokens + keep_ids.shape[1]
        if self.attention == "cross":
            context, x = self.context_norm(x[:, :num_context]), x[:, num_context:]
            for block in self.blocks:
                x = self._run(block, training)(x, context, training=training)
        else:
            x = self._self_attention(x, num_context, predict_visible, training)
        return self.prediction(self.norm(x))

    def _run(self, block, training):
        return recomputed(block) if self.recompute and training else block

    def _self_attention(self, x, num_context, predict_visible, training):
        mask = None
        if self.attention == "masked":
            length = x.shape[1]
            mask = (np.arange(length) < num_context)[None, :] | np.eye(length, dtype=bool)
            mask = ops.convert_to_tensor(mask)[None, None]
        for block in self.blocks:
            # What is not predicted is, in the last block, only attended to.
            first_query = 0
            if block is self.blocks[-1]:
                first_query = self.num_class_tokens if predict_visible else num_context
            x = self._run(block, training)(
                x, attention_mask=mask, first_query=first_query, training=training
            )
        return x

    def compute_output_shape(
        self,
        input_shape: Shape,
        keep_ids_shape: Shape | None = None,
        query_ids_shape: Shape | None = None,
    ) -> Shape:
        num_queries = None if query_ids_shape is None else query_ids_shape[1]
        return input_shape[0], num_queries, self.patch_dim

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # By tracing the call: what is given shapes alone does not know of `predict_visible`.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "grid_size": self.grid_size,
            "patch_dim": self.patch_dim,
            "input_dim": self.input_dim,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "attention": self.attention,
            "norm_epsilon": self.norm_epsilon,
            "num_class_tokens": self.num_class_tokens,
        }
