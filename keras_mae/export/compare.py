"""Compare an exported file with what the Keras model said, in a process that has only the file.

    python -P compare.py JOB.json

It runs as a script, where keras cannot be imported and the library's own `__init__` is left out.
`-P` keeps Python from taking a file beside this one for a package of its name.
"""

import importlib
import json
import sys
import time
import types
from pathlib import Path

import numpy as np

# What stands for the image when two files are compared by angle: features, not logits. All outputs
# of a file that gives no features.
FEATURES = ("tokens", "cls", "pooled")
# In a reference: the tokens of the encoder alone, which a segmenter's file does not give.
ENCODER_TOKENS = "encoder_tokens"
BLOCKED = ("keras", "tf_keras")
LATENCY_RUNS = 20
LATENCY_SECONDS = 5.0


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


def compare_label_map(outputs, wanted):
    """Return the differences of a label map, from the same file's logits: the rounding of logits
    may change which of two is the greatest.

    Args:
        outputs: dict of the file's outputs, with `label_map` and `logits`.
        wanted: the Keras model's label map, for its shape and dtype.
    Returns:
        dict as `compare`'s: the share of pixels that are not the greatest logit's class.
    """
    got = np.asarray(outputs["label_map"])
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        share = float("nan")
    else:
        share = float(np.mean(got != np.asarray(outputs["logits"]).argmax(axis=-1)))
    return {"max_abs_difference": share, "difference": share, "min_cosine": 1.0 - share}


def compare_all(outputs, wanted, names):
    """Return the result of `compare` for each of the outputs that are named."""
    return {
        name: compare_label_map(outputs, wanted[name])
        if name == "label_map"
        else compare(outputs[name], wanted[name])
        for name in names
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


def compare_file(runner, reference):
    """Run an exported file and compare it.

    Args:
        runner: what loaded it, see `keras_mae.export.formats.base.Format`.
        reference: dict of arrays: `images` `(n, H, W, C)` in the model's value range, `normalised`
            float32, and the Keras model's outputs for them.
    Returns:
        dict: "outputs" (name to `compare`'s result, the worst over batches of 1, of 3 and of all,
        or the file's own size), "signatures" (the same for other ways to give the images),
        "max_abs_difference", "difference", "min_cosine" (of the features), "num_images",
        "latency_ms", "batch_size", "keras_imported".
    """
    images, normalised = reference["images"], reference["normalised"]
    inputs = ("images", "normalised", ENCODER_TOKENS)
    wanted = {k: v for k, v in reference.items() if k not in inputs}
    sizes = (
        [runner.batch_size] if runner.batch_size else sorted({1, min(3, len(images)), len(images)})
    )
    runs = [_in_batches(runner, images, size) for size in sizes]
    if missing := set(wanted) - set(runs[0]):
        raise ValueError(f"outputs are missing: {sorted(missing)}; there are {sorted(runs[0])}")
    compared = [compare_all(run, wanted, wanted) for run in runs]
    outputs = {name: _worst([one[name] for one in compared]) for name in wanted}
    signatures = {}
    if hasattr(runner, "others"):
        tokens = reference.get(ENCODER_TOKENS, wanted.get("tokens"))
        for name, got in runner.others(images, normalised):
            references = {**wanted, "tokens": tokens}
            if "patch_tokens" in got:
                references["patch_tokens"] = tokens[:, -got["patch_tokens"].shape[1] :]
            signatures[name] = _worst([*compare_all(got, references, got).values()])
    overall = _worst([*outputs.values(), *signatures.values()])
    overall["min_cosine"] = _worst(
        [value for name, value in outputs.items() if name in FEATURES or "tokens" not in outputs]
    )["min_cosine"]
    return {
        **overall,
        "outputs": outputs,
        "signatures": signatures,
        "num_images": len(images),
        "batch_size": runner.batch_size,
        "latency_ms": _latency_ms(runner, images[0]),
        "keras_imported": sys.modules.get("keras") is not None,
    }


def hide_library():
    """Let an import of keras fail, and leave of this library only what does without it.

    `import keras_mae.export.formats.onnx` then runs that file, and not `keras_mae/__init__.py`.
    """
    sys.modules.update(dict.fromkeys(BLOCKED))
    library = types.ModuleType("keras_mae")
    library.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["keras_mae"] = library


def main():
    job = json.loads(Path(sys.argv[1]).read_text())
    hide_library()
    # A format of the user's own is found where the exporting process found it.
    sys.path.extend(folder for folder in job["sys_path"] if folder not in sys.path)
    format = getattr(importlib.import_module(job["module"]), job["class"])
    with np.load(job["reference"]) as file:
        reference = dict(file)
    result = compare_file(format.Runner(job["path"]), reference)
    Path(job["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
