"""An encoder with heads that find objects: boxes, classes and scores."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.layers import boxes as box_math
from keras_mae.layers.arguments import check_positive_int, check_rate
from keras_mae.layers.feature_pyramid import FeaturePyramid
from keras_mae.layers.transformer import layer_norm
from keras_mae.models.on_encoder import CheckedLabels
from keras_mae.models.steps import num_replicas
from keras_mae.types import AnyPath, Shape, Size, Tensor

# Levels of half a patch and coarser, as far as their smallest anchor is not much over the image.
SCALES = (2, 1, 0.5, 0.25, 0.125)
# Of the scores at the start: what is background at nearly all anchors has no large loss.
PRIOR = 0.01
ALPHA, GAMMA = 0.25, 2.0
BOX_DELTA = 0.1


@keras.saving.register_keras_serializable(package="keras_mae")
class DetectionHead(keras.layers.Layer):
    """Convolutions of 3 x 3 that all levels of a pyramid share, and one to the outputs.

    Args:
        outputs: int O. Values of an anchor.
        filters: int. Channels of the convolutions between, each with a LayerNorm and a GELU.
        num_layers: int. How many of these.
        first_bias: float. What the outputs' bias starts at.
        seed: int. Fixes the initial weights; None for any.
    Call arguments:
        levels: list of float `(B, h, w, F)`.
    Returns:
        float32 `(B, A, O)`, level by level, row by row, anchor by anchor.
    """

    def __init__(
        self,
        outputs: int,
        filters: int = 128,
        num_layers: int = 2,
        first_bias: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.outputs = outputs
        self.filters = filters
        self.num_layers = num_layers
        self.first_bias = first_bias
        self.seed = seed
        self.convolutions = [
            self._convolution(filters, f"conv_{i}", use_bias=False) for i in range(num_layers)
        ]
        self.norms = [layer_norm(f"norm_{i}", self.dtype_policy) for i in range(num_layers)]
        self.last = self._convolution(
            outputs * box_math.PER_PLACE,
            "last",
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01, seed=seed),
            bias_initializer=keras.initializers.Constant(first_bias),
            dtype="float32",
        )

    def _convolution(self, filters, name, **changes):
        own = {
            "kernel_initializer": keras.initializers.GlorotUniform(self.seed),
            "dtype": self.dtype_policy,
            **changes,
        }
        return keras.layers.Conv2D(
            filters, 3, padding="same", data_format="channels_last", name=name, **own
        )

    def build(self, levels_shape: list[Shape]) -> None:
        width = levels_shape[0][-1]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            convolution.build((None, None, None, width))
            width = self.filters
            norm.build((None, None, None, width))
        self.last.build((None, None, None, width))

    @property
    def named_parts(self) -> dict[str, Any]:
        """The layers by name, for `keras_mae.models.weights`."""
        return {layer.name: layer for layer in (*self.convolutions, *self.norms, self.last)}

    def call(self, levels: list[Tensor]) -> Tensor:
        found = []
        for x in levels:
            for convolution, norm in zip(self.convolutions, self.norms, strict=True):
                x = ops.gelu(norm(convolution(x)), approximate=False)
            x = self.last(ops.cast(x, "float32"))
            places = x.shape[1] * x.shape[2] * box_math.PER_PLACE
            found.append(ops.reshape(x, (-1, places, self.outputs)))
        return ops.concatenate(found, axis=1)

    def compute_output_shape(self, levels_shape: list[Shape]) -> Shape:
        places = sum(shape[1] * shape[2] for shape in levels_shape)
        return levels_shape[0][0], places * box_math.PER_PLACE, self.outputs

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "outputs": self.outputs,
            "filters": self.filters,
            "num_layers": self.num_layers,
            "first_bias": self.first_bias,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="keras_mae")
class ViTDetector(CheckedLabels):
    """A pre-trained encoder, a `FeaturePyramid` and RetinaNet's two heads.

    The encoder is copied: training the detector never changes the model it came from.

    Args:
        encoder: `ViTEncoder`; or a model with one; or a path that `keras_mae.load_pretrained`
            knows.
        num_classes: int. Background is no class.
        filters: int. Channels of the levels and of the heads.
        drop_path, trainable_blocks, image_size: as of `ViTClassifier`. The heads are always
            trained.
        seed: int. Fixes the heads' initial weights and is the start of drop path's random numbers;
            None for any weights, and the encoder's own numbers.
        class_names: list of `num_classes` strings; None if not known.
        least_score: float in [0, 1). `predict` leaves out boxes of lower scores.
        largest_overlap: float in [0, 1). Of two boxes of a class with more intersection over union
            than this, `predict` keeps the better one.
        max_detections: int M. Boxes of an image, at most.
    Call arguments:
        images: float `(B, H, W, C)`, `((value - low) / (high - low) - mean) / std` with the
            encoder's `value_range`, `mean` and `std`.
        training: bool. Whether drop path is on.
        kept: what drop path keeps, see `ViTEncoder`; None: drawn.
    Returns:
        dict of float32: `offsets` `(B, A, 4)` of the boxes from the A `anchors`, and `logits`
        `(B, A, num_classes)`. `detections` makes boxes of them, and `predict` returns these.
    Raises:
        ValueError: naming the argument that does not fit.
    Example:
        model = keras_mae.ViTDetector("encoder.keras", num_classes=10)
        model.compile(keras_mae.training.make_adamw(model, 1e-3))
        model.fit(images, {"boxes": boxes, "classes": classes}, epochs=20)
        model.predict(images)  # {"boxes": (B, M, 4), "classes": (B, M), "scores": (B, M)}
    Reference: Lin et al. 2017, arXiv:1708.02002; the pyramid: Li et al. 2022, arXiv:2203.16527.
    """

    def __init__(
        self,
        encoder: keras.Model | AnyPath,
        num_classes: int,
        filters: int = 128,
        drop_path: float | None = None,
        trainable_blocks: float | None = None,
        image_size: Size | None = None,
        seed: int | None = None,
        class_names: Sequence[str] | None = None,
        least_score: float = 0.05,
        largest_overlap: float = 0.5,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        check_positive_int(filters, "filters")
        check_positive_int(max_detections, "max_detections")
        check_rate(least_score, "least_score")
        check_rate(largest_overlap, "largest_overlap")
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
        self.filters = filters
        self.least_score = least_score
        self.largest_overlap = largest_overlap
        self.max_detections = max_detections
        size, patch, policy = (
            self.encoder.image_size,
            self.encoder.patch_size,
            self.encoder.dtype_policy,
        )
        if patch is None:
            raise ValueError(f"`encoder` must tell its patch size. Received: {self.encoder!r}")
        scales = [s for s in SCALES if s >= 0.5 or 2 * max(patch) / s <= max(size)]
        scales = [s for s in scales if s <= min(patch)]
        self.pyramid = FeaturePyramid(
            size, patch, filters, scales, seed=seed, name="pyramid", dtype=policy
        )
        self.class_head = DetectionHead(
            num_classes,
            filters,
            first_bias=-float(np.log((1 - PRIOR) / PRIOR)),
            seed=seed,
            name="class_head",
            dtype=policy,
        )
        self.box_head = DetectionHead(4, filters, seed=seed, name="box_head", dtype=policy)
        self.anchors = box_math.anchors_of(size, list(self.pyramid.strides.values()))
        self.build((None, *size, self.encoder.channels))
        self.freeze_blocks()

    def build(self, input_shape: Shape) -> None:
        if self.built:
            return
        rows, columns = self.pyramid.grid_size
        tokens_shape = (None, rows * columns, self.encoder.hidden_dim)
        self.pyramid.build(tokens_shape)
        levels = list(self.pyramid.compute_output_shape(tokens_shape).values())
        self.class_head.build(levels)
        self.box_head.build(levels)

    def call(
        self, images: Tensor, training: bool = False, kept: Tensor | None = None
    ) -> dict[str, Tensor]:
        trained = self.trains_encoder(training)
        return self._heads_of(self.encoder(images, training=trained, kept=kept))

    def _heads_of(self, tokens):
        levels = list(self.pyramid(tokens).values())
        return {"offsets": self.box_head(levels), "logits": self.class_head(levels)}

    def compute_output_shape(self, input_shape: Shape) -> dict[str, Shape]:
        shape = input_shape[0], len(self.anchors)
        return {"offsets": (*shape, 4), "logits": (*shape, self.num_classes)}

    def detections(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the boxes that the model's outputs mean, after non-maximum suppression.

        Args:
            outputs: what the model returns for B images.
        Returns:
            dict, see `keras_mae.layers.boxes.best_boxes`: `boxes` `(B, M, 4)`, (left, top, right,
            bottom) in the image's pixels, `classes` and `scores` `(B, M)`, the best first.
        """
        return box_math.best_boxes(*self._candidates(outputs), **self.suppression)

    def _candidates(self, outputs):
        anchors = ops.convert_to_tensor(self.anchors)
        boxes = box_math.decode(outputs["offsets"], anchors, self.encoder.image_size)
        return boxes, ops.sigmoid(outputs["logits"])

    @property
    def suppression(self) -> dict[str, Any]:
        """What `keras_mae.layers.boxes.best_boxes` chooses boxes by."""
        return {
            "least_score": self.least_score,
            "largest_overlap": self.largest_overlap,
            "max_detections": self.max_detections,
            "num_candidates": 4 * self.max_detections,
        }

    def outputs_of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return what an export gives: `detections`, and what they are chosen from.

        Those are `candidate_boxes` `(B, A, 4)` and `candidate_scores` `(B, A, num_classes)`.
        """
        boxes, scores = self._candidates(self._heads_of(tokens))
        found = box_math.best_boxes(boxes, scores, **self.suppression)
        return {**found, "candidate_boxes": boxes, "candidate_scores": scores}

    def predict_step(self, *args: Any) -> Any:
        outputs = super().predict_step(*args)
        if isinstance(outputs, tuple):  # JAX: with the model's state
            return self.detections(outputs[0]), *outputs[1:]
        return self.detections(outputs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "least_score": self.least_score,
            "largest_overlap": self.largest_overlap,
            "max_detections": self.max_detections,
        }

    def compile(self, optimizer: Any = "adamw", **kwargs: Any) -> None:  # type: ignore[override]
        """Configure training; see `TrainedInParts.compile` for what Keras's `compile` has not.

        Args:
            optimizer: a Keras optimizer or its name.
            **kwargs: those of `TrainedInParts.compile`, but for loss and metrics: the model brings
                its own loss, and average precision is a number of a whole set.
        Raises:
            ValueError: naming the argument that does not fit.
        """
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"`{name}` must not be given: {type(self).__name__} computes its own loss. "
                    f"Received: {kwargs[name]!r}"
                )
        super().compile(optimizer, **kwargs)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train on images and objects, see `keras.Model.fit`.

        Args:
            x: images `(B, H, W, C)`, or a data set of them with objects.
            y: dict: `boxes`, float `(B, G, 4)`, (left, top, right, bottom) in the image's pixels,
                and `classes`, int `(B, G)`, 0 to `num_classes - 1`, or -1 for padding. Boxes
                without area are left out.
            *args, **kwargs: as in `keras.Model.fit`; `sample_weight` has one weight an image.
        Raises:
            ValueError: for objects that do not fit, before any step where they are in arrays; for
                a class that is none in a `tf.data.Dataset`, an error of TensorFlow when it comes.
        """
        return super().fit(x, y, *args, **kwargs)

    def _numbers(self, y):
        return y["classes"]

    def _wrong(self, numbers):
        return (numbers < -1) | (numbers >= self.num_classes)

    def _check_form(self, y):
        shapes = (
            {name: tuple(y[name].shape) for name in ("boxes", "classes")}
            if isinstance(y, dict) and {"boxes", "classes"} <= set(y)
            else {}
        )
        fits = shapes and len(shapes["boxes"]) == 3 and shapes["boxes"][2] == 4
        if not fits or len(shapes["classes"]) != 2:
            raise ValueError(
                "`y` must be a dict of `boxes` (batch, objects, 4) and `classes` (batch, objects). "
                f"Received: {shapes or type(y).__name__}"
            )

    def _check_values(self, y):
        if not np.isfinite(ops.convert_to_numpy(y["boxes"])).all():
            raise ValueError("`y['boxes']` must hold finite numbers. Received: NaN or infinity")

    def _expected(self):
        return (
            f"`y['classes']` must hold classes from 0 to {self.num_classes - 1}, `num_classes` - "
            "1, or -1 for padding. Received:"
        )

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Return the loss of a batch: a mean over images, those without objects among them.

        An image's loss is the focal loss of all its anchors, and the Huber loss of the offsets of
        those that stand for an object; both sums are divided by the number of these, or by 1 where
        there are none. So an image without objects teaches what background is.

        Args:
            x: ignored.
            y: dict, see `fit`.
            y_pred: what the model returns.
            sample_weight: float `(B,)`, or None.
            training: ignored.
        Returns:
            float32 scalar, divided by the number of `tf.distribute` replicas.
        """
        anchors = ops.convert_to_tensor(self.anchors)
        boxes, classes = box_math.match(
            anchors, ops.cast(y["boxes"], "float32"), ops.cast(y["classes"], "int32")
        )
        is_object = ops.cast(classes >= 0, "float32")
        counted = ops.cast(classes >= -1, "float32")
        truth = ops.one_hot(ops.maximum(classes, 0), self.num_classes) * is_object[..., None]
        focal = keras.losses.binary_focal_crossentropy(
            truth[..., None],
            y_pred["logits"][..., None],
            apply_class_balancing=True,
            alpha=ALPHA,
            gamma=GAMMA,
            from_logits=True,
        )
        # Of what an anchor does not stand for, there are no offsets.
        wanted = ops.where(is_object[..., None] > 0, box_math.encode(boxes, anchors), 0.0)
        huber = keras.losses.huber(wanted, y_pred["offsets"], delta=BOX_DELTA) / BOX_DELTA
        loss = ops.sum(ops.sum(focal, axis=-1) * counted + 4 * huber * is_object, axis=1)
        loss = loss / ops.maximum(ops.sum(is_object, axis=1), 1.0)
        if sample_weight is not None:
            loss = loss * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        rows = ops.cast(ops.maximum(ops.shape(loss)[0], 1), "float32")
        return ops.sum(loss) / rows / num_replicas()

    def _batch(self, x, y, sample_weight, share):
        kept = self._kept(x, share)
        objects = {"boxes": y["boxes"], "classes": y["classes"]}
        return {"images": x, **objects, "weights": sample_weight, "kept": kept}

    def _loss(self, batch):
        outputs = self(batch["images"], training=True, kept=batch["kept"])
        return self.compute_loss(None, batch, outputs, batch["weights"], training=True), None
