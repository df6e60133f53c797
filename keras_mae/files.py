"""Files: nothing half-written is ever left under a final name; what a run is made with."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_mae.types import AnyPath
from keras_mae.version import __version__

if TYPE_CHECKING:
    import keras

_NUMBERS = re.compile(r"\[\s+-?\d[^\[\]{}\"]*\]")


@contextmanager
def atomic_path(path: AnyPath) -> Iterator[Path]:
    """Yield a temporary path beside `path`, a file's or a directory's, renamed to it at the end.

    An error inside leaves `path` as it was, and nothing else. An existing directory is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keras looks at the suffix, so the temporary name ends alike.
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=path.parent))
    temporary = scratch / path.name
    try:
        yield temporary
        if path.is_dir():
            path.rename(scratch / f"{path.name}.old")
        os.replace(temporary, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(path: AnyPath, values: Any) -> None:
    """Write `values` as indented JSON, a list of numbers in one line, atomically."""
    text = json.dumps(values, indent=2, default=str)
    text = _NUMBERS.sub(lambda match: f"[{' '.join(match[0][1:-1].split())}]", text)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n")


def printable(text: object) -> str:
    """Return text in which what cannot be encoded, as of file names not in UTF-8, is escaped."""
    return str(text).encode("utf-8", "backslashreplace").decode()


# What would end a line, or cannot be encoded.
_NO_TEXT = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
_LIKE_A_BYTE = re.compile(r"\\x[0-9a-f]{2}")


def name_text(name: str) -> str:
    r"""Return a file's name as a table can hold it, in one line; other names stay other.

    Bytes that are no UTF-8, and characters that would end a line, are written as `\xNN`. In a name
    that has such a byte, or the like of one in plain letters, each backslash is doubled.

    Args:
        name: str, bytes that are no UTF-8 as `os.fsdecode` gives them.
    Example: `name_text("caf\udce9.png")` is `caf\xe9.png`, ten characters and `png`
    """
    if not _NO_TEXT.search(name) and not _LIKE_A_BYTE.search(name):
        return name
    return _NO_TEXT.sub(_as_bytes, name.replace("\\", "\\\\"))


def _as_bytes(match: re.Match[str]) -> str:
    is_byte = "\udc80" <= match[0] <= "\udcff"
    content = match[0].encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in content)


def save_model(model: keras.Model, path: AnyPath) -> None:
    """Save a Keras model as a `.keras` file, atomically."""
    with atomic_path(path) as temporary:
        model.save(temporary)


def environment() -> dict[str, str | None]:
    """Return the versions and the git commit a run is made with, as a dict for `config.json`."""
    packages = ("keras", "tensorflow", "numpy")
    return {
        "keras_mae": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of the source tree, "-dirty" if changed; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def weights_digest(weights: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, of weights by name: of names, shapes and values, in name order.

    Args:
        weights: dict of name to array, as `keras_mae.models.weights.get_weights` gives it. Values
            count as float32.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = np.ascontiguousarray(weights[name], "<f4")
        digest.update(f"{name}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def saved_model_path(path: object) -> Path | None:
    """Return the `Path` of the SavedModel that a path is, or has as its newest version; or None.

    Args:
        path: anything.
    """
    if not isinstance(path, str | os.PathLike) or not Path(path).is_dir():
        return None
    path = Path(path)
    if (path / "saved_model.pb").exists():
        return path
    versions = [p for p in path.iterdir() if p.name.isdecimal() and (p / "saved_model.pb").exists()]
    return max(versions, key=lambda p: int(p.name), default=None)


def next_version_path(path: AnyPath) -> Path:
    """Return the `Path` of the next version in a directory of versions: `path/1` at first.

    Args:
        path: str or path. What is in it under a number is a version, whatever it is.
    """
    path = Path(path)
    names = [p.name for p in path.iterdir()] if path.is_dir() else []
    return path / str(1 + max((int(name) for name in names if name.isdecimal()), default=0))


def check_new_directory(path: AnyPath, argument: str = "directory") -> Path:
    """Return a `Path` that is free and can be made, or raise a ValueError.

    Args:
        path: of the directory to be made. An empty one may be there.
        argument: str, its name in the error.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"`{argument}` must be new, or an empty directory. Received: {path}")
    check_writable(path, argument)
    return path


def check_writable(path: AnyPath, argument: str = "directory") -> None:
    """Raise a ValueError unless a directory can be made at `path`, leaving no trace."""
    parent = next(p for p in (Path(path), *Path(path).absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix=".keras_mae_"):
            pass
    except OSError as error:
        raise ValueError(
            f"`{argument}` must be a path that can be written. Received: {path} ({error})"
        ) from error


@contextmanager
def new_directory(target: AnyPath) -> Iterator[Path]:
    """Yield the path of a directory to be made, which gets the name `target` at the end.

    Unlike `atomic_path` it never takes the place of another: two exports at the
    same time cannot get one version. An error inside leaves nothing, parents made for it included.
    """
    target = Path(target).absolute()
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        temporary = scratch / target.name
        yield temporary
        try:
            os.rename(temporary, target)  # fails if a directory that holds files is there
        except OSError as error:
            raise FileExistsError(f"{target} was made by another meanwhile ({error})") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()
