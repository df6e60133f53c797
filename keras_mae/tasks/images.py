"""What the tasks on images share: the source, its parts, and how they are evaluated."""

from pathlib import Path

import keras
import numpy as np

from keras_mae.data import SkipLog, eval_dataset, load_source
from keras_mae.training.loop import Task

EVAL_BATCH = 250


class ImageTask(Task):
    """A task whose settings name a source of images.

    Attributes:
        source, train, heldout: `Source`s: the whole, and its two parts.
        skips: the `SkipLog` of the run; set by `open_skips`.
    """

    skips = None

    def load(self):
        self.source = load_source(self.settings.dataset)  # its split does not depend on the seed
        self.train, self.heldout = self.source.split()

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
            "on_skip": self.skips,
        }

    def validation_of(self, heldout, pixels, labelled, plain, transform=lambda dataset: dataset):
        """Return held-out images as `fit` takes them, each once, whatever number of replicas.

        Args:
            heldout: `Source`.
            pixels: see there.
            labelled: bool. Whether the model's loss needs labels.
            plain: the data set for a single replica.
            transform: function from a data set, of each worker, to what is validated with.
        """
        workers = self.workers
        if workers.replicas == 1:
            return transform(plain)
        batch_size = -(-EVAL_BATCH // workers.replicas) * workers.replicas
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

    def images_line(self, image_size):
        """Return a line on the images: their size and channels, classes, and what they are for."""
        source = self.source
        own = self.typical_size()
        seen = f"{image_size[0]:,} x {image_size[1]:,} pixels"
        if own is not None and tuple(own) != tuple(image_size):
            seen += f" (the images' own: {own[0]:,} x {own[1]:,})"
        classes = f", {source.num_classes} classes" if source.num_classes else ""
        channels = {1: "1 channel"}.get(source.channels, f"{source.channels} channels")
        return (
            f"Images: {self.settings.dataset}, seen at {seen}, {channels}{classes}; "
            f"{self.train.num_examples:,} to train on, {self.heldout.num_examples:,} held out."
        )

    def typical_size(self):
        """Return (H, W) of the images, of a sample where they differ; None if none can be read."""
        if not hasattr(self, "_typical_size"):
            self._typical_size = self.source.typical_size()
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

    def heldout_note(self):
        """Return a line that says how little a small held-out part can tell, or ""."""
        note = self.heldout.split_note
        return f"Only {note}." if note else ""


def free_memory():
    """Return the bytes of memory that are free on this machine; None where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
        return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        return None


def device_line(workers, settings):
    """Return a line on where and how a run computes."""
    names = keras.distribution.list_devices()
    kind = (
        "GPU" if any("gpu" in name.lower() or "cuda" in name.lower() for name in names) else "CPU"
    )
    kind = "TPU" if settings.strategy == "tpu" else kind
    replicas = f"{workers.replicas} {kind}s" if workers.replicas > 1 else kind
    compiled = ", compiled by XLA" if settings.jit else ""
    return f"{settings.precision} on {replicas} ({keras.backend.backend()}){compiled}"
