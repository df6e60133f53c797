"""A setting is one field of a frozen dataclass: type, default, bounds, help, what it fixes.

Flags, `--help`, checks, sweeps, `config.json` and the comparison on resume are made of these
fields. Nothing heavy is imported here: a wrong flag is told at once.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_mae import registry

TRUE, FALSE = ("true", "t", "yes", "1"), ("false", "f", "no", "0")
_SPEC = "setting"


class SettingsError(ValueError):
    """Settings that do not fit.

    Attributes:
        faults: list of str, one a fault, each naming its setting in backticks.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a field's metadata says.

    Attributes:
        help: str, one or two sentences.
        group: str, the heading under which `--help` lists it.
        least, above, most, below: numbers, or None. Bounds, of each element of a tuple.
        choices: tuple of str, or a package whose files are the choices (see `keras_mae.registry`),
            where MODULE:CLASS is one too; or None.
        accepts: None, or a function from a value to whether it is a choice; `choices` are then what
            a person reads, such as "grid:N" for a kind.
        lengths: (least, most) number of elements of a tuple.
        fixes: bool. Whether the setting fixes numbers: a run cannot go on with another value.
        sweep: bool. Whether a report can vary it.
        first: int. Place among the settings that `--help` lists first; 0 for none.
        multi: None, or a function from the texts of a flag that can be given several times to the
            value.
        required: bool. Whether None is refused.
        shown: str, the default as `--help` says it where it is None.
    """

    help: str
    group: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple | str | None = None
    accepts: typing.Callable[[Any], bool] | None = None
    lengths: tuple = (1, math.inf)
    fixes: bool = True
    sweep: bool = True
    first: int = 0
    multi: typing.Callable | None = None
    required: bool = False
    shown: str = ""

    def names(self) -> tuple[str, ...]:
        """Return the choices as a tuple of strings; empty where there are none."""
        if isinstance(self.choices, str):
            return tuple(registry.names(self.choices))
        return tuple(self.choices or ())


def setting(default: Any, help: str, group: str, **spec: Any) -> Any:
    """Return the dataclass field of a setting; see `Spec` for the keywords.

    Example:
        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Mine(Settings):
            batch_size: int = setting(64, "Global batch.", "Length", least=1)
    """
    metadata = {_SPEC: Spec(help, group, **spec)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def changed(cls: "type[Settings]", name: str, default: Any, **spec: Any) -> Any:
    """Return a setting of `cls` for a subclass, with another default, and what else differs."""
    field = cls.__dataclass_fields__[name]
    return dataclasses.field(
        default=default, metadata={_SPEC: dataclasses.replace(field.metadata[_SPEC], **spec)}
    )


def spec_of(field: dataclasses.Field) -> Spec:
    """Return the `Spec` of a dataclass field."""
    return field.metadata[_SPEC]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings: checks each field, and then what fields say together.

    Raises:
        SettingsError: a ValueError, with all that does not fit.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        faults, defaults = [], self.defaults()
        for field in dataclasses.fields(self):
            kind = _type_of(type(self), field.name)
            if fault := _fault(field, kind, getattr(self, field.name)):
                faults.append(fault)
                # What fields say together is asked of values that fit by themselves.
                object.__setattr__(self, field.name, defaults[field.name])
        faults += self.faults_together()
        if faults:
            raise SettingsError(faults)

    def faults_together(self) -> Iterable[str]:
        """Yield a sentence for each fault of fields that do not go together."""
        return ()

    def fixed(self) -> dict[str, Any]:
        """Return the settings that fix the numbers of a run, as a dict."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if spec_of(field).fixes
        }

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the defaults, a dict by name."""
        return {
            f.name: {} if f.default is dataclasses.MISSING else f.default
            for f in dataclasses.fields(cls)
        }


def of_texts(cls: type[Settings], texts: Mapping[str, Any], faults: Sequence[str] = ()) -> Any:
    """Return settings of texts, as flags have them.

    Args:
        cls: a subclass of `Settings`.
        texts: dict of name to text, or to a list of texts for settings that can be given several
            times. None: not given.
        faults: strings, found before; raised with those found here.
    Raises:
        SettingsError: with all faults.
    """
    values, faults = {}, list(faults)
    for name, text in texts.items():
        if text is None:
            continue
        try:
            values[name] = parse(cls, name, text)
        except SettingsError as error:
            faults += error.faults
        except ValueError as error:
            faults.append(str(error))
    try:
        result = cls(**values)
    except SettingsError as error:
        # Of a setting whose text was no value, nothing more is said.
        raise SettingsError([*faults, *error.faults]) from None
    if faults:
        raise SettingsError(faults)
    return result


def parse(cls: type[Settings], name: str, text: str) -> Any:
    """Return the value that a text stands for, in flags, sweeps and overrides alike.

    Elements of a tuple are divided by commas; "none" is None where that is a value.

    Raises:
        ValueError: naming the setting.
    """
    field = cls.__dataclass_fields__[name]
    spec, kind = spec_of(field), _type_of(cls, name)
    if spec.multi is not None:
        return spec.multi(text)
    text = text.strip()
    # "auto" is what None stands for, but where it may be a name.
    words = ("none",) if kind.base is str else ("none", "auto")
    if kind.optional and text.lower() in words and text.lower() not in spec.names():
        return None
    try:
        if kind.many:
            texts = [part.strip() for part in text.split(",")]
            return () if texts in ([""], ["none"]) else tuple(kind.read(part) for part in texts)
        return kind.read(text)
    except ValueError:
        raise ValueError(f"`{name}` must be {_wanted(spec, kind)}. Received: {text!r}") from None


@dataclasses.dataclass(frozen=True)
class _Type:
    base: type
    many: bool
    optional: bool

    def read(self, text: str) -> Any:
        if self.base is bool:
            if text.lower() in TRUE + FALSE:
                return text.lower() in TRUE
            raise ValueError(text)
        if self.base is float and self.many:
            return int(text) if text.lstrip("+-").isdigit() else float(text)  # as it is written
        return self.base(text)

    def holds(self, value: Any) -> bool:
        if self.base is bool or isinstance(value, bool):
            return isinstance(value, bool) and self.base is bool
        if self.base is float:
            return isinstance(value, int | float) and math.isfinite(value)
        if self.base is int:
            # NumPy's integers are ints to a user.
            return isinstance(value, int) or hasattr(value, "__index__")
        return isinstance(value, self.base)


def _type_of(cls: type, name: str) -> _Type:
    hint = typing.get_type_hints(cls)[name]
    args = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    (kind,) = (arg for arg in args if arg is not type(None))
    many = typing.get_origin(kind) is tuple
    base = typing.get_args(kind)[0] if many else kind
    return _Type(typing.get_origin(base) or base, many, type(None) in args)


def _fault(field: dataclasses.Field, kind: _Type, value: Any) -> str | None:
    """Return what is wrong with a field's value as a sentence, or None."""
    spec, name = spec_of(field), field.name
    if value is None:
        if kind.optional and not spec.required:
            return None
        return f"`{name}` must be given: {spec.help}" if spec.required else _not(name, spec, kind)
    if kind.base is dict:
        return None
    values = value if kind.many else (value,)
    if kind.many and not isinstance(value, tuple):
        return _not(name, spec, kind, value)
    if not all(kind.holds(v) for v in values):
        return _not(name, spec, kind, value)
    least, most = spec.lengths
    if kind.many and not least <= len(values) <= most:
        return _not(name, spec, kind, value)
    if spec.choices is not None:
        own = isinstance(spec.choices, str)
        accepts = spec.accepts or (lambda v: v in spec.names() or (own and registry.is_own(v)))
        if not all(map(accepts, values)):
            return _not(name, spec, kind, value)
    bounds = (
        (spec.least, lambda v, limit: v >= limit),
        (spec.above, lambda v, limit: v > limit),
        (spec.most, lambda v, limit: v <= limit),
        (spec.below, lambda v, limit: v < limit),
    )
    if not all(limit is None or all(fits(v, limit) for v in values) for limit, fits in bounds):
        return _not(name, spec, kind, value)
    return None


