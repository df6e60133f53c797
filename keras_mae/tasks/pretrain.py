"""Pre-training: a masked autoencoder from a source of images."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mae.data import Source, eval_dataset, pretrain_dataset
from keras_mae.evaluation.baseline import mean_predictor_loss
from keras_mae.export import export_encoder
from keras_mae.files import save_model
from keras_mae.interop.adapt import Inputs, Start
from keras_mae.layers import MaskRatioSchedule
from keras_mae.models import MaskedAutoencoder
from keras_mae.pages import Block, Heading
from keras_mae.plots.figures import check_bands, loss_figure, reconstruction_figure
from keras_mae.registry import find_function
from keras_mae.settings.pretrain import PretrainSettings
from keras_mae.settings.tools import size_argument
from keras_mae.tasks.images import EVAL_BATCH, ImageTask, device_line
from keras_mae.tasks.monitors import NUMBERS, Plan, PretrainMonitors, monitor_lines, plan
from keras_mae.tasks.table import FeatureTable, format_table, result_table
from keras_mae.training import make_adamw
from keras_mae.training.callbacks import duration
from keras_mae.training.legs import begin_leg, ends_of_legs
from keras_mae.training.loop import run
from keras_mae.training.schedules import legs_schedule

FIGURE_IMAGES = 8


def pretrain(
    settings: PretrainSettings,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    monitors: Mapping[str, Callable[..., Any]] | None = None,
) -> dict[str, Any]:
    """Train a masked autoencoder as `settings` say, and write its output directory.

    It holds `config.json`, `metrics.jsonl`, `mae.keras`, `encoder.keras`, `encoder/1/` (a
    SavedModel; on TensorFlow only), `figures/`, `results.json`, and `skipped.jsonl` if an image
    could not be read. Of several workers, which share the directory, the chief writes; the others
    write `skipped.workerN.jsonl` only. A run that was cut goes on from its last checkpoint.

    Args:
        settings: a `PretrainSettings`.
        callbacks: Keras callbacks, see `keras_mae.training.loop.run`.
        monitors: dict of name to function, called now and then while the run trains with
            `predict` (see `keras_mae.tasks.monitors.Predict`) and `sample` (see `Sample` there). It
            returns a number, or a dict of name to number.
    Returns:
        dict, as in `results.json`: held-out losses and, for a labelled data set with
        `settings.probe`, the accuracies of linear probe and nearest neighbours.
    Raises:
        ValueError, NonFiniteLossError, CheckpointError, OutOfMemoryError, WorkerLostError,
        Interrupted: see `keras_mae.training.loop.run`.
    Example:
        results = keras_mae.pretrain(keras_mae.PretrainSettings(steps=200, batch_size=64))
    """
    return run(Pretrain(settings, monitors), callbacks)


def build_autoencoder(
    settings: PretrainSettings, source: Source, total_steps: int
) -> MaskedAutoencoder:
    """Return a new `MaskedAutoencoder` for the images of a `keras_mae.data.Source`.

    Args:
        settings: a complete `PretrainSettings`.
        source: the images' channels and statistics are taken.
        total_steps: int, over which a schedule of mask ratios is spread.
    Raises:
        ValueError: if no model can be built of them.
    """
    return MaskedAutoencoder.from_preset(
        settings.preset,
        channels=source.channels,
        mean=source.mean,
        std=source.std,
        value_range=source.value_range,
        **_overrides(settings, total_steps),
    )


def _overrides(settings, total_steps):
    """Return the arguments of a `MaskedAutoencoder` that settings say."""
    overrides: dict[str, Any] = {
        "mask_ratio": settings.mask_ratio[0],
        "masking": settings.masking,
        "norm_pix_loss": settings.norm_pix_loss,
        "decoder_attention": settings.decoder_attention,
        "seed": settings.seed,
    }
    if len(settings.mask_ratio) == 2:
        overrides["mask_ratio"] = MaskRatioSchedule(*settings.mask_ratio, total_steps)
    if settings.decoder_num_layers:
        overrides["decoder_num_layers"] = settings.decoder_num_layers
    if settings.image_size:
        overrides["image_size"] = size_argument(settings.image_size)
    return overrides


class Pretrain(ImageTask):
    """The task of `pretrain`."""

    title = "Pre-training"
    keeps_last_good = "mae.keras"
    plan: Plan | None = None
    fact_defaults = {"init_digest": None}
    start: Start | None = None
    files = {
        "mae.keras": "encoder and decoder: goes on training, reconstructs",
        "encoder.keras": "the encoder alone: fine-tune it, probe it",
        "encoder/1": "the encoder as a SavedModel, with its card",
        "results.json": "held-out losses, and the table where there is one",
        "metrics.jsonl": "the curves: loss, learning rate, images a second, monitors",
        "figures/reconstructions.png": "held-out images, masked and rebuilt",
        "figures/loss.png": "the losses over steps",
        "figures/monitor.png": "what the encoder has learned, over steps",
        "figures/monitor.webp": "the same images rebuilt, from the first step to the last",
        "skipped.jsonl": "images that could not be read, with the reason",
    }

    def __init__(
        self,
        settings: PretrainSettings,
        monitors: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        super().__init__(settings)
        self.own_monitors = dict(monitors or {})

    def load(self) -> None:
        self._check_monitors()
        super().load()
        given, start = self.settings, None
        if given.init is not None:
            self.start = Start(given.init)
            if given.preset is not None:
                self.start.check_preset(given.preset)
            start = self.start.preset, self.start.encoder.image_size
        self.settings = given.resolved(self.typical_size(), start)
        if given.batch_size is None:
            # The recipe's batch, or all images where they are fewer.
            most = self.train.num_examples * given.crops_per_image
            batch_size = min(self.settings.batch_size, most - most % self.workers.replicas)
            self.settings = given.with_batch(batch_size).resolved(self.typical_size(), start)
        self.chosen = given.preset is None
        self.check_batch(self.settings.crops_per_image)
        self.num_examples = self.train.num_examples
        self.first_steps = self.settings.total_steps(self.num_examples)
        argument = "extend_steps" if given.extend_epochs is None else "extend_epochs"
        more = self.settings.more_steps(self.num_examples)
        self.ends = ends_of_legs(given.directory, self.first_steps, more, argument)
        self.total_steps = self.ends[-1]
        # Whole epochs, though the data's may end inside a batch.
        epochs = max(1, round(self.first_steps * self.settings.batch_size / self.num_examples))
        self.steps_per_epoch = -(-self.first_steps // epochs)

    def _check_monitors(self):
        for name in self.settings.monitor:
            function = find_function(name, "monitor")
            self.own_monitors.setdefault(name.partition(":")[2], function)
        for name, function in self.own_monitors.items():
            if name in (*NUMBERS, "") or not (isinstance(name, str) and callable(function)):
                raise ValueError(
                    f"`monitors` must be a dict of name to function, no name among {NUMBERS}. "
                    f"Received: {name!r}: {function!r}"
                )

    def take_up(self, directory: Path) -> None:
        begin_leg(directory, self.ends)

    def build(self) -> None:
        settings = self.settings
        self.model, self.adapted = self._autoencoder()
        self.check_memory(self.model.encoder, 1 - max(settings.mask_ratio))
        self.keep_decoded(self.model.encoder.image_size)
        check_bands(settings.figure_bands, self.model.encoder.channels, "figure_bands")
        known, heldout = self._sample()
        self.plan = plan(
            settings,
            self.model,
            self.ends,
            self.num_examples,
            0 if known is None else known.num_examples,
            heldout.num_examples,
            asked=bool(self.own_monitors),
        )
        ema = {"use_ema": True, "ema_momentum": settings.ema} if settings.ema else {}
        held = None
        if settings.freeze_encoder_steps:
            encoder = {id(v) for v in self.model.encoder.variables}
            steps = settings.freeze_encoder_steps
            held = [steps * (id(v) in encoder) for v in self.model.trainable_variables]
        optimizer = make_adamw(
            self.model,
            legs_schedule(settings, self.num_examples, self.ends),
            settings.weight_decay,
            held_steps=held,
            **ema,
        )
        self.model.compile(
            optimizer,
            # A TPU's steps are compiled whatever Keras does.
            jit_compile=settings.jit and settings.strategy != "tpu",
            accumulate_steps=settings.accumulate_steps,
            recompute=settings.recompute,
        )

    def _autoencoder(self):
        """Return the model as it starts, and a list of what was changed in given weights."""
        if self.start is None:
            return build_autoencoder(self.settings, self.train, self.first_steps), []
        return self.start.autoencoder(
            Inputs.of(self.train),
            self.settings.init_channels,
            **_overrides(self.settings, self.first_steps),
        )

    def facts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        digest = None if self.start is None else self.start.digest
        fixed = {
            "total_steps": self.first_steps,
            "images": self.train.fingerprint(),
            "init_digest": digest,
        }
        return fixed, {
            "legs": self.ends,
            "adapted": self.adapted,
            "model": self.model.get_config(),
            **self.data_facts(),
        }

    def first_lines(self) -> list[str]:
        settings, model = self.settings, self.model
        chosen = " (chosen by the images' size)" if self.chosen else ""
        last = [0, *self.ends][-2]
        steps = self.total_steps - last
        epochs = steps * settings.batch_size / self.num_examples
        warmup = settings.warmup_steps(self.num_examples, steps)
        if self.start is not None:
            chosen = f" from {settings.init}"
        leg = f" more, after step {last:,}," if last else ""
        return [
            f"Model: {settings.preset or 'sizes of its own'}{chosen}, {model.count_params():,} "
            f"parameters, {model.encoder.count_params():,} of them in the encoder.",
            *self.images_lines(model.encoder),
            *(f"  Adapted: {line}" for line in self.adapted),
            f"Run: {steps:,} steps{leg} of {settings.batch_size:,} images ({epochs:,.3g} epochs); "
            f"learning rate {settings.peak_learning_rate():.3g} after {warmup:,} steps of "
            f"warm-up; {device_line(self.workers, settings)}.",
            self.heldout_note(),
            self.plan.line(settings),
            f"Output: {settings.directory}",
        ]

    def begin(self) -> dict[str, float]:
        self.open_skips()
        settings = self.settings
        pixels = self.pixels(self.model.encoder)
        train, heldout = (_at_most(p, settings.probe_images) for p in (self.train, self.heldout))
        self.probe_sets = [
            eval_dataset(part, batch_size=EVAL_BATCH, with_labels=False, **pixels)
            for part in (train, heldout)
        ]
        if self.test is not None:
            test = _at_most(self.test, settings.probe_images)
            self._test = self.validation_of(
                test,
                pixels,
                False,
                eval_dataset(test, batch_size=EVAL_BATCH, with_labels=False, **pixels),
            )
        self._validation = self.validation_of(heldout, pixels, False, self.probe_sets[1])
        self.table = None
        self.baseline = None
        if not self.workers.is_chief:
            return {}
        self._check_heldout()
        self.baseline = mean_predictor_loss(self.model, *self.probe_sets)
        if settings.probe and self._has_classes():
            known, queries = (
                _at_most(part.labelled(), settings.probe_images)
                for part in (self.train, self.measured)
            )
            if min(known.num_examples, queries.num_examples):
                self.table = FeatureTable(settings, known, queries, self.model.encoder, self.skips)
        return {"mean_predictor": self.baseline}

    def _sample(self):
        """Return (training images, held-out images) that monitors choose from.

        The classes of both are known, or the first is None.
        """
        if self._has_classes():
            known, heldout = self.train.labelled(), self.heldout.labelled()
            if min(known.num_examples, heldout.num_examples):
                return known, heldout
        return None, self.heldout

    def _has_classes(self):
        return (self.train.num_classes or 0) > 1 and not self.train.multi_label

    def _check_heldout(self):
        if next(iter(self.probe_sets[1]), None) is None:
            raise ValueError(
                f"`dataset` must have a held-out image that can be read. Received: "
                f"{self.source.name!r}, with {self.heldout.num_examples} held out, all broken"
            )

    def validation(self) -> Any:
        return self._validation

    def monitors(self) -> PretrainMonitors | None:
        if not self.plan.steps:
            return None
        known, heldout = self._sample()
        train = None if known is None else _at_most(known, self.plan.num_train)
        heldout = _at_most(heldout, self.plan.num_heldout)
        return PretrainMonitors(self, self.plan.steps, train, heldout, self.own_monitors)

    def batches(self, step: int, num_shards: int, shard_index: int) -> Any:
        settings = self.settings
        return pretrain_dataset(
            self.train,
            batch_size=settings.batch_size,
            seed=settings.seed,
            start_step=step,
            normalize=False,
            resize=settings.resize,
            crops_per_image=settings.crops_per_image,
            **settings.views(),
            num_shards=num_shards,
            shard_index=shard_index,
            **self.pixels(self.model.encoder),
        )

    def finish(self) -> dict[str, Any]:
        model = self.model
        loss = model.evaluate(self._validation, verbose=0, return_dict=True)["loss"]
        results = {"heldout_loss": loss}
        if self.test is not None:
            tested = model.evaluate(self._test, verbose=0, return_dict=True)["loss"]
            results["test_loss"] = tested
        if not self.workers.is_chief:
            return results
        results["mean_predictor_loss"] = self.baseline
        save_model(model, self.directory / "mae.keras")
        with self.workers.one_device():
            model = self._local_copy()
            self.write_encoder_and_figures(model)
            if self.table is not None:
                self.table.add_pixels()
                before = "random init" if self.start is None else "as it started"
                self.table.add_encoder(f"encoder, {before}", self._untrained())
                self.table.add_encoder("encoder, pre-trained", model.encoder)
                results.update(self.table.results(), measured_on=self.measured_name)
        return results

    def write_encoder_and_figures(self, model: keras.Model) -> None:
        """Write what is made of the trained model: the encoder's files, the figures."""
        directory = self.directory
        save_model(model.encoder, directory / "encoder.keras")
        if keras.backend.backend() == "tensorflow":
            shutil.rmtree(directory / "encoder", ignore_errors=True)  # of a run cut right after it
            export_encoder(
                model.encoder,
                directory / "encoder",
                check_dataset=self.heldout,
                fresh_process=False,
                warmup=False,
            )
        else:
            print("encoder/1 is not written: a SavedModel needs KERAS_BACKEND=tensorflow.")
        shown = np.asarray(next(iter(self.probe_sets[1])))
        spread = np.linspace(0, len(shown) - 1, min(FIGURE_IMAGES, len(shown))).astype(int)
        reconstruction_figure(
            model,
            shown[spread],
            directory / "figures" / "reconstructions.png",
            bands=self.settings.figure_bands,
        )
        loss_figure(
            directory / "metrics.jsonl",
            directory / "figures" / "loss.png",
            {"per-position mean predictor": self.baseline},
        )

    def _untrained(self):
        """Return the encoder as it was before the first step: the seed's."""
        keras.utils.set_random_seed(self.settings.seed)
        return self._autoencoder()[0].encoder

    def _local_copy(self):
        """Return a copy of the model on one device of this worker; itself if it is on one.

        Calling a replicated model takes all replicas, and gives the result of each.
        """
        if self.workers.replicas == 1:
            return self.model
        copy = self.empty_copy()
        copy.set_weights(self.model.get_weights())
        return copy

    def empty_copy(self) -> MaskedAutoencoder:
        """Return a new model like the run's, with weights of its own."""
        return MaskedAutoencoder.from_config(self.model.get_config())

    def headline(self, results: dict[str, Any]) -> str:
        sentence = super().headline(results)
        rows = results.get("accuracy")
        if not rows:
            return sentence
        shares = [f"{name} {row['linear_probe']:.1%}" for name, row in rows.items()]
        return f"{sentence} Accuracy of a linear probe: {'; '.join(reversed(shares))}."

    def result_blocks(self, results: dict[str, Any]) -> list[Block]:
        if "accuracy" not in results:
            return []
        return [Heading(f"Accuracy on {self.measured_name} images"), result_table(results)]

    def summary(self, results: dict[str, Any]) -> str:
        tested = f", on test images: {results['test_loss']:.4f}" if "test_loss" in results else ""
        lines = [
            f"\nLoss on held-out images: {results['heldout_loss']:.4f}{tested}; of a predictor "
            f"that gives the mean patch of each position: {results['mean_predictor_loss']:.4f}. "
            f"Trained {results['training_seconds']:.0f} s."
        ]
        if "stopped_early_at_step" in results:
            lines.append(f"It stopped early, at step {results['stopped_early_at_step']:,}.")
        if "monitor" in results:
            lines += monitor_lines(results["monitor"], results["total_steps"], duration)
        lines += [self.skipped_note(), self.values_note()]
        if self.settings.probe and self.train.multi_label:
            lines.append(
                "No accuracies: images have several labels, which scripts/finetune.py measures."
            )
        if "accuracy" in results:
            lines.append(f"\n{format_table(results)}")
            lines.append(self.heldout_note())
        return "\n".join(line for line in lines if line)


def _at_most(source, count):
    """Return a source, or a random, fixed subset of `count` of its examples where it has more."""
    if source.num_examples <= count:
        return source
    return source.subset(np.random.default_rng(0).permutation(source.num_examples)[:count])
