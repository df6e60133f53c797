"""The settings of a pre-training run, and what the defaults of each preset are."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Self

from keras_mae.presets import list_presets, preset_config
from keras_mae.registry import is_own
from keras_mae.settings.data import DATA
from keras_mae.settings.fields import changed, setting
from keras_mae.settings.run import (
    EVALUATION,
    LENGTH,
    MODEL,
    RESIZES,
    RunSettings,
    steps_of,
)

MASKINGS = "keras_mae.layers.maskings"
DECODER_ATTENTION = ("self", "masked", "cross")
SMALL_IMAGE = 64  # pixels a side, up to which patches of 4 pixels suit
LARGEST_IMAGE = 224  # pixels a side, unless a size is given


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
# Ours, for 4,000 digits or scenes; the results to expect are in docs/results.md and docs/dense.md.
_MINI = Recipe(batch_size=64, epochs=60, base_learning_rate=8e-3, warmup_epochs=3)
RECIPES = {"mae_vit_mini_patch4": _MINI, "mae_vit_mini_patch8": _MINI}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainSettings(RunSettings):
    """All that fixes a pre-training run; each field is a flag of `scripts/pretrain.py`.

    None stands for the default of the preset's recipe, of the preset, or of the images.

    Example:
        settings = PretrainSettings(dataset="folder:photos", epochs=100, seed=1)
        keras_mae.pretrain(settings)
    Raises:
        SettingsError: a ValueError, with all values that do not fit.
    """

    preset: str | None = setting(
        None,
        "Architecture.",
        MODEL,
        choices=tuple(list_presets()),
        shown="by the images' size",
        first=2,
    )
    image_size: tuple[int, ...] | None = setting(
        None,
        "SIDE or HEIGHT,WIDTH, pixels.",
        MODEL,
        least=1,
        lengths=(1, 2),
        shown="the preset's; without --preset, by the images' size",
    )
    mask_ratio: tuple[float, ...] = setting(
        (0.75,),
        "Share of patches removed; START,END moves it over training.",
        MODEL,
        lengths=(1, 2),
        above=0,
        below=1,
    )
    masking: str = setting("random", "Which patches are removed.", MODEL, choices=MASKINGS)
    norm_pix_loss: bool = setting(True, "Predict patches that are normalized each.", MODEL)
    decoder_attention: str = setting(
        "self", "What the decoder attends to.", MODEL, choices=DECODER_ATTENTION
    )
    decoder_num_layers: int | None = setting(
        None, "Blocks of the decoder.", MODEL, least=1, shown="the preset's"
    )
    init: str | None = setting(
        None,
        "Weights to start from: a run's directory, a .keras file, another library's checkpoint, "
        "or hf://OWNER/NAME.",
        MODEL,
        fixes=False,  # the run is of its weights, wherever they lie
        sweep=False,
        shown="random numbers",
    )
    init_channels: str | None = setting(
        None,
        "What becomes of the weights of other channels: repeat them in turn, take their mean for "
        "all, or draw new ones.",
        MODEL,
        choices=("repeat", "mean", "new"),
        sweep=False,
        shown="grey and colour stand for each other; others have to be said",
    )
    freeze_encoder_steps: int = setting(
        0, "So many steps train the decoder alone.", LENGTH, least=0
    )
    extend_epochs: float | None = setting(
        None,
        "Go on with a run that has ended, for so many epochs after its first end, with a new "
        "warm-up and cosine.",
        LENGTH,
        above=0,
        fixes=False,
        sweep=False,
        shown="none",
    )
    extend_steps: int | None = setting(
        None, "The same in steps.", LENGTH, least=1, fixes=False, sweep=False, shown="none"
    )
    weight_decay: float = changed(RunSettings, "weight_decay", 0.05)
    resize: str = setting("bilinear", "Of the random crops.", DATA, choices=RESIZES)
    crops_per_image: int = setting(1, "Crops taken of each decoded image.", DATA, least=1)
    figure_bands: tuple[int, ...] | None = setting(
        None,
        "Bands that figures show, from 1 on: one, or red, green and blue.",
        EVALUATION,
        least=1,
        lengths=(1, 3),
        fixes=False,
        sweep=False,
        shown="the first three, else the first",
    )
    probe: bool = setting(
        True,
        "Of labelled images, print accuracies at the end.",
        EVALUATION,
        fixes=False,
        sweep=False,
    )
    probe_images: int = setting(
        10_000,
        "Images, at most, for losses and accuracies.",
        EVALUATION,
        least=1,
        fixes=False,
        sweep=False,
    )

    monitor_every: float | None = setting(
        None,
        "Epochs between two looks at what the encoder has learned, while it trains; 0: none.",
        EVALUATION,
        least=0,
        fixes=False,
        sweep=False,
        shown="ten times in a run, none in a very short one",
    )
    monitor: tuple[str, ...] = setting(
        (),
        "MODULE:FUNCTION of monitors of your own, divided by commas.",
        EVALUATION,
        lengths=(0, math.inf),
        fixes=False,
        sweep=False,
    )

    _prefix = "mae"

    def faults_together(self) -> Iterator[str]:
        yield from super().faults_together()
        if self.extend_epochs is not None and self.extend_steps is not None:
            yield (
                "`extend_epochs` or `extend_steps` must be given, not both. Received: "
                f"{self.extend_epochs} and {self.extend_steps}"
            )
        names = [name.partition(":")[2] for name in self.monitor]
        if not all(map(is_own, self.monitor)) or len({*names}) < len(names):
            yield (
                "`monitor` must be MODULE:FUNCTION, divided by commas, with functions of different "
                f"names. Received: {list(self.monitor)}"
            )
        if self.init_channels is not None and self.init is None:
            yield (
                "`init_channels` must be None where `init` is None. "
                f"Received: {self.init_channels!r}"
            )

    def more_steps(self, num_examples: int) -> int:
        """Return the steps that are to follow the first leg's end; 0 for none."""
        if self.extend_epochs is not None:
            return steps_of(self.extend_epochs, num_examples, self.batch_size)
        return self.extend_steps or 0

    def resolved(
        self,
        typical_size: tuple[int, int] | None,
        start: tuple[str | None, tuple[int, int]] | None = None,
    ) -> Self:
        """Return these settings with what depends on the images and the preset's recipe filled in.

        Args:
            typical_size: (H, W) of the images, or None where that is not known.
            start: (preset or None, image size) of the weights that `init` names, or None.
        Returns:
            a `PretrainSettings` with a preset, a batch, a length and a learning rate.
        """
        preset, image_size = self.preset, self.image_size
        if start is not None:
            preset, image_size = start[0], image_size or start[1]
        elif preset is None:
            preset, own_size = _choice_for(typical_size)
            image_size = image_size or own_size
        recipe = RECIPES.get(preset, PAPER)
        epochs = self.epochs
        if self.steps is None and epochs is None:
            epochs = recipe.epochs
        return dataclasses.replace(
            self,
            preset=preset,
            image_size=image_size,
            batch_size=self.batch_size or recipe.batch_size,
            epochs=epochs,
            base_learning_rate=self.base_learning_rate or recipe.base_learning_rate,
        )

    def warmup_steps(self, num_examples: int, leg: int | None = None) -> int:
        """Return the steps of the warm-up: of a leg of so many steps, or of the whole run."""
        total_steps = leg or self.total_steps(num_examples)
        if self.warmup_epochs is not None:
            given = steps_of(self.warmup_epochs, num_examples, self.batch_size)
            # A further leg may be shorter than the warm-up that the first one was given.
            return given if leg is None else min(given, leg - 1)
        epochs = RECIPES.get(self.preset, PAPER).warmup_epochs
        # A default must not outgrow a short run.
        return min(steps_of(epochs, num_examples, self.batch_size), total_steps // 10)


def _choice_for(typical_size: tuple[int, int] | None) -> tuple[str, tuple[int, ...] | None]:
    """Return (preset, image size or None for the preset's own) that suit images of a size."""
    small, other = "mae_vit_mini_patch4", "mae_vit_tiny_patch16"
    own_size = preset_config(small)["image_size"]
    if typical_size is None:
        return small, None
    if max(typical_size) <= SMALL_IMAGE:
        patch = preset_config(small)["patch_size"]
        size = tuple(max(side // patch, 2) * patch for side in typical_size)
        return small, None if size == (own_size, own_size) else size
    patch = preset_config(other)["patch_size"]
    side = min(LARGEST_IMAGE, max(min(typical_size) // patch, 2) * patch)
    return other, None if side == preset_config(other)["image_size"] else (side,)
