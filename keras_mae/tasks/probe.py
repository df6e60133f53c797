"""The linear probe: a linear layer on frozen features, which are computed once.

There is one: fine-tuning with `protocol="linear"`, the table of a pre-training and the rows of a
report, for encoders and for raw pixels, all train this task.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_mae.evaluation.features import extract_features, raw_pixels
from keras_mae.layers.whitening import Whitening
from keras_mae.models.embedder import ViTEmbedder
from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.training import LARS
from keras_mae.training.loop import Task, run
from keras_mae.training.schedules import run_schedule
from keras_mae.types import Tensor

if TYPE_CHECKING:
    from keras_mae.data import Source  # it needs TensorFlow

EVAL_BATCH = 250
STEPS_PER_EXECUTION = 50  # a step is so small that to call it takes most of its time


class LinearProbe(Task):
    """Train a head on features; nothing is written.

    Args:
        settings: a complete `FinetuneSettings` with `protocol="linear"`.
        features: float32 `(n, D)`, of the training images, views side by side in the rows.
        labels: int `(n,)` in [0, num_classes).
        num_classes: int.
        num_examples: int, images that the features are of; None for n.
    """

    writes = False

    def __init__(
        self,
        settings: FinetuneSettings,
        features: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        num_examples: int | None = None,
    ) -> None:
        super().__init__(settings)
        self.features, self.labels, self.num_classes = features, labels, num_classes
        self.num_examples = len(features) if num_examples is None else num_examples

    def load(self) -> None:
        self.total_steps = self.settings.total_steps(self.num_examples)

    def build(self) -> None:
        self.model = keras.Sequential(
            [
                keras.Input((self.features.shape[1],)),
                keras.layers.BatchNormalization(
                    momentum=0.9, epsilon=1e-6, center=False, scale=False, dtype="float32"
                ),
                keras.layers.Dense(
                    self.num_classes,
                    kernel_initializer=keras.initializers.TruncatedNormal(
                        stddev=0.01, seed=self.settings.seed
                    ),
                    dtype="float32",
                ),
            ]
        )
        self.steps_per_execution, self.steps_per_epoch = executions(
            self.total_steps, self.total_steps
        )
        compile_head(self)

    def batches(self, step: int, num_shards: int, shard_index: int) -> Any:
        return feature_batches(
            self.features,
            self.labels,
            self.num_classes,
            self.settings,
            step,
            num_shards,
            shard_index,
        )

    def finish(self) -> dict[str, Any]:
        return {"steps": self.total_steps}


def linear_probe(
    features: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    wanted: np.ndarray,
    num_classes: int,
    settings: FinetuneSettings | None = None,
    num_examples: int | None = None,
) -> float:
    """Train a linear classifier on features that were computed once, and return its accuracy.

    Batch normalisation without scale and offset, a linear layer, LARS with momentum .9 and no
    weight decay, cosine after a warm-up: the recipe of the reference, with the numbers of
    `settings`.

    Args:
        features, labels: float `(n, D)` and int `(n,)` in [0, num_classes).
        queries, wanted: float `(m, D)` and int `(m,)`, held out.
        num_classes: int.
        settings: a complete `FinetuneSettings`, see `probe_settings`; None for the recipe of small
            images.
        num_examples: int, images that the features are views of, the first view of each first;
            None for n.
    Returns:
        float in [0, 1]: top-1 accuracy on `queries`.
    Reference: He et al. 2021, arXiv:2111.06377, appendix A.1, linear probing.
    """
    features = np.asarray(features, "float32")
    if settings is None:
        settings = probe_settings((1, 1), len(features), feature_views=1)
    if settings.whiten is not None:
        whiten = Whitening.fitted_to(features[:num_examples], settings.whiten)
        features, queries = apply_whitening(whiten, features), apply_whitening(whiten, queries)
    task = LinearProbe(settings, features, np.asarray(labels), num_classes, num_examples)
    run(task, verbose=False)
    predicted = task.model.predict(queries, batch_size=1024, verbose=0).argmax(axis=1)
    return float(np.mean(predicted == np.asarray(wanted)))


def probe_settings(
    image_size: tuple[int, int], num_examples: int, **given: Any
) -> FinetuneSettings:
    """Return the complete settings of a probe on features that are computed once.

    Args:
        image_size: (H, W), of the encoder.
        num_examples: int, training images.
        **given: settings of `FinetuneSettings`, in place of the recipe's.
    """
    settings = FinetuneSettings(protocol="linear", **given).with_recipe(image_size, num_examples)
    return on_kept_features(settings, image_size, num_examples)


def on_kept_features(
    settings: FinetuneSettings, image_size: tuple[int, int], num_examples: int
) -> FinetuneSettings:
    """Return a probe's settings; where these would compute new features in each epoch, 1 view.

    Args:
        settings: a complete `FinetuneSettings` with `protocol="linear"`.
        image_size, num_examples: see `probe_settings`.
    """
    if settings.feature_views or settings.augmentation == "none":
        return settings
    settings = dataclasses.replace(settings, feature_views=1)
    return settings.with_recipe(image_size, num_examples)


def apply_whitening(whitening: Whitening, features: np.ndarray, chunk: int = 8192) -> np.ndarray:
    """Return features `(n, D)` whitened, float32 `(n, num_components)`."""
    parts = [
        keras.ops.convert_to_numpy(whitening(np.asarray(features[i : i + chunk], "float32")))
        for i in range(0, len(features), chunk)
    ]
    return np.concatenate(parts)


def describe_probe(settings: FinetuneSettings, num_examples: int) -> dict[str, Any]:
    """Return what a table says of its probe, a dict: pooling, blocks, views and steps."""
    return {
        "pooling": settings.pooling,
        "blocks": settings.pooled_blocks,
        "views": settings.feature_views,
        "steps": settings.total_steps(num_examples),
    }


def head_loss(settings: FinetuneSettings, several: bool = False) -> keras.losses.Loss:
    """Return the loss of logits: cross-entropy of classes, or of each of several labels."""
    kind = keras.losses.BinaryCrossentropy if several else keras.losses.CategoricalCrossentropy
    return kind(from_logits=True, label_smoothing=settings.label_smoothing)


def compile_head(task: Task, metrics: Sequence[Any] = (), several: bool = False) -> None:
    """Compile a probe's model: LARS, cross-entropy, several steps in one call."""
    settings = task.settings
    tensorflow = keras.backend.backend() == "tensorflow"
    # Several replicas cannot take several steps in one call.
    alone = tensorflow and task.workers.replicas == 1
    task.steps_per_execution = task.steps_per_execution if alone else 1
    task.model.compile(
        LARS(
            run_schedule(settings, task.num_examples),
            lars_weight_decay=settings.weight_decay,
        ),
        head_loss(settings, several),
        weighted_metrics=list(metrics),
        # XLA would take longer to compile than TensorFlow takes; JAX is slow without.
        jit_compile=not tensorflow,
        steps_per_execution=task.steps_per_execution,
    )
    task.model.optimizer.build(task.model.trainable_variables)


