"""Predictions of a fine-tuned classifier for images, with their names."""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_mae.data import Source
from keras_mae.evaluation.classification import (
    format_classes,
    multi_label_metrics,
    single_label_metrics,
)
from keras_mae.evaluation.confusion import confusion_matrix
from keras_mae.files import printable, saved_model_path, write_json
from keras_mae.interop import load_pretrained
from keras_mae.interop.hub import is_hub, resolve
from keras_mae.models import ViTClassifier
from keras_mae.models.saved_model_encoder import CARD
from keras_mae.pixels import denormalize
from keras_mae.plots.confusion import confusion_figure
from keras_mae.plots.contact_sheet import contact_sheet
from keras_mae.settings.embed import PredictSettings
from keras_mae.tasks.embed import (
    SHEET_COLUMNS,
    SHEET_IMAGES,
    check_output,
    chunks_path,
    model_digest,
    sheet_images,
    source_of,
    source_of_settings,
)
from keras_mae.tasks.outputs import Outputs, form_of, seen_as
from keras_mae.tasks.probe import compiled_function
from keras_mae.tasks.tables import ROWS, write_rows
from keras_mae.types import AnyPath

logger = logging.getLogger(__name__)


class Predictions(NamedTuple):
    """What a classifier says of images.

    Attributes:
        names: list of str, the images'.
        classes: array of str `(n, k)`, the most probable class first.
        probabilities: float32 `(n, k)`, theirs.
    """

    names: list[str]
    classes: np.ndarray
    probabilities: np.ndarray


@dataclasses.dataclass
class Classifier:
    """A classifier, whatever it was opened from.

    Attributes:
        logits: function, normalised images `(B, H, W, C)` to `(B, classes)`; of an export, the
            logarithms of probabilities would do as well.
        encoder: what tells `image_size`, `channels`, `mean`, `std` and `value_range`.
        class_names: list of str in the order of the logits.
        has_names: bool. Whether they are the model's own, and not its numbers.
        multi_label: bool. Whether each logit is of a label of its own.
        digest: str, of its weights.
    """

    logits: Callable[[Any], Any]
    encoder: Any
    class_names: list[str]
    has_names: bool
    multi_label: bool
    digest: str

    def probabilities(self, logits: np.ndarray, multi_label: bool) -> np.ndarray:
        """Return float64 `(n, classes)` of logits: softmax, or of several labels sigmoid."""
        logits = np.asarray(logits, "float64")
        if multi_label:
            return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)


def predict(
    model: keras.Model | AnyPath,
    dataset: Any,
    *,
    top: int = 5,
    batch_size: int = 64,
    max_bad_fraction: float = 0.1,
    **options: Any,
) -> Predictions:
    """Return the most probable classes of all images of a data set that can be read.

    Args:
        model: `ViTClassifier`, a path to one that `keras_mae.load_pretrained` knows, or the
            directory of one that was exported as a SavedModel.
        dataset, batch_size, max_bad_fraction: see `keras_mae.embed`.
        top: int. So many classes of each image.
        **options: of `load_source`.
    Returns:
        `Predictions`: `(names, classes, probabilities)`. What could not be read is logged, and
        left out. The classes are the model's, whatever folders the images lie in.
    Raises:
        ValueError: if the model is no classifier, or cannot see the images.
    Example:
        names, classes, probabilities = keras_mae.predict("saved_models/few", "folder:new")
    """
    classifier = open_classifier(model)
    source = seen_as(source_of(dataset, **options), classifier.encoder, options.get("channels"))
    outputs = Outputs(
        source,
        classifier.logits,
        form_of(classifier.encoder),
        batch_size=batch_size,
        max_bad_fraction=max_bad_fraction,
    )
    for name, reason in outputs.skipped():
        logger.warning("%s could not be read, and has no prediction: %s", name, reason)
    found = classifier.probabilities(outputs.matrix(), classifier.multi_label)
    order = best(found, top)
    classes = np.array(classifier.class_names)[order]
    probabilities = np.take_along_axis(found, order, axis=1).astype("float32")
    return Predictions(outputs.names(outputs.numbers()), classes, probabilities)


