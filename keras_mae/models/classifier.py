"""An encoder with a linear head, to be fine-tuned or probed."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mae.layers.pooling import check_grid, pool_tokens, pooled_dim
from keras_mae.layers.whitening import Whitening
from keras_mae.models.encoder import check_last_blocks
from keras_mae.models.on_encoder import OnEncoder
from keras_mae.poolings import check_pooling
from keras_mae.types import AnyPath, Shape, Size, Tensor

HEAD_NORMS = ("auto", "layer", "batch", None)


@keras.saving.register_keras_serializable(package="keras_mae")
class ViTClassifier(OnEncoder):
    """A pre-trained encoder, pooled to one vector an image, and a linear layer for the classes.

    The encoder is copied: training the classifier never changes the model it came from.

    Args:
        encoder: `ViTEncoder`; or a model with one, such as a `MaskedAutoencoder`; or a path that
            `keras_mae.load_pretrained` knows; or an exported SavedModel's directory, or a
            `SavedModelEncoder`. With these, the file of the classifier keeps the SavedModel's path,
            see there; "layer" comes after the exported norm; `trainable_blocks` is None or 0,
            `pooled_blocks` 1, and `drop_path` and `image_size` cannot be changed.
        num_classes: int.
        pooling: "token" for the class token (of several, their mean), "mean" for the mean of the
            patches' tokens, "both" for the one beside the other, "mean_std" for the mean and the
            deviation of the patches' tokens, "grid:G" for the means of G x G parts of the image.
        pooled_blocks: int. Tokens of so many last blocks are pooled side by side: a linear probe of
            more than the last block's output. Each has the encoder's final norm, where it has one.
        head_norm: what normalises the pooled vector. "layer": a LayerNorm of its own, in place of
            the encoder's final one. "batch": a BatchNorm without scale and offset, for linear
            probes. None: only the encoder's final LayerNorm, before pooling. "auto": "layer" for
            mean pooling and None for the class token, as in the reference, and for all others.
        whiten: int, or None. The pooled vector goes through a `Whitening` to so many components
            before `head_norm`; its `adapt` is for the caller. Only for a wholly frozen encoder, of
            which the features stay what they were.
        multi_label: bool. Whether an image can have several labels, or none: each logit is then one
            of its own, and a probability its sigmoid. It changes no logit; whoever predicts asks.
        drop_path: float in [0, 1), see `ViTEncoder`; None for the encoder's own.
        trainable_blocks: which part of the encoder is trained. None: all of it. 0: nothing.
            0.5: the MLP of the last block, with its norm. 1, 2, ...: so many last blocks, and
            nothing else. The head, and its norm, always are. A wholly frozen encoder runs
            without drop path.
        image_size: int or (H, W); None for the encoder's. For another size, sine-cosine positions
            are computed anew, and learned ones resampled.
        seed: int. Fixes the head's initial weights and is the start of drop path's random numbers;
            None for any weights, and the encoder's own numbers.
        class_names: list of `num_classes` strings, in the order of the logits; None if not known.
            They go into the model's file and its exports.
    Call arguments:
        images: float `(B, H, W, C)`, `((value - low) / (high - low) - mean) / std` with the
            encoder's `value_range`, `mean` and `std`.
        training: bool. Whether drop path is on, and "batch" normalises with the batch.
        kept: what drop path keeps, see `ViTEncoder`; None: drawn.
    Returns:
        float32 `(B, num_classes)`, logits.
    Raises:
        ValueError: naming the argument that does not fit.
    Reference: He et al. 2021, arXiv:2111.06377, sections 4.3 and A.1; the head's initial deviation,
        2e-5 (.01 for linear probes), is the reference's. Blocks side by side: Caron et al. 2021,
        arXiv:2104.14294, section F.2.
    """

    def __init__(
        self,
        encoder: keras.Model | AnyPath,
        num_classes: int,
        pooling: str = "token",
        pooled_blocks: int = 1,
        head_norm: str | None = "auto",
        whiten: int | None = None,
        multi_label: bool = False,
        drop_path: float | None = None,
        trainable_blocks: float | None = None,
        image_size: Size | None = None,
        seed: int | None = None,
        class_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        check_pooling(pooling)
        if head_norm not in HEAD_NORMS:
            raise ValueError(
                f"`head_norm` must be one of {list(HEAD_NORMS)}. Received: {head_norm!r}"
            )
        if head_norm == "auto":
            head_norm = "layer" if pooling == "mean" else None
        if whiten is not None and (trainable_blocks != 0 or head_norm == "layer"):
            raise ValueError(
                "`whiten` must be None but for a wholly frozen encoder (trainable_blocks=0), with "
                f"head_norm of 'batch' or None. Received: {whiten!r} with "
                f"trainable_blocks={trainable_blocks!r} and head_norm={head_norm!r}"
            )
        super().__init__(
            encoder,
            num_classes,
            drop_path=drop_path,
            trainable_blocks=trainable_blocks,
            image_size=image_size,
            seed=seed,
            class_names=class_names,
            adapt={"without_norm": head_norm == "layer"},
            **kwargs,
        )
        self.pooling = pooling
        self.pooled_blocks = pooled_blocks
        self.head_norm = head_norm
        self.whiten = whiten
        self.multi_label = multi_label
        check_grid(pooling, self.encoder.grid_size)
        check_last_blocks(pooled_blocks, self.encoder.num_output_blocks, "pooled_blocks")
        # Pooled features and logits stay in float32 under a mixed policy.
        self.whitening: Any = None
        if whiten is not None:
            self.whitening = Whitening(whiten, name="whitening", dtype="float32")
        self.feature_norm: Any = None
        if head_norm == "layer":
            self.feature_norm = keras.layers.LayerNormalization(
                epsilon=getattr(self.encoder, "norm_epsilon", 1e-6),
                name="feature_norm",
                dtype="float32",
            )
        elif head_norm == "batch":
            self.feature_norm = keras.layers.BatchNormalization(
                momentum=0.9,
                epsilon=1e-6,
                center=False,
                scale=False,
                name="feature_norm",
                dtype="float32",
            )
        self.head = keras.layers.Dense(
            num_classes,
            kernel_initializer=keras.initializers.TruncatedNormal(
                stddev=0.01 if head_norm == "batch" else 2e-5, seed=seed
            ),
            name="head",
            dtype="float32",
        )
        self.build((None, *self.encoder.image_size, self.encoder.channels))
        self.freeze_blocks()

    def build(self, input_shape: Shape) -> None:
        if self.built:
            return
        width = self.pooled_blocks * self.encoder.hidden_dim
        features_shape: Shape = (None, pooled_dim(width, self.pooling))
        if self.whitening is not None:
            self.whitening.build(features_shape)
            features_shape = (None, self.whiten)
        if self.feature_norm is not None:
            self.feature_norm.build(features_shape)
        self.head.build(features_shape)

    def call(self, images: Tensor, training: bool = False, kept: Tensor | None = None) -> Tensor:
        trained = self.trains_encoder(training)
        tokens = self.encoder(images, training=trained, last_blocks=self.pooled_blocks, kept=kept)
        features = pool_tokens(
            ops.cast(tokens, "float32"),
            self.pooling,
            self.encoder.num_class_tokens,
            self.encoder.grid_size,
        )
        if self.whitening is not None:
            features = self.whitening(features)
        if self.head_norm == "batch":
            features = self.feature_norm(features, training=training)
        elif self.feature_norm is not None:
            features = self.feature_norm(features)
        return self.head(features)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], self.num_classes

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pooling": self.pooling,
            "pooled_blocks": self.pooled_blocks,
            "head_norm": self.head_norm,
            "whiten": self.whiten,
            "multi_label": self.multi_label,
        }

    def compile(
        self, optimizer: Any = "adamw", *args: Any, accumulate_steps: int = 1, **kwargs: Any
    ) -> None:
        """Configure training; see `TrainedInParts.compile` for what Keras's `compile` has not.

        Raises:
            ValueError: naming the argument that does not fit.
        """
        if accumulate_steps != 1 and self.head_norm == "batch":
            raise ValueError(
                "`accumulate_steps` must be 1 with head_norm='batch', the statistics of which are "
                f"the whole batch's. Received: {accumulate_steps}"
            )
        super().compile(optimizer, *args, accumulate_steps=accumulate_steps, **kwargs)

    @property
    def _outputs_shape(self):
        return (self.num_classes,)

    def _batch(self, x, y, sample_weight, share):
        kept = self._kept(x, share)
        return {"images": x, "labels": y, "weights": sample_weight, "kept": kept}

    def _loss(self, batch):
        images, labels = batch["images"], batch["labels"]
        logits = self(images, training=True, kept=batch["kept"])
        loss = self.compute_loss(images, labels, logits, batch["weights"], training=True)
        return loss, logits
