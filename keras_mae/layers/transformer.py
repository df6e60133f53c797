"""The pre-norm transformer block, its MLP, and drop path."""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_mae.layers import kernels
from keras_mae.layers.arguments import check_layer_scale, check_positive_int, check_rate
from keras_mae.layers.attention import Attention
from keras_mae.layers.randomness import global_uniform
from keras_mae.types import Shape, Tensor

_STATE_KEY = "seed_generator_state"


class LayerNormalization(keras.layers.LayerNormalization):
    """Keras's, of the last axis, by our kernels.

    The name has to be Keras's: files of models are by the names of classes.
    """

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        x = kernels.layer_norm(inputs, self.gamma, self.beta, self.epsilon, training)
        return ops.cast(x, self.compute_dtype)


NORM_EPSILON = 1e-6


def layer_norm(name: str, dtype: Any, epsilon: float = NORM_EPSILON) -> LayerNormalization:
    """Return the model's layer normalisation: moments in float32, the reference's epsilon."""
    return LayerNormalization(epsilon=epsilon, name=name, dtype=dtype)


@keras.saving.register_keras_serializable(package="keras_mae")
class MLP(keras.layers.Layer):
    """Two linear layers with an exact GELU between.

    Args:
        mlp_dim: int. Width of the hidden layer; the output is as wide as the input.
    Call arguments:
        x: float `(..., D)`.
        training: bool.
    Returns:
        float `(..., D)`.
    """

    def __init__(self, mlp_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive_int(mlp_dim, "mlp_dim")
        self.mlp_dim = mlp_dim

    def build(self, input_shape: Shape) -> None:
        self.hidden = keras.layers.Dense(self.mlp_dim, name="hidden", dtype=self.dtype_policy)
        self.hidden.build(input_shape)
        self.output_projection = keras.layers.Dense(
            input_shape[-1], name="output_projection", dtype=self.dtype_policy
        )
        self.output_projection.build((*input_shape[:-1], self.mlp_dim))

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        hidden = kernels.dense(x, self.hidden, training)
        return kernels.gelu_dense(hidden, self.output_projection, training)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mlp_dim": self.mlp_dim}


@keras.saving.register_keras_serializable(package="keras_mae")
class DropPath(keras.layers.Layer):
    """Drop a residual branch for whole images at random, and scale the others up (training only).

    Unlike a `Dropout` with a noise shape, replicas of `tf.distribute` draw different images.

    Args:
        rate: float in [0, 1). Chance that an image's branch is dropped.
        seed: int. Start of the layer's random numbers; how many it has drawn is saved with it.
    Call arguments:
        x: float `(B, ...)`.
        kept: bool `(B,)`, the images whose branch is kept. None: drawn.
        training: bool.
    Returns:
        float, of `x`'s shape: in training 0 or `x / (1 - rate)` for each image, else `x`.
    Reference: Huang et al. 2016, arXiv:1603.09382.
    """

    def __init__(self, rate: float, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_rate(rate, "rate")
        self.rate = rate
        self.seed = seed
        # No rate, no state: models differ in their variables only where they draw numbers.
        self.seed_generator = keras.random.SeedGenerator(seed) if rate else None
        self.built = True

    def draw(self, count: Tensor, share: tuple[Any, Any] | None = None) -> Tensor:
        """Return bool `(count,)`, which images are kept; `share` as in `global_uniform`."""
        return global_uniform((count,), self.seed_generator, share) >= self.rate

    def call(self, x: Tensor, kept: Tensor | None = None, training: bool = False) -> Tensor:
        if not training or self.rate == 0:
            return x
        kept = self.draw(ops.shape(x)[0]) if kept is None else kept
        kept = ops.reshape(kept, (-1, *([1] * (len(x.shape) - 1))))
        return x * ops.cast(kept, x.dtype) / ops.cast(1 - self.rate, x.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        if self.seed_generator is not None:  # Keras does not save random states.
            store[_STATE_KEY] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store: Any) -> None:
        if self.seed_generator is not None and _STATE_KEY in store.keys():  # noqa: SIM118 (no dict)
            self.seed_generator.state.assign(store[_STATE_KEY])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable(package="keras_mae")
class LayerScale(keras.layers.Layer):
    """Multiply each channel of a residual branch by a learned factor.

    Args:
        initial: float. All factors at first.
    Call arguments:
        x: float `(..., D)`.
    Returns:
        float `(..., D)`, `x * gamma`.
    Example:
        x = x + LayerScale(1e-5)(mlp(x))
    Reference: Touvron et al. 2021, arXiv:2103.17239, equation 4.
    """

    def __init__(self, initial: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, input_shape: Shape) -> None:
        self.gamma = self.add_weight(
            name="gamma",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial),
        )

    def call(self, x: Tensor) -> Tensor:
        return x * ops.cast(self.gamma, x.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial": self.initial}


@keras.saving.register_keras_serializable(package="keras_mae")
class TransformerBlock(keras.layers.Layer):
    """Pre-norm attention and MLP, each with a residual connection.

    Args:
        num_heads: int; divides D.
        mlp_dim: int. Hidden width of the MLP.
        drop_path: float in [0, 1). Chance to drop each branch, for an image, in training.
        cross: bool. Whether tokens attend to `context` instead of to each other.
        seed: int. Start of drop path's random numbers.
        norm_epsilon: float. Added to the variance by both LayerNorms.
        layer_scale: float, what the factors of a `LayerScale` at the end of each branch are at
            first; None for none.
    Call arguments:
        x: float `(B, T, D)`.
        context: float `(B, S, E)`, already normalised; for cross-attention only.
        attention_mask: bool, broadcastable to `(B, heads, T, S)`; true where attention is allowed.
        first_query: int. Tokens before it are attended to, and dropped from the output.
        kept: bool `(B, 2)`, the images whose attention, and whose MLP, drop path keeps. None:
            drawn.
        training: bool.
    Returns:
        float `(B, T - first_query, D)`.
    Reference: Dosovitskiy et al. 2020, arXiv:2010.11929, equations 2-3.
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        drop_path: float = 0.0,
        cross: bool = False,
        seed: int = 0,
        norm_epsilon: float = 1e-6,
        layer_scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_rate(drop_path, "drop_path")
        check_layer_scale(layer_scale)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.drop_path = drop_path
        self.cross = cross
        self.seed = seed
        self.norm_epsilon = norm_epsilon
        self.layer_scale = layer_scale
        policy = self.dtype_policy
        self.attention_norm = layer_norm("attention_norm", policy, norm_epsilon)
        self.attention: keras.layers.Layer = Attention(
            num_heads, cross=cross, name="attention", dtype=policy
        )
        self.mlp_norm = layer_norm("mlp_norm", policy, norm_epsilon)
        self.mlp = MLP(mlp_dim, name="mlp", dtype=policy)
        self.attention_scale = self.mlp_scale = None
        if layer_scale is not None:
            self.attention_scale = LayerScale(layer_scale, name="attention_scale", dtype=policy)
            self.mlp_scale = LayerScale(layer_scale, name="mlp_scale", dtype=policy)
        # One each, so that the two branches are dropped independently.
        self.attention_drop = DropPath(
            drop_path, seed=2 * seed, name="attention_drop", dtype=policy
        )
        self.mlp_drop = DropPath(drop_path, seed=2 * seed + 1, name="mlp_drop", dtype=policy)

    def build(self, x_shape: Shape, context_shape: Shape | None = None) -> None:
        self.attention_norm.build(x_shape)
        self.attention.build(x_shape, context_shape)
        self.mlp_norm.build(x_shape)
        self.mlp.build(x_shape)
        for scale in (self.attention_scale, self.mlp_scale):
            if scale is not None:
                scale.build(x_shape)

    def call(
        self,
        x: Tensor,
        context: Tensor | None = None,
        attention_mask: Tensor | None = None,
        first_query: int = 0,
        kept: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        attention = functools.partial(
            self.attention,
            context=context,
            attention_mask=attention_mask,
            first_query=first_query,
        )
        first, second = (None, None) if kept is None else ops.unstack(kept, 2, axis=1)
        # Keras hands `training` down to the layers.
        branch = _scaled(attention(self.attention_norm(x)), self.attention_scale)
        x = _tokens(x, first_query) + self.attention_drop(branch, first)
        x = x + self.mlp_drop(_scaled(self.mlp(self.mlp_norm(x)), self.mlp_scale), second)
        return x

    def attention_weights(self, x: Tensor) -> Tensor:
        """Return the weights of a block's self-attention; see `Attention.attention_weights`."""
        return self.attention.attention_weights(self.attention_norm(x))

    def draw(self, count: Tensor, share: tuple[Any, Any] | None = None) -> Tensor | None:
        """Return a new `kept` for `count` images, or None where there is no drop path.

        `share` as in `layers.randomness.global_uniform`.
        """
        if not self.drop_path:
            return None
        drops = (self.attention_drop, self.mlp_drop)
        return ops.stack([drop.draw(count, share) for drop in drops], axis=1)

    def compute_output_shape(
        self, input_shape: Any = None, x_shape: Any = None, context_shape: Any = None
    ) -> Shape:
        """Keras's summary names the shapes as `build` does, and all others `input_shape`."""
        return tuple(input_shape or x_shape)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # By tracing the call: what is given shapes alone does not know of `first_query`.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "drop_path": self.drop_path,
            "cross": self.cross,
            "seed": self.seed,
            "norm_epsilon": self.norm_epsilon,
            "layer_scale": self.layer_scale,
        }


def _scaled(x: Tensor, scale: LayerScale | None) -> Tensor:
    return x if scale is None else scale(x)


def _tokens(x: Tensor, first: int) -> Tensor:
    return x[:, first:] if first else x


def recomputed(block: TransformerBlock) -> Callable[..., Tensor]:
    """Return a function that calls a block, which then keeps its inputs only.

    The rest is computed again for the gradient (gradient checkpointing). What drop path keeps must
    be given: drawn again, it would be another.
    """

    def call(x: Tensor, *context: Tensor, **options: Any) -> Tensor:
        # TensorFlow takes the gradient of what is an argument here, and of nothing else.
        return keras.remat(lambda x, *context: block(x, *context, **options))(x, *context)

    return call
