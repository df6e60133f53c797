"""Fine-tuning on label maps and boxes: what segmentation and detection share."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_mae.data import eval_dataset
from keras_mae.data.finetune import finetune_dataset
from keras_mae.files import save_model
from keras_mae.models import ViTEncoder
from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.settings.run import PRECISIONS
from keras_mae.settings.tools import size_argument
from keras_mae.tasks.encoders import EncoderTask
from keras_mae.tasks.images import device_kind

DENSE_BATCH = 16  # images at a time, for measuring: outputs are large
SHOWN_IMAGES = 8


class DenseTask(EncoderTask):
    """A task whose labels are maps or boxes. A subclass has a model, an end and a figure."""

    task = ""

    def load(self) -> None:
        super().load()
        self.take_few()
        self.num_classes = self.train.num_classes

    def settings_for(self, encoder: Any) -> FinetuneSettings:
        if not isinstance(encoder, ViTEncoder):
            raise ValueError(
                f"`encoder` must have blocks that are known, for task={self.task!r}. "
                f"Received: {self.settings.encoder}"
            )
        if device_kind() == "CPU" and self.settings.strategy != "tpu":
            # XLA's convolutions are slower there than TensorFlow's, and take a minute to compile.
            return dataclasses.replace(self.settings, jit=False)
        return self.settings

    def make(self, encoder: ViTEncoder) -> keras.Model:
        """Return the model of an encoder, not compiled."""
        raise NotImplementedError(f"{type(self).__name__} must implement `make`.")

    def build(self) -> None:
        encoder = self.open_encoder()
        self.model = model = self.make(encoder)
        self.total_steps = self.settings.total_steps(self.num_examples)
        self.steps_per_epoch = -(-self.num_examples // self.settings.batch_size)
        model.compile(self.adamw(model), **self.compile_options())
        some, size = self.workers.replicas, model.encoder.image_size
        images = np.zeros((some, *size, encoder.channels), "float32")
        self.make_metrics(images, self.blank(some, size))

    def blank(self, count: int, size: tuple[int, int]) -> Any:
        """Return labels of images without anything, as the model takes them."""
        raise NotImplementedError(f"{type(self).__name__} must implement `blank`.")

    def model_options(self) -> dict[str, Any]:
        """Return the arguments that all models have here."""
        settings = self.settings
        frozen = settings.protocol == "linear"
        filters = {} if settings.filters is None else {"filters": settings.filters}
        return {
            **filters,
            "drop_path": settings.drop_path,
            "trainable_blocks": 0 if frozen else settings.trainable_blocks,
            "image_size": size_argument(settings.image_size),
            "class_names": self.train.class_names,
            "seed": settings.seed,
            "dtype": PRECISIONS[settings.precision],
        }

    def begin(self) -> dict[str, float]:
        self.open_skips()
        plain = self.evaluated(self.heldout)
        pixels = self.pixels(self.model.encoder)
        self._validation = self.validation_of(
            self.heldout, pixels, True, plain, batch_size=DENSE_BATCH
        )
        return {}

    def evaluated(self, part: Any) -> Any:
        """Return a part's images, whole, and labels, as the model takes them."""
        pixels = self.pixels(self.model.encoder)
        return eval_dataset(part, task=self.task, batch_size=DENSE_BATCH, **pixels)

    def batches(self, step: int, num_shards: int, shard_index: int) -> Any:
        settings = self.settings
        views = settings.views()
        del views["crop_area"], views["crop_aspect"]  # these have a scale jitter
        return finetune_dataset(
            self.train,
            task=self.task,
            batch_size=settings.batch_size,
            num_classes=self.num_classes,
            seed=settings.seed,
            start_step=step,
            **views,
            scale_jitter=settings.scale_jitter,
            resize=settings.resize,
            num_shards=num_shards,
            shard_index=shard_index,
            **self.pixels(self.model.encoder),
        )

    def finish(self) -> dict[str, Any]:
        if not self.workers.is_chief:
            return {}
        save_model(self.model, self.directory / "model.keras")
        return {
            "task": self.task,
            "protocol": self.settings.protocol,
            "measured_on": self.measured_name,
            **self.measure(),
            "train_examples": self.train.num_examples,
            "heldout_examples": self.measured.num_examples,
            "num_classes": self.num_classes,
            "class_names": list(self.train.class_names),
        }

    def measure(self) -> dict[str, Any]:
        """Measure the trained model on `measured`, write what is to be kept; return numbers."""
        raise NotImplementedError(f"{type(self).__name__} must implement `measure`.")

    def each_measured(self) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield (records, images `(n, H, W, C)`, normalised) of those that can be read."""
        pixels = self.pixels(self.model.encoder)
        batches = eval_dataset(
            self.measured, task=self.task, batch_size=DENSE_BATCH, with_weights=True, **pixels
        )
        for number, (images, _, weights) in enumerate(batches):
            read = np.flatnonzero(np.asarray(weights))
            places = number * DENSE_BATCH + read
            yield self.measured.indices[places].tolist(), np.asarray(images)[read]

    def shown(self) -> set[int]:
        """Return the records that a figure shows, spread over `measured`."""
        count = min(SHOWN_IMAGES, self.measured.num_examples)
        places = np.linspace(0, self.measured.num_examples - 1, count).astype(int)
        return set(self.measured.indices[places].tolist())
