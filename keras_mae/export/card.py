"""What all formats share: the model to export, its check on real images, the card of numbers."""

import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_mae.export import check
from keras_mae.files import new_directory, weights_digest, write_json
from keras_mae.interop import load_encoder
from keras_mae.layers.arguments import grid_size, pair
from keras_mae.layers.pooling import pool_tokens
from keras_mae.models.classifier import ViTClassifier
from keras_mae.models.encoder import ViTEncoder
from keras_mae.models.weights import assign_weights, get_weights
from keras_mae.presets import list_presets, preset_config

# How far a file's numbers may be from the Keras model's, by format and the precision it is written
# in: the largest difference of an output (`check.compare`), or the smallest cosine of features.
BOUNDS = {
    ("saved_model", "float32"): {"difference": 1e-5},
    ("litert", "float32"): {"difference": 1e-4},
    ("onnx", "float32"): {"difference": 1e-4},
    ("litert", "float16"): {"difference": 1e-2},
    ("litert", "int8"): {"min_cosine": 0.99},
    ("onnx", "int8"): {"min_cosine": 0.99},
}
CHECK_SECONDS = 900


class ExportError(RuntimeError):
    """What was written does not give the model's numbers, and has been removed."""


@dataclasses.dataclass
class Source:
    """What is exported.

    Attributes:
        model: `ViTEncoder` or `ViTClassifier`, a float32 copy at the export's image size.
        facts: dict for the card: where it came from, sizes, pixel statistics, checksum.
    """

    model: keras.Model
    facts: dict

    @property
    def encoder(self):
        return getattr(self.model, "encoder", self.model)


@dataclasses.dataclass
class Written:
    """What a format's `write` made.

    Attributes:
        path: what is to be loaded, relative to the directory written; "." for all of it.
        precision: second part of the key in `BOUNDS`.
        signatures: dict, name to {"inputs": {name: [dtype, shape]}, "outputs": {...}}.
        facts: dict of further entries of the card.
        explain: None, or a function from the check's result to a string that an error ends with.
    """

    path: str
    precision: str
    signatures: dict
    facts: dict = dataclasses.field(default_factory=dict)
    explain: object = None


def open_source(model, image_size=None):
    """Return the `Source` of a model or a path.

    Args:
        model, image_size: see `keras_mae.export.export_encoder`.
    Raises:
        ValueError: if it is no model of ours, has weights that float32 cannot hold or that are not
            finite, or cannot have the image size.
    """
    origin = type(model).__name__
    if isinstance(model, str | os.PathLike):
        from keras_mae.interop import load_pretrained

        origin, model = str(model), load_pretrained(model)
    if not isinstance(model, ViTClassifier):
        try:
            model = load_encoder(model)
        except ValueError as error:
            raise ValueError(
                "`model` must be a ViTEncoder, a ViTClassifier, a MaskedAutoencoder, or a path to "
                f"one. Received: {model!r}"
            ) from error
    encoder = getattr(model, "encoder", model)
    if not isinstance(encoder, ViTEncoder):
        raise ValueError(f"`model` must have a ViTEncoder as its encoder. Received: {encoder!r}")
    weights = get_weights(model)
    _check_weights(weights)
    size = encoder.image_size if image_size is None else pair(image_size, "image_size")
    grid_size(size, encoder.patch_size)  # raises for a size that has no whole number of patches
    weights = {name: np.asarray(value, "float32") for name, value in weights.items()}
    copy = _float32_copy(model, encoder, size)
    assign_weights(copy, weights, encoder.grid_size)
    facts = {
        "kind": "classifier" if isinstance(model, ViTClassifier) else "encoder",
        "source": origin,
        "preset": find_preset(encoder),
        "weights_sha256": weights_digest(weights),
        "parameters": int(sum(value.size for value in weights.values())),
        "trained_image_size": list(encoder.image_size),
        "image_size": list(size),
        "channels": encoder.channels,
        "patch_size": list(encoder.patch_size),
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "hidden_dim": encoder.hidden_dim,
        "num_layers": encoder.num_layers,
        "num_heads": encoder.num_heads,
        "final_norm": encoder.final_norm,
    }
    if isinstance(model, ViTClassifier):
        facts.update(
            num_classes=model.num_classes,
            pooling=model.pooling,
            pooled_blocks=model.pooled_blocks,
        )
    return Source(copy, facts)


def _check_weights(weights):
    wide = sorted(name for name, value in weights.items() if value.dtype == np.float64)
    if wide:
        raise ValueError(f"`model` must have weights that fit in float32. Received float64: {wide}")
    broken = [n for n, v in weights.items() if not np.isfinite(np.asarray(v, "float32")).all()]
    if broken:
        raise ValueError(f"`model` must have finite weights. Received NaN or infinity in: {broken}")


