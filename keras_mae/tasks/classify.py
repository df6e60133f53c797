"""Fine-tuning: from an encoder and labelled images to a classifier and its accuracy."""

import dataclasses
import os
import time
from typing import Any

import keras
import numpy as np

from keras_mae.data import Source, eval_dataset
from keras_mae.data.finetune import balanced_subset, finetune_dataset
from keras_mae.data.parts import labelled
from keras_mae.evaluation.classification import (
    LEAST_FOR_TOP5,
    format_classes,
    multi_label_metrics,
    single_label_metrics,
)
from keras_mae.evaluation.confusion import confusion_matrix
from keras_mae.evaluation.features import extract_features
from keras_mae.evaluation.knn import knn_predict
from keras_mae.files import save_model, weights_digest
from keras_mae.interop import load_encoder
from keras_mae.interop.hub import is_hub
from keras_mae.models import ViTClassifier, ViTEncoder
from keras_mae.models.saved_model_encoder import SavedModelEncoder
from keras_mae.plots.confusion import confusion_figure
from keras_mae.presets import preset_config
from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.settings.run import PRECISIONS
from keras_mae.tasks.images import EVAL_BATCH, ImageTask, device_line
from keras_mae.tasks.probe import (
    compile_head,
    compiled_function,
    encoder_predictor,
    executions,
    feature_batches,
    head_loss,
    view_features,
)
from keras_mae.training import LARS, make_adamw
from keras_mae.training.callbacks import read_metrics
from keras_mae.training.layer_decay import layer_rate_scales
from keras_mae.training.schedules import run_schedule


