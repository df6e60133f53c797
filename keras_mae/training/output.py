"""The output directory of a run: nothing half-written is ever left under a final name."""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from keras_mae.version import __version__


@contextmanager
def atomic_path(path):
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


def prepare_output_dir(path, config, resume=True, overwrite=False):
    """Make an output directory, or open the one of a run that was cut, before any work is done.

    Args:
        path: the directory.
        config: dict of what fixes the run's numbers, compared with its "run" of `config.json`.
        resume: bool. Whether a directory with the `config.json` of the same run is gone on with.
        overwrite: bool. Whether a directory that holds files is emptied.
    Returns:
        the directory, a `Path`.
    Raises:
        ValueError: if it holds another run (naming each setting that differs, with both values),
            or other files, or cannot be written.
    """
    path = Path(path)
    try:
        if overwrite and path.is_dir():
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"`output_dir` must be a directory that can be written. Received: {path} ({error})"
        ) from error
    if (path / "config.json").exists() and resume:
        before = json.loads((path / "config.json").read_text())["run"]
        now = json.loads(json.dumps(config))
        differing = [
            f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if differing:
            raise ValueError(
                f"`output_dir` holds a run with other settings, which cannot go on with these: "
                f"{'; '.join(differing)}. Received: {path}. Give these settings, another "
                "--output_dir, or --overwrite to start over."
            )
    elif any(path.iterdir()):
        raise ValueError(
            f"`output_dir` must be empty or new{'' if resume else ' without resuming'}. Received: "
            f"{path}, which holds files. Give another --output_dir, or --overwrite to empty it."
        )
    return path


def write_json(path, values):
    """Write `values` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, default=str) + "\n")


def save_model(model, path):
    """Save a Keras model as a `.keras` file, atomically."""
    with atomic_path(path) as temporary:
        model.save(temporary)


def environment():
    """Return the versions and the git commit a run is made with, as a dict for `config.json`."""
    packages = ("keras", "tensorflow", "numpy")
    return {
        "keras_mae": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "git_commit": _git_commit(),
    }


def _git_commit():
    """Return the commit of the source tree, "-dirty" if changed; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