def _not(name: str, spec: Spec, kind: _Type, value: Any = None) -> str:
    shown = list(value) if isinstance(value, tuple) else value
    return f"`{name}` must be {_wanted(spec, kind)}. Received: {shown!r}"


def _wanted(spec: Spec, kind: _Type) -> str:
    """Return what a value has to be, in words."""
    if spec.choices is not None:
        own = ", or MODULE:CLASS for your own" if isinstance(spec.choices, str) else ""
        words = f"one of {list(spec.names())}{own}"
        return f"some of {list(spec.names())}, divided by commas" if kind.many else words
    words = bounds_text(spec)
    if not kind.many:
        noun = {int: "an int", float: "a number", bool: "true or false", str: "a text"}[kind.base]
        # "greater than 0" says enough of a number.
        return words if words and kind.base is float else _noun(noun, words)
    noun = {int: "ints", float: "numbers", str: "texts"}[kind.base]
    least, most = spec.lengths
    counts = {1: "one", 2: "two"}
    if most == math.inf:
        return f"{_noun(noun, words)}, divided by commas"
    span = counts[least] if least == most else f"{counts[least]} or {counts[most]}"
    return f"{span} {_noun(noun, words)}"


def _noun(noun: str, words: str) -> str:
    return f"{noun}{' of' if words.startswith('at') else ''} {words}".strip()


