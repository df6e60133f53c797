"""An encoder with a head that gives each pixel a class."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.layers.arguments import check_positive_int, grid_size
from keras_mae.layers.feature_pyramid import FeaturePyramid, patch_map
from keras_mae.layers.transformer import layer_norm
from keras_mae.models.on_encoder import CheckedLabels
from keras_mae.models.steps import num_replicas
from keras_mae.types import AnyPath, Shape, Size, Tensor

IGNORED_LABEL = 255
HEADS = ("linear", "multi_block", "pyramid")
NUM_BLOCKS = 4  # of multi_block
# A pyramid's levels, as far as its strides are this many pixels or more.
PYRAMID_SCALES = (4, 2, 1, 0.5)
LEAST_STRIDE = 2


def check_class_weight(class_weight: Any, num_classes: int) -> list[float] | None:
    """Return a weight for each class as a list, 1 where none is given; None for None.

    Raises:
        ValueError: unless it is a dict from classes to numbers of 0 or more.
    """
    if class_weight is None:
        return None
    weights = [1.0] * num_classes
    try:
        for label, weight in dict(class_weight).items():
            if int(label) != label or not 0 <= label < num_classes:
                raise ValueError
            if not np.isfinite(weight) or weight < 0:
                raise ValueError
            weights[int(label)] = float(weight)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`class_weight` must be a dict from classes, 0 to {num_classes - 1}, to numbers of 0 "
            f"or more. Received: {class_weight!r}"
        ) from error
    return weights


@keras.saving.register_keras_serializable(package="keras_mae")
class ViTSegmenter(CheckedLabels):
    """A pre-trained encoder and a head that gives each pixel the logits of the classes.

    The encoder is copied: training the segmenter never changes the model it came from.

    Args:
        encoder: as of `ViTClassifier`; a SavedModel must tell its patch size in its card.
        num_classes: int, 1 to 255. Labels are 0 to `num_classes - 1`, and 255 for pixels that are
            ignored: by the loss, and by `mean_iou`.
        head: what turns the patches' tokens into logits.
            "linear": a linear layer on the last block's tokens.
            "multi_block": a linear layer on those of the last 4 blocks, or of all if there are
            fewer, side by side.
            "pyramid": a `FeaturePyramid` of strides down to a quarter patch, but of 2 pixels or
            more. Its levels are resized to the finest one and added up; a convolution of 3 x 3, a
            LayerNorm, a GELU and a linear layer follow.
        filters: int. Channels of the pyramid's levels.
        drop_path, trainable_blocks, image_size: as of `ViTClassifier`. The head is always trained.
        seed: int. Fixes the head's initial weights and is the start of drop path's random numbers;
            None for any weights, and the encoder's own numbers.
        class_names: list of `num_classes` strings, in the order of the logits; None if not known.
            They go into the model's file and its exports.
    Call arguments:
        images: float `(B, H, W, C)`, `((value - low) / (high - low) - mean) / std` with the
            encoder's `value_range`, `mean` and `std`.
        training: bool. Whether drop path is on.
        kept: what drop path keeps, see `ViTEncoder`; None: drawn.
    Returns:
        float32 `(B, H, W, num_classes)`, logits, resized bilinearly to the images' size.
    Raises:
        ValueError: naming the argument that does not fit.
    Example:
        model = keras_mae.ViTSegmenter("encoder.keras", num_classes=3, head="pyramid")
        model.compile(keras_mae.training.make_adamw(model, 1e-3))
        model.fit(images, label_maps, class_weight={0: 0.5})  # int (B, H, W)
    Reference: linear heads of one and of four blocks: Oquab et al. 2023, arXiv:2304.07193, section
        7.4. Levels added up: Kirillov et al. 2019, arXiv:1901.02446, section 3.
    """

    def __init__(
        self,
        encoder: keras.Model | AnyPath,
        num_classes: int,
        head: str = "linear",
        filters: int = 128,
        drop_path: float | None = None,
        trainable_blocks: float | None = None,
        image_size: Size | None = None,
        seed: int | None = None,
        class_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        check_positive_int(num_classes, "num_classes")
        if num_classes > IGNORED_LABEL:
            raise ValueError(
                f"`num_classes` must be at most {IGNORED_LABEL}: the label {IGNORED_LABEL} means "
                f"ignored. Received: {num_classes}"
            )
        if head not in HEADS:
            raise ValueError(f"`head` must be one of {list(HEADS)}. Received: {head!r}")
        check_positive_int(filters, "filters")
        super().__init__(
            encoder,
            num_classes,
            drop_path=drop_path,
            trainable_blocks=trainable_blocks,
            image_size=image_size,
            seed=seed,
            class_names=class_names,
            **kwargs,
        )
        self.head = head
        self.filters = filters
        patch_size = self.encoder.patch_size
        if patch_size is None or (head == "multi_block" and self.encoder.num_output_blocks == 1):
            raise ValueError(
                "`encoder` must tell its patch size, and for head='multi_block' have 2 blocks or "
                f"more that can be told apart. Received: {self.encoder!r}"
            )
        self.grid_size = grid_size(self.encoder.image_size, patch_size)
        self.pooled_blocks = 1
        self.pyramid: Any = None
        if head == "multi_block":
            self.pooled_blocks = min(NUM_BLOCKS, self.encoder.num_output_blocks)
        if head == "pyramid":
            policy = self.encoder.dtype_policy
            self.pyramid = FeaturePyramid(
                self.encoder.image_size,
                patch_size,
                filters,
                [s for s in PYRAMID_SCALES if s <= 1 or min(patch_size) / s >= LEAST_STRIDE],
                seed=seed,
                name="pyramid",
                dtype=policy,
            )
            self.fusion = keras.layers.Conv2D(
                filters,
                3,
                padding="same",
                use_bias=False,
                data_format="channels_last",
                kernel_initializer=keras.initializers.GlorotUniform(seed),
                name="fusion",
                dtype=policy,
            )
            self.fusion_norm = layer_norm("fusion_norm", policy)
        # Logits stay in float32 under a mixed policy.
        self.prediction = keras.layers.Dense(
            num_classes,
            kernel_initializer=keras.initializers.GlorotUniform(seed),
            name="prediction",
            dtype="float32",
        )
        # Weights that `fit` was given, one for each class; None: all 1.
        self._class_weight: list[float] | None = None
        self.build((None, *self.encoder.image_size, self.encoder.channels))
        self.freeze_blocks()

    def build(self, input_shape: Shape) -> None:
        if self.built:
            return
        width = self.pooled_blocks * self.encoder.hidden_dim
        if self.pyramid is not None:
            self.pyramid.build((None, self.grid_size[0] * self.grid_size[1], width))
            width = self.filters
            for layer in (self.fusion, self.fusion_norm):
                layer.build((None, None, None, width))
        self.prediction.build((None, None, None, width))

    def call(self, images: Tensor, training: bool = False, kept: Tensor | None = None) -> Tensor:
        trained = self.trains_encoder(training)
        tokens = self.encoder(images, training=trained, last_blocks=self.pooled_blocks, kept=kept)
        return self.logits_of(tokens)

    def logits_of(self, tokens: Tensor) -> Tensor:
        """Return float32 `(B, H, W, num_classes)`, logits of the encoder's tokens.

        Args:
            tokens: float `(B, T, n D)`, of the last n blocks, `pooled_blocks`.
        """
        if self.pyramid is None:
            features = patch_map(tokens, self.grid_size)
        else:
            first, *others = self.pyramid(tokens).values()
            size = first.shape[1:3]
            features = sum((_resized(level, size) for level in others), first)
            features = ops.gelu(self.fusion_norm(self.fusion(features)), approximate=False)
        logits = self.prediction(ops.cast(features, "float32"))
        return _resized(logits, self.encoder.image_size)

    def outputs_of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return what an export gives: `logits`, and `label_map`, uint8 `(B, H, W)`."""
        logits = self.logits_of(tokens)
        return {"logits": logits, "label_map": ops.cast(ops.argmax(logits, axis=-1), "uint8")}

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], *self.encoder.image_size, self.num_classes

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "head": self.head,
            "filters": self.filters,
        }

    def compile(  # type: ignore[override]
        self, optimizer: Any = "adamw", loss: Any = "auto", metrics: Any = "auto", **kwargs: Any
    ) -> None:
        """Configure training; see `TrainedInParts.compile` for what Keras's `compile` has not.

        Args:
            optimizer: a Keras optimizer or its name.
            loss: a Keras loss of `(B, H, W)` labels and logits. "auto": the cross-entropy, its mean
                over the pixels of the batch that are not labelled 255; 0 where there are none.
                Replicas, and the parts of `accumulate_steps`, share one mean.
            metrics: list of Keras metrics. "auto": `mean_iou`, the mean over the classes that are
                labelled or predicted anywhere in the set of intersection over union.
            **kwargs: those of `TrainedInParts.compile`.
        """
        if isinstance(loss, str) and loss == "auto":
            loss = keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, ignore_class=IGNORED_LABEL
            )
        if isinstance(metrics, str) and metrics == "auto":
            metrics = [
                keras.metrics.MeanIoU(
                    self.num_classes,
                    sparse_y_pred=False,
                    ignore_class=IGNORED_LABEL,
                    name="mean_iou",
                )
            ]
        super().compile(optimizer, loss, metrics=metrics, **kwargs)

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, class_weight: Any = None, **kwargs: Any
    ) -> keras.callbacks.History:
        """Train on images and label maps, see `keras.Model.fit`.

        Args:
            x: images `(B, H, W, C)`, or a data set of them with label maps.
            y: int `(B, H, W)`, or `(B, H, W, 1)`: 0 to `num_classes - 1`, or 255 for pixels that
                are ignored.
            class_weight: dict from classes to numbers of 0 or more: what the loss of each pixel
                counts, by its own label; 1 for classes that are not named. The sum is divided by
                the number of labelled pixels. Metrics are not weighted.
            *args, **kwargs: as in `keras.Model.fit`; `sample_weight` has one weight an image, or
                one a pixel.
        Raises:
            ValueError: for a label that is no class, before any step where labels are in arrays;
                of a `tf.data.Dataset`, an error of TensorFlow when the batch comes.
        """
        weights = check_class_weight(class_weight, self.num_classes)
        if weights == self._class_weight:
            return super().fit(x, y, *args, **kwargs)
        # The weights are constants of the compiled step.
        self._class_weight, self.train_function = weights, None
        try:
            return super().fit(x, y, *args, **kwargs)
        finally:
            self._class_weight, self.train_function = None, None

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, **kwargs
    ) -> Any:
        """Train on one batch, see `keras.Model.train_on_batch`; labels are checked as in `fit`.

        Raises:
            ValueError: for a `class_weight`, which `fit` takes.
        """
        if class_weight is not None:
            raise ValueError(
                "`class_weight` must be None here: `fit` takes it. Weigh pixels by "
                f"`sample_weight`. Received: {class_weight!r}"
            )
        return super().train_on_batch(self._checked(x, y), y, sample_weight, **kwargs)

    def _numbers(self, y):
        return y

    def _wrong(self, numbers):
        return (numbers != IGNORED_LABEL) & ((numbers < 0) | (numbers >= self.num_classes))

    def _check_form(self, y):
        """Raise a ValueError unless a batch of labels is of ints and of the images' size."""
        y = y if hasattr(y, "dtype") else np.asarray(y)
        shape, dtype = y.shape, keras.backend.standardize_dtype(y.dtype)
        size = tuple(shape[1:3] if tuple(shape[3:]) == (1,) else shape[1:])
        fits = len(size) == 2 and all(
            side in (None, wanted)
            for side, wanted in zip(size, self.encoder.image_size, strict=True)
        )
        if not fits or "int" not in dtype:
            raise ValueError(
                f"`y` must hold ints (batch, height, width) with {self.encoder.image_size} after "
                f"the batch. Received: {dtype} of shape {tuple(shape)}"
            )

    def _expected(self):
        return (
            f"`y` must hold labels from 0 to {self.num_classes - 1}, `num_classes` - 1, or "
            f"{IGNORED_LABEL} for pixels that are ignored. Received:"
        )

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Return the loss of a batch, each pixel weighed by its class in training.

        Args:
            x: ignored.
            y: int `(B, H, W)`, or `(B, H, W, 1)`.
            y_pred: float32 `(B, H, W, num_classes)`.
            sample_weight: `(B,)` or `(B, H, W)`.
            training: bool. Whether the `class_weight` of `fit` counts.
        Returns:
            float32 scalar, divided by the number of `tf.distribute` replicas.
        """
        labels = ops.cast(ops.reshape(y, ops.shape(y_pred)[:3]), "int32")
        weights = None
        if sample_weight is not None:
            weights = ops.cast(sample_weight, "float32")
            missing = 3 - len(weights.shape)
            weights = ops.reshape(weights, (*ops.shape(weights)[:3], *([1] * missing)))
            # Of one shape with the labels, whatever the loss makes of it.
            weights = ops.broadcast_to(weights, ops.shape(labels))
        if training and self._class_weight is not None:
            table = [*self._class_weight, *([0.0] * (IGNORED_LABEL + 1 - self.num_classes))]
            by_label = ops.take(ops.convert_to_tensor(table, "float32"), labels)
            weights = by_label if weights is None else weights * by_label
        return super().compute_loss(
            x=x, y=labels, y_pred=y_pred, sample_weight=weights, training=training
        )

    @property
    def _outputs_shape(self):
        return (*self.encoder.image_size, self.num_classes)

    def _batch(self, x, y, sample_weight, share):
        rows = ops.shape(x)[0]
        kept = self._kept(x, share)
        batch = {"images": x, "labels": y, "weights": sample_weight, "kept": kept}
        if self._means_differ():
            # Pixels that are labelled, a mean over the images of all replicas; a row an image.
            labelled = _labelled(y)
            total = ops.sum(labelled)
            if num_replicas() > 1:
                import tensorflow as tf

                context = tf.distribute.get_replica_context()
                total = context.all_reduce(tf.distribute.ReduceOp.SUM, total)
            mean = total / ops.cast(ops.maximum(share[0], 1), "float32")
            batch["labelled"] = ops.broadcast_to(mean, (rows,))
        return batch

    def _means_differ(self):
        """Whether parts or replicas would each have a mean over labelled pixels of their own."""
        is_mean = getattr(self.loss, "ignore_class", None) == IGNORED_LABEL
        return is_mean and (self.accumulate_steps > 1 or num_replicas() > 1)

    def _loss(self, batch):
        images, labels = batch["images"], batch["labels"]
        logits = self(images, training=True, kept=batch["kept"])
        loss = self.compute_loss(images, labels, logits, batch["weights"], training=True)
        if "labelled" in batch:
            # From a mean over these images' labelled pixels to their part of the whole batch's.
            mine, whole = ops.sum(_labelled(labels)), ops.sum(batch["labelled"])
            loss = loss * ops.divide_no_nan(mine, whole)
        return loss, logits


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps `(B, h, w, F)` bilinearly, the centres of corner pixels kept in proportion."""
    if tuple(x.shape[1:3]) == tuple(size):
        return x
    return ops.image.resize(x, size, interpolation="bilinear", data_format="channels_last")


def _labelled(labels: Tensor) -> Tensor:
    """Return what share of each image's pixels is labelled, float32 `(B,)`."""
    is_labelled = ops.cast(ops.not_equal(ops.cast(labels, "int32"), IGNORED_LABEL), "float32")
    return ops.mean(is_labelled, axis=tuple(range(1, len(labels.shape))))
