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
from keras_mae.pixels import BYTE_RANGE, normalize, pixel_dtype

CHECK_SECONDS = 900
# Images that come with the library, for 8-bit models, by their channels.
EMBEDDED = {1: "mnist5k", 3: "photos"}
SMOOTH_RANDOM = "smooth random values"
WAVES, LARGEST_PERIODS = 4, 3


def sample_images(encoder, dataset=None, count=16, argument="check_dataset"):
    """Return images of the encoder's size, channels and value range.

    Args:
        encoder: `ViTEncoder`.
        dataset: see `keras_mae.export.export_encoder`. None: embedded images, where they are of the
            encoder's kind, else smooth random ones.
        count: int. They are spread evenly over the data set.
        argument: str, what `dataset` is the value of, for errors.
    Returns:
        `(images, name)`: `(count, H, W, C)` of the dtype that values of the range have, see
        `keras_mae.pixels.pixel_dtype`, through the evaluation transform, and where they are from.
    Raises:
        ValueError: if the data set cannot be read, or has other channels.
    """
    from keras_mae.data import eval_dataset, load_source

    if dataset is None:
        is_byte = encoder.value_range == BYTE_RANGE
        dataset = EMBEDDED.get(encoder.channels) if is_byte else None
    if dataset is None:
        shape = (count, *encoder.image_size, encoder.channels)
        return values_of(smooth_images(shape), encoder.value_range), SMOOTH_RANDOM
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
    return values_of(np.concatenate(batches), encoder.value_range), source.name


def values_of(images, value_range):
    """Return images in [0, 1] as values of a range, in the dtype of these, see `pixel_dtype`."""
    low, high = value_range
    values, dtype = low + images * (high - low), pixel_dtype(value_range)
    return (values if dtype == "float32" else np.round(values)).astype(dtype)


def smooth_images(shape, seed=0):
    """Return float64 images of a shape `(B, H, W, C)`: waves, from 0 to 1 in each channel."""
    rng = np.random.default_rng(seed)
    count, height, width, channels = shape
    rows, columns = np.ogrid[:height, :width]
    images = np.zeros((count, channels, height, width))
    for _ in range(WAVES):
        # At most so many periods a side, so that neighbours are alike.
        vertical, horizontal, phase = rng.uniform(-1, 1, (3, count, channels, 1, 1))
        angle = vertical * rows / height + horizontal * columns / width
        images += np.sin(2 * np.pi * (LARGEST_PERIODS * angle + phase))
    least, most = images.min(axis=(2, 3), keepdims=True), images.max(axis=(2, 3), keepdims=True)
    images = (images - least) / np.maximum(most - least, 1e-12)
    return np.moveaxis(images, 1, -1)


def reference_outputs(source, images, batch_size=8):
    """Return what the Keras model says of images: the numbers an export is held to.

    Args:
        source: a `Source`.
        images: `(n, H, W, C)`, in the encoder's value range.
        batch_size: int. So many at a time.
    Returns:
        dict of arrays: `images`, `normalised` and the outputs of `model_outputs`; where the
        encoder's tokens are not among these, also them, as `compare.ENCODER_TOKENS`; of a detector
        also `compare.SUPPRESSION`.
    """
    encoder = source.encoder
    normalised = normalize(images.astype("float32"), encoder.mean, encoder.std, encoder.value_range)
    # On a GPU float32 may mean TensorFloat-32, which keeps three digits.
    with keras.device("cpu"):
        parts = []
        for i in range(0, len(images), batch_size):
            batch = ops.convert_to_tensor(normalised[i : i + batch_size])
            part = model_outputs(source.model, batch)
            if "tokens" not in part:  # what the endpoint of the encoder alone is held to
                part[compare.ENCODER_TOKENS] = encoder(batch, training=False)
            parts.append(part)
    outputs = {
        name: np.concatenate([ops.convert_to_numpy(part[name]) for part in parts])
        for name in parts[0]
    }
    if "suppression" in source.facts:
        rule = compare.Suppression(**source.facts["suppression"])
        outputs[compare.SUPPRESSION] = np.asarray(rule)
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
