"""Multi-head attention, of a sequence to itself or to another."""

from typing import Any

import keras

from keras_mae.layers import kernels
from keras_mae.layers.arguments import check_positive_int
from keras_mae.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_mae")
class Attention(keras.layers.Layer):
    """Scaled dot-product attention with several heads; softmax in float32.

    Self-attention has one projection for queries, keys and values, in this order. Cross-attention
    (`cross=True`) has one for the queries, and one for the keys and values of `context`.

    Args:
        num_heads: int; divides D.
        cross: bool. Whether keys and values come from `context`.
    Call arguments:
        x: float `(B, T, D)`.
        context: float `(B, S, E)`; for cross-attention only.
        attention_mask: bool, broadcastable to `(B, heads, T, S)`; true where attention is allowed.
        first_query: int. Tokens before it are keys and values only, and give no output.
        training: bool.
    Returns:
        float `(B, T - first_query, D)`.
    Raises:
        ValueError: if D is not a multiple of `num_heads`, or `context` does not go with `cross`.
    Reference: Vaswani et al. 2017, arXiv:1706.03762, section 3.2. Projections are Xavier-uniform,
        the joint ones over their joint width, as He et al. 2021, appendix A.1, do.
    """

    def __init__(self, num_heads: int, cross: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive_int(num_heads, "num_heads")
        self.num_heads = num_heads
        self.cross = cross

    def build(self, x_shape: Shape, context_shape: Shape | None = None) -> None:
        dim = x_shape[-1]
        if dim % self.num_heads:
            raise ValueError(
                f"`num_heads` must divide the width of the tokens, {dim}. "
                f"Received: {self.num_heads}"
            )
        self._check_context(context_shape)
        self.head_dim = dim // self.num_heads
        if self.cross:
            self.query = self._dense(dim, "query", x_shape)
            self.key_value = self._dense(2 * dim, "key_value", context_shape)
        else:
            self.query_key_value = self._dense(3 * dim, "query_key_value", x_shape)
        self.output_projection = self._dense(dim, "output_projection", (*x_shape[:-1], dim))

    def _check_context(self, shape: Shape | None) -> None:
        if self.cross != (shape is not None):
            raise ValueError(
                "`context` must be given if and only if `cross` is true. Received: "
                f"cross={self.cross}, context of shape {shape}"
            )

    def _dense(self, units: int, name: str, input_shape: Shape | None) -> keras.layers.Dense:
        layer = keras.layers.Dense(
            units, kernel_initializer="glorot_uniform", name=name, dtype=self.dtype_policy
        )
        layer.build(input_shape)
        return layer

    def call(
        self,
        x: Tensor,
        context: Tensor | None = None,
        attention_mask: Tensor | None = None,
        first_query: int = 0,
        training: bool = False,
    ) -> Tensor:
        projected = self._projected(x, context, training)
        x = kernels.attention(projected, self.num_heads, attention_mask, first_query, training)
        return self.output_projection(x)

    def _projected(self, x: Tensor, context: Tensor | None, training: bool = False) -> list[Tensor]:
        """Return the first linear layers' outputs, as the kernels take them."""
        self._check_context(None if context is None else context.shape)
        first = self.query if self.cross else self.query_key_value
        projected = [kernels.dense(x, first, training)]
        if self.cross:
            projected.append(self.key_value(context))
        return projected

    def attention_weights(
        self, x: Tensor, context: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Return the weights that a call multiplies the values by, to be looked at.

        Args:
            x, context, attention_mask: as of a call.
        Returns:
            float `(B, heads, T, S)`; each row's sum is 1.
        """
        projected = self._projected(x, context)
        return kernels.attention_weights(projected, self.num_heads, attention_mask)

    def compute_output_shape(
        self, input_shape: Any = None, x_shape: Any = None, context_shape: Any = None
    ) -> Shape:
        """Keras's summary names the shapes as `build` does, and all others `input_shape`."""
        return tuple(input_shape or x_shape)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # By tracing the call: what is given shapes alone does not know of `first_query`.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_heads": self.num_heads, "cross": self.cross}
