"""What the tasks on images share: the source, its parts, and how they are evaluated."""

import dataclasses

import keras
import numpy as np

from keras_mae.data import EncodedSource, SkipLog, eval_dataset, open_parts
from keras_mae.data.cache import free_memory, memory_for
from keras_mae.pixels import pixel_dtype
from keras_mae.training.loop import Task

EVAL_BATCH = 250


class ImageTask(Task):
    """A task whose settings name a source of images.

    Attributes:
        parts: `Parts`.
        source, train, heldout, test: `Source`s: the whole, and its parts; test may be None.
        skips: the `SkipLog` of the run; set by `open_skips`.
    """

    skips = None
    cache_line = ""

    def load(self):
        self.use(parts_of(self.settings))

    def use(self, parts):
        """Take the images of `Parts`."""
        self.parts, self.source = parts, parts.source
        self.train, self.heldout, self.test = parts.train, parts.heldout, parts.test

    def see_as(self, encoder):
        """See the images with the channels of an encoder, where they can be.

        Raises:
            ValueError: if they cannot.
        """
        given = self.settings
        if given.encoder is not None:
            # What an encoder has learned with goes with it into its classifier's exports.
            for name, own, theirs in (
                ("statistics", encoder.mean, self.train.mean),
                ("value_range", encoder.value_range, self.train.value_range),
            ):
                is_said = getattr(given, name) != type(given).defaults()[name]
                if is_said and tuple(own) != tuple(theirs):
                    raise ValueError(
                        f"`{name}` must be left out for an encoder that has its own. Received: "
                        f"{getattr(given, name)}; the encoder's is {list(own)}"
                    )
        if encoder.channels == self.train.channels:
            return
        encoded = all(isinstance(part, EncodedSource) for part in self.parts.each().values())
        if not encoded or self.settings.channels is not None:
            raise ValueError(
                f"`encoder` must take the {self.train.channels} channels of "
                f"{self.source.name!r}. Received: an encoder of {encoder.channels}"
            )
        self.use(self.parts.with_channels(encoder.channels))

    @property
    def measured(self):
        """The `Source` that the last numbers are of: test images, else those held out."""
        return self.heldout if self.test is None else self.test

    @property
    def measured_name(self):
        return "held-out" if self.test is None else "test"

    def keep_decoded(self, image_size):
        """Let decoded images stay in memory, where the settings say so and there is room.

        Args:
            image_size: (H, W) of the model.
        """
        parts = {n: p for n, p in self.parts.each().items() if isinstance(p, EncodedSource)}
        own = self.typical_size()
        if not parts or own is None:
            return
        images = sum(part.num_examples for part in parts.values())
        pixel = self.train.channels * (1 if self.train.gives_bytes(self.train.sensor) else 4)
        most, line = memory_for(self.settings.cache, images * own[0] * own[1] * pixel)
        if not most:
            return
        # Bilinear crops of large JPEGs are cut from a smaller picture: these are not kept.
        least = image_size if self.settings.resize == "bilinear" else None
        if least is not None and self.settings.cache == "auto" and _is_large(own, least):
            return
        kept = {
            name: part.kept(most * part.num_examples / images, least)
            for name, part in parts.items()
        }
        self.use(dataclasses.replace(self.parts, **kept))
        self.cache_line = line

    def open_skips(self):
        """Open the list of images that cannot be read, in the output directory."""
        self.skips = SkipLog(
            self.directory / self.workers.own_name("skipped.jsonl"),
            max_bad_fraction=self.settings.max_bad_fraction,
        )

    def cause_of(self, error):
        # TensorFlow has wrapped what ended the pipeline.
        return error if self.skips is None or self.skips.error is None else self.skips.error

    def pixels(self, encoder):
        """Return the arguments of data sets for an encoder's images."""
        return {
            "image_size": encoder.image_size,
            "mean": encoder.mean,
            "std": encoder.std,
            "value_range": encoder.value_range,
            "on_skip": self.skips,
        }

    def validation_of(
        self,
        heldout,
        pixels,
        labelled,
        plain,
        transform=lambda dataset: dataset,
        batch_size=EVAL_BATCH,
    ):
        """Return held-out images as `fit` takes them, each once, whatever number of replicas.

        Args:
            heldout: `Source`.
            pixels: see there.
            labelled: bool. Whether the model's loss needs labels.
            plain: the data set for a single replica.
            transform: function from a data set, of each worker, to what is validated with.
            batch_size: int, images at a time, about.
        """
        workers = self.workers
        if workers.replicas == 1:
            return transform(plain)
        batch_size = -(-batch_size // workers.replicas) * workers.replicas
        if not workers.is_distributed:
            # Keras wants batches that its devices can share alike: an image or two may be left out.
            count = heldout.num_examples - heldout.num_examples % workers.replicas
            heldout = heldout.subset(np.arange(count))
            return transform(
                eval_dataset(heldout, batch_size=batch_size, with_labels=labelled, **pixels)
            )

        def share(num_shards, shard_index):
            dataset = eval_dataset(
                heldout,
                batch_size=batch_size,
                with_weights=True,
                num_shards=num_shards,
                shard_index=shard_index,
                **pixels,
            )
            return transform(dataset)

        return workers.distribute(share, batch_size)

    def images_lines(self, encoder):
        """Return lines on the images: how they are seen, and what they are for.

        Args:
            encoder: what sees them.
        """
        source, own, image_size = self.source, self.typical_size(), encoder.image_size
        seen = f"{image_size[0]:,} x {image_size[1]:,} pixels"
        if own is not None and tuple(own) != tuple(image_size):
            seen += f" (the images' own: {own[0]:,} x {own[1]:,})"
        kind = "labels" if source.multi_label else "classes"
        classes = f", {source.num_classes} {kind}" if source.num_classes else ""
        channels = {1: "1 channel"}.get(encoder.channels, f"{encoder.channels} channels")
        low, high = encoder.value_range
        values = "" if (low, high) == (0, 255) else f", values {low:g} to {high:g}"
        notes = [*self.parts.notes]
        sensor = self.train.sensor
        if sensor.is_wide and pixel_dtype((low, high)) == "uint8" and sensor.wide_range:
            least, most = sensor.wide_range
            notes.append(
                f"these images' {least:g} to {most:g} are what {low:g} to {high:g} are for the "
                "encoder"
            )
        return [
            f"Images: {self.settings.dataset}, seen at {seen}, {channels}{values}{classes}.",
            *self.parts.lines(),
            *(f"  Note: {note}" for note in notes),
            self.cache_line and f"  {self.cache_line}",
        ]

    def data_facts(self):
        """Return what `config.json` says of the images."""
        facts = {
            **self.parts.facts(),
            "training_images": self.train.num_examples,
            "heldout_images": self.heldout.num_examples,
            "class_names": self.source.class_names,
        }
        if self.test is not None:
            facts["test_images"] = self.test.num_examples
        return facts

    def typical_size(self):
        """Return (H, W) of the images, of a sample where they differ; None if none can be read."""
        if not hasattr(self, "_typical_size"):
            self._typical_size = self.train.typical_size()
        return self._typical_size

    def check_batch(self, crops_per_image=1):
        """Raise for a batch that is larger than the training set.

        Raises:
            ValueError: naming `batch_size`.
        """
        most = self.train.num_examples * crops_per_image
        if self.settings.batch_size > most:
            raise ValueError(
                f"`batch_size` must be at most the {most:,} training images. "
                f"Received: {self.settings.batch_size:,}"
            )

    def check_memory(self, encoder, visible=1.0):
        """Raise for a batch of which not even the least that a step keeps fits into memory.

        That is the images, and the input of each of the encoder's blocks for the part of the batch
        that is computed at once. What a GPU has no room for, it says itself.

        Args:
            encoder: `ViTEncoder`, or `SavedModelEncoder`, of which only the images are counted.
            visible: float, share of the patches that is encoded.
        Raises:
            ValueError: naming `batch_size`.
        """
        free = free_memory()
        batch, parts = self.settings.batch_size, self.settings.accumulate_steps
        height, width = encoder.image_size
        tokens = visible * getattr(encoder, "num_patches", 0)
        kept = tokens * encoder.hidden_dim * (encoder.num_layers or 0) / parts
        least = 4 * batch * (height * width * encoder.channels + kept)
        if free is not None and least > free:
            raise ValueError(
                f"`batch_size` must be such that a step fits into memory: {batch:,} images take "
                f"more than {least / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free. "
                "`accumulate_steps` cuts a step into parts."
            )

    def values_note(self):
        """Return a line on values that were clipped or missing, or ""."""
        return "" if self.skips is None else self.skips.tally.line()

    def skipped_note(self):
        """Return a line on images that could not be read, or ""."""
        if self.skips is None or not self.skips.num_bad:
            return ""
        count = len(self.skips.reasons)
        images = "1 image" if count == 1 else f"{count:,} images"
        return f"{images} could not be read: see {self.skips.path}."

    def heldout_note(self):
        """Return a line that says how little a small part can tell, or ""."""
        note = None if self.measured.multi_label else self.measured.split_note
        note = note and note.replace("held-out", self.measured_name, 1)
        return f"Only {note}." if note else ""


def parts_of(settings):
    """Return the `Parts` that settings name; which images a share is of depends on no seed."""
    return open_parts(**_specs(settings), **settings.source_options())


def _specs(settings):
    names = ("dataset", "validation_dataset", "test_dataset", "holdout")
    return {name: getattr(settings, name) for name in names}


def device_kind():
    """Return "GPU" where there is one, else "CPU"."""
    names = keras.distribution.list_devices()
    return (
        "GPU" if any("gpu" in name.lower() or "cuda" in name.lower() for name in names) else "CPU"
    )


def device_line(workers, settings):
    """Return a line on where and how a run computes."""
    kind = device_kind()
    kind = "TPU" if settings.strategy == "tpu" else kind
    replicas = f"{workers.replicas} {kind}s" if workers.replicas > 1 else kind
    compiled = ", compiled by XLA" if settings.jit else ""
    return f"{settings.precision} on {replicas} ({keras.backend.backend()}){compiled}"


def _is_large(size, least):
    return size[0] >= 2 * least[0] and size[1] >= 2 * least[1]