def _float32_copy(model, encoder, image_size):
    """Return a model of the same architecture, computing in float32, all of it trainable."""
    changes = {"image_size": image_size, "dtype": "float32", "trainable": True}
    copy = ViTEncoder.from_config({**encoder.get_config(), **changes})
    if model is encoder:
        return copy
    config = {**model.get_config(), "image_size": None, "trainable_blocks": None}
    config["encoder"] = keras.saving.serialize_keras_object(copy)
    return ViTClassifier.from_config({**config, "dtype": "float32", "trainable": True})


def find_preset(encoder):
    """Return the preset of this encoder's architecture, whatever its image size, or None."""
    keys = ("channels", "hidden_dim", "num_layers", "num_heads")
    for name in list_presets():
        config = preset_config(name)
        if pair(config["patch_size"], "patch_size") == encoder.patch_size and all(
            config[key] == getattr(encoder, key) for key in keys
        ):
            return name
    return None


def normalize(encoder, pixels):
    """Return images as the encoder takes them, computed as in the training pipeline.

    Args:
        encoder: `ViTEncoder`.
        pixels: float32 `(B, H, W, C)`, 0-255.
    Returns:
        float32, of the same shape: `(pixel / 255 - mean) / std`.
    """
    mean, std = np.asarray(encoder.mean), np.asarray(encoder.std)
    scale, offset = (1 / (255 * std)).astype("float32"), (-mean / std).astype("float32")
    return pixels * scale + offset


def pooled_tokens(model, images):
    """Return the tokens that a model pools: the encoder's, of a classifier's `pooled_blocks`.

    Args:
        model: a `Source`'s.
        images: float32 `(B, H, W, C)`, normalised.
    Returns:
        float32 `(B, 1 + N, D)`, or wider, the last block's at the end.
    """
    encoder = getattr(model, "encoder", model)
    return encoder(images, training=False, last_blocks=getattr(model, "pooled_blocks", 1))


def model_outputs(model, images, encode=None):
    """Return all that an export gives, in `keras.ops`: it can be traced.

    Args:
        model: a `Source`'s.
        images: float32 `(B, H, W, C)`, normalised.
        encode: function from these to what `pooled_tokens` returns, in its place.
    Returns:
        dict of float32 tensors: `tokens` `(B, 1 + N, D)`, `cls` and `pooled` `(B, D)`, and of a
        classifier `logits` and `probabilities` `(B, classes)`, and `pooled` as it pools.
    """
    encoder = getattr(model, "encoder", model)
    wide = pooled_tokens(model, images) if encode is None else encode(images)
    tokens = wide[..., -encoder.hidden_dim :]
    cls = pool_tokens(tokens, "token")
    if encoder is model:
        return {"tokens": tokens, "cls": cls, "pooled": pool_tokens(tokens, "mean")}
    pooled = pool_tokens(wide, model.pooling)
    if model.feature_norm is not None:
        pooled = model.feature_norm(pooled, training=False)
    logits = model.head(pooled)
    outputs = {"tokens": tokens, "cls": cls, "pooled": pooled, "logits": logits}
    return {**outputs, "probabilities": ops.softmax(logits, axis=-1)}


def sample_images(encoder, dataset=None, count=16):
    """Return real images of the encoder's size and channels.

    Args:
        encoder: `ViTEncoder`.
        dataset: see `keras_mae.export.export_encoder`.
        count: int. They are spread evenly over the data set.
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
                f"`check_dataset` must be given for {encoder.channels} channels: embedded images "
                f"have {sorted(embedded)}"
            )
        dataset = embedded[encoder.channels]
    source = load_source(dataset) if isinstance(dataset, str) else dataset
    if source.channels != encoder.channels:
        raise ValueError(
            f"`check_dataset` must have images of {encoder.channels} channels, as the model takes. "
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
        raise ValueError(f"`check_dataset` must have images that can be read. Received: {dataset}")
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
    normalised = normalize(source.encoder, images.astype("float32"))
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
        format: one of `keras_mae.export.FORMATS`.
        path: what the format loads.
        reference: see `reference_outputs`.
        loads: int. In how many new processes.
        fresh_process: bool. False: in this one, once.
    Returns:
        list of dicts, see `keras_mae.export.check.check`, one a load.
    Raises:
        ExportError: if the file cannot be loaded or run.
    """
    if not fresh_process:
        with keras.device("cpu"):
            return [check.check(format, str(path), reference)]
    results = []
    with tempfile.TemporaryDirectory(prefix="keras_mae_check_") as scratch:
        job, result = Path(scratch, "job.json"), Path(scratch, "result.json")
        np.savez(Path(scratch, "reference.npz"), **reference)
        job.write_text(
            json.dumps(
                {
                    "format": format,
                    "path": str(Path(path).resolve()),
                    "reference": str(Path(scratch, "reference.npz")),
                    "result": str(result),
                }
            )
        )
        # The check of an export needs no GPU, and must not fight this process for one.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-P", check.__file__, str(job)]
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
        result: see `keras_mae.export.check.check`.
        bound: a value of `BOUNDS`.
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