def bounds_text(spec: Spec) -> str:
    """Return a spec's bounds in words, such as "greater than 0 and at most 1"."""
    limits = (
        ("at least", spec.least),
        ("greater than", spec.above),
        ("at most", spec.most),
        ("less than", spec.below),
    )
    return " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)


def parse_assignments(
    cls: type[Settings], texts: Sequence[str], argument: str, allowed: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return `NAME=VALUE` texts as a dict of a settings class's values.

    Args:
        cls: a subclass of `Settings`.
        texts: list of str, such as `["epochs=20", "image_size=32,48"]`.
        argument: str, the setting that they are of, for errors.
        allowed: names that may be given; None for all.
    Raises:
        SettingsError: with all faults: an unknown name, a value that does not fit, a name twice.
    """
    values, faults = {}, []
    for text in texts:
        try:
            name, value = _divide(cls, text, argument, allowed)
            if name in values:
                raise ValueError(f"`{argument}` must give a setting once. Received: {name} twice")
            values[name] = parse(cls, name, value)
        except ValueError as error:
            faults.append(_of_argument(error, argument))
    if faults:
        raise SettingsError(faults)
    return values


def parse_sweep(
    cls: type[Settings],
    texts: Sequence[str],
    argument: str = "sweep",
    allowed: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return `NAME=VALUE,VALUE,...` texts as a dict of names to tuples of values.

    Values that have commas of their own are divided by slashes: `mask_ratio=.75/.5,.75`.

    Raises:
        SettingsError: as `parse_assignments`.
    """
    sweep, faults = {}, []
    for text in texts:
        try:
            name, value = _divide(cls, text, argument, allowed)
            if name in sweep:
                raise ValueError(f"`{argument}` must give a setting once. Received: {name} twice")
            parts = value.split("/" if "/" in value else ",")
            sweep[name] = tuple(parse(cls, name, part) for part in parts)
        except ValueError as error:
            faults.append(_of_argument(error, argument))
    if faults:
        raise SettingsError(faults)
    return sweep


# Names of the paper for settings of ours.
ALIASES = {"decoder_depth": "decoder_num_layers"}


def _divide(
    cls: type[Settings], text: str, argument: str, allowed: Sequence[str] | None
) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    name = ALIASES.get(name.strip(), name.strip())
    if not sign or not name or not value:
        raise ValueError(f"`{argument}` must be NAME=VALUE. Received: {text!r}")
    known = list(allowed if allowed is not None else cls.__dataclass_fields__)
    if name not in known:
        raise ValueError(f"`{argument}` must name settings among {known}. Received: {name!r}")
    return name, value


def _of_argument(error: BaseException, argument: str) -> str:
    """Return an error's text so that it names the setting it was met in."""
    text = str(error)
    return text if text.startswith(f"`{argument}`") else f"`{argument}`: {text}"
