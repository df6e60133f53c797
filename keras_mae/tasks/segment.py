"""Segmentation: a class for each pixel."""

from typing import Any

import keras
import numpy as np

from keras_mae.data.dense import stored_labels
from keras_mae.evaluation.segmentation import PixelCounts
from keras_mae.models import ViTEncoder, ViTSegmenter
from keras_mae.plots.dense import Scene, label_map_figure
from keras_mae.tasks.dense import DenseTask
from keras_mae.tasks.probe import compiled_function


class Segment(DenseTask):
    """The task of `finetune` with task="segment"."""

    task = "segment"
    title = "Segmentation"
    files = {
        "model.keras": "the segmenter: encoder and head",
        "results.json": "intersections over unions and the confusion matrix, in stored pixels",
        "metrics.jsonl": "the curve: loss, learning rate, validation",
        "figures/predictions.png": "held-out images, what is labelled, and what is found",
        "skipped.jsonl": "images that could not be read, with the reason",
    }

    def make(self, encoder: ViTEncoder) -> keras.Model:
        head = str(self.settings.head)
        return ViTSegmenter(encoder, self.num_classes, head=head, **self.model_options())

    def blank(self, count: int, size: tuple[int, int]) -> Any:
        return np.zeros((count, *size), "int32")

    def measure(self) -> dict[str, Any]:
        model = self.local_copy()
        predict = compiled_function(lambda images: model(images, training=False))
        counts, scenes, shown = PixelCounts(self.num_classes), [], self.shown()
        for records, images in self.each_measured():
            scores = np.asarray(predict(images))
            for record, image, own in zip(records, images, scores, strict=True):
                truth = self.measured.target(record)
                found = stored_labels(own, truth.shape)
                counts.add(truth, found)
                if record in shown:
                    scenes.append(Scene(image, truth, found))
        encoder = model.encoder
        label_map_figure(
            scenes,
            self.directory / "figures" / "predictions.png",
            encoder.mean,
            encoder.std,
            self.train.class_names,
        )
        return counts.metrics(self.train.class_names)

    def summary(self, results: dict[str, Any]) -> str:
        width = max(len("class"), *(len(name) for name in results["class_names"]))
        rows = [
            f"{name:<{width}}  {'not there' if iou is None else format(iou, '.1%'):>9}"
            for name, iou in zip(results["class_names"], results["iou"], strict=True)
        ]
        lines = [
            f"\nsegment, {results['protocol']}, {results['train_examples']:,} training images: "
            f"mean IoU {results['mean_iou']:.1%}, pixels right {results['pixel_accuracy']:.1%} of "
            f"{results['heldout_examples']:,} {self.measured_name} images. "
            f"Took {results['training_seconds']:.0f} s.",
            f"{'class':<{width}}        IoU",
            *rows,
            *self.ended(results),
        ]
        return "\n".join(line for line in lines if line)
