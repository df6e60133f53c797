"""The output directory of a run: of this run, or empty, before any work is done."""

import json
import shutil
import tempfile
from pathlib import Path


def prepare_output_dir(path, config, resume=True, overwrite=False, defaults=None):
    """Make an output directory, or open the one of a run that was cut, before any work is done.

    Args:
        path: the directory.
        config: dict of what fixes the run's numbers, compared with its "run" of `config.json`.
        resume: bool. Whether a directory with the `config.json` of the same run is gone on with.
        overwrite: bool. Whether a directory that holds files is emptied.
        defaults: dict of settings' defaults: what a run had, written when there was no such
            setting yet.
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
        known = json.loads(json.dumps(defaults or {}, default=str))
        before = {**{name: known[name] for name in now if name in known}, **before}
        differing = [
            f"{name} was {before[name]!r} and is {now[name]!r}"
            for name in sorted({*before} & {*now})
            if before[name] != now[name]
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
