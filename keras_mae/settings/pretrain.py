"""The settings of a pre-training run, and what the defaults of each preset are."""

import dataclasses

import keras_mae
from keras_mae.layers import MaskRatioSchedule
from keras_mae.training import scaled_learning_rate, steps_of, warmup_cosine

RESUME = ("auto", "never")
# Settings that change no number of the run: it can go on with others.
FREE = {
    "output_dir",
    "overwrite",
    "resume",
    "checkpoint_steps",
    "checkpoint_minutes",
    "keep",
    "probe",
    "probe_images",
    "max_bad_fraction",
    "tensorboard",
    "tpu",
}
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings that go together.

    Attributes:
        batch_size: int. Global batch.
        epochs: float. Passes over the data.
        base_learning_rate: float. Peak for 256 images, scaled linearly with the batch.
        warmup_epochs: float.
    """

    batch_size: int
    epochs: float
    base_learning_rate: float
    warmup_epochs: float


# He et al. 2021, table 8, but for the batch: 4096 there. The learning rate is scaled to it.
PAPER = Recipe(batch_size=256, epochs=800, base_learning_rate=1.5e-4, warmup_epochs=40)
RECIPES = {
    # Ours, for 4,000 digits; the result to expect is in docs/results.md.
    "mae_vit_mini_patch4": Recipe(
        batch_size=64, epochs=60, base_learning_rate=8e-3, warmup_epochs=3
    ),
}


class RunSettings:
    """What the settings of all runs share; they have `epochs`, `steps` and `batch_size`."""

    _free = frozenset()  # names of the settings that change no number of the run

    def _check_length(self):
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                "`epochs` or `steps` must be given, not both. "
                f"Received: epochs={self.epochs}, steps={self.steps}"
            )

    def fixed(self):
        """Return the settings that fix the numbers of the run, as a dict."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in self._free}

    def total_steps(self, num_examples):
        """Return the length of the run in steps, for a training set of `num_examples` images."""
        return self.steps or steps_of(self.epochs, num_examples, self.batch_size)


@dataclasses.dataclass
class PretrainSettings(RunSettings):
    """All that fixes a pre-training run; each field is a flag of `scripts/pretrain.py`.

    None stands for the default of the preset's recipe, or of the preset.
    """

    _free = FREE

    dataset: str = "mnist5k"
    preset: str = "mae_vit_mini_patch4"
    image_size: list | None = None
    mask_ratio: list = dataclasses.field(default_factory=lambda: [0.75])
    masking: str = "random"
    norm_pix_loss: bool = True
    decoder_attention: str = "self"
    decoder_num_layers: int | None = None
    batch_size: int | None = None
    epochs: float | None = None
    steps: int | None = None
    base_learning_rate: float | None = None
    warmup_epochs: float | None = None
    weight_decay: float = 0.05
    precision: str = "float32"
    jit: bool = True
    accumulate_steps: int = 1
    recompute: bool = False
    seed: int = 0
    output_dir: str | None = None
    overwrite: bool = False
    resume: str = "auto"
    checkpoint_steps: int | None = None
    checkpoint_minutes: float | None = 10.0
    keep: int = 2
    probe: bool = True
    probe_images: int = 10_000
    strategy: str = "auto"
    logical_devices: int | None = None
    tpu: str | None = None
    tensorboard: bool = False
    resize: str = "bilinear"
    crops_per_image: int = 1
    max_bad_fraction: float = 0.1

    def __post_init__(self):
        self._check_length()
        for name, allowed in (("precision", PRECISIONS), ("resume", RESUME)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {list(allowed)}. Received: {getattr(self, name)!r}"
                )
        positive = ("batch_size", "epochs", "steps", "base_learning_rate", "probe_images")
        positive += (
            "decoder_num_layers",
            "accumulate_steps",
            "checkpoint_steps",
            "checkpoint_minutes",
            "keep",
            "crops_per_image",
        )
        for name in positive:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` must be greater than 0. Received: {value}")
        for name in ("warmup_epochs", "weight_decay", "seed"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"`{name}` must be at least 0. Received: {value}")
        for name, most in (("image_size", 2), ("mask_ratio", 2)):
            value = getattr(self, name)
            if value is not None and not 1 <= len(value) <= most:
                raise ValueError(f"`{name}` must be one or {most} numbers. Received: {value}")
        recipe = RECIPES.get(self.preset, PAPER)
        self.batch_size = self.batch_size or recipe.batch_size
        if self.steps is None:
            self.epochs = self.epochs or recipe.epochs
        self.base_learning_rate = self.base_learning_rate or recipe.base_learning_rate
        if self.output_dir is None:
            name = "".join(c if c.isalnum() else "_" for c in self.dataset).strip("_")
            self.output_dir = f"saved_models/mae_{name}"

    def learning_rate(self, num_examples):
        """Return the learning-rate schedule: warm-up and cosine over the whole run."""
        total_steps = self.total_steps(num_examples)
        warmup_epochs = self.warmup_epochs
        if warmup_epochs is None:
            warmup_epochs = RECIPES.get(self.preset, PAPER).warmup_epochs
        warmup_steps = steps_of(warmup_epochs, num_examples, self.batch_size)
        if self.warmup_epochs is None:  # a default must not outgrow a short run
            warmup_steps = min(warmup_steps, total_steps // 10)
        peak = scaled_learning_rate(self.base_learning_rate, self.batch_size)
        return warmup_cosine(peak, warmup_steps, total_steps)

    def build_model(self, source, total_steps):
        """Return a new `MaskedAutoencoder` for the images of a `keras_mae.data.Source`."""
        overrides = {"mask_ratio": self.mask_ratio[0]}
        if len(self.mask_ratio) == 2:
            overrides["mask_ratio"] = MaskRatioSchedule(*self.mask_ratio, total_steps=total_steps)
        if self.decoder_num_layers:
            overrides["decoder_num_layers"] = self.decoder_num_layers
        if self.image_size:
            size = self.image_size
            overrides["image_size"] = size[0] if len(size) == 1 else tuple(size)
        return keras_mae.MaskedAutoencoder.from_preset(
            self.preset,
            channels=source.channels,
            masking=self.masking,
            norm_pix_loss=self.norm_pix_loss,
            decoder_attention=self.decoder_attention,
            mean=source.mean,
            std=source.std,
            seed=self.seed,
            **overrides,
        )
