"""Fine-tuning: from an encoder and labelled images to a classifier and its accuracy."""

import dataclasses
import time
from typing import Any

import keras
import numpy as np

from keras_mae.data import Source, eval_dataset
from keras_mae.data.finetune import finetune_dataset
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
from keras_mae.files import save_model
from keras_mae.layers.whitening import Whitening, rank_note
from keras_mae.models import ViTClassifier
from keras_mae.models.saved_model_encoder import SavedModelEncoder
from keras_mae.plots.confusion import confusion_figure
from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.settings.run import PRECISIONS
from keras_mae.tasks.encoders import EncoderTask, image_size_of
from keras_mae.tasks.images import EVAL_BATCH
from keras_mae.tasks.probe import (
    apply_whitening,
    compile_head,
    compiled_function,
    encoder_predictor,
    executions,
    feature_batches,
    head_loss,
    view_features,
)
from keras_mae.training import LARS
from keras_mae.training.callbacks import read_metrics
from keras_mae.training.schedules import run_schedule


class Classify(EncoderTask):
    """The task of `finetune`.

    Attributes:
        classifier: the `ViTClassifier`. Of a linear probe on features that are computed once,
            `model` is its head alone.
    """

    title = "Classification"
    whitened_to: Any = None  # components; set where the settings whiten
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
        self.take_few()
        self.several = self.train.multi_label
        if self.several and settings.protocol == "knn":
            raise ValueError(
                "`protocol` must not be 'knn' for images with several labels. Received: 'knn'"
            )
        self.neighbours = _neighbours(settings, self.num_examples)

    @property
    def whole(self) -> Any:
        return self.classifier

    def settings_for(self, encoder: Any) -> FinetuneSettings:
        return _for_saved_model(self.settings, encoder)

    def build(self) -> None:
        encoder = self.open_encoder()
        settings = self.settings
        self.classifier = _classifier(
            settings, encoder, self.num_classes, self.train.class_names, self.several
        )
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
        some, seen = self.workers.replicas, self.classifier.encoder
        width = (*seen.image_size, seen.channels)
        width = self.model.input_shape[1:] if self.on_features else width
        labels = np.zeros((some, self.num_classes), "float32")
        labels[:, 0] = 1
        self.make_metrics(np.zeros((some, *width), "float32"), labels, np.ones(some, "float32"))

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
        if settings.protocol == "linear":
            schedule = run_schedule(settings, self.num_examples)
            optimizer = LARS(schedule, lars_weight_decay=settings.weight_decay)
        else:
            optimizer = self.adamw(model)
        loss = head_loss(settings, self.several)
        model.compile(optimizer, loss, weighted_metrics=metrics, **self.compile_options())

    def begin(self) -> dict[str, float]:
        self.open_skips()
        pixels = self.pixels(self.classifier.encoder)
        self.evaluation = [
            eval_dataset(part, batch_size=EVAL_BATCH, **pixels)
            for part in (self.train, self.heldout, self.measured)
        ]
        if not self.total_steps:
            return {}
        whitening = self.classifier.whitening
        predict = self._predictor() if self.on_features or whitening is not None else None
        plain = None
        if whitening is not None:
            plain = extract_features(predict, self.evaluation[0])
            self.whitened_to = whitening.adapt(plain[0])
        if self.on_features:
            features, self.labels = view_features(predict, self.train, self.settings, pixels, plain)
            queries, wanted = extract_features(predict, self.evaluation[1])
            if whitening is not None:
                features, queries = (apply_whitening(whitening, x) for x in (features, queries))
            self.features = features
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
            self.local_copy().encoder, settings.pooling, settings.pooled_blocks, settings.jit
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
            **({"whitened_to": self.whitened_to} if self.whitened_to is not None else {}),
        }

    def _neighbours(self):
        start = time.perf_counter()
        predict = self._predictor()
        (features, labels), (queries, wanted) = (
            extract_features(predict, part) for part in (self.evaluation[0], self.evaluation[2])
        )
        if self.settings.whiten is not None:
            whitening = Whitening.fitted_to(features, self.settings.whiten)
            self.whitened_to = whitening.num_components
            features, queries = (apply_whitening(whitening, x) for x in (features, queries))
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
        classifier = self.local_copy()
        predict = compiled_function(lambda images: classifier(images, training=False))
        logits, labels = extract_features(predict, self.evaluation[2])
        lines = read_metrics(self.directory / "metrics.jsonl")
        curve = "val_label_accuracy" if self.several else "val_top1"
        return {
            "val_curve": [line[curve] for line in lines if curve in line],
            "scores": logits,
            "labels": labels,
        }

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
            rank_note(self.settings.whiten, self.whitened_to) if self.whitened_to else "",
            *self.ended(results),
        ]
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


def _classifier(settings, encoder, num_classes, class_names, several):
    """Return the model of an encoder."""
    frozen = settings.protocol in ("linear", "knn")
    return ViTClassifier(
        encoder,
        num_classes,
        pooling=settings.pooling,
        pooled_blocks=settings.pooled_blocks,
        head_norm="batch" if frozen else "auto",
        whiten=settings.whiten,
        multi_label=several,
        drop_path=settings.drop_path,
        trainable_blocks=0 if frozen else settings.trainable_blocks,
        image_size=settings.image_size and image_size_of(settings, encoder),
        # A head wider than the data set has classes without a name.
        class_names=class_names if len(class_names or ()) == num_classes else None,
        seed=settings.seed,
        dtype=PRECISIONS[settings.precision],
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
