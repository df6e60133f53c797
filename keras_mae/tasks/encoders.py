"""What all fine-tuning shares: the encoder, its recipe, its optimizer, what is said of it."""

import dataclasses
import os
from typing import Any

import keras
import numpy as np

from keras_mae.data import Source
from keras_mae.data.finetune import balanced_subset
from keras_mae.files import weights_digest
from keras_mae.interop import load_encoder
from keras_mae.interop.hub import is_hub
from keras_mae.models import ViTEncoder
from keras_mae.models.saved_model_encoder import SavedModelEncoder
from keras_mae.presets import preset_config
from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.tasks.images import ImageTask, device_line
from keras_mae.training import LARS, make_adamw
from keras_mae.training.layer_decay import layer_rate_scales
from keras_mae.training.schedules import run_schedule


class EncoderTask(ImageTask):
    """A task that begins with an encoder.

    Attributes:
        neighbours: numbers of neighbours that are measured, or None.
    """

    neighbours: Any = None
    _validation: Any = None  # set by `begin`

    @property
    def whole(self) -> Any:
        """The model that holds the encoder."""
        return self.model

    def take_few(self) -> None:
        """Keep as many training images as `train_examples` says, and count them."""
        settings, parts = self.settings, self.parts
        if settings.train_examples is not None:
            few = balanced_subset(self.train, settings.train_examples, settings.seed)
            words = f"{parts.origin['train']}, {settings.train_examples:,} of them"
            origin = {**parts.origin, "train": words}
            self.use(dataclasses.replace(parts, train=few, origin=origin))
        self.num_examples = self.train.num_examples
        self.stops_before_training = settings.dry_run

    def settings_for(self, encoder: Any) -> FinetuneSettings:
        """Return the settings for an encoder, or raise for what cannot be done to it."""
        return self.settings

    def open_encoder(self) -> Any:
        """Return the encoder to start from, with `settings` complete and checked for it."""
        encoder = make_encoder(self.settings, self.train)
        settings = self.settings_for(encoder)
        given = settings.batch_size
        settings = settings.with_recipe(image_size_of(settings, encoder), self.num_examples)
        self.see_as(encoder)
        if given is None:
            batch_size = settings.batch_size - settings.batch_size % self.workers.replicas
            settings = settings.with_batch(batch_size)
        self.settings = settings
        self.check_batch()
        self.check_memory(encoder)
        self.keep_decoded(image_size_of(self.settings, encoder))
        if settings.protocol == "scratch":  # the architecture, all weights new
            encoder = type(encoder).from_config(encoder.get_config())
        return encoder

    def adamw(self, model: keras.Model) -> Any:
        """Return AdamW as the settings say, with layer decay."""
        settings = self.settings
        ema = {"use_ema": True, "ema_momentum": settings.ema} if settings.ema else {}
        return make_adamw(
            model,
            run_schedule(settings, self.num_examples),
            weight_decay=settings.weight_decay,
            beta_2=settings.beta_2,
            rate_scales=layer_rate_scales(model, settings.layer_decay),
            **ema,
        )

    def compile_options(self) -> dict[str, Any]:
        """Return what all models here are compiled with."""
        settings = self.settings
        return {
            "jit_compile": settings.jit and settings.strategy != "tpu",
            "accumulate_steps": settings.accumulate_steps,
            "recompute": settings.recompute,
        }

    def make_metrics(self, images: np.ndarray, labels: Any, weights: Any = None) -> None:
        """Let metrics make their variables, which a checkpoint holds, by a batch of no meaning.

        Args:
            images, labels, weights: arrays with a row a replica.
        """
        if self.workers.count > 1:
            # `fit` does the same with a mean over replicas, which fails for several workers.
            batch = (images, labels) if weights is None else (images, labels, weights)
            self.model._symbolic_build(data_batch=batch)
            self.model._maybe_symbolic_build = lambda **_: None
            return
        self.model.evaluate(
            images, labels, sample_weight=weights, batch_size=len(images), verbose=0
        )
        self.model.reset_metrics()

    def facts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        weights = {str(i): np.array(v) for i, v in enumerate(self.whole.encoder.weights)}
        fixed = {"images": self.train.fingerprint(), "encoder_digest": weights_digest(weights)}
        return fixed, {"model": self.whole.get_config(), **self.data_facts()}

    def first_lines(self) -> list[str]:
        settings, model = self.settings, self.whole
        lines = [settings.recipe_text(self.neighbours)]
        if settings.dry_run:
            optimizer = None if settings.protocol == "knn" else self.model.optimizer
            return [*lines, rates_table(model, optimizer)]
        origin = settings.encoder or f"a new one, {settings.preset}"
        return [
            *lines,
            f"Encoder: {origin}, {model.encoder.count_params():,} parameters; with what follows "
            f"it {model.count_params():,}.",
            *self.images_lines(model.encoder),
            f"Run: {self.total_steps:,} steps of {settings.batch_size:,} images; "
            f"{device_line(self.workers, settings)}."
            if self.total_steps
            else "",
            self.heldout_note(),
            f"Output: {settings.directory}",
        ]

    def validation(self) -> Any:
        return self._validation

    def validation_every(self) -> int:
        # After each epoch, where images to train on abound.
        per_epoch = self.steps_per_epoch * self.settings.batch_size
        return self.settings.validation_epochs or -(-2 * self.heldout.num_examples // per_epoch)

    def local_copy(self) -> Any:
        """Return a copy of `whole` on one device of this worker; itself where it is on one."""
        if self.workers.replicas == 1:
            return self.whole
        copy = type(self.whole).from_config(self.whole.get_config())
        copy.set_weights(self.whole.get_weights())
        return copy

    def ended(self, results: dict[str, Any]) -> list[str]:
        """Return the lines that a summary ends with."""
        early = results.get("stopped_early_at_step")
        return [
            self.skipped_note(),
            self.values_note(),
            f"It stopped early, at step {early:,}." if early is not None else "",
            self.heldout_note(),
        ]


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
    config = preset_config(str(settings.preset))
    config = {k: v for k, v in config.items() if not k.startswith("decoder_")}
    if source.image_size is not None and max(source.image_size) <= config["image_size"]:
        config["image_size"] = source.image_size
    config["channels"] = source.channels
    return ViTEncoder(**config, mean=source.mean, std=source.std, value_range=source.value_range)


def image_size_of(settings: FinetuneSettings, encoder: Any) -> tuple[int, int]:
    """Return the (H, W) of the model: the setting's, else the encoder's."""
    sides = settings.image_size or encoder.image_size
    return sides[0], sides[-1]


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
