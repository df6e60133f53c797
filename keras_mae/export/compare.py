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
from typing import NamedTuple

import numpy as np

# What stands for the image when two files are compared by angle: features, not logits. All outputs
# of a file that gives no features.
FEATURES = ("tokens", "cls", "pooled")
# In a reference: the tokens of the encoder alone, which a segmenter's file does not give.
ENCODER_TOKENS = "encoder_tokens"
# In a reference: what a detector chooses boxes by, in the order of `Suppression`.
SUPPRESSION = "suppression"
# What a detector's file chooses, of the others that it gives.
CHOSEN = ("boxes", "classes", "scores")
CANDIDATES = ("candidate_boxes", "candidate_scores")
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


class Suppression(NamedTuple):
    """What a detector chooses boxes by, see `keras_mae.layers.boxes.best_boxes`."""

    least_score: float
    largest_overlap: float
    max_detections: int
    num_candidates: int


def compare_detections(outputs, wanted, rule):
    """Return the differences of a detector's choice, from the same file's candidates.

    The rounding of candidates may change which of two scores is the greater, or whether a box
    overlaps another by half: then other boxes are chosen, and rightly so. So no choice is compared
    with another one. Each chosen box must be a candidate, and the choice as a whole must be what
    the rule makes of the candidates, up to the least change of these that explains it.

    Args:
        outputs: dict of the file's outputs, with `CHOSEN` and `CANDIDATES`.
        wanted: dict of the Keras model's, for shapes and dtypes.
        rule: `Suppression`.
    Returns:
        dict of dicts as `compare`'s: of "boxes" and "scores", how far the chosen ones are from
        their candidates; of "classes", the change that explains the choice: of scores, or of
        boxes' sides, these divided by `compare`'s scale of boxes. NaN for what nothing explains.
    """
    got = {name: np.asarray(outputs[name]) for name in CHOSEN}
    candidates = [np.asarray(outputs[name]).astype("float64") for name in CANDIDATES]
    changes = {name: float("nan") for name in CHOSEN}
    scale = max(1.0, float(np.sqrt(np.mean(candidates[0] ** 2))))
    if all(
        value.shape == wanted[name].shape and value.dtype == wanted[name].dtype
        for name, value in got.items()
    ) and all(np.isfinite(value).all() for value in (*got.values(), *candidates)):
        images = zip(*got.values(), *candidates, strict=True)
        each = [_changes(*image, rule, scale) for image in images]
        changes = dict(zip(CHOSEN, np.max(each, axis=0).tolist(), strict=True))
    return {
        name: {
            "max_abs_difference": change * (scale if name == "boxes" else 1),
            "difference": change,
            "min_cosine": 1.0 - change,
        }
        for name, change in changes.items()
    }


def _changes(boxes, classes, scores, candidate_boxes, candidate_scores, rule, scale):
    """Return the changes that explain an image's boxes, choice and scores: see above."""
    count = int(np.sum(classes >= 0))
    boxes, rest = boxes[:count].astype("float64"), boxes[count:]
    chosen_classes, chosen_scores = classes[:count], scores[:count].astype("float64")
    is_padding = (
        (classes[count:] == -1).all() and (rest == -1).all() and (scores[count:] == 0).all()
    )
    if not is_padding or (chosen_classes >= candidate_scores.shape[1]).any():
        return (float("nan"),) * 3
    # The candidate of each chosen box, and how far it is.
    away = np.abs(boxes[:, None] - candidate_boxes[None]).max(axis=2) / scale  # (chosen, A)
    off = np.abs(chosen_scores[:, None] - candidate_scores[:, chosen_classes].T)
    anchors = (away + off).argmin(axis=1)
    if len(set(zip(anchors, chosen_classes, strict=True))) < count:
        return (float("nan"),) * 3
    places = np.arange(count)
    of_boxes = away[places, anchors].max(initial=0)
    of_scores = off[places, anchors].max(initial=0)
    of_scores = max(of_scores, np.diff(chosen_scores).max(initial=0))  # the best first

    boxes, chosen_scores = candidate_boxes[anchors], candidate_scores[anchors, chosen_classes]
    # The worst score that is looked at.
    looked_at = min(int(rule.num_candidates), candidate_scores.size)
    cut = np.partition(candidate_scores.ravel(), -looked_at)[-looked_at]
    of_choice = np.max(max(rule.least_score, cut) - chosen_scores, initial=0)
    overlap, side = _overlaps(boxes, boxes)
    is_pair = np.triu(chosen_classes[:, None] == chosen_classes[None], k=1)
    too_close = np.where(is_pair, (overlap - rule.largest_overlap) * side / scale, 0)
    of_choice = max(of_choice, too_close.max(initial=0))

    # What was left out: its score was too low, or a better box of its class lies on it.
    left_out = candidate_scores > max(rule.least_score, cut)
    left_out[anchors, chosen_classes] = False
    others, other_classes = np.nonzero(left_out)
    other_scores = candidate_scores[others, other_classes]
    explained = other_scores - max(rule.least_score, cut)
    if count == rule.max_detections:
        explained = np.minimum(explained, np.maximum(other_scores - chosen_scores.min(), 0))
    if count:
        overlap, side = _overlaps(candidate_boxes[others], boxes)
        apart = np.maximum((rule.largest_overlap - overlap) * side / scale, 0)
        apart = np.maximum(apart, other_scores[:, None] - chosen_scores[None])
        apart[other_classes[:, None] != chosen_classes[None]] = np.inf
        explained = np.minimum(explained, apart.min(axis=1))
    return of_boxes, max(of_choice, explained.max(initial=0)), of_scores


