"""COCO's masks in their three encodings: polygons, run lengths, and these as a string."""

from typing import Any

import numpy as np

# Two points of a polygon have no area between them.
_LEAST_NUMBERS = 6


def check_mask(mask: Any, height: int, width: int) -> None:
    """Refuse what is no mask of an image of this size; nothing is decoded.

    Args:
        mask: what an annotation has as "segmentation".
        height, width: ints, pixels.
    Raises:
        ValueError: if it is neither a list of polygons nor a dict of run lengths.
    """
    if isinstance(mask, list):
        if not mask:
            raise ValueError("it is empty")
        for polygon in mask:
            if not isinstance(polygon, list) or len(polygon) % 2 or not _are_finite(polygon):
                raise ValueError("a polygon is no list of x,y pairs")
        return
    if not isinstance(mask, dict) or not isinstance(mask.get("counts"), (list, str, bytes)):
        raise ValueError("it is neither a list of polygons nor a dict with counts")
    if list(mask.get("size", ())) != [height, width]:
        raise ValueError(f"its size is {mask.get('size')} in an image of {[height, width]}")


def decode_mask(mask: Any, height: int, width: int) -> np.ndarray:
    """Return the pixels of an object, bool `(height, width)`.

    Args:
        mask: "segmentation" of an annotation: polygons `[[x, y, x, y, ...], ...]`, or
            `{"size": [height, width], "counts": run lengths down the columns, of zeros first}`,
            these as a list or as COCO's string.
        height, width: ints, pixels.
    Raises:
        ValueError: if the run lengths are not those of so many pixels, or pycocotools, which fills
            polygons, is not installed.
    """
    if isinstance(mask, list):
        return _filled(mask, height, width)
    counts = mask["counts"]
    runs = np.array(counts if isinstance(counts, list) else _parse_runs(counts), np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"its run lengths are not those of {height * width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _filled(polygons, height, width):
    try:
        from pycocotools import mask as coco_mask
    except ImportError:
        raise ValueError('polygons need: pip install "keras_mae[detection]"') from None
    # Of four numbers pycocotools would make a box.
    polygons = [polygon for polygon in polygons if len(polygon) >= _LEAST_NUMBERS]
    if not polygons:
        return np.zeros((height, width), bool)
    runs = coco_mask.frPyObjects(polygons, height, width)
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)


def _parse_runs(text):
    """Run lengths of COCO's string: 5 bits a character from "0" on, the lowest first.

    From the third on, a number is the difference to the run two before. pycocotools decodes these
    too, but reads beyond its memory where a string is broken.
    """
    data = text.encode("latin-1", "replace") if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for byte in data:
        bits = byte - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its counts are no string of run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("its counts end within a number")
    return runs


def _are_finite(numbers):
    return all(isinstance(n, (int, float)) and abs(n) < 1e9 for n in numbers)
