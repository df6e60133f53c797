"""The settings of a fine-tuning run, and the recipe of each protocol."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from keras_mae.poolings import POOLING_HELP, POOLINGS, is_pooling
from keras_mae.presets import list_presets
from keras_mae.settings.data import DATA, DataSettings
from keras_mae.settings.fields import SettingsError, changed, setting
from keras_mae.settings.run import (
    AUGMENTED,
    EVALUATION,
    LENGTH,
    MODEL,
    RESIZES,
    RunSettings,
    steps_of,
)


@dataclasses.dataclass(frozen=True)
class TaskDefaults:
    """What a task takes where nothing is given.

    Attributes:
        dataset: str, as of `--dataset`.
        preset: str, the architecture where there is no encoder.
        small_image: int, pixels a side up to which the recipe is "small".
        encoder: str, where a checkout has an encoder that knows the images of `dataset`; or None.
        pretrain: tuple of str, "NAME=VALUE": the settings that such an encoder is pre-trained with.
    """

    dataset: str
    preset: str
    small_image: int
    encoder: str | None = None
    pretrain: tuple = ()

    @property
    def command(self) -> str:
        """What pre-trains the encoder."""
        flags = (f"--{text}" for text in (f"dataset={self.dataset}", *self.pretrain))
        return " ".join(["keras-mae pretrain", *flags])

    def knows(self, dataset: str | None) -> bool:
        """Whether a data set's images are those that the encoder knows."""
        return self.encoder is not None and str(dataset).partition(":")[0] == self.dataset


_DENSE = TaskDefaults(
    dataset="digit_scenes",
    preset="mae_vit_mini_patch8",
    small_image=128,
    encoder="saved_models/scenes_encoder/encoder.keras",
    pretrain=("preset=mae_vit_mini_patch8", "mask_ratio=0.6", "epochs=40"),
)
TASKS = {
    "classify": TaskDefaults("mnist5k", "mae_vit_mini_patch4", small_image=64),
    "segment": _DENSE,
    "detect": _DENSE,
}
PROTOCOLS = ("full", "linear", "partial", "scratch", "knn")
VIEWS_IN_ALL = 8_000  # whose features a recipe computes: of few images, more of each


@dataclasses.dataclass(frozen=True)
class FinetuneRecipe:
    """Settings that go together; see `FinetuneSettings` for what each means.

    Attributes:
        feature_views: int, at most; fewer of many images, so that they are 8,000 in all.
        least_steps: int. A run on few images has more epochs, so that it has so many steps.
        beta_2: float. AdamW's second moment's decay.
        head, filters, scale_jitter: of segmentation and detection; None: what the model and the
            data have themselves.
    """

    batch_size: int = 256
    epochs: float = 100
    base_learning_rate: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    warmup_epochs: float = 5
    drop_path: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    randaugment: tuple = (0, 0)
    erasing: float = 0.0
    ema: float = 0.0
    pooling: str = "mean"
    pooled_blocks: int = 1
    augmentation: str = "source"
    feature_views: int = 0
    least_steps: int = 0
    beta_2: float = 0.999
    head: str | None = None
    filters: int | None = None
    scale_jitter: tuple | None = None


_PAPER_AUGMENTATION: dict[str, Any] = {
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "randaugment": (2, 9),
    "erasing": 0.25,
}
_PAPER_FULL = FinetuneRecipe(layer_decay=0.75, drop_path=0.1, **_PAPER_AUGMENTATION)
_SMALL: dict[str, Any] = {
    "batch_size": 64,
    "epochs": 20,
    "base_learning_rate": 4e-3,
    "warmup_epochs": 2,
    "drop_path": 0.1,
    "label_smoothing": 0.1,
    "least_steps": 1000,
}
# The optimizer is LARS for "linear" and AdamW for the others; kNN trains nothing.
RECIPES = {
    # He et al. 2021, tables 9 (full), 10 (linear) and 11 (scratch), for ViT-B, but for the batches:
    # 1024, 16384 and 4096 there. The learning rate is scaled to the batch. Partial fine-tuning
    # "follows the fine-tuning settings" (section A.1); the class token is what is probed.
    "paper": {
        "full": _PAPER_FULL,
        "partial": _PAPER_FULL,
        "scratch": FinetuneRecipe(
            epochs=300,
            base_learning_rate=1e-4,
            weight_decay=0.3,
            warmup_epochs=20,
            drop_path=0.1,
            ema=0.9999,
            beta_2=0.95,
            **_PAPER_AUGMENTATION,
        ),
        "linear": FinetuneRecipe(
            batch_size=1024,
            epochs=90,
            base_learning_rate=0.1,
            weight_decay=0.0,
            warmup_epochs=10,
            pooling="token",
        ),
        "knn": FinetuneRecipe(pooling="token"),
    },
    # Ours, for some thousands of small images and models; docs/recipes.md has the results.
    "small": {
        "full": FinetuneRecipe(layer_decay=0.75, **{**_SMALL, "base_learning_rate": 8e-3}),
        "partial": FinetuneRecipe(**_SMALL),
        "scratch": FinetuneRecipe(**_SMALL),
        "linear": FinetuneRecipe(
            epochs=90,
            base_learning_rate=10.0,
            weight_decay=0.0,
            warmup_epochs=10,
            pooling="both",
            feature_views=16,
            least_steps=2000,
        ),
        "knn": FinetuneRecipe(),
    },
}
# Images with label maps and boxes are not mixed. A head on a frozen encoder is trained by AdamW, as
# the last blocks are.
_UNMIXED: dict[str, Any] = {
    "label_smoothing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "randaugment": (0, 0),
    "erasing": 0.0,
}
_HEADS = {"full": "pyramid", "partial": "pyramid", "scratch": "pyramid", "linear": "linear"}


