"""An encoder with a way to pool its tokens: one vector an image."""

from typing import Any

import keras
from keras import ops

from keras_mae.layers.arguments import check_positive_int
from keras_mae.layers.pooling import check_grid, pool_tokens, pooled_dim
from keras_mae.layers.whitening import Moments, Whitening
from keras_mae.models.encoder import check_last_blocks
from keras_mae.models.openers import open_encoder
from keras_mae.types import AnyPath, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_mae")
class ViTEmbedder(keras.Model):
    """Turn images into feature vectors: an encoder, a pooling, and a whitening if wanted.

    Nothing in it is trained. Its file holds all three, and exports as `pooled`.

    Args:
        encoder: what `keras_mae.load_encoder` takes; it is not copied.
        pooling, pooled_blocks: see `ViTClassifier`.
        whiten: int, components of a `Whitening`, which `adapt_whitening` fits; None for none.
    Call arguments:
        images: float `(B, H, W, C)`, normalised as the encoder wants them.
    Returns:
        float32 `(B, F)`: F is `whiten`, or what pooling gives.
    Raises:
        ValueError: naming the argument that does not fit.
    Example:
        embedder = ViTEmbedder("saved_models/mae_mnist5k", pooling="grid:3")
        features = embedder(images)
    """

    def __init__(
        self,
        encoder: keras.Model | AnyPath | dict[str, Any],
        pooling: str = "mean",
        pooled_blocks: int = 1,
        whiten: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(encoder, dict):  # from a config
            encoder = keras.saving.deserialize_keras_object(encoder)
        self.encoder = open_encoder(encoder)
        check_grid(pooling, self.encoder.grid_size)
        check_last_blocks(pooled_blocks, self.encoder.num_output_blocks, "pooled_blocks")
        self.pooling, self.pooled_blocks, self.whiten = pooling, pooled_blocks, whiten
        self.whitening: Whitening | None = None
        if whiten is not None:
            check_positive_int(whiten, "whiten")
            self.whitening = Whitening(whiten, name="whitening", dtype="float32")
        self.build((None, *self.encoder.image_size, self.encoder.channels))

    @property
    def pooled_dim(self) -> int:
        """Width of what pooling gives, before a whitening."""
        return pooled_dim(self.pooled_blocks * self.encoder.hidden_dim, self.pooling)

    def build(self, input_shape: Shape) -> None:
        if self.built:
            return
        if self.whitening is not None:
            self.whitening.build((None, self.pooled_dim))

    def call(self, images: Tensor, training: bool = False) -> Tensor:
        tokens = self.encoder(images, training=False, last_blocks=self.pooled_blocks)
        features = pool_tokens(
            ops.cast(tokens, "float32"),
            self.pooling,
            self.encoder.num_class_tokens,
            self.encoder.grid_size,
        )
        return features if self.whitening is None else self.whitening(features)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], self.whiten or self.pooled_dim

    def whitened(self, features: Any, most: int) -> "ViTEmbedder":
        """Return an embedder of the same encoder that whitens, fitted to features of this one.

        Args:
            features: float `(n, F)` of training images, or their `Moments`.
            most: int. Components, or as many as the features' numerical rank where it is less.
        Raises:
            ValueError: if this one whitens already, or all features are equal.
        """
        if self.whitening is not None:
            raise ValueError(f"`whiten` must be None for a model that whitens. Received: {most}")
        moments = features if isinstance(features, Moments) else Moments().add(features)
        fitted = Whitening.fitted_to(moments, most)
        other = type(self)(self.encoder, self.pooling, self.pooled_blocks, fitted.num_components)
        assigned: Any = other.whitening
        assigned.set_weights(fitted.get_weights())
        return other

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "pooling": self.pooling,
            "pooled_blocks": self.pooled_blocks,
            "whiten": self.whiten,
        }
