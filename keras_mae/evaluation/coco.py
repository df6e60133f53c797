"""What detections are worth: COCO's average precision, by pycocotools."""

import contextlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.files import printable
from keras_mae.types import AnyPath

METRICS = ("AP", "AP50", "AP75")
# Places in what pycocotools gives: thresholds of .5 and .75 among .5, .55, ... .95; areas of all
# sizes; 100 detections an image.
_HALF, _THREE_QUARTERS, _ALL_AREAS, _MOST_DETECTIONS = 0, 5, 0, -1


def coco_metrics(
    annotations: dict[str, Any] | AnyPath, detections: Sequence[dict[str, Any]] | AnyPath
) -> dict[str, Any]:
    """Return the average precision of boxes as COCO defines it, equal to pycocotools' to the bit.

    Images without objects count: what is found there is wrong. What is found in a crowd is neither
    right nor wrong. Ids of annotations only name them; pycocotools alone takes an object with the
    id 0 for one that was not found.

    Args:
        annotations: dict of COCO's format, or the path of its file: "images", "annotations",
            "categories". An "area" that is missing is that of the box, "iscrowd" is 0.
        detections: list of dicts "image_id", "category_id", "bbox" (left, top, width, height in
            pixels) and "score"; or the path of a JSON file with it.
    Returns:
        dict of plain values: "AP", the mean over the IoU thresholds .5, .55, ... .95, "AP50" and
        "AP75", each the mean over the classes that have objects; "classes", a list of dicts "id",
        "name", "AP", "AP50", "AP75" in the order of the ids, None for classes without objects. An
        empty list of detections gives 0.0. None where there are detections, but no objects.
    Raises:
        ValueError: if an argument is not of the format, a detection is of an image that is not
            listed, or pycocotools is not installed.
    Example: `coco_metrics("heldout.json", "detections.json")["AP"]`
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ValueError('average precision needs: pip install "keras_mae[detection]"') from None
    truth = _checked_truth(_read(annotations, "annotations"))
    found = _checked_detections(_read(detections, "detections"), truth)
    if not found:
        return _nothing_found(truth)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        judge = COCO()
        judge.dataset = truth
        judge.createIndex()
        evaluation = COCOeval(judge, judge.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    totals = dict(zip(METRICS, map(_or_none, evaluation.stats), strict=False))
    precision = evaluation.eval["precision"][:, :, :, _ALL_AREAS, _MOST_DETECTIONS]
    names = _names(truth)
    classes = []
    for place, key in enumerate(evaluation.params.catIds):
        # (thresholds, recalls) of a class, -1 all over where it has no objects
        own = precision[:, :, place]
        parts = (own, own[_HALF], own[_THREE_QUARTERS])
        values = {name: _or_none(np.mean(part)) for name, part in zip(METRICS, parts, strict=True)}
        classes.append({"id": key, "name": names[key], **values})
    return {**totals, "classes": classes}


def _or_none(value: float) -> float | None:
    return None if value < 0 else float(value)


def _names(truth: dict[str, Any]) -> dict[Any, str]:
    return {category["id"]: category.get("name", "") for category in truth["categories"]}


def _nothing_found(truth: dict[str, Any]) -> dict[str, Any]:
    """What pycocotools would give, if it took an empty list."""
    has_objects = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
    classes = []
    for key, name in sorted(_names(truth).items()):
        value = 0.0 if key in has_objects else None
        classes.append({"id": key, "name": name, **dict.fromkeys(METRICS, value)})
    return {**dict.fromkeys(METRICS, 0.0), "classes": classes}


def _read(given: Any, argument: str) -> Any:
    if isinstance(given, dict) or not isinstance(given, (str, Path)):
        return given
    try:
        return json.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`{argument}` must be a JSON file that can be read. "
            f"Received: {printable(given)!r} ({error})"
        ) from error


def _checked_truth(truth: Any) -> dict[str, Any]:
    """Return a copy that pycocotools may write into, with all fields that it needs."""
    fields = ("images", "annotations", "categories")
    if not isinstance(truth, dict) or not all(isinstance(truth.get(f), list) for f in fields):
        raise ValueError(
            f"`annotations` must be a dict with the lists {', '.join(fields)}. "
            f"Received: {sorted(truth) if isinstance(truth, dict) else type(truth).__name__}"
        )
    annotations = []
    for number, annotation in enumerate(truth["annotations"], start=1):
        box = _box_of(annotation, "annotations")
        more = {"area": box[2] * box[3], "iscrowd": 0}
        annotations.append({**more, **annotation, "id": number})
    return {**truth, "info": truth.get("info", {}), "annotations": annotations}


def _checked_detections(detections: Any, truth: dict[str, Any]) -> list[dict[str, Any]]:
    images = {image["id"] for image in truth["images"]}
    found = []
    for detection in detections:
        box, score = _box_of(detection, "detections"), detection.get("score")
        if not isinstance(score, (int, float, np.number)) or not math.isfinite(score):
            raise ValueError(f"`detections` must have finite scores. Received: {detection}")
        if detection["image_id"] not in images:
            raise ValueError(
                f"`detections` must be of the images of `annotations`. Received: {detection}"
            )
        found.append({**detection, "bbox": box, "score": float(score)})
    return found


def _box_of(entry: Any, argument: str) -> list[float]:
    try:
        box = [float(value) for value in entry["bbox"]]
        is_box = len(box) == 4 and all(map(math.isfinite, box)) and min(box[2:]) >= 0
        is_box = is_box and "image_id" in entry and "category_id" in entry
    except (KeyError, TypeError, ValueError):
        is_box = False
    if not is_box:
        raise ValueError(
            f"`{argument}` must have image_id, category_id, and bbox as left, top, width, height. "
            f"Received: {entry}"
        )
    return box
