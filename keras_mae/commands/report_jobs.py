"""The jobs that a report is made of: each a whole run, known by what fixes its numbers."""

import dataclasses
from pathlib import Path

import keras
import numpy as np

from keras_mae.commands.jobs import Job
from keras_mae.data import EncodedSource, eval_dataset
from keras_mae.data.finetune import balanced_subset
from keras_mae.data.parts import labelled
from keras_mae.evaluation.comparison import logistic_accuracy
from keras_mae.evaluation.features import extract_features
from keras_mae.evaluation.knn import knn_predict
from keras_mae.files import save_model, weights_digest
from keras_mae.interop import load_encoder
from keras_mae.interop.adapt import Inputs, adapted_encoder
from keras_mae.layers.whitening import Whitening
from keras_mae.models import ViTEncoder
from keras_mae.models.weights import get_weights
from keras_mae.tasks.classify import check_labels
from keras_mae.tasks.finetune import finetune
from keras_mae.tasks.images import EVAL_BATCH, parts_of
from keras_mae.tasks.pretrain import build_autoencoder, pretrain
from keras_mae.tasks.probe import (
    apply_whitening,
    linear_probe,
    on_kept_features,
    pixel_predictor,
    view_features,
)

LOGISTIC_IMAGES = 20_000
# (channels of the images, of what sees them): grey as colour and back, and without alpha.
SEEN_AS = ((1, 3), (3, 1), (4, 3), (4, 1))


@dataclasses.dataclass(frozen=True)
class Measure:
    """What a report's numbers are, for one task.

    Attributes:
        name: string, as a page has it.
        keys: tuple of strings, what a run gives that is kept; the first one counts.
        labels: string, what training images are counted in.
    """

    name: str
    keys: tuple
    labels: str


MEASURES = {
    "classify": Measure("top-1 accuracy", ("top1", "top5"), "labels"),
    "segment": Measure("mean IoU", ("mean_iou", "pixel_accuracy"), "labelled images"),
    "detect": Measure("AP50", ("AP50", "AP", "AP75"), "labelled images"),
}


@dataclasses.dataclass(frozen=True)
class Encoder:
    """An encoder that is there, or that a job will make.

    Attributes:
        path: string, where it lies, or will.
        identity: string that tells it from others: a digest of its weights, or its job's key.
        config: dict, of `ViTEncoder`.
        needs: tuple with the job that makes it, or empty.
    """

    path: str
    identity: str
    config: dict
    needs: tuple = ()

    @property
    def image_size(self):
        return tuple(self.config["image_size"])