def best(probabilities: np.ndarray, top: int) -> np.ndarray:
    """Return the `top` classes of each row, the most probable first, of equals the lower number."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :top]


def open_classifier(model: keras.Model | AnyPath, jit: bool = False) -> Classifier:
    """Return the `Classifier` that a model is, or that a path holds.

    Args:
        model: see `predict`.
        jit: bool. Whether XLA compiles it.
    Raises:
        ValueError: if it is none.
    """
    if isinstance(model, str | os.PathLike):
        if not is_hub(model) and not Path(model).exists():
            raise ValueError(
                f"`model` must be a file or a folder that exists. Received: {printable(model)!r}"
            )
        path = resolve(model)
        if (version := saved_model_path(path)) is not None:
            return _of_saved_model(version)
        model = load_pretrained(path)
    if not isinstance(model, ViTClassifier):
        maps = "; segmenters and detectors give maps and boxes, by their `predict` in Python"
        kind = type(model).__name__
        other = {"ViTSegmenter": maps, "ViTDetector": maps}
        words = other.get(kind, "; scripts/embed.py gives the features of an encoder")
        raise ValueError(f"`model` must be a classifier{words}. Received: a {kind}")
    names = model.class_names
    return Classifier(
        compiled_function(lambda images: model(images, training=False), jit),
        model.encoder,
        list(names or map(str, range(model.num_classes))),
        names is not None,
        model.multi_label,
        model_digest(model),
    )


@dataclasses.dataclass
class _Sight:
    """How an exported model sees images."""

    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float]


def _of_saved_model(version: Path) -> Classifier:
    """The classifier of a SavedModel that `export_encoder` wrote, with its card."""
    import tensorflow as tf

    card = json.loads((version / CARD).read_text()) if (version / CARD).exists() else {}
    if "num_classes" not in card or card.get("kind") != "classifier":
        what = f"one of a {card['kind']}" if "kind" in card else f"one without a {CARD}"
        raise ValueError(
            "`model` must be a classifier that scripts/export.py wrote, with its card. "
            f"Received: {version}, {what}"
        )
    sight = _Sight(**{f.name: _tuple(card[f.name]) for f in dataclasses.fields(_Sight)})
    signature = tf.saved_model.load(str(version)).signatures["serving_default"]

    def logits(images):
        values = denormalize(images, sight.mean, sight.std, sight.value_range)
        return signature(images=tf.constant(values, tf.float32))["logits"]

    names = card.get("class_names")
    return Classifier(
        logits,
        sight,
        list(names or map(str, range(card["num_classes"]))),
        names is not None,
        bool(card.get("multi_label")),
        str(card["weights_sha256"]),
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def predict_command(settings: PredictSettings) -> None:
    """Write the table of predictions; where there are labels, how good they are."""
    check_output(settings, ROWS)
    output = Path(settings.output)
    source, _ = source_of_settings(settings)
    classifier = open_classifier(settings.model, settings.jit)
    source = seen_as(source, classifier.encoder, settings.channels)
    form = form_of(classifier.encoder)
    print(
        f"Predicting {source.num_examples:,} images of {printable(settings.dataset or 'files')}: "
        f"{len(classifier.class_names):,} classes.",
        flush=True,
    )
    outputs = Outputs(
        source,
        classifier.logits,
        form,
        directory=chunks_path(output),
        about={
            "model": classifier.digest,
            "form": form,
            "sensor": str(source.sensor),
            "jit": settings.jit,
        },
        batch_size=settings.batch_size,
        max_bad_fraction=settings.max_bad_fraction,
        say=lambda line: print(line, flush=True),
    )
    truth = _Truth(source, classifier) if source.num_classes else None
    several = classifier.multi_label or (truth is not None and truth.several)
    top = min(settings.top, len(classifier.class_names))
    columns: list[tuple[str, type]] = [("name", str)]
    for i in range(1, top + 1):
        columns += [(f"class_{i}", str), (f"probability_{i}", float)]
    columns += [("label", str)] * (truth is not None)

    def parts():
        for numbers, logits in outputs:
            probabilities = classifier.probabilities(logits, several)
            rows = []
            for name, number, row, order in zip(
                outputs.names(numbers),
                numbers,
                probabilities,
                best(probabilities, top),
                strict=True,
            ):
                cells = [name]
                for i in order:
                    cells += [classifier.class_names[i], float(row[i])]
                rows.append(cells + ([truth.text(number)] if truth is not None else []))
            yield rows

    write_rows(output, columns, parts())
    written = [(output, f"the {top} most probable classes of {outputs.num_rows:,} images")]
    if skipped := outputs.skipped():
        path = output.with_suffix(".skipped.csv")
        write_rows(path, [("name", str), ("reason", str)], [skipped])
        written.append((path, f"{len(skipped):,} images that could not be read"))
    if truth is not None and settings.metrics:
        written += _measure(output, outputs, classifier, truth, several)
    outputs.discard()
    speed = outputs.computed / max(outputs.seconds, 1e-9)
    print(f"\n{outputs.computed:,} images in {outputs.seconds:.1f} s ({speed:,.0f} images/s).")
    print("\nWrote:")
    longest = max(len(str(path)) for path, _ in written)
    for path, words in written:
        print(f"  {path!s:<{longest}}  {words}")


class _Truth:
    """The labels of a source, in a model's numbers.

    Attributes:
        several: bool. Whether an image can have several.
        known: bool `(num_examples,)`, whose label is a class of the model's; or None, where labels
            are not known without reading.
        labels: int `(num_examples,)`, or `(num_examples, classes)` of 0 and 1.
        strangers: list of str, classes that the model has not.
    """

    def __init__(self, source: Source, classifier: Classifier) -> None:
        self.several, own = source.multi_label, source.labels()
        theirs = list(source.class_names or map(str, range(source.num_classes or 0)))
        self.names, self.own = theirs, own
        ours = {name: number for number, name in enumerate(classifier.class_names)}
        if not classifier.has_names:  # by number, then
            ours = {name: i for i, name in enumerate(theirs[: len(classifier.class_names)])}
        places = np.array([ours.get(name, -1) for name in theirs], int)
        self.strangers = [name for name, place in zip(theirs, places, strict=True) if place < 0]
        self.known: Any = None
        if own is None or source.task != "classify":
            return
        if not self.several:
            self.labels = np.where(own >= 0, places[np.maximum(own, 0)], -1)
            self.known = self.labels >= 0
            return
        self.labels = np.zeros((len(own), len(classifier.class_names)), int)
        self.known = (own >= 0).all(axis=1) & ~(own[:, places < 0] > 0).any(axis=1)
        self.labels[:, places[places >= 0]] = np.maximum(own[:, places >= 0], 0)

    def text(self, number: int) -> str:
        """Return the label of an example as the data set has it; "" for none."""
        if self.own is None:
            return ""
        label = self.own[number]
        if self.several:
            return "|".join(n for n, there in zip(self.names, label, strict=False) if there == 1)
        return self.names[label] if label >= 0 else ""


def _measure(
    output: Path, outputs: Outputs, classifier: Classifier, truth: _Truth, several: bool
) -> list[tuple[Path, str]]:
    """Print and write how good predictions are, and draw the worst; return what was written."""
    if truth.known is None:
        print("No metrics: the labels are not known without reading all images.")
        return []
    numbers = outputs.numbers()
    is_known = truth.known[numbers]
    if truth.strangers:
        shown = ", ".join(map(printable, truth.strangers[:5]))
        print(f"Of the data set's classes the model has not: {shown}.")
    if not is_known.any():
        print("No metrics: no image has a label that is a class of the model's.")
        return []
    if not is_known.all():
        print(f"{np.sum(~is_known):,} images without such a label are not measured.")
    numbers = numbers[is_known]
    probabilities = classifier.probabilities(outputs.matrix()[is_known], several)
    labels, names = truth.labels[numbers], classifier.class_names
    written = []
    if several and labels.ndim == 1:
        labels = np.eye(len(names), dtype=int)[labels]
    if several:
        metrics = multi_label_metrics(probabilities, labels, names)
        keys = ("macro_auroc", "map", "macro_f1")
        loss = -np.log(np.where(labels == 1, probabilities, 1 - probabilities) + 1e-12).sum(axis=1)
        wrong = np.flatnonzero(((probabilities >= 0.5) != labels).any(axis=1))
        order = wrong[np.argsort(-loss[wrong], kind="stable")]
        captions = [_labels_caption(probabilities[i], labels[i], names) for i in order]
    else:
        metrics = single_label_metrics(probabilities, labels, names)
        keys = ("top1", "top5", "macro_f1")
        found = probabilities.argmax(axis=1)
        wrong = np.flatnonzero(found != labels)
        order = wrong[np.argsort(-probabilities[wrong, found[wrong]], kind="stable")]
        captions = [
            f"{names[found[i]]} {probabilities[i, found[i]]:.2f}\nis {names[labels[i]]}"
            for i in order
        ]
        matrix = confusion_matrix(labels, found, len(names))
        path = output.with_suffix(".confusion.png")
        confusion_figure(matrix, path, names)
        written.append((path, "which classes are taken for which"))
        metrics["confusion_matrix"] = matrix.tolist()
    values = ", ".join(f"{key} {metrics[key]:.1%}" for key in keys if metrics.get(key) is not None)
    print(f"\n{metrics['num_images']:,} images with labels: {values}.")
    print(format_classes(metrics["classes"]).replace("results.json", "the metrics"))
    path = output.with_suffix(".metrics.json")
    write_json(path, metrics)
    written.append((path, "the numbers"))
    if len(order):
        first = order[:SHEET_IMAGES]
        path = output.with_suffix(".mistakes.png")
        lines = [
            f"{name}\n{caption}"
            for name, caption in zip(outputs.names(numbers[first]), captions, strict=False)
        ]
        images = sheet_images(outputs, list(numbers[first]))
        title = f"Mistakes, the surest first ({len(order):,} in all)"
        contact_sheet(path, images, lines, SHEET_COLUMNS, title)
        written.append((path, "the worst mistakes"))
    return written


def _labels_caption(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> str:
    """Which label is the most wrong, in words."""
    errors = np.abs(labels - probabilities)
    worst = int(errors.argmax())
    return f"{names[worst]} {probabilities[worst]:.2f}\nis {'there' if labels[worst] else 'not'}"