def _overlaps(boxes, others):
    """Return intersection over union `(G, A)` of boxes, and the smallest side of each two."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    sides, other_sides = boxes[:, 2:] - boxes[:, :2], others[:, 2:] - others[:, :2]
    union = np.prod(sides, axis=1)[:, None] + np.prod(other_sides, axis=1)[None] - shared
    smallest = np.minimum(sides.min(axis=1)[:, None], other_sides.min(axis=1)[None])
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0), smallest


def compare_all(outputs, wanted, names, rule=None):
    """Return the differences of each of the outputs that are named, by its kind.

    Args:
        outputs: dict of the file's outputs: those named, and what they are held to.
        wanted: dict of the Keras model's.
        names: of outputs.
        rule: `Suppression`, of a detector.
    """
    found = {name: None for name in names}
    if "label_map" in found:
        found["label_map"] = compare_label_map(outputs, wanted["label_map"])
    if "boxes" in found:
        found.update(compare_detections(outputs, wanted, rule))
    return {
        name: compare(outputs[name], wanted[name]) if value is None else value
        for name, value in found.items()
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


def _latency_ms(runner, batch_size, image):
    """Return the median milliseconds of one call with a batch of one (or the file's own size)."""
    batch = np.repeat(image[None], batch_size or 1, axis=0)
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
        "num_boxes" (that a detector found in them; None of other models),
        "latency_ms", "batch_size", "keras_imported".
    """
    images, normalised = reference["images"], reference["normalised"]
    inputs = ("images", "normalised", ENCODER_TOKENS, SUPPRESSION)
    rule = Suppression(*reference[SUPPRESSION]) if SUPPRESSION in reference else None
    wanted = {k: v for k, v in reference.items() if k not in inputs}
    sizes = (
        [runner.batch_size] if runner.batch_size else sorted({1, min(3, len(images)), len(images)})
    )
    runs = [_in_batches(runner, images, size) for size in sizes]
    if missing := set(wanted) - set(runs[0]):
        raise ValueError(f"outputs are missing: {sorted(missing)}; there are {sorted(runs[0])}")
    compared = [compare_all(run, wanted, wanted, rule) for run in runs]
    outputs = {name: _worst([one[name] for one in compared]) for name in wanted}
    signatures = {}
    if hasattr(runner, "others"):
        tokens = reference.get(ENCODER_TOKENS, wanted.get("tokens"))
        for name, got in runner.others(images, normalised):
            references = {**wanted, "tokens": tokens}
            if "patch_tokens" in got:
                references["patch_tokens"] = tokens[:, -got["patch_tokens"].shape[1] :]
            # Other ways to give the same images to the same graph have the same candidates.
            held_to = {key: runs[-1][key] for key in CANDIDATES if key in runs[-1]}
            differences = compare_all({**held_to, **got}, references, got, rule)
            signatures[name] = _worst([*differences.values()])
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
        "num_boxes": int(np.sum(runs[-1]["classes"] >= 0)) if rule else None,
        "latency_ms": _latency_ms(getattr(runner, "answer", runner), runner.batch_size, images[0]),
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
