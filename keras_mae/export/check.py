"""Compare an exported file with what the Keras model said, in a process that has only the file.

    python -P check.py JOB.json

A script on purpose, and free of imports of ours: it runs where keras cannot be imported. `-P` keeps
Python from taking `onnx.py`, beside it, for the package `onnx`.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

# What stands for the image when two files are compared by angle: features, not logits.
FEATURES = ("tokens", "cls", "pooled")
BLOCKED = ("keras", "keras_mae", "tf_keras")
LATENCY_RUNS = 20
LATENCY_SECONDS = 5.0


class SavedModel:
    """A SavedModel and all its signatures that take images."""

    batch_size = None  # any

    def __init__(self, path):
        import tensorflow as tf

        self.tf = tf
        self.loaded = tf.saved_model.load(path)
        self.default = self.loaded.signatures["serving_default"]

    def __call__(self, images):
        outputs = self.default(images=self.tf.constant(images.astype("float32")))
        return {name: value.numpy() for name, value in outputs.items()}

    def others(self, images, normalised):
        """Yield (signature, outputs) for the same images given in other ways."""
        tf, signatures = self.tf, self.loaded.signatures
        if "serving_uint8" in signatures:
            yield "serving_uint8", signatures["serving_uint8"](images=tf.constant(images))
        if "serving_bytes" in signatures:
            # Of the model's size, and without loss: the pixels come through as they are.
            encoded = tf.stack([tf.io.encode_png(image) for image in images])
            yield "serving_bytes", signatures["serving_bytes"](image_bytes=encoded)
        if "serving_tokens" in signatures:
            floats = tf.constant(images.astype("float32"))
            feature_map = signatures["serving_tokens"](images=floats)["feature_map"]
            rows = tf.reshape(feature_map, (len(images), -1, feature_map.shape[-1]))
            yield "serving_tokens", {"patch_tokens": rows}
        yield "serve", {"tokens": self.loaded.serve(tf.constant(normalised))}


class LiteRT:
    """A `.tflite` file: its one signature, at the batch size it was made with."""

    def __init__(self, path):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=path)
        interpreter.allocate_tensors()
        self.run = interpreter.get_signature_runner()
        details = self.run.get_input_details()["images"]
        # -1 is any: the runner resizes its tensors to what comes.
        size = int(details["shape_signature"][0])
        self.batch_size, self.dtype = None if size == -1 else size, details["dtype"]

    def __call__(self, images):
        return self.run(images=images.astype(self.dtype))


class ONNX:
    """An `.onnx` file in ONNX Runtime, on the CPU."""

    batch_size = None

    def __init__(self, path):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def __call__(self, images):
        outputs = self.session.run(None, {"images": images.astype("float32")})
        return dict(zip(self.names, outputs, strict=True))


RUNNERS = {"saved_model": SavedModel, "litert": LiteRT, "onnx": ONNX}


def compare(got, wanted):
    """Return the differences of one output.

    Args:
        got, wanted: float arrays of one shape, images first.
    Returns:
        dict: "max_abs_difference", the largest absolute one; "difference", the same, divided by
        the root mean square of `wanted` where that is above 1 (tokens without a final norm, logits
        of a sure classifier); "min_cosine", over the images, of all that belongs to one image.
        NaN, which no bound accepts, if anything is not finite or of another shape.
    """
    nan = {key: float("nan") for key in ("max_abs_difference", "difference", "min_cosine")}
    got = np.asarray(got)
    if got.shape != wanted.shape or not np.isfinite(got).all():
        return nan
    got = got.astype("float64").reshape(len(got), -1)
    wanted = wanted.astype("float64").reshape(got.shape)
    largest = float(np.abs(got - wanted).max())
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (got * wanted).sum(axis=1) / np.where(norms == 0, 1, norms)
    return {
        "max_abs_difference": largest,
        "difference": largest / max(1.0, float(np.sqrt(np.mean(wanted**2)))),
        "min_cosine": float(cosines.min()),
    }


def _worst(all_of_them):
    """Return the worst of several results of `compare`; NaN wins."""
    return {
        key: float((np.min if key == "min_cosine" else np.max)([one[key] for one in all_of_them]))
        for key in all_of_them[0]
    }


def _in_batches(runner, images, size):
    """Return the outputs for all images, run `size` at a time (the last ones filled up)."""
    parts = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        short = size - len(batch) if runner.batch_size else 0
        padded = np.concatenate([batch, np.repeat(batch[-1:], short, axis=0)])
        parts.append({name: value[: len(batch)] for name, value in runner(padded).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _latency_ms(runner, image):
    """Return the median milliseconds of one call with a batch of one (or the file's own size)."""
    batch = np.repeat(image[None], runner.batch_size or 1, axis=0)
    seconds, start = [], time.perf_counter()
    runner(batch)
    while len(seconds) < LATENCY_RUNS and time.perf_counter() - start < LATENCY_SECONDS:
        before = time.perf_counter()
        runner(batch)
        seconds.append(time.perf_counter() - before)
    return 1000 * float(np.median(seconds)) if seconds else None


def check(format, path, reference):
    """Load an exported file and compare it.

    Args:
        format: "saved_model", "litert" or "onnx".
        path: str, what the format loads.
        reference: dict of arrays: `images` uint8 `(n, H, W, C)`, `normalised` float32, and the
            Keras model's outputs for them.
    Returns:
        dict: "outputs" (name to `compare`'s result, the worst over batches of 1, of 3 and of all,
        or the file's own size), "signatures" (the same for other ways to give the images),
        "max_abs_difference", "difference", "min_cosine" (of the features), "latency_ms",
        "batch_size", "keras_imported".
    """
    runner = RUNNERS[format](path)
    images, normalised = reference["images"], reference["normalised"]
    wanted = {k: v for k, v in reference.items() if k not in ("images", "normalised")}
    sizes = (
        [runner.batch_size] if runner.batch_size else sorted({1, min(3, len(images)), len(images)})
    )
    runs = [_in_batches(runner, images, size) for size in sizes]
    if missing := set(wanted) - set(runs[0]):
        raise ValueError(f"outputs are missing: {sorted(missing)}; there are {sorted(runs[0])}")
    outputs = {k: _worst([compare(run[k], value) for run in runs]) for k, value in wanted.items()}
    signatures = {}
    if hasattr(runner, "others"):
        references = {**wanted, "patch_tokens": wanted["tokens"][:, 1:]}
        for name, got in runner.others(images, normalised):
            signatures[name] = _worst([compare(got[k], references[k]) for k in got])
    everything = [*outputs.values(), *signatures.values()]
    overall = _worst(everything)
    overall["min_cosine"] = _worst([outputs[k] for k in FEATURES])["min_cosine"]
    return {
        **overall,
        "outputs": outputs,
        "signatures": signatures,
        "num_images": len(images),
        "batch_size": runner.batch_size,
        "latency_ms": _latency_ms(runner, images[0]),
        "keras_imported": sys.modules.get("keras") is not None,
    }


def main():
    job = json.loads(Path(sys.argv[1]).read_text())
    # An import of these fails from here on, as where they are not installed.
    sys.modules.update(dict.fromkeys(BLOCKED))
    with np.load(job["reference"]) as file:
        reference = dict(file)
    result = check(job["format"], job["path"], reference)
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
