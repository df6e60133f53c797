"""The settings of a report: which encoders, what is measured, and what is swept."""

import dataclasses
import typing

from keras_mae.settings.finetune import FinetuneSettings
from keras_mae.settings.pretrain import FREE, PretrainSettings

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
# Names of the paper for fields of `PretrainSettings`.
ALIASES = {"decoder_depth": "decoder_num_layers"}
# What a report sets itself, or what is no property of a pre-training.
NOT_SWEPT = {*FREE, "seed", "dataset", "precision", "jit", "strategy", "logical_devices"}
NOT_FINETUNE = {
    "encoder",
    "dataset",
    "protocol",
    "train_examples",
    "trainable_blocks",
    "seed",
    "output_dir",
    "overwrite",
    "resume",
    "preset",
    "image_size",
    "num_classes",
    "precision",
    "jit",
    "strategy",
    "logical_devices",
    "dry_run",
    "knn",
}


@dataclasses.dataclass
class ReportSettings:
    """All that fixes a report; see the flags of `scripts/report.py`.

    Attributes:
        encoder: path of an encoder, for all seeds; or with "{seed}" in it, one for each; None to
            pre-train one for each seed.
        dataset: string, a labelled source.
        seeds: list of ints of 0 or more, each once.
        train_examples: int. Few labels, to measure with beside all of them; 0 for all only.
        parts: list of names of `PARTS`, what is measured; may be empty where there is a sweep.
        ks: list of ints. Numbers of nearest neighbours.
        trainable_blocks: list of numbers, the points of the curve of partial fine-tuning. None: 0,
            0.5, then all up to 6 blocks, or powers of two and the encoder's number of blocks.
        sweep: dict of a field of `PretrainSettings` to its values.
        pretrain: dict of fields of `PretrainSettings`, other than its defaults.
        finetune: dict of fields of `FinetuneSettings`, for full and partial.
        scratch: the same from scratch, which is trained as long as "full" unless told otherwise.
        precision, jit: as in `PretrainSettings`, of all that is trained.
        output_dir: string, or None for `saved_models/report_DATASET`.
    Raises:
        ValueError: for a value that does not fit.
    """

    encoder: str | None = None
    dataset: str = "mnist5k"
    seeds: list = dataclasses.field(default_factory=lambda: [0, 1, 2])
    train_examples: int = 500
    parts: list = dataclasses.field(default_factory=lambda: list(PARTS))
    ks: list = dataclasses.field(default_factory=lambda: [1, 5, 20, 100])
    trainable_blocks: list | None = None
    sweep: dict = dataclasses.field(default_factory=dict)
    pretrain: dict = dataclasses.field(default_factory=dict)
    finetune: dict = dataclasses.field(default_factory=dict)
    scratch: dict = dataclasses.field(default_factory=dict)
    precision: str = "float32"
    jit: bool = True
    output_dir: str | None = None

    def __post_init__(self):
        for name, least, word in (("seeds", 0, "0 or more"), ("ks", 1, "1 or more")):
            values = getattr(self, name)
            fit = all(_is_int(value) and value >= least for value in values)
            if not values or not fit or len(set(values)) < len(values):
                raise ValueError(
                    f"`{name}` must be different ints of {word}, at least one. Received: {values}"
                )
        if not _is_int(self.train_examples) or self.train_examples < 0:
            raise ValueError(
                "`train_examples` must be an int of 0 (all labels only) or more. "
                f"Received: {self.train_examples!r}"
            )
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown:
            raise ValueError(f"`parts` must be among {list(PARTS)}. Received: {unknown}")
        if not self.parts and not self.sweep:
            raise ValueError("`parts` must name something where nothing is swept. Received: []")
        for blocks in self.trainable_blocks or []:
            if blocks != 0.5 and (blocks < 0 or blocks != int(blocks)):
                raise ValueError(
                    "`trainable_blocks` must be 0, 0.5, or whole numbers of blocks. "
                    f"Received: {self.trainable_blocks}"
                )
        if self.encoder is not None and self.pretrain and not self.sweep:
            raise ValueError(
                "`pretrain` must be empty where an encoder is given: nothing is pre-trained. "
                f"Received: {self.pretrain} and encoder={self.encoder!r}"
            )
        _check_fields("sweep", self.sweep, PretrainSettings, NOT_SWEPT)
        _check_fields("pretrain", self.pretrain, PretrainSettings, NOT_SWEPT)
        _check_fields("finetune", self.finetune, FinetuneSettings, NOT_FINETUNE)
        _check_fields("scratch", self.scratch, FinetuneSettings, NOT_FINETUNE)
        for name, values in self.sweep.items():
            if len(values) < 2 or any(values.count(value) > 1 for value in values):
                raise ValueError(
                    f"`sweep` must give two or more different values. Received: {name}={values}"
                )
        if self.output_dir is None:
            name = "".join(c if c.isalnum() else "_" for c in self.dataset).strip("_")
            self.output_dir = f"saved_models/report_{name}"

    def pretrain_settings(self, seed, **changes):
        """Return the `PretrainSettings` of a seed, with `changes` as in a sweep.

        Raises:
            ValueError: if they do not fit.
        """
        return PretrainSettings(
            dataset=self.dataset, seed=seed, **self._devices(), **{**self.pretrain, **changes}
        )

    def finetune_settings(
        self,
        seed,
        protocol,
        encoder,
        image_size,
        num_examples,
        train_examples=None,
        blocks=None,
        pooled_blocks=None,
    ):
        """Return the `FinetuneSettings` of a seed, with the recipe's values filled in.

        Args:
            seed: int.
            protocol: string, of `FinetuneSettings`.
            encoder: path.
            image_size: (H, W), the encoder's.
            num_examples: int, training images with labels.
            train_examples: `num_examples` where they are few, None where they are all.
            blocks: number, for "partial".
            pooled_blocks: int, or None for the recipe's.
        Raises:
            ValueError: if they do not fit.
        """
        fields = {"full": self.finetune, "partial": self.finetune, "knn": {"knn": tuple(self.ks)}}
        if protocol == "scratch":
            full = self.finetune_settings(
                seed, "full", encoder, image_size, num_examples, train_examples
            )
            length = {"epochs": full.epochs, "steps": full.steps}
            own = any(self.scratch.get(name) for name in length)
            fields["scratch"] = {**({} if own else length), **self.scratch}
        settings = FinetuneSettings(
            encoder=encoder,
            dataset=self.dataset,
            protocol=protocol,
            train_examples=train_examples,
            trainable_blocks=blocks,
            pooled_blocks=pooled_blocks,
            seed=seed,
            **self._devices(),
            **fields.get(protocol, {}),
        )
        return settings.with_recipe(image_size, num_examples)

    def _devices(self):
        # One device: a second MirroredStrategy in a process fails.
        return {"precision": self.precision, "jit": self.jit, "strategy": "one_device"}

    def encoder_path(self, seed):
        """Return the path of the seed's encoder, or None."""
        return None if self.encoder is None else self.encoder.replace("{seed}", str(seed))

    def curve(self, num_layers):
        """Return the numbers of blocks to fine-tune of an encoder with `num_layers`.

        Raises:
            ValueError: if a number in `trainable_blocks` is above it.
        """
        if self.trainable_blocks is None:
            whole = range(1, num_layers + 1)
            if num_layers > 6:
                whole = [blocks for blocks in whole if blocks & (blocks - 1) == 0]
                whole += [num_layers] if whole[-1] != num_layers else []
            return [0, 0.5, *whole]
        if max(self.trainable_blocks, default=0) > num_layers:
            raise ValueError(
                f"`trainable_blocks` must be at most {num_layers}, the encoder's blocks. "
                f"Received: {self.trainable_blocks}"
            )
        return self.trainable_blocks


