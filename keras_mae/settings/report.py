"""The settings of a report: which encoders, what is measured, and what is swept."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from keras_mae.settings.data import DATA, DataSettings
from keras_mae.settings.fields import (
    SettingsError,
    changed,
    parse_assignments,
    parse_sweep,
    setting,
    spec_of,
)
from keras_mae.settings.finetune import TASKS, FinetuneSettings, in_checkout
from keras_mae.settings.pretrain import PretrainSettings
from keras_mae.settings.run import EVALUATION, MODEL, RunSettings, words_of

PROBED_BLOCKS = 4  # Caron et al. 2021, arXiv:2104.14294, section F.2, of small models
PARTS = {
    "pixels": "linear probe and nearest neighbours on raw pixels",
    "random": "the same on an encoder that is not trained",
    "linear": "linear probe",
    "knn": "nearest neighbours",
    "blocks": f"linear probe of the last {PROBED_BLOCKS} blocks side by side",
    "full": "fine-tuning of all weights",
    "scratch": "the same from random weights, trained as long",
    "partial": "fine-tuning of some last blocks",
}
DENSE_PARTS = ("linear", "full", "scratch", "random")  # what label maps and boxes can have
_USUAL = DENSE_PARTS[:3]
_PARTS_HELP = "; ".join(f"{name}: {what}" for name, what in PARTS.items())
SETTINGS = "Settings of the runs it is made of"


def _varied(cls: type) -> list[str]:
    """Return the names of the settings that a report can give other values."""
    return [f.name for f in dataclasses.fields(cls) if spec_of(f).sweep and spec_of(f).fixes]


def _assigned(argument: str, cls: type) -> Any:
    return lambda texts: parse_assignments(cls, texts, argument, _varied(cls))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportSettings(DataSettings):
    """All that fixes a report; each field is a flag of `scripts/report.py`.

    Example:
        settings = ReportSettings(task="segment", train_examples=(50, 200))
        settings = ReportSettings(sweep={"mask_ratio": ((0.5,), (0.75,))}, parts=(), seeds=(0,))
    Raises:
        SettingsError: a ValueError, with all values that do not fit.
    """

    encoder: str | None = setting(
        None,
        "Path of an encoder, or hf://OWNER/NAME; with {seed} in it, one for each seed.",
        MODEL,
        first=1,
        shown="one is pre-trained for each seed; for digit_scenes that of a checkout",
    )
    task: str = changed(FinetuneSettings, "task", "classify")
    rival: str | None = setting(
        None,
        "Another encoder to probe on the same images, as it is: anything that --encoder takes. It "
        "sees them with its own statistics, and grey as colour where it wants colour.",
        MODEL,
        shown="none",
    )
    rival_image_size: tuple[int, ...] | None = setting(
        None,
        "SIDE or HEIGHT,WIDTH, pixels, at which the rival sees them; positions follow.",
        MODEL,
        least=1,
        lengths=(1, 2),
        shown="the rival's own",
    )
    dataset: str | None = changed(  # type: ignore[assignment]
        FinetuneSettings, "dataset", None, first=2
    )
    seeds: tuple[int, ...] = setting(
        (0, 1, 2), "Each is measured; the page has the spread.", EVALUATION, least=0, first=3
    )
    train_examples: tuple[int, ...] | None = setting(
        None,
        "Numbers of labelled images; 0: all of them. Of classes all of them are measured too.",
        DATA,
        least=0,
        first=5,
        shown="500; 50,200 for segment and detect",
    )
    parts: tuple[str, ...] = setting(
        tuple(PARTS),
        f"What is measured. {_PARTS_HELP}. none: nothing but sweeps. Of segment and detect: "
        f"{', '.join(_USUAL)}, and random, the frozen encoder untrained; linear is the whole head "
        "on the frozen encoder.",
        EVALUATION,
        choices=tuple(PARTS),
        lengths=(0, len(PARTS)),
        first=4,
    )
    ks: tuple[int, ...] = setting(
        (1, 5, 20, 100), "Numbers of nearest neighbours.", EVALUATION, least=1
    )
    whiten: int | None = setting(
        None,
        "Whiten features to so many principal components for nearest neighbours, of raw pixels "
        "too; --probe=whiten=N does it for linear probes.",
        EVALUATION,
        least=1,
        shown="off",
    )
    trainable_blocks: tuple[float, ...] | None = setting(
        None,
        "Numbers of blocks of partial fine-tuning.",
        EVALUATION,
        least=0,
        shown="0, 0.5, 1, 2, ... all",
    )
    sweep: dict = setting(
        {},
        "NAME=VALUE,VALUE,...: pre-train with each value of a setting of scripts/pretrain.py, and "
        "measure each. Values with commas of their own are divided by slashes. Can be given "
        "several times.",
        SETTINGS,
        multi=lambda texts: parse_sweep(PretrainSettings, texts, allowed=_varied(PretrainSettings)),
        first=6,
        shown="none",
    )
    pretrain: dict = setting(
        {},
        "NAME=VALUE: a setting of scripts/pretrain.py, such as epochs=100. Can be given several "
        "times, as those that follow.",
        SETTINGS,
        multi=_assigned("pretrain", PretrainSettings),
        shown="none",
    )
    finetune: dict = setting(
        {},
        "NAME=VALUE: a setting of scripts/finetune.py, for full and partial.",
        SETTINGS,
        multi=_assigned("finetune", FinetuneSettings),
        shown="none",
    )
    scratch: dict = setting(
        {},
        "The same from scratch.",
        SETTINGS,
        multi=_assigned("scratch", FinetuneSettings),
        shown="its recipe, as long as fine-tuning",
    )
    probe: dict = setting(
        {},
        "The same for linear probes, of pixels too.",
        SETTINGS,
        multi=_assigned("probe", FinetuneSettings),
        shown="none",
    )
    pretrain_epochs: float | None = setting(
        None, "Short for --pretrain=epochs=...", SETTINGS, above=0, shown="none"
    )
    finetune_epochs: float | None = setting(
        None, "Short for --finetune=epochs=...", SETTINGS, above=0, shown="none"
    )
    precision: str = changed(RunSettings, "precision", "float32", first=0)
    jit: bool = changed(RunSettings, "jit", True)
    output_dir: str | None = changed(
        RunSettings, "output_dir", None, shown="saved_models/report_DATASET", first=0
    )

    @property
    def directory(self) -> str:
        task = "" if self.task == "classify" else f"{self.task}_"
        return self.output_dir or f"saved_models/report_{task}{words_of(str(self.dataset))}"

    @property
    def is_dense(self) -> bool:
        return self.task != "classify"

    @property
    def sizes(self) -> list[int | None]:
        """The numbers of labelled images to train on; None: all of them."""
        given = self.train_examples
        if self.is_dense:
            return [count or None for count in ((50, 200) if given is None else given)]
        return [None, *(count for count in ((500,) if given is None else given) if count)]

    def __post_init__(self) -> None:
        task = TASKS.get(self.task, TASKS["classify"])
        if self.dataset is None:
            object.__setattr__(self, "dataset", task.dataset)
        if isinstance(self.train_examples, int):
            object.__setattr__(self, "train_examples", (self.train_examples,))
        if tuple(self.parts or ()) == tuple(PARTS) and task is not TASKS["classify"]:
            object.__setattr__(self, "parts", _USUAL)
        own = not (self.pretrain or self.pretrain_epochs or self.sweep)
        if self.encoder is None and own and task.knows(self.dataset):
            object.__setattr__(self, "encoder", in_checkout(task.encoder))
        super().__post_init__()

    def source_options(self) -> dict[str, Any]:
        return {**super().source_options(), "task": self.task if self.is_dense else None}

    def faults_together(self) -> Iterator[str]:
        yield from super().faults_together()
        for part in self.parts if self.is_dense else ():
            if part not in DENSE_PARTS:
                yield (
                    f"`parts` must be some of {list(DENSE_PARTS)} for task={self.task!r}. "
                    f"Received: {list(self.parts)}"
                )
                break
        for name in ("rival", "trainable_blocks"):
            if self.is_dense and getattr(self, name) is not None:
                yield (
                    f"`{name}` must be None for task={self.task!r}. Received: {getattr(self, name)}"
                )
        for name in ("seeds", "ks", "train_examples"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                yield f"`{name}` must be different ints. Received: {list(values)}"
        if not self.parts and not self.sweep:
            yield "`parts` must name something where nothing is swept. Received: []"
        if self.rival is not None and not {"linear", "knn"} & set(self.parts):
            yield (
                "`parts` must have linear or knn, which a rival is measured by. "
                f"Received: {list(self.parts)} and rival={self.rival!r}"
            )
        if self.rival is None and self.rival_image_size is not None:
            yield (
                "`rival_image_size` must be given with `rival` only. "
                f"Received: {list(self.rival_image_size)}"
            )
        for blocks in self.trainable_blocks or ():
            if blocks != 0.5 and blocks != int(blocks):
                yield (
                    "`trainable_blocks` must be 0, 0.5, or whole numbers of blocks. "
                    f"Received: {list(self.trainable_blocks)}"
                )
        if self.encoder is not None and self.pretrain and not self.sweep:
            yield (
                "`pretrain` must be empty where an encoder is given: nothing is pre-trained. "
                f"Received: {self.pretrain} and encoder={self.encoder!r}"
            )
        for name, cls in (
            ("sweep", PretrainSettings),
            ("pretrain", PretrainSettings),
            *((part, FinetuneSettings) for part in ("finetune", "scratch", "probe")),
        ):
            unknown = sorted(set(getattr(self, name)) - set(_varied(cls)))
            if unknown:
                yield (
                    f"`{name}` must name settings among {_varied(cls)}. Received: {unknown[0]!r}"
                )
        for name, values in self.sweep.items():
            if len(values) < 2 or any(list(values).count(value) > 1 for value in values):
                yield f"`sweep` must give two or more different values. Received: {name}={values}"

    def pretrain_settings(
        self, seed: int, typical_size: tuple[int, int] | None, **changes: Any
    ) -> PretrainSettings:
        """Return the `PretrainSettings` of a seed, with `changes` as in a sweep.

        Args:
            seed: int.
            typical_size: see `PretrainSettings.resolved`.
        Raises:
            SettingsError: if they do not fit.
        """
        task = TASKS[self.task]
        usual = task.pretrain if task.knows(self.dataset) else ()
        given = {**parse_assignments(PretrainSettings, usual, "pretrain"), **self.pretrain}
        if self.pretrain_epochs is not None:
            given["epochs"] = self.pretrain_epochs
        settings = PretrainSettings(
            seed=seed, **self.data_settings(), **self._devices(), **{**given, **changes}
        )
        return settings.resolved(typical_size)

    def finetune_settings(
        self,
        seed: int,
        protocol: str,
        encoder: str | None,
        image_size: tuple[int, int],
        num_examples: int,
        train_examples: int | None = None,
        blocks: float | None = None,
        pooled_blocks: int | None = None,
    ) -> FinetuneSettings:
        """Return the `FinetuneSettings` of a seed, with the recipe's values filled in.

        Args:
            seed: int.
            protocol: string, of `FinetuneSettings`.
            encoder: path, or None.
            image_size: (H, W), the encoder's.
            num_examples: int, training images with labels.
            train_examples: `num_examples` where they are few, None where they are all.
            blocks: number, for "partial".
            pooled_blocks: int, or None for the recipe's.
        Raises:
            SettingsError: if they do not fit.
        """
        finetune = dict(self.finetune)
        if self.finetune_epochs is not None:
            finetune["epochs"] = self.finetune_epochs
        fields = {
            "full": finetune,
            "partial": finetune,
            "linear": self.probe,
            "scratch": self.scratch,
            "knn": {"knn": tuple(self.ks), "whiten": self.whiten},
        }
        if self.task == "segment":
            fields["linear"] = {"head": "pyramid", **self.probe}  # the encoder alone differs
        if protocol == "scratch" or (self.is_dense and protocol == "linear"):
            full = self.finetune_settings(
                seed, "full", encoder or "", image_size, num_examples, train_examples
            )
            length = {"epochs": full.epochs, "steps": full.steps}
            own = any(fields[protocol].get(name) for name in length)
            fields[protocol] = {**({} if own else length), **fields[protocol]}
        given = {"pooled_blocks": pooled_blocks, **fields.get(protocol, {})}
        settings = FinetuneSettings(
            encoder=encoder,
            **self.data_settings(),
            task=self.task,
            protocol=protocol,
            train_examples=train_examples,
            trainable_blocks=blocks,
            seed=seed,
            **self._devices(),
            **given,
        )
        return settings.with_recipe(image_size, num_examples)

    def rival_settings(
        self,
        seed: int,
        protocol: str,
        rival: str,
        channels: int | None,
        recipe_size: tuple[int, int],
        num_examples: int,
        train_examples: int | None = None,
    ) -> FinetuneSettings:
        """Return the `FinetuneSettings` of the rival: the same recipe, and what the rival sees.

        Args:
            seed, protocol, num_examples, train_examples: see `finetune_settings`.
            rival: path.
            channels: int, the rival's, or None: the images' own.
            recipe_size: (H, W), what the recipe is chosen by: the size at which the encoder that
                the report is about sees the images.
        """
        same = self.finetune_settings(
            seed, protocol, rival, recipe_size, num_examples, train_examples
        )
        if channels is not None:
            same = dataclasses.replace(same, channels=channels)
        return dataclasses.replace(same, statistics="auto", image_size=self.rival_image_size)

    def _devices(self) -> dict[str, Any]:
        # One device: a second MirroredStrategy in a process fails.
        return {"precision": self.precision, "jit": self.jit, "strategy": "one_device"}

    def encoder_path(self, seed: int) -> str | None:
        """Return the path of the seed's encoder, or None."""
        return None if self.encoder is None else self.encoder.replace("{seed}", str(seed))

    def curve(self, num_layers: int) -> list[float]:
        """Return the numbers of blocks to fine-tune of an encoder with `num_layers`.

        Raises:
            SettingsError: if a number in `trainable_blocks` is above it.
        """
        if self.trainable_blocks is None:
            whole = list(range(1, num_layers + 1))
            if num_layers > 6:
                whole = [blocks for blocks in whole if blocks & (blocks - 1) == 0]
                whole += [num_layers] if whole[-1] != num_layers else []
            return [0, 0.5, *whole]
        if max(self.trainable_blocks, default=0) > num_layers:
            raise SettingsError(
                [
                    f"`trainable_blocks` must be at most {num_layers}, the encoder's blocks. "
                    f"Received: {list(self.trainable_blocks)}"
                ]
            )
        return list(self.trainable_blocks)