class Classify(ImageTask):
    """The task of `finetune`.

    Attributes:
        classifier: the `ViTClassifier`. Of a linear probe on features that are computed once,
            `model` is its head alone.
    """

    files = {
        "model.keras": "the classifier: encoder and head",
        "results.json": "accuracies and the confusion matrix",
        "metrics.jsonl": "the curve: loss, learning rate, validation",
        "figures/confusion.png": "which classes are taken for which",
        "skipped.jsonl": "images that could not be read, with the reason",
    }

    def load(self) -> None:
        super().load()
        settings = self.settings
        self.num_classes = check_labels(self.train, settings.num_classes)
        self.use(labelled(self.parts))
        if settings.train_examples is not None:
            few = balanced_subset(self.train, settings.train_examples, settings.seed)
            origin = f"{self.parts.origin['train']}, {settings.train_examples:,} of them"
            self.use(
                dataclasses.replace(
                    self.parts, train=few, origin={**self.parts.origin, "train": origin}
                )
            )
        self.several = self.train.multi_label
        if self.several and settings.protocol == "knn":
            raise ValueError(
                "`protocol` must not be 'knn' for images with several labels. Received: 'knn'"
            )
        self.num_examples = self.train.num_examples
        self.stops_before_training = settings.dry_run
        self.neighbours = _neighbours(settings, self.num_examples)

    def build(self) -> None:
        encoder = make_encoder(self.settings, self.train)
        settings = _for_saved_model(self.settings, encoder)
        size = image_size_of(settings, encoder)
        given = settings.batch_size
        settings = settings.with_recipe(size, self.num_examples)
        self.see_as(encoder)
        if given is None:
            batch_size = settings.batch_size - settings.batch_size % self.workers.replicas
            settings = settings.with_batch(batch_size)
        self.settings = settings
        self.check_batch()
        self.check_memory(encoder)
        self.classifier = _classifier(settings, encoder, self.num_classes, self.train.class_names)
        self.total_steps = 0
        self.on_features = settings.protocol == "linear" and (
            bool(settings.feature_views) or settings.augmentation == "none"
        )
        if settings.protocol == "knn":
            self.model = self.classifier
            return
        self.total_steps = settings.total_steps(self.num_examples)
        self.steps_per_epoch = -(-self.num_examples // settings.batch_size)
        metrics = self._metrics()
        if self.on_features and self.workers.count > 1:
            raise ValueError(
                "`strategy` must not be 'multi_worker' for a linear probe on features that are "
                "computed once: it takes seconds on one. --feature_views=0 trains on images."
            )
        if self.on_features:
            self._build_head(metrics)
        else:
            self._build_classifier(metrics)
        # Metrics make their variables when first used, and a checkpoint holds them.
        width = self.model.input_shape[1:] if self.on_features else (*size, encoder.channels)
        images, labels = np.zeros((1, *width), "float32"), np.eye(self.num_classes)[:1]
        batch = images, labels.astype("float32"), np.ones(1, "float32")
        if self.workers.count > 1:
            # `fit` does the same with a mean over replicas, which fails for several workers.
            self.model._symbolic_build(data_batch=batch)
            self.model._maybe_symbolic_build = lambda **_: None
            return
        some = self.workers.replicas
        self.model.evaluate(
            *(array.repeat(some, axis=0) for array in batch[:2]),
            sample_weight=batch[2].repeat(some),
            batch_size=some,
            verbose=0,
        )
        self.model.reset_metrics()

    def _metrics(self):
        if self.several:
            # Of logits: one above 0 says that the label is there.
            return [keras.metrics.BinaryAccuracy(name="label_accuracy", threshold=0.0)]
        metrics = [keras.metrics.CategoricalAccuracy(name="top1")]
        if self.num_classes >= LEAST_FOR_TOP5:
            metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
        return metrics

    def _build_head(self, metrics):
        """Make the head alone the model: the encoder's features are computed once."""
        settings, classifier = self.settings, self.classifier
        views = max(1, settings.feature_views) if settings.augmentation != "none" else 1
        per_epoch = -(-self.num_examples * views // settings.batch_size)
        self.steps_per_execution, self.steps_per_epoch = executions(
            self.total_steps, per_epoch, settings.checkpoint_steps or 0
        )
        self.model = keras.Sequential(
            [
                keras.Input((classifier.head.kernel.shape[0],)),
                classifier.feature_norm,
                classifier.head,
            ],
            name="probe",
        )
        compile_head(self, metrics, self.several)

    def _build_classifier(self, metrics):
        settings, model = self.settings, self.classifier
        self.model = model
        loss = head_loss(settings, self.several)
        model.compile(
            _optimizer(settings, model, self.num_examples),
            loss,
            weighted_metrics=metrics,
            jit_compile=settings.jit and settings.strategy != "tpu",
            accumulate_steps=settings.accumulate_steps,
            recompute=settings.recompute,
        )
        model.optimizer.build(model.trainable_variables)

    def facts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        weights = {str(i): np.array(v) for i, v in enumerate(self.classifier.encoder.weights)}
        fixed = {"images": self.train.fingerprint(), "encoder_digest": weights_digest(weights)}
        return fixed, {
            "model": self.classifier.get_config(),
            **self.data_facts(),
        }

    def first_lines(self) -> list[str]:
        settings = self.settings
        lines = [settings.recipe_text(self.neighbours)]
        if settings.dry_run:
            optimizer = None if settings.protocol == "knn" else self.model.optimizer
            return [*lines, rates_table(self.classifier, optimizer)]
        origin = settings.encoder or f"a new one, {settings.preset}"
        return [
            *lines,
            f"Encoder: {origin}, {self.classifier.encoder.count_params():,} parameters.",
            *self.images_lines(self.classifier.encoder),
            f"Run: {self.total_steps:,} steps of {settings.batch_size:,} images; "
            f"{device_line(self.workers, settings)}."
            if self.total_steps
            else "",
            self.heldout_note(),
            f"Output: {settings.directory}",
        ]

    def begin(self) -> dict[str, float]:
        self.open_skips()
        pixels = self.pixels(self.classifier.encoder)
        self.evaluation = [
            eval_dataset(part, batch_size=EVAL_BATCH, **pixels)
            for part in (self.train, self.heldout, self.measured)
        ]
        if not self.total_steps:
            return {}
        if self.on_features:
            predict = self._predictor()
            self.features, self.labels = view_features(predict, self.train, self.settings, pixels)
            queries, wanted = extract_features(predict, self.evaluation[1])
            self._validation = _batched(queries, self._targets(wanted))
        else:
            self._validation = self.validation_of(
                self.heldout,
                pixels,
                True,
                self.evaluation[1],
                lambda dataset: dataset.map(self._with_targets),
            )
        return {}

    def _targets(self, labels):
        """Return labels as the loss takes them, float `(n, num_classes)`."""
        if not self.several:
            return np.eye(self.num_classes)[labels]
        return np.pad(labels, [(0, 0), (0, self.num_classes - labels.shape[1])])

    def _predictor(self):
        settings = self.settings
        return encoder_predictor(
            self._local_copy().encoder, settings.pooling, settings.pooled_blocks, settings.jit
        )

    def _with_targets(self, images, labels, *weights):
        from keras_mae.data.finetune import targets_of

        return images, targets_of(labels, self.num_classes), *weights

    def batches(self, step: int, num_shards: int, shard_index: int) -> Any:
        settings = self.settings
        if self.on_features:
            return feature_batches(
                self.features,
                self.labels,
                self.num_classes,
                settings,
                step,
                num_shards,
                shard_index,
            )
        return finetune_dataset(
            self.train,
            batch_size=settings.batch_size,
            num_classes=self.num_classes,
            seed=settings.seed,
            start_step=step,
            **settings.views(),
            resize=settings.resize,
            randaugment=settings.randaugment,
            erasing=settings.erasing,
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            num_shards=num_shards,
            shard_index=shard_index,
            **self.pixels(self.classifier.encoder),
        )

    def validation(self) -> Any:
        return self._validation

    def validation_every(self) -> int:
        # After each epoch, where images to train on abound.
        per_epoch = self.steps_per_epoch * self.settings.batch_size
        return self.settings.validation_epochs or -(-2 * self.heldout.num_examples // per_epoch)

    def finish(self) -> dict[str, Any]:
        if not self.workers.is_chief:
            return {}
        found = self._neighbours() if self.settings.protocol == "knn" else self._trained()
        scores, labels = found.pop("scores"), found.pop("labels")
        names = self.classifier.class_names
        if self.several:
            found.update(
                multi_label_metrics(scores, self._targets(labels), names, from_logits=True)
            )
        else:
            # Of neighbours there is no second guess: what they found stays.
            found = {**single_label_metrics(scores, labels, names), **found}
            matrix = confusion_matrix(labels, scores.argmax(axis=1), self.num_classes)
            confusion_figure(matrix, self.directory / "figures" / "confusion.png", names)
            found["confusion_matrix"] = matrix.tolist()
        return {
            "protocol": self.settings.protocol,
            "measured_on": self.measured_name,
            **found,
            "train_examples": self.train.num_examples,
            "heldout_examples": len(labels),
            "num_classes": self.num_classes,
            "class_names": names,
            "trainable_blocks": self.settings.trainable_blocks,
        }

    def _neighbours(self):
        start = time.perf_counter()
        predict = self._predictor()
        (features, labels), (queries, wanted) = (
            extract_features(predict, part) for part in (self.evaluation[0], self.evaluation[2])
        )
        predicted = knn_predict(features, labels, queries, self.num_classes, ks=self.neighbours)
        accuracy = {str(k): float(np.mean(predicted[k] == wanted)) for k in self.neighbours}
        first = self.neighbours[0]
        return {
            "top1": accuracy[str(first)],
            "top5": None,
            "knn": accuracy,
            "val_curve": [],
            "training_seconds": round(time.perf_counter() - start, 1),
            "scores": np.eye(self.num_classes)[predicted[first]],
            "labels": wanted,
        }

    def _trained(self):
        save_model(self.classifier, self.directory / "model.keras")
        classifier = self._local_copy()
        predict = compiled_function(lambda images: classifier(images, training=False))
        logits, labels = extract_features(predict, self.evaluation[2])
        lines = read_metrics(self.directory / "metrics.jsonl")
        curve = "val_label_accuracy" if self.several else "val_top1"
        return {
            "val_curve": [line[curve] for line in lines if curve in line],
            "scores": logits,
            "labels": labels,
        }

    def _local_copy(self):
        """Return a copy of the classifier on one device; itself where it is on one."""
        if self.workers.replicas == 1:
            return self.classifier
        copy = ViTClassifier.from_config(self.classifier.get_config())
        copy.set_weights(self.classifier.get_weights())
        return copy

    def summary(self, results: dict[str, Any]) -> str:
        if self.several:
            parts = [
                f"{name} {'not defined' if results[key] is None else format(results[key], '.1%')}"
                for name, key in (
                    ("macro AUROC", "macro_auroc"),
                    ("mAP", "map"),
                    ("macro F1", "macro_f1"),
                )
            ]
        else:
            parts = [f"top-1 {results['top1']:.1%}"]
            if results["top5"] is not None:
                parts.append(f"top-5 {results['top5']:.1%}")
            parts.append(f"macro F1 {results['macro_f1']:.1%}")
        parts += [f"kNN k={k}: {value:.1%}" for k, value in results.get("knn", {}).items()]
        lines = [
            f"\n{results['protocol']}, {results['train_examples']:,} training images: "
            f"{', '.join(parts)} of {results['heldout_examples']:,} {self.measured_name} images. "
            f"Took {results['training_seconds']:.0f} s.",
            format_classes(results["classes"]),
            self.skipped_note(),
            self.values_note(),
        ]
        if "stopped_early_at_step" in results:
            lines.append(f"It stopped early, at step {results['stopped_early_at_step']:,}.")
        lines.append(self.heldout_note())
        return "\n".join(line for line in lines if line)


def check_labels(source: Source, num_classes: int | None = None) -> int:
    """Return how many outputs a head for a data set has, or say why it can have none.

    Args:
        source: a `Source`.
        num_classes: int or None: as many as the data set has classes.
    Raises:
        ValueError: without labels, with one class, with more classes than `num_classes`, or with
            labels out of range.
    """
    known = source.labels()
    classes = source.num_classes
    if classes is None:
        raise ValueError(f"`dataset` must have labels. Received: {source.name!r}, without any")
    if known is not None:
        known = source.labelled().labels()
        if not len(known):
            raise ValueError(
                f"`dataset` must have images with labels. Received: {source.name!r}, with none"
            )
    if source.multi_label:
        if num_classes is not None and classes > num_classes:
            raise ValueError(
                f"`num_classes` must be at least the {classes} labels of {source.name!r}. "
                f"Received: {num_classes}"
            )
        return num_classes or classes
    if classes < 2 or (known is not None and len(np.unique(known)) < 2):
        raise ValueError(
            f"`dataset` must have images of at least 2 classes. Received: {source.name!r}, with one"
        )
    if num_classes is not None and classes > num_classes:
        raise ValueError(
            f"`num_classes` must be at least the {classes} classes of {source.name!r}. "
            f"Received: {num_classes}"
        )
    num_classes = num_classes or classes
    if known is not None and not 0 <= known.min() <= known.max() < num_classes:
        raise ValueError(
            f"`dataset` must have labels in [0, {num_classes}). Received: {source.name!r}, with "
            f"labels from {known.min()} to {known.max()}"
        )
    return num_classes


def make_encoder(settings: FinetuneSettings, source: Source) -> ViTEncoder | SavedModelEncoder:
    """Return the encoder to start from: the given one, or a new one of the preset's sizes.

    Args:
        settings: a `FinetuneSettings`.
        source: a `Source`, whose channels, size and statistics a new one gets.
    """
    if settings.encoder is not None:
        if not (is_hub(settings.encoder) or os.path.exists(settings.encoder)):
            raise ValueError(
                f"`encoder` must be a file or a folder that exists. Received: {settings.encoder!r}"
            )
        return load_encoder(settings.encoder, source.mean, source.std)
    config = preset_config(settings.preset)
    config = {k: v for k, v in config.items() if not k.startswith("decoder_")}
    if source.image_size is not None and max(source.image_size) <= config["image_size"]:
        config["image_size"] = source.image_size
    config["channels"] = source.channels
    return ViTEncoder(**config, mean=source.mean, std=source.std, value_range=source.value_range)


def _neighbours(settings, num_examples):
    """Return the numbers of neighbours; of the default's, those that there are."""
    ks = settings.knn
    if settings.protocol != "knn":
        return ks
    if ks == type(settings).defaults()["knn"]:
        ks = tuple(k for k in ks if k <= num_examples)
    if max(ks) > num_examples:
        raise ValueError(
            f"`knn` must be at most the {num_examples} training images. Received: {list(ks)}"
        )
    return ks


def _for_saved_model(settings, encoder):
    """Return settings without what cannot be done to a SavedModel; refuse what was asked for."""
    if not isinstance(encoder, SavedModelEncoder):
        return settings
    if settings.protocol in ("scratch", "partial"):
        raise ValueError(
            f"`protocol` must be full, linear or knn for a SavedModel, in which blocks cannot be "
            f"told apart. Received: {settings.protocol!r}"
        )
    for name, only in (("layer_decay", 1.0), ("drop_path", 0.0), ("pooled_blocks", 1)):
        if getattr(settings, name) not in (None, only):
            raise ValueError(
                f"`{name}` must be {only:g} or None for a SavedModel, in which blocks cannot be "
                f"told apart. Received: {getattr(settings, name)}"
            )
    return dataclasses.replace(settings, layer_decay=1.0, drop_path=0.0)


def image_size_of(settings: FinetuneSettings, encoder: Any) -> tuple[int, int]:
    """Return the (H, W) of the model: the setting's, else the encoder's."""
    sides = settings.image_size or encoder.image_size
    return sides[0], sides[-1]


def _classifier(settings, encoder, num_classes, class_names):
    """Return the model; for "scratch" of the encoder's architecture, all weights new."""
    if settings.protocol == "scratch":
        encoder = type(encoder).from_config(encoder.get_config())
    frozen = settings.protocol in ("linear", "knn")
    return ViTClassifier(
        encoder,
        num_classes,
        pooling=settings.pooling,
        pooled_blocks=settings.pooled_blocks,
        head_norm="batch" if frozen else "auto",
        drop_path=settings.drop_path,
        trainable_blocks=0 if frozen else settings.trainable_blocks,
        image_size=settings.image_size and image_size_of(settings, encoder),
        # A head wider than the data set has classes without a name.
        class_names=class_names if len(class_names or ()) == num_classes else None,
        seed=settings.seed,
        dtype=PRECISIONS[settings.precision],
    )


def _optimizer(settings, model, num_examples):
    schedule = run_schedule(settings, num_examples)
    if settings.protocol == "linear":
        return LARS(schedule, lars_weight_decay=settings.weight_decay)
    ema = {"use_ema": True, "ema_momentum": settings.ema} if settings.ema else {}
    return make_adamw(
        model,
        schedule,
        weight_decay=settings.weight_decay,
        beta_2=settings.beta_2,
        rate_scales=layer_rate_scales(model, settings.layer_decay),
        **ema,
    )


def _batched(features, targets):
    """Return arrays as the validation data of `fit`, batch by batch, on any backend."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return -(-len(features) // EVAL_BATCH)

        def __getitem__(self, index):
            rows = slice(index * EVAL_BATCH, (index + 1) * EVAL_BATCH)
            return features[rows], targets[rows].astype("float32")

    return Batches()


def rates_table(model: keras.Model, optimizer: Any) -> str:
    """Return, as lines of text, each variable's peak learning rate, decay, and whether it trains.

    Args:
        model: a `ViTClassifier`.
        optimizer: what it is to be compiled with, a warm-up and cosine as its learning rate; None
            where nothing is trained.
    """
    trainable = model.trainable_variables
    rates, decays = {}, {}
    if optimizer is not None:
        schedule = optimizer._learning_rate
        peak = getattr(schedule, "warmup_target", None) or schedule.initial_learning_rate
        scales = getattr(optimizer, "rate_scales", None) or [1.0] * len(trainable)
        rates = {id(v): peak * scale for v, scale in zip(trainable, scales, strict=True)}
        for v in trainable:
            if isinstance(optimizer, LARS):
                decays[id(v)] = optimizer.lars_weight_decay if len(v.shape) > 1 else 0.0
            else:
                decays[id(v)] = optimizer.weight_decay if optimizer._use_weight_decay(v) else 0.0
    width = max(len(v.path) for v in model.variables)
    lines = [f"{'variable':<{width}}  {'shape':<16}  peak rate  decay  trained"]
    for v in model.variables:
        trained = id(v) in rates
        lines.append(
            f"{v.path:<{width}}  {tuple(v.shape)!s:<16}  {rates.get(id(v), 0):>9.3g}  "
            f"{decays.get(id(v), 0):>5.3g}  {'yes' if trained else 'no'}"
        )
    return "\n".join(lines)