def write_checked(format, source, target, write, images, images_name, loads=1, fresh_process=True):
    """Write an export under another name, check it there, and give it its name with its card.

    Args:
        format: one of `keras_mae.export.FORMATS`.
        source: a `Source`.
        target: `Path` of the directory to be made.
        write: function from the temporary directory's path, not yet there, to a `Written`.
        images, images_name: see `sample_images`.
        loads, fresh_process: see `check_export`.
    Returns:
        `Path` of what is to be loaded.
    Raises:
        ExportError: if it is over its bound; nothing is left.
    """
    reference = reference_outputs(source, images)
    with new_directory(target) as directory:
        written = write(directory)
        bound = BOUNDS[format, written.precision]
        results = check_export(
            format, directory / written.path, reference, loads=loads, fresh_process=fresh_process
        )
        for result in results:
            if problem := over_bound(result, bound):
                more = "" if written.explain is None else f" {written.explain(result)}"
                raise ExportError(
                    f"The {format} export ({written.precision}) does not give the model's numbers "
                    f"on {result['num_images']} images of {images_name}: {problem}. Nothing was "
                    f"left under {target}.{more}"
                )
        card = _card(format, source, written, directory, results, bound, images_name)
        card["check"]["fresh_process"] = fresh_process
        write_json(directory / "card.json", card)
        (directory / "card.md").write_text(format_card(card))
    return target / written.path


def _card(format, source, written, directory, results, bound, images_name):
    """Return the card, all plain values."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    worst = max(results, key=lambda result: result["difference"])
    latencies = [result["latency_ms"] for result in results if result["latency_ms"] is not None]
    return {
        "format": format,
        "precision": written.precision,
        **source.facts,
        **written.facts,
        "load": written.path,
        "bytes": sum(path.stat().st_size for path in files),
        "files": {str(path.relative_to(directory)): path.stat().st_size for path in files},
        "signatures": written.signatures,
        "check": {
            "images": images_name,
            "num_images": worst["num_images"],
            "loads": len(results),
            "bound": bound,
            "max_abs_difference": max(result["max_abs_difference"] for result in results),
            "difference": worst["difference"],
            "min_cosine": min(result["min_cosine"] for result in results),
            "keras_imported": any(result["keras_imported"] for result in results),
            "outputs": worst["outputs"],
            "signatures": worst["signatures"],
        },
        "batch_size": worst["batch_size"],
        "latency_ms": round(float(np.median(latencies)), 3) if latencies else None,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
    }


def _versions():
    found = {"python": platform.python_version()}
    for name in (
        "keras_mae",
        "keras",
        "tensorflow",
        "numpy",
        "ai-edge-litert",
        "onnx",
        "onnxruntime",
        "tf2onnx",
    ):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def format_card(card):
    """Return a card as a short Markdown text."""
    height, width = card["image_size"]
    checked, latency = card["check"], card["latency_ms"]
    bound = ", ".join(
        f"{'cosine' if key == 'min_cosine' else 'difference'} {limit:g}"
        for key, limit in checked["bound"].items()
    )
    rows = {
        "made of": f"{card['source']} ({card['kind']}, preset {card['preset'] or 'none'})",
        "weights, SHA-256": card["weights_sha256"],
        "parameters": f"{card['parameters']:,}",
        "images": f"{height} x {width} x {card['channels']}, pixels 0-255; normalised inside",
        "mean / deviation": f"{card['mean']} / {card['std']}, of pixels in [0, 1]",
        "size": f"{card['bytes'] / 1e6:.2f} MB",
        "signatures": ", ".join(card["signatures"]),
        "largest difference": f"{checked['max_abs_difference']:.2e} (bound: {bound})",
        "smallest cosine": f"{checked['min_cosine']:.8f}",
        "checked on": f"{checked['num_images']} images of {checked['images']}, "
        f"{checked['loads']} load(s)",
        "latency, batch 1": "not measured" if latency is None else f"{latency:.2f} ms (median)",
        "versions": ", ".join(f"{name} {number}" for name, number in card["versions"].items()),
    }
    lines = [f"# {card['format']}, {card['precision']}", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items()), ""])
