"""Detection: boxes with classes."""

from typing import Any

import keras
import numpy as np

from keras_mae.data.dense import coco_results
from keras_mae.evaluation.coco import coco_metrics
from keras_mae.files import write_json
from keras_mae.layers import boxes as box_math
from keras_mae.models import ViTDetector, ViTEncoder
from keras_mae.plots.dense import Scene, boxes_figure
from keras_mae.tasks.dense import DenseTask
from keras_mae.tasks.probe import compiled_function

# Of boxes that figures show: scores from here on, and of boxes with more overlap the best alone,
# whatever their classes are.
SHOWN_SCORE, SHOWN_OVERLAP = 0.3, 0.5


class Detect(DenseTask):
    """The task of `finetune` with task="detect"."""

    task = "detect"
    title = "Detection"
    files = {
        "model.keras": "the detector: encoder, levels and heads",
        "results.json": "average precision as COCO defines it",
        "detections.json": "what was found, in COCO's format",
        "heldout.json": "what should be found, in COCO's format",
        "metrics.jsonl": "the curve: loss, learning rate, validation",
        "figures/predictions.png": "held-out images, what is labelled, and what is found",
        "skipped.jsonl": "images that could not be read, with the reason",
    }

    def make(self, encoder: ViTEncoder) -> keras.Model:
        return ViTDetector(encoder, self.num_classes, **self.model_options())

    def blank(self, count: int, size: tuple[int, int]) -> Any:
        most = self.train.most_boxes
        boxes = np.full((count, most, 4), -1, "float32")
        return {"boxes": boxes, "classes": np.full((count, most), -1, "int32")}

    def measure(self) -> dict[str, Any]:
        model = self.local_copy()
        size = model.encoder.image_size
        predict = compiled_function(lambda images: model.detections(model(images, training=False)))
        source, shown = self.measured.for_task("detect"), self.shown()
        results: list[dict[str, Any]] = []
        scenes = []
        for records, images in self.each_measured():
            found = {name: np.asarray(value) for name, value in predict(images).items()}
            for i, record in enumerate(records):
                real = found["classes"][i] >= 0
                boxes, classes, scores = (
                    found[name][i][real] for name in ("boxes", "classes", "scores")
                )
                results += coco_results(source, record, boxes, classes, scores, size)
                if record in shown:
                    good = best_alone(boxes, scores)
                    scenes.append(
                        Scene(images[i], record, (boxes[good], classes[good], scores[good]))
                    )
        truth = source.truth()
        write_json(self.directory / "heldout.json", truth)
        write_json(self.directory / "detections.json", results)
        encoder = model.encoder
        boxes_figure(
            scenes,
            self.directory / "figures" / "predictions.png",
            encoder.mean,
            encoder.std,
            self.train.class_names,
            self._truth_of,
        )
        return coco_metrics(truth, results)

    def _truth_of(self, record):
        """Return (boxes on the model's canvas, classes) that are labelled in a record."""
        source = self.measured.for_task("detect")
        one = source.subset(np.flatnonzero(source.indices == record))
        (_, labels), *_ = self.evaluated(one)
        boxes, classes = np.asarray(labels["boxes"])[0], np.asarray(labels["classes"])[0]
        return boxes[classes >= 0], classes[classes >= 0]

    def summary(self, results: dict[str, Any]) -> str:
        def shown(value):
            return "not defined" if value is None else f"{value:.1%}"

        width = max(len("class"), *(len(row["name"]) for row in results["classes"]))
        rows = [
            f"{row['name']:<{width}}  {shown(row['AP']):>11}  {shown(row['AP50']):>11}"
            for row in results["classes"]
        ]
        lines = [
            f"\ndetect, {results['protocol']}, {results['train_examples']:,} training images: AP "
            f"{shown(results['AP'])}, AP50 {shown(results['AP50'])}, AP75 "
            f"{shown(results['AP75'])} of {results['heldout_examples']:,} {self.measured_name} "
            f"images. Took {results['training_seconds']:.0f} s.",
            f"{'class':<{width}}           AP         AP50",
            *rows,
            *self.ended(results),
        ]
        return "\n".join(line for line in lines if line)


def best_alone(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Return which boxes a figure shows, the best first.

    Args:
        boxes: float `(n, 4)`.
        scores: float `(n,)`.
    """
    overlaps = np.asarray(box_math.overlaps(boxes, boxes))
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        if scores[i] >= SHOWN_SCORE and all(overlaps[i, j] <= SHOWN_OVERLAP for j in kept):
            kept.append(i)
    return kept