def parse_fields(texts, settings_class, argument):
    """Return `FIELD=VALUE` texts as a dict of a settings class's fields.

    Args:
        texts: list of strings, such as `["epochs=20", "image_size=32:48"]`; a list's numbers are
            divided by colons.
        settings_class: `PretrainSettings` or `FinetuneSettings`.
        argument: string, what the texts are called in errors.
    Raises:
        ValueError: for an unknown field, a value of another type, or a field given twice.
    """
    fields = {}
    for text in texts:
        name, value = _divide(text, argument)
        if name in fields:
            raise ValueError(f"`{argument}` must give a field once. Received: {name} twice")
        fields[name] = _parse(value, name, settings_class, argument)
    return fields


def parse_sweep(texts):
    """Return `FIELD=VALUE,VALUE,...` texts as a dict of fields of `PretrainSettings` to lists.

    Raises:
        ValueError: as `parse_fields`.
    """
    sweep = {}
    for text in texts:
        name, values = _divide(text, "sweep")
        if name in sweep:
            raise ValueError(f"`sweep` must give a field once. Received: {name} twice")
        sweep[name] = [_parse(v, name, PretrainSettings, "sweep") for v in values.split(",")]
    return sweep


def _divide(text, argument):
    name, sign, value = text.partition("=")
    name = ALIASES.get(name.strip(), name.strip())
    if not sign or not name or not value:
        raise ValueError(f"`{argument}` must be FIELD=VALUE. Received: {text!r}")
    return name, value


def _parse(text, name, settings_class, argument):
    """Return the text of a value as the field's type."""
    _check_fields(argument, {name: text}, settings_class, ())
    annotation = {field.name: field.type for field in dataclasses.fields(settings_class)}[name]
    types = typing.get_args(annotation) or (annotation,)
    text = text.strip()
    if type(None) in types and text.lower() == "none":
        return None
    for kind in types:
        try:
            if kind is bool and text.lower() in ("true", "false"):
                return text.lower() == "true"
            if kind is list:
                return [_number(part) for part in text.split(":")]
            if kind in (int, float, str):
                return kind(text)
        except ValueError:
            continue
    expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in types)
    raise ValueError(f"`{argument}` must give {name} as {expected}. Received: {text!r}")


def _number(text):
    return int(text) if text.strip().lstrip("-").isdigit() else float(text)


def _check_fields(argument, fields, settings_class, excluded):
    known = [f.name for f in dataclasses.fields(settings_class) if f.name not in excluded]
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise ValueError(f"`{argument}` must name fields among {known}. Received: {unknown[0]!r}")


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)
