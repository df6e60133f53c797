"""Fine-tuning on label maps and boxes: what segmentation and detection share."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_mae.data import eval_dataset
from keras_mae.data.finetune import balanced_subset, finetune_dataset
from keras_mae.files import save_model, weights_digest
from keras_mae.models import ViTEncoder
from keras_mae.tasks.classify import image_size_of, make_encoder, rates_table
from keras_mae.tasks.images import ImageTask, device_line
from keras_mae.training import make_adamw
from keras_mae.training.layer_decay import layer_rate_scales
from keras_mae.training.schedules import run_schedule

DENSE_BATCH = 16  # images at a time, for measuring: outputs are large
SHOWN_IMAGES = 8


class DenseTask(ImageTask):
    """A task whose labels are maps or boxes. A subclass has a model, an end and a figure."""

    task = ""

    def load(self) -> None:
        super().load()
        settings = self.settings
        if settings.protocol == "knn":
            raise ValueError(
                f"`protocol` must not be 'knn' for task={settings.task!r}. Received: 'knn'"
            )
        if settings.train_examples is not None:
            few = balanced_subset(self.train, settings.train_examples, settings.seed)
            origin = f"{self.parts.origin['train']}, {settings.train_examples:,} of them"
            self.use(
                dataclasses.replace(
                    self.parts, train=few, origin={**self.parts.origin, "train": origin}
                )
            )
        self.num_classes = self.train.num_classes
        self.num_examples = self.train.num_examples
        self.stops_before_training = settings.dry_run

    def make(self, encoder: ViTEncoder) -> keras.Model:
        """Return the model of an encoder, not compiled."""
        raise NotImplementedError(f"{type(self).__name__} must implement `make`.")

    def build(self) -> None:
        encoder = make_encoder(self.settings, self.train)
        if not isinstance(encoder, ViTEncoder):
            raise ValueError(
                f"`encoder` must have blocks that are known, for task={self.settings.task!r}. "
                f"Received: {self.settings.encoder}"
            )
        settings, given = self.settings, self.settings.batch_size
        size = image_size_of(settings, encoder)
        settings = settings.with_recipe(size, self.num_examples)
        self.see_as(encoder)
        if given is None:
            batch_size = settings.batch_size - settings.batch_size % self.workers.replicas
            settings = settings.with_batch(batch_size)
        self.settings = settings
        self.check_batch()
        self.check_memory(encoder)
        if settings.protocol == "scratch":
            encoder = type(encoder).from_config(encoder.get_config())
        self.model = model = self.make(encoder)
        self.total_steps = settings.total_steps(self.num_examples)
        self.steps_per_epoch = -(-self.num_examples // settings.batch_size)
        ema = {"use_ema": True, "ema_momentum": settings.ema} if settings.ema else {}
        optimizer = make_adamw(
            model,
            run_schedule(settings, self.num_examples),
            weight_decay=settings.weight_decay,
            beta_2=settings.beta_2,
            rate_scales=layer_rate_scales(model, settings.layer_decay),
            **ema,
        )
        model.compile(
            optimizer,
            jit_compile=settings.jit and settings.strategy != "tpu",
            accumulate_steps=settings.accumulate_steps,
            recompute=settings.recompute,
        )
        model.optimizer.build(model.trainable_variables)
        # Metrics make their variables when first used, and a checkpoint holds them.
        some = self.workers.replicas
        images = np.zeros((some, *size, encoder.channels), "float32")
        labels = self.blank(some, size)
        if self.workers.count > 1:
            # `fit` does the same with a mean over replicas, which fails for several workers.
            model._symbolic_build(data_batch=(images, labels))
            model._maybe_symbolic_build = lambda **_: None
            return
        model.evaluate(images, labels, batch_size=some, verbose=0)
        model.reset_metrics()

    def blank(self, count: int, size: tuple[int, int]) -> Any:
        """Return labels of images without anything, as the model takes them."""
        raise NotImplementedError(f"{type(self).__name__} must implement `blank`.")

    def blocks_trained(self) -> float | None:
        """Return `trainable_blocks` of the protocol; None for all."""
        settings = self.settings
        return 0 if settings.protocol == "linear" else settings.trainable_blocks

    def facts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        weights = {str(i): np.array(v) for i, v in enumerate(self.model.encoder.weights)}
        fixed = {"images": self.train.fingerprint(), "encoder_digest": weights_digest(weights)}
        return fixed, {"model": self.model.get_config(), **self.data_facts()}

    def first_lines(self) -> list[str]:
        settings = self.settings
        lines = [settings.recipe_text()]
        if settings.dry_run:
            return [*lines, rates_table(self.model, self.model.optimizer)]
        origin = settings.encoder or f"a new one, {settings.preset}"
        return [
            *lines,
            f"Encoder: {origin}, {self.model.encoder.count_params():,} parameters; with the head "
            f"{self.model.count_params():,}.",
            *self.images_lines(self.model.encoder),
            f"Run: {self.total_steps:,} steps of {settings.batch_size:,} images; "
            f"{device_line(self.workers, settings)}.",
            self.heldout_note(),
            f"Output: {settings.directory}",
        ]

    def begin(self) -> dict[str, float]:
        self.open_skips()
        self._validation = self.evaluated(self.heldout)
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

    def validation(self) -> Any:
        return self._validation

    def validation_every(self) -> int:
        per_epoch = self.steps_per_epoch * self.settings.batch_size
        return self.settings.validation_epochs or -(-2 * self.heldout.num_examples // per_epoch)

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

    def local_copy(self) -> keras.Model:
        """Return a copy of the model on one device of this worker; itself where it is on one."""
        if self.workers.replicas == 1:
            return self.model
        copy = type(self.model).from_config(self.model.get_config())
        copy.set_weights(self.model.get_weights())
        return copy

    def shown(self) -> set[int]:
        """Return the records that a figure shows, spread over `measured`."""
        count = min(SHOWN_IMAGES, self.measured.num_examples)
        places = np.linspace(0, self.measured.num_examples - 1, count).astype(int)
        return set(self.measured.indices[places].tolist())
