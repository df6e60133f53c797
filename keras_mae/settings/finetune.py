"""The settings of a fine-tuning run, and the recipe of each protocol."""

import dataclasses

from keras_mae.layers.pooling import POOLINGS
from keras_mae.settings.pretrain import PRECISIONS, RESUME, RunSettings
from keras_mae.training import scaled_learning_rate, steps_of, warmup_cosine

PROTOCOLS = ("full", "linear", "partial", "scratch", "knn")
STRATEGIES = ("auto", "one_device", "mirrored")  # of one host
AUGMENTATIONS = ("source", "crop", "shift", "none")
SMALL_IMAGE = 64  # pixels a side
MOST_VIEWS = 1_000_000  # whose features a recipe keeps in memory
# Settings that change no number of the run: it can go on with others.
FREE = {
    "encoder",  # the run is of its weights, wherever they lie
    "output_dir",
    "overwrite",
    "resume",
    "checkpoint_steps",
    "checkpoint_minutes",
    "keep",
    "max_bad_fraction",
    "dry_run",
}


@dataclasses.dataclass(frozen=True)
class FinetuneRecipe:
    """Settings that go together; see `FinetuneSettings` for what each means.

    Attributes:
        feature_views: int. Of more than some ten thousand images fewer, to fit in memory.
        least_steps: int. A run on few images has more epochs, so that it has so many steps.
        beta_2: float. AdamW's second moment's decay.
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


_PAPER_AUGMENTATION = {
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "randaugment": (2, 9),
    "erasing": 0.25,
}
_PAPER_FULL = FinetuneRecipe(layer_decay=0.75, drop_path=0.1, **_PAPER_AUGMENTATION)
_SMALL = {
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
            least_steps=4000,
        ),
        "knn": FinetuneRecipe(),
    },
}
_OF_RECIPE = [f.name for f in dataclasses.fields(FinetuneRecipe) if f.name != "least_steps"]


@dataclasses.dataclass
class FinetuneSettings(RunSettings):
    """All that fixes a fine-tuning run; each field is a flag of `scripts/finetune.py`.

    None stands for the default of the protocol's recipe.

    Attributes:
        encoder: str or None. A path that `keras_mae.load_encoder` knows. None: a new
            encoder of `preset`, which "full" and "partial" refuse.
        dataset: str, see `keras_mae.data.load_source`. It must have labels.
        protocol: "full": all weights. "linear": a linear layer on frozen features. "partial": the
            last `trainable_blocks` and the head. "scratch": the encoder's architecture from random
            weights. "knn": nearest neighbours of frozen features, no training.
        preset: str. The architecture where there is no encoder.
        recipe: "paper" or "small". None: "small" for images of at most 64 pixels a side.
        train_examples: int or None. So many training images, equally many a class, chosen by
            `seed`; None: all.
        trainable_blocks: 0, 0.5 (the last block's MLP) or an int; for "partial", which has 1 if it
            is None.
        num_classes: int or None. Outputs of the head; None: as many as the data set has classes.
        image_size: list of one or two ints, or None for the encoder's.
        batch_size, epochs: the global batch, and passes over the training images.
        steps: int. Length of the run in steps, instead of `epochs`.
        base_learning_rate: float. Peak for 256 images; it is scaled with the batch.
        warmup_epochs: float. None: the recipe's share of the run.
        weight_decay: float. AdamW's, of weight matrices; of LARS: inside the scaled step.
        layer_decay: float in (0, 1], see `layer_rate_scales`.
        beta_2: float in [0, 1). AdamW's.
        drop_path, label_smoothing: floats in [0, 1).
        mixup, cutmix: floats of 0 or more. Alpha of the Beta distribution that the share is drawn
            from; 0: off. With both, each batch takes one of them by chance.
        randaugment: (number of operations, magnitude 0-10); (0, 0): off.
        erasing: float in [0, 1]. Chance that a box of an image is replaced by noise.
        ema: float in [0, 1). Decay of the average of the weights, which is what is validated and
            saved; 0: off.
        pooling: the class "token", the "mean" of the patches' tokens, or "both" side by side.
        pooled_blocks: int. The tokens of so many last blocks are pooled side by side: 1 for the
            encoder's output; 4 is what DINO probes small models with.
        augmentation: "source": the data set's own; "crop", "shift" or "none".
        resize: "bicubic" (antialiased) or "bilinear", of the augmented images.
        feature_views: int. For linear probes: the features of so many augmented views of each
            image are computed once and kept, and each step draws from all of them. 0: each epoch
            computes new ones (without augmentation, features are computed once all the same).
        validation_epochs: int. Epochs between two validations; None: 1, or more where fewer images
            are trained on than twice those held out.
        knn: list of ints. Numbers of neighbours; the first one's accuracy is "top1".
        seed: int. Fixes weights, order, augmentation and the choice of `train_examples`.
        output_dir, overwrite, resume, checkpoint_steps, checkpoint_minutes, keep, precision, jit,
        strategy, logical_devices, max_bad_fraction: as in `PretrainSettings`.
        dry_run: bool. Print each variable's learning rate and decay, and train nothing.
    """

    _free = FREE

    encoder: str | None = None
    dataset: str = "mnist5k"
    protocol: str = "full"
    preset: str = "mae_vit_mini_patch4"
    recipe: str | None = None
    train_examples: int | None = None
    trainable_blocks: float | None = None
    num_classes: int | None = None
    image_size: list | None = None
    batch_size: int | None = None
    epochs: float | None = None
    steps: int | None = None
    base_learning_rate: float | None = None
    warmup_epochs: float | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None
    beta_2: float | None = None
    drop_path: float | None = None
    label_smoothing: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    randaugment: tuple | None = None
    erasing: float | None = None
    ema: float | None = None
    pooling: str | None = None
    pooled_blocks: int | None = None
    augmentation: str | None = None
    resize: str = "bicubic"
    feature_views: int | None = None
    validation_epochs: int | None = None
    knn: tuple = (20, 1, 5, 10, 50, 100)
    seed: int = 0
    output_dir: str | None = None
    overwrite: bool = False
    resume: str = "auto"
    checkpoint_steps: int | None = None
    checkpoint_minutes: float | None = 10.0
    keep: int = 2
    precision: str = "float32"
    jit: bool = True
    strategy: str = "auto"
    logical_devices: int | None = None
    max_bad_fraction: float = 0.1
    dry_run: bool = False

    def __post_init__(self):
        self._check_length()
        for name, allowed in (
            ("protocol", PROTOCOLS),
            ("recipe", (None, *RECIPES)),
            ("pooling", (None, *POOLINGS)),
            ("augmentation", (None, *AUGMENTATIONS)),
            ("precision", PRECISIONS),
            ("resume", RESUME),
            ("strategy", STRATEGIES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {[a for a in allowed if a is not None]}. "
                    f"Received: {getattr(self, name)!r}"
                )
        for name in ("batch_size", "epochs", "steps", "base_learning_rate", "train_examples"):
            self._check_range(name, above=0)
        for name in (
            "num_classes",
            "validation_epochs",
            "checkpoint_steps",
            "checkpoint_minutes",
            "keep",
            "pooled_blocks",
        ):
            self._check_range(name, above=0)
        for name in ("warmup_epochs", "weight_decay", "mixup", "cutmix", "seed", "feature_views"):
            self._check_range(name, least=0)
        for name in ("drop_path", "label_smoothing", "ema", "beta_2"):
            self._check_range(name, least=0, below=1)
        self._check_range("layer_decay", above=0, most=1)
        self._check_range("erasing", least=0, most=1)
        if self.randaugment is not None:
            self.randaugment = _pair_of_randaugment(self.randaugment)
        self.knn = tuple(self.knn)
        if not self.knn or min(self.knn) < 1:
            raise ValueError(
                f"`knn` must be numbers of neighbours of 1 or more. Received: {self.knn}"
            )
        if self.image_size is not None and not 1 <= len(self.image_size) <= 2:
            raise ValueError(
                f"`image_size` must be one or two numbers. Received: {self.image_size}"
            )
        if self.trainable_blocks is not None and self.protocol != "partial":
            raise ValueError(
                "`trainable_blocks` must be None but for protocol='partial'. Received: "
                f"{self.trainable_blocks} with protocol={self.protocol!r}"
            )
        if self.feature_views and self.protocol != "linear":
            raise ValueError(
                "`feature_views` must be None or 0 but for protocol='linear'. Received: "
                f"{self.feature_views} with protocol={self.protocol!r}"
            )
        if self.protocol == "partial" and self.trainable_blocks is None:
            self.trainable_blocks = 1
        if self.encoder is None and self.protocol in ("full", "partial"):
            raise ValueError(
                f"`encoder` must be given for protocol={self.protocol!r}; 'scratch' trains one "
                "that is new. Received: None"
            )
        if self.output_dir is None:
            name = "".join(c if c.isalnum() else "_" for c in self.dataset).strip("_")
            self.output_dir = f"saved_models/{self.protocol}_{name}"

    def _check_range(self, name, least=None, above=None, most=None, below=None):
        value = getattr(self, name)
        if value is None:
            return
        limits = (
            ("at least", least, least is None or value >= least),
            ("greater than", above, above is None or value > above),
            ("at most", most, most is None or value <= most),
            ("less than", below, below is None or value < below),
        )
        if not all(holds for _, _, holds in limits):
            words = " and ".join(
                f"{word} {limit}" for word, limit, _ in limits if limit is not None
            )
            raise ValueError(f"`{name}` must be {words}. Received: {value}")

    def with_recipe(self, image_size, num_examples):
        """Return these settings with the recipe's values for all that is None.

        Args:
            image_size: (H, W), of the model.
            num_examples: int, of the training set.
        Returns:
            A `FinetuneSettings` whose `recipe` is named and of whose recipe's fields none is None.
        """
        name = self.recipe or ("small" if max(image_size) <= SMALL_IMAGE else "paper")
        recipe = RECIPES[name][self.protocol]
        values = {field: getattr(recipe, field) for field in _OF_RECIPE}
        values["batch_size"] = min(recipe.batch_size, num_examples)
        batch_size = self.batch_size or values["batch_size"]
        views = min(recipe.feature_views, max(1, MOST_VIEWS // num_examples))
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
            raise ValueError(
                "`feature_views` must be 0 with mixup or CutMix, which mix images anew each step. "
                f"Received: {values['feature_views']}"
            )
        return dataclasses.replace(self, recipe=name, **values)

    def learning_rate(self, num_examples):
        """Return the learning-rate schedule: warm-up and cosine over the whole run."""
        total_steps = self.total_steps(num_examples)
        warmup_steps = steps_of(self.warmup_epochs, num_examples, self.batch_size)
        peak = scaled_learning_rate(self.base_learning_rate, self.batch_size)
        return warmup_cosine(peak, min(warmup_steps, total_steps - 1), total_steps)

    def recipe_text(self):
        """Return the recipe in use as lines of text, settings that differ from it marked."""
        recipe = RECIPES[self.recipe][self.protocol]
        shown = []
        for name in _OF_RECIPE:
            value = getattr(self, name)
            if value is not None:
                text = f"{value:.4g}" if isinstance(value, float) else str(value)
                same = value == getattr(recipe, name) or name in ("epochs", "warmup_epochs")
                shown.append(f"{name}={text}" + ("" if same else "*"))
        optimizer = {"linear": "LARS", "knn": "none"}.get(self.protocol, "AdamW")
        lines = [f"Recipe in use: {self.recipe}, {self.protocol} (* other than the recipe's)"]
        if self.protocol == "knn":
            pooled = f"pooling={self.pooling}, pooled_blocks={self.pooled_blocks}"
            return f"{lines[0]}\n  {pooled}, k={list(self.knn)}"
        rows = [shown[i : i + 5] for i in range(0, len(shown), 5)]
        rows[0].insert(0, f"optimizer={optimizer}")
        return "\n".join([*lines, *("  " + ", ".join(row) for row in rows)])


def _pair_of_randaugment(value):
    pair = tuple(value) if len(value) == 2 else (*value, 0)
    if len(pair) != 2 or pair[0] != int(pair[0]) or pair[0] < 0 or not 0 <= pair[1] <= 10:
        raise ValueError(
            "`randaugment` must be (number of operations, magnitude from 0 to 10). "
            f"Received: {value}"
        )
    return int(pair[0]), float(pair[1])
