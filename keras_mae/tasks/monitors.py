"""What a pre-training monitors: neighbours, a quick probe, the features' rank, reconstructions."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_mae.data import Source, eval_dataset
from keras_mae.evaluation.features import extract_features
from keras_mae.evaluation.knn import knn_accuracy
from keras_mae.evaluation.quality import rankme, ridge_accuracy, variance_share
from keras_mae.models.costs import StepCosts
from keras_mae.plots.figures import reconstruction_rows
from keras_mae.plots.monitors import animation, monitor_figure, reconstruction_sheet
from keras_mae.settings.pretrain import PretrainSettings
from keras_mae.settings.run import steps_of
from keras_mae.tasks.probe import compiled_function, encoder_predictor
from keras_mae.tasks.table import NEIGHBOURS
from keras_mae.training.monitors import PREFIX, Monitors, monitor_steps

POOLING = "mean"  # of the features that all numbers are of
OUTPUTS = ("features", "tokens")
NUMBERS = ["knn", "probe", "rankme", "variance"]  # what `feature_numbers` returns
TIMES = 10
# Less than a twentieth of a run's time. Features may take this share of the training's operations,
SHARE = 0.016
# and what does not grow with the sample, to compile, classify and draw, this share of its steps. It
# takes about so many of them, by the mini model on two CPU cores; of larger models, fewer.
FIXED_SHARE, STEPS_ONCE, STEPS_EACH = 0.025, 35, 5
LEAST_IMAGES, MOST_TRAIN, MOST_HELDOUT = 256, 8000, 2000
KEPT_BYTES = 2**28  # a sample up to this size is decoded once
MASK_SEED = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """When is measured, and on how many images; a function of counts, so that it is repeatable.

    Attributes:
        steps: ints, see `monitor_steps`; empty: never.
        num_train, num_heldout: ints. Labelled images to learn from, and images that are measured.
    """

    steps: Sequence[int]
    num_train: int
    num_heldout: int

    def line(self, settings: PretrainSettings) -> str:
        """Return what is printed before the run begins."""
        if not self.steps:
            return (
                "Monitors: none, the run is too short for them; --monitor_every=EPOCHS asks for "
                "them."
                if settings.monitor_every is None
                else ""
            )
        train = f"{self.num_train:,} training and " if self.num_train else ""
        times = "once" if len(self.steps) == 1 else f"{len(self.steps)} times"
        return f"Monitors: {times}, on {train}{self.num_heldout:,} held-out images."


def plan(
    settings: PretrainSettings,
    model: keras.Model,
    ends: Sequence[int],
    num_examples: int,
    num_labelled: int,
    num_heldout: int,
    asked: bool,
) -> Plan:
    """Return the `Plan` of a run.

    The sample is as large as `SHARE` of the first leg's operations pay for at `TIMES` steps and
    before the first one; short runs measure less often. It does not depend on `monitor_every`.

    Args:
        settings: a complete `PretrainSettings`.
        model: `MaskedAutoencoder`.
        ends: ints, the steps at which the legs of the run end.
        num_examples: int, training images.
        num_labelled: int, training images whose classes are known; 0: no accuracies.
        num_heldout: int, held-out images.
        asked: bool. Whether monitors are wanted in a run that is too short for them, too.
    """
    if settings.monitor_every == 0:
        return Plan([], 0, 0)
    costs = StepCosts(model.get_config(), settings.mask_ratio[0])
    encoded = SHARE * settings.batch_size * costs.flops / costs.encoding  # images, for a step
    images = max(LEAST_IMAGES, int(ends[0] * encoded / (TIMES + 1)))
    start, end = [0, *ends][-2:]
    train = min(images * 3 // 5, MOST_TRAIN, num_labelled, settings.probe_images)
    heldout = min(images - images * 3 // 5 if train else images, MOST_HELDOUT, num_heldout)
    heldout = min(heldout, settings.probe_images)
    if settings.monitor_every is None:
        of_sample = (end - start) * encoded // max(1, train + heldout)
        of_steps = ((end - start) * FIXED_SHARE - STEPS_ONCE) // STEPS_EACH
        times = min(TIMES, int(min(of_sample, of_steps)) - (start == 0))
        if times < 1 and not asked:
            return Plan([], 0, 0)
        steps = monitor_steps(start, end, max(1, times))
    else:

        def every(k):
            return steps_of(k * settings.monitor_every, num_examples, settings.batch_size)

        steps = monitor_steps(start, end, every=every)
    return Plan(steps, train, heldout)


class Sample:
    """The images that are measured, the same at all times.

    Attributes:
        heldout: iterable of (images, labels) as often as you like: float32 `(B, H, W, C)`,
            normalised, and int `(B,)`, or None without labels.
        train: the same of training images, or None where no classes are known.
        num_classes: int, or None.
    """

    def __init__(self, heldout: Any, train: Any, num_classes: int | None) -> None:
        self.heldout, self.train, self.num_classes = heldout, train, num_classes


class Batches:
    """Batches of a source as (images, labels), decoded once where they are few.

    Args:
        source: `Source`.
        labelled: bool.
        batch_size: int.
        pixels: dict, arguments of data sets.
    """

    def __init__(
        self, source: Source, labelled: bool, batch_size: int, pixels: Mapping[str, Any]
    ) -> None:
        self._dataset = eval_dataset(source, batch_size=batch_size, with_labels=labelled, **pixels)
        height, width = pixels["image_size"]
        size = 4 * source.num_examples * height * width * source.channels
        self._labelled, self._is_small = labelled, size <= KEPT_BYTES
        self._kept: list[Any] | None = None

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        if self._is_small and self._kept is None:
            self._kept = [*self._decoded()]
        return iter(self._decoded() if self._kept is None else self._kept)

    def _decoded(self):
        for batch in self._dataset:
            images, labels = batch if self._labelled else (batch, None)
            yield np.asarray(images), None if labels is None else np.asarray(labels)


class PretrainMonitors(Monitors):
    """The `Monitors` of a pre-training.

    Args:
        task: a `Pretrain` whose directory is open.
        steps: ints, see `Monitors`.
        train, heldout: `Source`s, the sample; `train` is labelled, or None.
        functions: dict of name to monitor, the user's.
    """

    # Of few labelled images a linear classifier is soon as good as it gets; neighbours are not.
    curve = ("knn", "probe", "rankme")

    def __init__(
        self,
        task: Any,
        steps: Sequence[int],
        train: Source | None,
        heldout: Source,
        functions: Mapping[str, Callable[..., Any]],
    ) -> None:
        super().__init__(steps, {"": feature_numbers, **functions})
        self.directory, self.bands = task.directory, task.settings.figure_bands
        self._workers, settings = task.workers, task.settings
        # A batch of which the training keeps much more fits into memory.
        self.batch_size = min(250, max(1, settings.batch_size // self._workers.replicas))
        with self._workers.one_device():
            self.model = task.model if self._workers.replicas == 1 else task.empty_copy()
        pixels = task.pixels(self.model.encoder)
        labelled = train is not None
        self.sample = Sample(
            Batches(heldout, labelled, self.batch_size, pixels),
            Batches(train, True, self.batch_size, pixels) if train is not None else None,
            train.num_classes if train is not None else None,
        )
        self.predict = Predict(self.model.encoder, self.batch_size)
        self._shown: np.ndarray | None = None

    @contextlib.contextmanager
    def ready(self, model: keras.Model) -> Iterator[None]:
        # A replicated model takes all replicas to be called.
        if self.model is not model:
            self.model.set_weights(model.get_weights())
        with self._workers.one_device():
            yield

    def draw(self, step: int) -> None:
        if self._shown is None:
            images = next(iter(self.sample.heldout))[0]
            spread = np.linspace(0, len(images) - 1, min(8, len(images))).astype(int)
            self._shown = images[spread]
        # Not compiled: for so few images, that takes as long as all of a run's calls.
        result = self.model.reconstruct(self._shown, seed=MASK_SEED)
        rows = reconstruction_rows(self.model, self._shown, result, self.bands)
        path = self.directory / "figures" / "monitor" / f"step_{step:08d}.png"
        reconstruction_sheet(rows, path, f"step {step:,}")

    def images(self) -> list[Any]:
        # Those of earlier legs were moved.
        folders = [self.directory, *self.directory.glob("leg_*")]
        paths = [p for folder in folders for p in folder.glob("figures/monitor/step_*.png")]
        return sorted((int(p.stem[5:]), f"{PREFIX}reconstructions", p) for p in paths)

    def trim(self, step: int) -> None:
        for drawn, _, path in self.images():
            if drawn > step:
                path.unlink()

    def draw_curves(self, curves: Mapping[int, Mapping[str, float]]) -> None:
        shown = {
            step: {name.removeprefix(PREFIX): value for name, value in values.items()}
            for step, values in curves.items()
        }
        if shown:
            monitor_figure(shown, self.directory / "figures" / "monitor.png")

    def end(self) -> None:
        frames = [path for _, _, path in self.images()]
        if frames:
            animation(frames, self.directory / "figures" / "monitor.webp")


class Predict:
    """The predict function that monitors get: the encoder as it is now, without masks.

    It is compiled once for each output, for batches of one size.

    Args:
        encoder: `ViTEncoder`.
        batch_size: int, images at a time.
    Call arguments:
        images: float `(n, H, W, C)`, normalised.
        output: "features", the mean of the patches' tokens, or "tokens".
    Returns:
        float32 array `(n, D)`, or `(n, T + N, D)` with the class tokens first.
    """

    def __init__(self, encoder: keras.Model, batch_size: int) -> None:
        self.batch_size = batch_size
        self._functions = {
            "features": encoder_predictor(encoder, POOLING),
            "tokens": compiled_function(
                lambda images: keras.ops.cast(encoder(images, training=False), "float32"),
                variables=encoder.variables,
            ),
        }

    def __call__(self, images: np.ndarray, output: str = "features") -> np.ndarray:
        if output not in self._functions:
            raise ValueError(f"`output` must be one of {list(OUTPUTS)}. Received: {output!r}")
        found = []
        for start in range(0, len(images), self.batch_size):
            batch = np.asarray(images[start : start + self.batch_size], "float32")
            count = len(batch)
            if count < self.batch_size:
                rest = np.zeros((self.batch_size - count, *batch.shape[1:]), "float32")
                batch = np.concatenate([batch, rest])
            outputs = self._functions[output](keras.ops.convert_to_tensor(batch))
            found.append(np.asarray(keras.ops.convert_to_numpy(outputs), "float32")[:count])
        return np.concatenate(found)


def feature_numbers(predict: Callable[..., np.ndarray], sample: Sample) -> dict[str, float]:
    """Return how good features are: a monitor.

    Args:
        predict: function, see `Predict`.
        sample: `Sample`.
    Returns:
        dict: "rankme" and "variance" of the held-out images' features, see
        `keras_mae.evaluation.quality`; with labels "knn", the accuracy of 20 nearest neighbours,
        and "probe", that of a linear classifier in closed form.
    """
    values = {}
    if sample.train is None:
        features = np.concatenate([predict(images) for images, _ in sample.heldout])
    else:
        known, classes = extract_features(predict, sample.train)
        features, labels = extract_features(predict, sample.heldout)
        k = min(NEIGHBOURS, len(known))
        values["knn"] = knn_accuracy(known, classes, features, labels, sample.num_classes, k=k)
        if len(np.unique(classes)) > 1:
            values["probe"] = ridge_accuracy(known, classes, features, labels)
    return {**values, "rankme": rankme(features), "variance": variance_share(features)}


def monitor_lines(about: Mapping[str, Any], total_steps: int, say_time: Callable) -> list[str]:
    """Return what monitors have shown as lines of text.

    Args:
        about: dict, "monitor" of a run's results.
        total_steps: int.
        say_time: function from seconds to words.
    """
    lines, curve = [], about["curve"]
    twice = ""
    if about["seconds_twice_as_long"]:
        twice = (
            f" A run twice as long, {2 * total_steps:,} steps, takes about "
            f"{say_time(about['seconds_twice_as_long'])} here."
        )
    if curve is not None and curve["trend"] is not None:
        word = {
            "rises": "still rises at the end",
            "falls": "falls at the end",
            "level": "shows no clear rise at the end",
        }[curve["trend"]]
        lines.append(
            f"{curve['name']} {word}: {curve['gain']:+.3g} in the last quarter of the run, with a "
            f"noise of {curve['noise']:.2g}.{twice}"
        )
    elif twice:
        lines.append(twice.strip())
    if about["share"] is not None:
        lines.append(f"Monitors took {about['seconds']:.0f} s, {about['share']:.1%} of the run.")
    return lines
