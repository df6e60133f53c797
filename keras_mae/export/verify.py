"""The proof of an export: real images, the model's numbers for them, and a new process."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_mae.export import compare
from keras_mae.export.formats.base import ExportError
from keras_mae.export.source import model_outputs
from keras_mae.pixels import normalize

CHECK_SECONDS = 900


def sample_images(encoder, dataset=None, count=16, argument="check_dataset"):
    """Return real images of the encoder's size and channels.

    Args:
        encoder: `ViTEncoder`.
        dataset: see `keras_mae.export.export_encoder`.
        count: int. They are spread evenly over the data set.
        argument: str, what `dataset` is the value of, for errors.
    Returns:
        `(images, name)`: uint8 `(count, H, W, C)`, through the evaluation transform, and where
        they are from.
    Raises:
        ValueError: if the data set has other channels, or none fits and none is given.
    """
    from keras_mae.data import eval_dataset, load_source

    if dataset is None:
        embedded = {1: "mnist5k", 3: "photos"}
        if encoder.channels not in embedded:
            raise ValueError(
                f"`{argument}` must be given for {encoder.channels} channels: embedded images "
                f"have {sorted(embedded)}"
            )
        dataset = embedded[encoder.channels]
    try:
        source = load_source(dataset) if isinstance(dataset, str) else dataset
    except ValueError as error:
        raise ValueError(
            f"`{argument}` must be a data set that can be read. Received: {dataset!r} ({error})"
        ) from error
    if source.channels != encoder.channels:
        raise ValueError(
            f"`{argument}` must have images of {encoder.channels} channels, as the model takes. "
            f"Received: {source.name!r}, of {source.channels}"
        )
    places = np.linspace(0, source.num_examples - 1, min(count, source.num_examples)).astype(int)
    pixels = eval_dataset(
        source.subset(places),
        image_size=encoder.image_size,
        batch_size=count,
        mean=(0.0,) * encoder.channels,
        std=(1.0,) * encoder.channels,
        with_labels=False,
    )
    batches = [np.asarray(batch) for batch in pixels]
    if not batches:
        raise ValueError(f"`{argument}` must have images that can be read. Received: {dataset}")
    images = np.concatenate(batches)
    return np.round(images * 255).astype("uint8"), source.name


def reference_outputs(source, images, batch_size=8):
    """Return what the Keras model says of images: the numbers an export is held to.

    Args:
        source: a `Source`.
        images: uint8 `(n, H, W, C)`.
        batch_size: int. So many at a time.
    Returns:
        dict of arrays: `images`, `normalised` and the outputs of `model_outputs`.
    """
    normalised = normalize(images.astype("float32"), source.encoder.mean, source.encoder.std)
    # On a GPU float32 may mean TensorFloat-32, which keeps three digits.
    with keras.device("cpu"):
        parts = [
            model_outputs(source.model, ops.convert_to_tensor(normalised[i : i + batch_size]))
            for i in range(0, len(images), batch_size)
        ]
    outputs = {
        name: np.concatenate([ops.convert_to_numpy(part[name]) for part in parts])
        for name in parts[0]
    }
    return {"images": images, "normalised": normalised, **outputs}


def check_export(format, path, reference, loads=1, fresh_process=True):
    """Load an exported file, as a user would, and compare it with the Keras model's numbers.

    Args:
        format: `keras_mae.export.Format`, whose runner loads it.
        path: what it loads.
        reference: see `reference_outputs`.
        loads: int. In how many new processes.
        fresh_process: bool. False: in this one, once.
    Returns:
        list of what `keras_mae.export.compare.compare_file` returns, one a load.
    Raises:
        ExportError: if the file cannot be loaded or run.
    """
    if not fresh_process:
        with keras.device("cpu"):
            return [compare.compare_file(format.Runner(str(path)), reference)]
    results = []
    with tempfile.TemporaryDirectory(prefix="keras_mae_check_") as scratch:
        job, result = Path(scratch, "job.json"), Path(scratch, "result.json")
        np.savez(Path(scratch, "reference.npz"), **reference)
        job.write_text(
            json.dumps(
                {
                    "module": type(format).__module__,
                    "class": type(format).__name__,
                    "sys_path": [*sys.path, os.getcwd()],
                    "path": str(Path(path).resolve()),
                    "reference": str(Path(scratch, "reference.npz")),
                    "result": str(result),
                }
            )
        )
        # The check of an export needs no GPU, and must not fight this process for one.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-P", compare.__file__, str(job)]
        for _ in range(loads):
            result.unlink(missing_ok=True)
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, env=environment, timeout=CHECK_SECONDS
                )
            except subprocess.TimeoutExpired as error:
                raise ExportError(
                    f"A new process could not run the export within {CHECK_SECONDS} s"
                ) from error
            if done.returncode or not result.exists():
                lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
                raise ExportError(f"A new process could not load and run the export: {lines[-1]}")
            results.append(json.loads(result.read_text()))
    return results


def over_bound(result, bound):
    """Return what of a check's result is over a bound, as text; empty if all is within.

    Args:
        result: see `keras_mae.export.compare.compare_file`.
        bound: a value of a format's `BOUNDS`.
    """
    problems = []
    for key, limit in bound.items():
        value = result[key]
        # Written so that NaN is never within.
        within = value >= limit if key == "min_cosine" else value <= limit
        if not within:
            which = "at least" if key == "min_cosine" else "at most"
            problems.append(f"{key} is {value:.3g}, and must be {which} {limit:g}")
    return "; ".join(problems)