def executions(total_steps: int, steps_per_epoch: int, divisor: int = 0) -> tuple[int, int]:
    """Return (steps a call, steps an epoch) so that calls end where epochs and the run do.

    Args:
        total_steps: int.
        steps_per_epoch: int, about.
        divisor: int, what a number of steps must divide, too; 0 for none.
    """
    common = math.gcd(total_steps, divisor)
    steps = max(n for n in range(1, STEPS_PER_EXECUTION + 1) if common % n == 0)
    return steps, steps * max(1, round(steps_per_epoch / steps))


def feature_batches(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    settings: FinetuneSettings,
    step: int,
    num_shards: int,
    shard_index: int,
) -> Any:
    """Return the endless stream of batches of features after `step`, as `fit` takes it."""
    try:
        from keras_mae.data.finetune import features_dataset
    except ImportError:  # without TensorFlow
        return _numpy_batches(features, labels, num_classes, settings, step)
    return features_dataset(
        features,
        labels,
        num_classes=num_classes,
        batch_size=settings.batch_size,
        seed=settings.seed,
        start_step=step,
        num_shards=num_shards,
        shard_index=shard_index,
    )


def _numpy_batches(features, labels, num_classes, settings, step):
    """Yield batches; each pass is a permutation that is a function of (seed, pass)."""
    count, size = len(features), settings.batch_size
    targets = np.asarray(labels, "float32")
    if targets.ndim == 1:
        targets = np.eye(num_classes, dtype="float32")[np.asarray(labels)]
    orders = {}
    while True:
        places = np.arange(step * size, (step + 1) * size)
        rows = []
        for number in np.unique(places // count):
            if number not in orders:
                orders = {number: np.random.default_rng([settings.seed, number]).permutation(count)}
            rows.append(orders[number][places[places // count == number] % count])
        rows = np.concatenate(rows)
        yield features[rows], targets[rows]
        step += 1


def encoder_predictor(
    encoder: keras.Model, pooling: str, blocks: int = 1, jit: bool = False
) -> Callable[[Tensor], Tensor]:
    """Return a function from images to pooled features, compiled for batches.

    Args:
        encoder: `ViTEncoder` or `SavedModelEncoder`.
        pooling, blocks: see `ViTClassifier`'s `pooling` and `pooled_blocks`.
        jit: bool. Whether XLA compiles it, on TensorFlow.
    """
    embedder = ViTEmbedder(encoder, pooling, blocks)
    return compiled_function(lambda images: embedder(images), jit, encoder.variables)


def compiled_function(
    function: Callable[[Tensor], Any], jit: bool = False, variables: Sequence[Any] = ()
) -> Callable[[Tensor], Any]:
    """Return a graph of a function of images; on other backends than TensorFlow, itself compiled.

    Not `predict_on_batch`, which under a strategy gives each replica's output to the same images.

    Args:
        function: from a tensor of images to tensors.
        jit: bool. Whether XLA compiles it, on TensorFlow.
        variables: Keras variables that `function` reads. Each call sees the values of that moment,
            so weights may be trained on between two calls.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, reduce_retracing=True, jit_compile=jit)
    if backend == "jax":
        import jax

        variables = list(variables)

        # As arguments: what is compiled would keep their first values as constants.
        @jax.jit
        def compiled(values, images):
            with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
                return function(images)

        return lambda images: compiled([variable.value for variable in variables], images)
    return function


def view_features(
    predict: Callable[[Tensor], Tensor],
    source: "Source",
    settings: FinetuneSettings,
    pixels: dict[str, Any],
    plain: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (features, labels) of several views of a source's images, view after view.

    The first view is the image as it is evaluated; the others are augmented.

    Args:
        predict: function, normalised images to `(B, D)`.
        source: a labelled `Source`.
        settings: a complete `FinetuneSettings`: `feature_views` and how they are augmented.
        pixels: dict, `image_size`, `mean`, `std` and `on_skip` of the data sets.
        plain: (features, labels) of the first view, where they are known.
    """
    from keras_mae.data import eval_dataset, finetune_dataset

    if plain is None:
        plain = extract_features(predict, eval_dataset(source, batch_size=EVAL_BATCH, **pixels))
    count = (settings.feature_views - 1) * source.num_examples
    if count <= 0 or settings.augmentation == "none":
        return plain
    batches = finetune_dataset(
        source,
        batch_size=EVAL_BATCH,
        num_classes=source.num_classes,
        seed=settings.seed,
        **settings.views(),
        resize=settings.resize,
        randaugment=settings.randaugment,
        erasing=settings.erasing,
        **pixels,
    )
    batches = batches.take(-(-count // EVAL_BATCH))
    several = source.multi_label
    more = extract_features(
        predict,
        ((x, np.asarray(y, "int64") if several else np.argmax(y, axis=1)) for x, y in batches),
    )
    # The last batch has begun one view more.
    features, labels = (np.concatenate([a, b[:count]]) for a, b in zip(plain, more, strict=True))
    return features, labels


def pixel_predictor(images: Tensor) -> np.ndarray:
    """Return images as features, shrunk where they are large."""
    return raw_pixels(np.asarray(images))
