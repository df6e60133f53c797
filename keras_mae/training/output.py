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


def prepare_output_dir(path, overwrite=False):
    """Make an output directory and return it as a `Path`, before any work is done.

    Args:
        path: the directory.
        overwrite: bool. Whether a directory that holds files is emptied; if not, it is refused.
    Raises:
        ValueError: if it holds files, is a file, or cannot be written.
    """
    path = Path(path)
    try:
        if path.is_dir() and any(path.iterdir()):
            if not overwrite:
                raise ValueError(
                    f"`output_dir` must be empty or new. Received: {path}, which holds files. "
                    "Give another --output_dir, or --overwrite to empty it."
                )
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"`output_dir` must be a directory that can be written. Received: {path} ({error})"
        ) from error
    return path


def write_json(path, values):
    """Write `values` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, default=str) + "\n")


def save_model(model, path):
    """Save a Keras model as a `.keras` file, atomically."""
    with atomic_path(path) as temporary:
        model.save(temporary)


def export_encoder(encoder, path):
    """Export an encoder as a SavedModel, images `(B, H, W, C)` to tokens, atomically.

    Args:
        encoder: a `ViTEncoder`.
        path: directory of the SavedModel; for TF Serving, `NAME/VERSION`.
    """
    import keras

    shape = (None, *encoder.image_size, encoder.channels)
    with atomic_path(path) as temporary:
        encoder.export(
            temporary,
            format="tf_saved_model",
            verbose=False,
            input_signature=[keras.InputSpec(shape=shape, dtype="float32")],
        )


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