def _dense(recipes: dict[str, FinetuneRecipe], **changes: Any) -> dict[str, FinetuneRecipe]:
    """Return recipes of label maps and boxes by protocol, made of those of classes."""
    of = {"full": "full", "partial": "partial", "scratch": "scratch", "linear": "partial"}
    return {
        protocol: dataclasses.replace(recipes[other], **_UNMIXED, **changes)
        for protocol, other in of.items()
    }


def _with_heads(recipes: dict[str, FinetuneRecipe]) -> dict[str, FinetuneRecipe]:
    return {p: dataclasses.replace(recipe, head=_HEADS[p]) for p, recipe in recipes.items()}


# Ours, for some hundreds of small scenes; docs/dense.md has the results.
_SMALL_DENSE = _dense(
    RECIPES["small"],
    batch_size=16,
    epochs=10,
    warmup_epochs=1,
    base_learning_rate=6.4e-2,
    drop_path=0.0,
    filters=32,
    scale_jitter=(0.75, 1.5),
)
# By task, then name, then protocol.
DENSE_RECIPES = {
    "segment": {
        "paper": _with_heads(_dense(RECIPES["paper"])),
        "small": _with_heads(_SMALL_DENSE),
    },
    "detect": {"paper": _dense(RECIPES["paper"]), "small": _SMALL_DENSE},
}
# What a recipe says of classes alone: it is not shown of other tasks.
_OF_CLASSES = {*_UNMIXED, "pooling", "pooled_blocks", "feature_views"}
_OF_RECIPE = [f.name for f in dataclasses.fields(FinetuneRecipe) if f.name != "least_steps"]
BY_RECIPE = "the recipe's"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneSettings(RunSettings):
    """All that fixes a fine-tuning run; each field is a flag of `scripts/finetune.py`.

    None stands for the default of the task, or of the protocol's recipe.

    Example:
        settings = FinetuneSettings(encoder="saved_models/mae_mnist5k", protocol="linear")
        keras_mae.finetune(settings)
    Raises:
        SettingsError: a ValueError, with all values that do not fit.
    """

    dataset: str | None = changed(  # type: ignore[assignment]
        DataSettings,
        "dataset",
        None,
        shown=f"{TASKS['classify'].dataset}; {_DENSE.dataset} for segment and detect",
    )
    encoder: str | None = setting(
        None,
        "A run's directory, a .keras file, another library's checkpoint, hf://OWNER/NAME, or a "
        "SavedModel's directory. Without one: a new encoder of --preset, for scratch, linear and "
        "knn.",
        MODEL,
        fixes=False,  # the run is of its weights, wherever they lie
        sweep=False,
        shown=f"for {_DENSE.dataset}, {_DENSE.encoder} of a checkout; else none",
        first=2,
    )
    task: str = setting(
        "classify",
        "classify: a class, or several labels, for each image. segment: a class for each pixel. "
        "detect: boxes with classes.",
        MODEL,
        choices=tuple(TASKS),
        sweep=False,
        first=3,
    )
    head: str | None = setting(
        None,
        "For segment: linear: on the last block; multi_block: on the last 4; pyramid: levels of "
        "several strides.",
        MODEL,
        choices=("linear", "multi_block", "pyramid"),
        shown="pyramid; linear for --protocol=linear",
    )
    filters: int | None = setting(
        None,
        "For segment and detect, channels of the levels and of what follows them.",
        MODEL,
        least=1,
        shown="the recipe's, else 128",
    )
    scale_jitter: tuple[float, ...] | None = setting(
        None,
        "LOW,HIGH: for segment and detect, the random scale, relative to the largest at which the "
        "whole image fits.",
        AUGMENTED,
        lengths=(2, 2),
        above=0,
        shown="the recipe's, else 0.1,2 for 10,000 images or more, 0.5,2 for fewer",
    )
    protocol: str = setting(
        "full",
        "full: all weights. linear: a linear layer on frozen features. partial: the last blocks "
        "and the head. scratch: the encoder's architecture from random weights. knn: nearest "
        "neighbours of frozen features, no training.",
        MODEL,
        choices=PROTOCOLS,
        sweep=False,
        first=4,
    )
    preset: str | None = setting(
        None,
        "Architecture where there is no encoder.",
        MODEL,
        choices=tuple(list_presets()),
        sweep=False,
        shown=f"{TASKS['classify'].preset}; {_DENSE.preset} for segment and detect",
    )
    recipe: str | None = setting(
        None,
        "Defaults that go together, see docs/recipes.md.",
        LENGTH,
        choices=("paper", "small"),
        shown="small for images of at most 64 pixels a side, 128 for segment and detect",
    )
    train_examples: int | None = setting(
        None,
        "Train on so many images, equally many a class, chosen by the seed.",
        DATA,
        least=1,
        sweep=False,
        shown="all",
        first=5,
    )
    trainable_blocks: float | None = setting(
        None,
        "For partial: 0, 0.5 (the MLP of the last block), 1, 2, ...",
        MODEL,
        least=0,
        sweep=False,
        shown="1",
    )
    num_classes: int | None = setting(
        None, "Outputs of the head.", MODEL, least=1, sweep=False, shown="the data's"
    )
    image_size: tuple[int, ...] | None = setting(
        None,
        "SIDE or HEIGHT,WIDTH, pixels.",
        MODEL,
        least=1,
        lengths=(1, 2),
        sweep=False,
        shown="the encoder's",
    )
    pooling: str | None = setting(
        None,
        POOLING_HELP,
        MODEL,
        choices=POOLINGS,
        accepts=is_pooling,
        shown=BY_RECIPE,
    )
    pooled_blocks: int | None = setting(
        None,
        "So many last blocks' tokens are pooled, side by side.",
        MODEL,
        least=1,
        shown=BY_RECIPE,
    )
    whiten: int | None = setting(
        None,
        "For linear and knn: whiten the pooled features to so many principal components, fitted on "
        "the training images.",
        MODEL,
        least=1,
        shown="off",
    )
    jit: bool = changed(
        RunSettings,
        "jit",
        True,
        help="Compile with XLA: the first step is slow, others faster. Segmentation and detection "
        "on a CPU are never compiled: they would be slower.",
    )
    batch_size: int | None = changed(RunSettings, "batch_size", None, first=0)
    epochs: float | None = changed(RunSettings, "epochs", None, first=0)
    warmup_epochs: float | None = changed(
        RunSettings, "warmup_epochs", None, shown="the recipe's share of the run"
    )
    ema: float | None = changed(RunSettings, "ema", None, shown=BY_RECIPE)
    layer_decay: float | None = setting(
        None,
        "Each block's learning rate is so many times the next one's.",
        LENGTH,
        above=0,
        most=1,
        shown=BY_RECIPE,
    )
    beta_2: float | None = setting(
        None, "AdamW's second.", LENGTH, least=0, below=1, shown=BY_RECIPE
    )
    drop_path: float | None = setting(
        None, "Rate of the last block.", LENGTH, least=0, below=1, shown=BY_RECIPE
    )
    augmentation: str | None = changed(RunSettings, "augmentation", None, shown=BY_RECIPE)
    resize: str = setting("bicubic", "Of the augmented images.", AUGMENTED, choices=RESIZES)
    label_smoothing: float | None = setting(
        None,
        "Share of a label spread over all classes.",
        AUGMENTED,
        least=0,
        below=1,
        shown=BY_RECIPE,
    )
    mixup: float | None = setting(None, "Alpha; 0: off.", AUGMENTED, least=0, shown=BY_RECIPE)
    cutmix: float | None = setting(None, "Alpha; 0: off.", AUGMENTED, least=0, shown=BY_RECIPE)
    randaugment: tuple[float, ...] | None = setting(
        None,
        "OPERATIONS,MAGNITUDE (0-10); 0: off.",
        AUGMENTED,
        least=0,
        lengths=(1, 2),
        shown=BY_RECIPE,
    )
    erasing: float | None = setting(
        None,
        "Chance that a box of an image is erased.",
        AUGMENTED,
        least=0,
        most=1,
        shown=BY_RECIPE,
    )
    feature_views: int | None = setting(
        None,
        "For linear: views of an image, computed once, the first one as it is evaluated, others "
        "augmented; 0: augmented anew in each epoch.",
        AUGMENTED,
        least=0,
        shown=BY_RECIPE,
    )
    knn: tuple[int, ...] = setting(
        (20, 1, 5, 10, 50, 100),
        "Numbers of neighbours; the first one's accuracy counts. Those above the number of "
        "training images are left out, unless given.",
        EVALUATION,
        least=1,
        sweep=False,
    )
    dry_run: bool = setting(
        False,
        "Print each variable's learning rate and decay; train nothing.",
        EVALUATION,
        fixes=False,
        sweep=False,
    )

    @property
    def _prefix(self) -> str:  # type: ignore[override]
        return self.protocol if self.task == "classify" else f"{self.task}_{self.protocol}"

    def __post_init__(self) -> None:
        self._take_the_tasks()
        super().__post_init__()
        if self.randaugment is not None:
            operations, magnitude = (*self.randaugment, 0)[:2]
            object.__setattr__(self, "randaugment", (int(operations), float(magnitude)))

    def _take_the_tasks(self) -> None:
        """Fill in the task's data set, its encoder for it, and its preset where there is none."""
        task = TASKS.get(self.task, TASKS["classify"])  # another one is told by the checks
        if self.dataset is None:
            object.__setattr__(self, "dataset", task.dataset)
        if self.encoder is None and self.preset is None and task.knows(self.dataset):
            object.__setattr__(self, "encoder", in_checkout(task.encoder))
            if self.encoder is None and self.protocol == "linear":
                return  # a frozen encoder of random weights is not what is meant
        if self.preset is None:
            object.__setattr__(self, "preset", task.preset)

    def faults_together(self) -> Iterator[str]:
        yield from super().faults_together()
        pair = self.randaugment
        if pair is not None and (pair[0] != int(pair[0]) or not 0 <= (*pair, 0)[1] <= 10):
            yield (
                "`randaugment` must be (number of operations, magnitude from 0 to 10). "
                f"Received: {list(pair)}"
            )
        if self.trainable_blocks is not None and self.protocol != "partial":
            yield (
                "`trainable_blocks` must be None but for protocol='partial'. Received: "
                f"{self.trainable_blocks} with protocol={self.protocol!r}"
            )
        if self.feature_views and self.protocol != "linear":
            yield (
                "`feature_views` must be None or 0 but for protocol='linear'. Received: "
                f"{self.feature_views} with protocol={self.protocol!r}"
            )
        dense = self.task != "classify"
        if self.whiten is not None and (dense or self.protocol not in ("linear", "knn")):
            yield (
                "`whiten` must be None but for protocol='linear' or 'knn' of task='classify'. "
                f"Received: {self.whiten} with protocol={self.protocol!r}, task={self.task!r}"
            )
        if self.protocol == "knn" and dense:
            yield f"`protocol` must not be 'knn' for task={self.task!r}. Received: 'knn'"
        for name in ("label_smoothing", "mixup", "cutmix", "randaugment", "erasing"):
            value = getattr(self, name)
            if dense and (value if name != "randaugment" else value and value[0]):
                yield f"`{name}` must be 0 or None for task={self.task!r}. Received: {value}"
        for name in ("crop_area", "crop_aspect", "num_classes", "feature_views"):
            if dense and getattr(self, name):
                yield (
                    f"`{name}` must be None for task={self.task!r}. Received: {getattr(self, name)}"
                )
        for name in ("head", "filters", "scale_jitter"):
            if getattr(self, name) is not None and not dense:
                yield f"`{name}` must be None for task='classify'. Received: {getattr(self, name)}"
        task = TASKS[self.task]
        known = task.knows(self.dataset)
        frozen = self.protocol == "linear" and self.preset is None and known
        if self.encoder is None and (frozen or self.protocol in ("full", "partial")):
            place = ""
            if known:
                place = (
                    f" where there is no {task.encoder}, which a checkout of the repository has. "
                    f"Make one by `{task.command}`, and give saved_models/mae_{task.dataset}"
                )
            yield (
                f"`encoder` must be given for protocol={self.protocol!r}{place}; 'scratch' trains "
                "one that is new. Received: None"
            )

    def _recipe_of(self, name: str) -> FinetuneRecipe:
        """Return the recipe of a name for this protocol and task."""
        recipes = RECIPES if self.task == "classify" else DENSE_RECIPES[self.task]
        return recipes[name][self.protocol]

    def source_options(self) -> dict[str, Any]:
        task = None if self.task == "classify" else self.task
        return {**super().source_options(), "task": task}

    def with_recipe(self, image_size: tuple[int, int], num_examples: int) -> Self:
        """Return these settings with the recipe's values for all that is None.

        Args:
            image_size: (H, W), of the model.
            num_examples: int, of the training set.
        Returns:
            A `FinetuneSettings` whose `recipe` is named and of whose recipe's fields none is None.
        """
        is_small = max(image_size) <= TASKS[self.task].small_image
        name = self.recipe or ("small" if is_small else "paper")
        recipe = self._recipe_of(name)
        values = {field: getattr(recipe, field) for field in _OF_RECIPE}
        values["batch_size"] = min(recipe.batch_size, num_examples)
        batch_size = self.batch_size or values["batch_size"]
        views = min(recipe.feature_views, max(1, VIEWS_IN_ALL // num_examples))
        values["feature_views"] = views
        values["epochs"] = max(recipe.epochs, recipe.least_steps * batch_size / num_examples)
        # Warm-up keeps its share of a run that is shorter or longer than the recipe's.
        epochs = self.epochs or values["epochs"]
        if self.steps is not None:
            epochs = self.steps * batch_size / num_examples
        values["warmup_epochs"] = recipe.warmup_epochs * epochs / recipe.epochs
        if self.steps is not None:
            values["epochs"] = None
        given = {name: getattr(self, name) for name in values if getattr(self, name) is not None}
        values.update(given)
        if values["feature_views"] and (values["mixup"] or values["cutmix"]):
            raise SettingsError(
                [
                    "`feature_views` must be 0 with mixup or CutMix, which mix images anew each "
                    f"step. Received: {values['feature_views']}"
                ]
            )
        if self.protocol == "partial" and self.trainable_blocks is None:
            values["trainable_blocks"] = 1
        return dataclasses.replace(self, recipe=name, **values)

    def warmup_steps(self, num_examples: int) -> int:
        """Return the steps of the warm-up."""
        steps = steps_of(self.warmup_epochs, num_examples, self.batch_size)
        return min(steps, self.total_steps(num_examples) - 1)

    def recipe_text(self, neighbours: Sequence[int] | None = None) -> str:
        """Return the recipe in use as lines of text, settings that differ from it marked.

        Args:
            neighbours: numbers of neighbours that are measured; None for `knn`.
        """
        recipe = self._recipe_of(self.recipe)
        shown = []
        for name in _OF_RECIPE:
            value = getattr(self, name)
            is_used = self.task == "classify" or name not in _OF_CLASSES
            if value is not None and is_used:
                text = f"{value:.4g}" if isinstance(value, float) else str(value)
                same = value == getattr(recipe, name) or name in ("epochs", "warmup_epochs")
                shown.append(f"{name}={text}" + ("" if same else "*"))
        optimizer = {"linear": "LARS", "knn": "none"}.get(self.protocol, "AdamW")
        optimizer = optimizer if self.task == "classify" else "AdamW"
        lines = [f"Recipe in use: {self.recipe}, {self.protocol} (* other than the recipe's)"]
        if self.protocol == "knn":
            pooled = f"pooling={self.pooling}, pooled_blocks={self.pooled_blocks}"
            pooled += f", whiten={self.whiten}" * (self.whiten is not None)
            return f"{lines[0]}\n  {pooled}, k={list(neighbours or self.knn)}"
        shown += [f"whiten={self.whiten}*"] * (self.whiten is not None)
        rows = [shown[i : i + 5] for i in range(0, len(shown), 5)]
        rows[0].insert(0, f"optimizer={optimizer}")
        return "\n".join([*lines, *("  " + ", ".join(row) for row in rows)])


def in_checkout(path: str | None) -> str | None:
    """Return where a file of the repository lies, or None where there is none.

    It is looked for below the working directory, and then beside the package.
    """
    for root in (Path(), Path(__file__).resolve().parents[2]):
        if path is not None and (root / path).is_file():
            return str(root / path)
    return None
