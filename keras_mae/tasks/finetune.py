"""Fine-tuning: an encoder put to a task."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.tasks.classify import Classify
from keras_mae.tasks.detect import Detect
from keras_mae.tasks.segment import Segment
from keras_mae.training.loop import run

TASKS = {"classify": Classify, "segment": Segment, "detect": Detect}


def finetune(
    settings: FinetuneSettings, callbacks: Sequence[keras.callbacks.Callback] = ()
) -> dict[str, Any]:
    """Put an encoder to the test that `settings` describe, and write the output directory.

    It holds `config.json`, `results.json`, figures; for all protocols but "knn" `metrics.jsonl` and
    `model.keras`; and `skipped.jsonl` if an image could not be read. A run that was cut goes on
    from its last checkpoint.

    Args:
        settings: a `FinetuneSettings`; its `task` says which model is trained.
        callbacks: Keras callbacks, see `keras_mae.training.loop.run`.
    Returns:
        dict, as in `results.json`, of the test images, else of those held out ("measured_on").
        Of the task "classify": "protocol", "top1" and "top5" (None for fewer than 6 classes, and
        for kNN), in [0, 1], "macro_f1", "classes"; of images with several labels, in their place,
        what `keras_mae.evaluation.classification.multi_label_metrics` gives; "val_curve" (held-out
        top-1 after each epoch), "trainable_blocks", and for kNN "knn" (k to top-1). Of "segment"
        what `keras_mae.evaluation.segmentation.segmentation_metrics` gives, of "detect" what
        `keras_mae.evaluation.coco_metrics` gives. Of all, "training_seconds", "train_examples",
        "heldout_examples". With `dry_run`, an empty dict, and nothing is written.
    Raises:
        ValueError: for a setting, an encoder or a data set that does not fit, before any training.
        NonFiniteLossError, CheckpointError, Interrupted: see `keras_mae.training.loop.run`.
    Example:
        settings = keras_mae.FinetuneSettings(encoder="saved_models/mae_mnist5k", steps=100)
        accuracy = keras_mae.finetune(settings)["top1"]
    """
    return run(TASKS[settings.task](settings), callbacks)
