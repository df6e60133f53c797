"""What every export format has: options, a writer, bounds, and a runner of what it wrote.

A format is one file of this folder, whose name is the format's, or a class of your own, which
`format="my_package.my_module:MyFormat"` finds. Its module imports nothing heavier than NumPy at the
top: its options are read before any work, and its runner is used where keras cannot be imported.
"""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.errors import RunError
from keras_mae.files import check_new_directory
from keras_mae.types import AnyPath


class ExportError(RunError):
    """What was written does not give the model's numbers, and has been removed."""


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a format: an argument of `export_encoder`, and a flag of `scripts/export.py`.

    Args:
        name: str, of both.
        type: bool, int, float or str. In Python a str without `choices` may be any object, such as
            a data source in place of its name.
        default: of this type. None: it may be left out.
        help: str, what it does, for `--help`.
        choices: tuple of all its values, or None.
        least: its smallest value, or None.
        or_none: bool. Whether None is a value in Python although the default is another.

    Example:
        Option("bits", int, 8, "bits of a weight.", choices=(4, 8))
    """

    name: str
    type: type
    default: object
    help: str
    choices: tuple | None = None
    least: float | None = None
    or_none: bool = False

    def check(self, value: Any) -> None:
        """Raise a ValueError unless the option may have this value."""
        if value is None and (self.default is None or self.or_none):
            return
        if self.choices is not None:
            right, expected = value in self.choices, f"one of {list(self.choices)}"
        elif self.type is str:
            right, expected = value is not None, "given"
        else:
            types = (int, float) if self.type is float else self.type
            right = isinstance(value, types) and isinstance(value, bool) == (self.type is bool)
            expected = {bool: "a bool", int: "an int", float: "a float"}[self.type]
            if self.least is not None:
                right = right and value >= self.least
                expected += f" of {self.least} or more"
        if not right:
            raise ValueError(f"`{self.name}` must be {expected}. Received: {value!r}")


@dataclasses.dataclass
class Written:
    """What a format's `write` made.

    Attributes:
        path: str, what the runner loads, relative to the directory written; "." for all of it.
        precision: str, key of the format's `BOUNDS`.
        signatures: dict, name to {"inputs": {name: [dtype, shape]}, "outputs": {...}}, with None
            for a size that is free.
        facts: dict of further entries of the card.
        explain: None, or a function without arguments that returns what an error should add.
    """

    path: str
    precision: str
    signatures: dict
    facts: dict = dataclasses.field(default_factory=dict)
    explain: object = None


class Format:
    """A kind of file that a model can be exported to.

    A subclass sets the class attributes below and has a method `write`.

    Args:
        **options: values of `OPTIONS`; those left out get their defaults. Each becomes an
            attribute.
    Class attributes:
        OPTIONS: tuple of `Option`.
        PACKAGES: tuple of str, modules that `write` or `Runner` imports and a plain installation of
            this library may lack. That they are there is checked before any work.
        BOUNDS: dict, precision to how far the file's numbers may be from the Keras model's:
            {"difference": largest} or {"min_cosine": smallest}, see `keras_mae.export.compare`.
        Runner: class. `Runner(path)`, of a str, loads the file. Called with images `(n, H, W, C)`,
            of the model's value range and its dtype, see `keras_mae.pixels.pixel_dtype`, it
            returns a dict of arrays, named as those of `export_encoder`. Its
            attribute `batch_size` is the int that n must be, or None for any. If it has a method
            `others(images, normalised)`, this yields (name, outputs) for each other way to give the
            same images. It runs in a process where keras cannot be imported.
    Raises:
        ValueError: if an option is unknown, or cannot have its value.
        ImportError: if a package is missing, with the extra that holds it.
    """

    OPTIONS: tuple[Option, ...] = ()
    PACKAGES: tuple[str, ...] = ()
    BOUNDS = {"float32": {"difference": 1e-4}}
    Runner: type | None = None

    def __init__(self, **options: Any) -> None:
        known = [option.name for option in self.OPTIONS]
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(
                f"`options` of {type(self).__name__} must be among {known}. Received: {unknown}"
            )
        for option in self.OPTIONS:
            value = options.get(option.name, option.default)
            option.check(value)
            setattr(self, option.name, value)
        self.check()
        for package in self.PACKAGES:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise ImportError(
                    f"{type(self).__name__} exports need {package}: "
                    f'pip install "keras_mae[export]" ({error})'
                ) from error

    def check(self) -> None:
        """Raise a ValueError for options that do not go together."""

    def final_path(self, directory: AnyPath) -> Path:
        """Return the `Path` of the directory to be made, for the one that the user named.

        Here it is the same one, which must be new or empty.

        Raises:
            ValueError: if it cannot be had.
        """
        return check_new_directory(directory)

    def write(self, source: Any, directory: Path, images: np.ndarray) -> Written:
        """Make `directory`, and write the model into it.

        Args:
            source: `keras_mae.export.source.Source`.
            directory: `Path`, not there yet. It is renamed after the check.
            images: `(n, H, W, C)`, those of the check, if an example is needed.
        Returns:
            `Written`.
        """
        raise NotImplementedError(f"{type(self).__name__} must have a method `write`")
