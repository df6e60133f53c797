"""Things of a kind that are one file each, found by name: maskings, sources, export formats.

A name is that of a file in the kind's folder, or `MODULE:CLASS`, a user's own.
"""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_ROOT = Path(__file__).parent


def names(package: str) -> list[str]:
    """Return the names of the files in a package's folder; nothing is imported.

    Args:
        package: str, such as "keras_mae.layers.maskings".
    """
    folder = _ROOT.joinpath(*package.split(".")[1:])
    found = sorted(path.stem for path in folder.glob("*.py"))
    return [name for name in found if not name.startswith("_") and name != "base"]


def is_own(name: object) -> bool:
    """Return whether a name has the form of a user's own, `MODULE:CLASS`."""
    module, _, attribute = str(name).partition(":")
    return bool(attribute) and all(part.isidentifier() for part in (*module.split("."), attribute))


def find(package: str, name: str, base: type, argument: str) -> type:
    """Return the class that a name stands for.

    Args:
        package: str, where the files lie.
        name: str, of a file in it, or `MODULE:CLASS`. A module in the working directory is found.
        base: class that it must be a subclass of.
        argument: str, what the name is the value of, for errors.
    Raises:
        ValueError: if there is none, or it is no subclass of `base`.
    """
    known = names(package)
    if name in known:
        module = importlib.import_module(f"{package}.{name}")
        return next(c for c in vars(module).values() if _is_made_in(c, module, base))
    if not is_own(name):
        raise ValueError(
            f"`{argument}` must be one of {known}, or MODULE:CLASS for your own. Received: {name!r}"
        )
    found = _own(name, f"`{argument}` must be one of {known}, or MODULE:CLASS for your own")
    if not isinstance(found, type) or not issubclass(found, base):
        raise ValueError(
            f"`{argument}` must name a subclass of {base.__module__}.{base.__name__}. "
            f"Received: {name!r}, which is {found!r}"
        )
    return found


def find_function(name: str, argument: str) -> Callable[..., Any]:
    """Return a user's function.

    Args:
        name: str, `MODULE:FUNCTION`. A module in the working directory is found.
        argument: str, what the name is the value of, for errors.
    Raises:
        ValueError: if there is none.
    """
    wanted = f"`{argument}` must be MODULE:FUNCTION"
    if not is_own(name):
        raise ValueError(f"{wanted}. Received: {name!r}")
    found = _own(name, wanted)
    if not callable(found):
        raise ValueError(f"{wanted}. Received: {name!r}, which is {found!r}")
    return found


def _own(name: str, wanted: str) -> Any:
    """Return what a user's name stands for, or raise a ValueError that begins with `wanted`."""
    own, _, attribute = name.partition(":")
    try:
        return getattr(_import(own), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{wanted}, which can be imported. Received: {name!r} ({error})"
        ) from error


def _is_made_in(value: object, module: ModuleType, base: type) -> bool:
    return (
        isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    )


def _import(module: str) -> ModuleType:
    """Import a user's module, also from the working directory, as `python -m` would."""
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    finally:
        if added:
            sys.path.remove(here)