class JobMaker:
    """Make the jobs of one report, after a look at its data set; nothing is run here.

    A job of the methods below has "accuracy" in its result, a dict of what was measured to a number
    in [0, 1]: what the task's `Measure` names, after training; of neighbours, top-1 by their
    number; of raw pixels, "linear" and "logistic" too.
    `size` is a number of labels, None for all of them.

    Args:
        settings: a `ReportSettings`.
    Raises:
        ValueError: if the data set has no labels, one class, or too few images.
    """

    def __init__(self, settings):
        self.settings = settings
        self.directory = Path(settings.directory) / "jobs"
        self.measure = MEASURES[settings.task]
        parts = labelled(parts_of(settings))
        is_dense = settings.is_dense
        self.num_classes = parts.train.num_classes if is_dense else check_labels(parts.train)
        if parts.train.multi_label:
            raise ValueError(
                "`dataset` must have one label an image; scripts/finetune.py measures several. "
                f"Received: {settings.dataset}"
            )
        self.parts, self.source, self.train = parts, parts.source, parts.train
        # Nothing is chosen by the numbers of a report, so test images serve where there are some.
        self.heldout = parts.heldout if parts.test is None else parts.test
        self.sizes, count = settings.sizes, self.train.num_examples
        for few in filter(None, self.sizes):
            if few >= count:
                raise ValueError(
                    f"`train_examples` must be less than the {count:,} training images, or 0. "
                    f"Received: {few}"
                )
            balanced_subset(self.train, few, settings.seeds[0])
        fewest = min(size or count for size in self.sizes)
        if max(settings.ks) > fewest and not is_dense:
            raise ValueError(
                f"`ks` must be at most {fewest}, the fewest training images. "
                f"Received: {list(settings.ks)}"
            )
        # What every result depends on, whatever the source is called.
        self.data = {"dataset": settings.dataset, "images": self.train.fingerprint()}
        self._configs = {}  # of the encoders to pre-train, which no seed changes

    def count(self, size):
        """Return the number of training images with labels."""
        return size or self.train.num_examples

    def labels_text(self, size):
        """Return how many images have labels, as a page has it."""
        return f"{self.count(size):,} {self.measure.labels}"

    def has_logistic(self, size):
        """Return whether raw pixels get a logistic regression too: it is slow for many images."""
        return self.count(size) <= LOGISTIC_IMAGES

    def given_encoder(self, seed):
        """Return the encoder that the settings name for a seed.

        Raises:
            FileNotFoundError, ValueError: if it is not there, or does not fit.
        """
        path = self.settings.encoder_path(seed)
        encoder = load_encoder(path)
        if not isinstance(encoder, ViTEncoder):
            raise ValueError(
                "`encoder` must be one whose blocks are known, as of a .keras file or a "
                f"checkpoint. Received: {path}"
            )
        self._check_channels(encoder, path)
        return Encoder(path, identity_of(encoder), encoder.get_config())

    def pretrained(self, seed, **changes):
        """Return the encoder that a job pre-trains, with `changes` of the report's settings.

        Raises:
            ValueError: if no model can be built with them.
        """
        trial = self.settings.pretrain_settings(seed, self.train.typical_size(), **changes)
        config = self._config(trial, str(changes))

        def work(directory):
            measured = {"probe": False, "monitor_every": 0.0}  # the report measures
            return pretrain(dataclasses.replace(trial, output_dir=str(directory), **measured))

        changed = "".join(f", {name}={value_text(value)}" for name, value in changes.items())
        known = {**trial.fixed(), **self.data}
        job = Job("pre-training", seed, known, work, f"pre-training{changed}")
        return self._made_by(job, config)

    def _config(self, trial, key):
        """Return the config of the encoder of a pre-training, whose model is built once."""
        if key not in self._configs:
            # What no model can be built of is told now, and not after hours.
            steps = trial.total_steps(self.train.num_examples)
            model = build_autoencoder(trial, self.train, steps)
            self._check_channels(model.encoder, trial.preset)
            self._configs[key] = model.encoder.get_config()
        return self._configs[key]

    def untrained(self, seed, encoder):
        """Return an encoder of the same architecture with the initial weights of a seed."""

        def work(directory):
            keras.utils.set_random_seed(seed)
            fresh = ViTEncoder.from_config(encoder.config)
            save_model(fresh, directory / "encoder.keras")
            return {"parameters": fresh.count_params()}

        job = Job("random init", seed, {"seed": seed, "encoder": encoder.config}, work)
        return self._made_by(job, encoder.config)

    def finetuned(self, seed, protocol, encoder, size, label, blocks=None, pooled_blocks=None):
        """Return the job of a `finetune` run."""
        trial = self.settings.finetune_settings(
            seed,
            protocol,
            encoder.path,
            encoder.image_size,
            self.count(size),
            size,
            blocks,
            pooled_blocks,
        )
        return self._finetune_job(trial, seed, protocol, encoder, size, label)

    def _finetune_job(self, trial, seed, protocol, encoder, size, label):
        def work(directory):
            results = finetune(dataclasses.replace(trial, output_dir=str(directory)))
            return {"accuracy": results.get("knn") or {k: results[k] for k in self.measure.keys}}

        known = {**trial.fixed(), **self.data, "encoder": encoder.identity}
        part = f"{protocol}, {self.labels_text(size)}"
        label = f"{label}, {self.labels_text(size)}"
        return Job(part, seed, known, work, label, encoder.needs)

    def rival(self):
        """Return the `Encoder` of the rival that the settings name.

        Where the images' channels are what they are, as of arrays in memory, a job writes a rival
        that takes grey as it takes grey shown as colour.

        Raises:
            FileNotFoundError, ValueError: if it is not there, or cannot see the images.
        """
        path, size = self.settings.rival, self.settings.rival_image_size
        encoder = load_encoder(path)
        config = {"channels": encoder.channels, "image_size": encoder.image_size}
        if size is not None:
            config["image_size"] = size * 2 if len(size) == 1 else size
            encoder.adapted(image_size=config["image_size"])  # raises if it cannot be
        found = Encoder(path, _identity_of_any(encoder), config)
        encoded = all(isinstance(part, EncodedSource) for part in self.parts.each().values())
        channels = self.train.channels, encoder.channels
        if channels[0] == channels[1] or (encoded and channels in SEEN_AS):
            return found
        if not isinstance(encoder, ViTEncoder) or channels != (1, 3):
            raise ValueError(
                f"`rival` must take the {self.train.channels} channels of {self.source.name!r}. "
                f"Received: {path}, of {encoder.channels}"
            )
        inputs = Inputs.of(self.train)

        def work(directory):
            save_model(adapted_encoder(load_encoder(path), inputs), directory / "encoder.keras")
            return {"parameters": encoder.count_params()}

        known = {"rival": found.identity, **dataclasses.asdict(inputs)}
        job = Job("rival for grey", self.settings.seeds[0], known, work)
        return self._made_by(job, {**config, "channels": 1})

    def rivals(self, seed, protocol, rival, recipe_size, size, label):
        """Return the job of a `finetune` run of the rival.

        Args:
            rival: what `rival` returned.
            recipe_size: (H, W), see `ReportSettings.rival_settings`.
        """
        own = self.train.channels == rival.config["channels"]
        trial = self.settings.rival_settings(
            seed,
            protocol,
            rival.path,
            None if own else rival.config["channels"],
            recipe_size,
            self.count(size),
            size,
        )
        return self._finetune_job(trial, seed, protocol, rival, size, label)

    def pixels(self, seed, encoder, size):
        """Return the job that measures raw pixels, at the size that an encoder sees."""
        ks, whiten = tuple(self.settings.ks), self.settings.whiten
        names = ("image_size", "mean", "std", "value_range")
        form = {name: encoder.config[name] for name in names}

        trial = self.settings.finetune_settings(
            seed, "linear", None, encoder.image_size, self.count(size)
        )
        probe = on_kept_features(trial, encoder.image_size, self.count(size))

        def work(directory):
            keras.utils.set_random_seed(seed)
            train = self.train if size is None else balanced_subset(self.train, size, seed)
            (features, labels), (queries, wanted) = (
                extract_features(pixel_predictor, eval_dataset(part, batch_size=EVAL_BATCH, **form))
                for part in (train, self.heldout)
            )
            near = features, queries
            if whiten is not None:
                layer = Whitening.fitted_to(features, whiten)
                near = tuple(apply_whitening(layer, part) for part in near)
            found = knn_predict(near[0], labels, near[1], self.num_classes, ks=ks)
            accuracy = {str(k): float(np.mean(found[k] == wanted)) for k in ks}
            views = view_features(pixel_predictor, train, probe, form, (features, labels))
            accuracy["linear"] = linear_probe(
                *views, queries, wanted, self.num_classes, probe, train.num_examples
            )
            if self.has_logistic(size):
                accuracy["logistic"] = logistic_accuracy(features, labels, queries, wanted)
            return {"accuracy": accuracy}

        known = {**probe.fixed(), **self.data, **form, "train_examples": size, "ks": ks}
        known |= {} if whiten is None else {"whiten_neighbours": whiten}
        return Job(f"raw pixels, {self.labels_text(size)}", seed, known, work)

    def _made_by(self, job, config):
        path = self.directory / job.key / "encoder.keras"
        return Encoder(str(path), job.key, config, (job,))

    def _check_channels(self, encoder, name):
        if encoder.channels != self.train.channels:
            raise ValueError(
                f"`encoder` must take the {self.train.channels} channels of "
                f"{self.source.name!r}. Received: {name}, of {encoder.channels}"
            )


def _identity_of_any(encoder):
    """Return `identity_of` a `ViTEncoder`, and the same of a `SavedModelEncoder`."""
    if isinstance(encoder, ViTEncoder):
        return identity_of(encoder)
    weights = {str(i): np.array(value) for i, value in enumerate(encoder.weights)}
    return f"{weights_digest(weights)};{encoder.image_size};{encoder.mean};{encoder.std}"


def identity_of(encoder):
    """Return a string that tells an encoder from all others, wherever it lies.

    Args:
        encoder: a `ViTEncoder`.
    """
    names = ("image_size", "patch_size", "num_heads", "mean", "std")
    facts = ";".join(f"{name}={getattr(encoder, name)}" for name in names)
    return f"{weights_digest(get_weights(encoder))};{facts}"


def value_text(value):
    """Return a value of a setting as a page and its charts have it: a number where it is one."""
    if isinstance(value, tuple | list):
        return value[0] if len(value) == 1 else ",".join(map(str, value))
    return "default" if value is None else value
