"""The card beside an export: `card.json` for programs, `card.md` for readers."""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata

import numpy as np

from keras_mae.files import name_text, write_json


def build_card(
    format, source, written, directory, results, *, bound, images_name, fresh_process=True
):
    """Return the card of an export that is within its bound: a dict of plain values.

    Args:
        format: str, the format's name.
        source: `keras_mae.export.source.Source`.
        written: `keras_mae.export.formats.base.Written`.
        directory: `Path`, where the files are.
        results: list of what `keras_mae.export.compare.compare_file` returned, one a load.
        bound: value of the format's `BOUNDS`.
        images_name: str, where the images of the check are from.
        fresh_process: bool. Whether each load was a process of its own.
    """
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
            "num_boxes": worst["num_boxes"],
            "fresh_process": fresh_process,
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


def write_card(directory, card):
    """Write a card as `card.json` and `card.md` into a directory, a `Path`."""
    write_json(directory / "card.json", card)
    (directory / "card.md").write_text(format_card(card))


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
        "images": f"{height} x {width} x {card['channels']}, {card['images']}; normalised inside",
        "mean / deviation": f"{card['mean']} / {card['std']}, of values mapped to [0, 1]",
        "size": f"{card['bytes'] / 1e6:.2f} MB",
        "signatures": ", ".join(card["signatures"]),
        "largest difference": f"{_difference(checked)} (bound: {bound})",
        "smallest cosine": f"{checked['min_cosine']:.8f}",
        "checked on": f"{checked['num_images']} images of {checked['images']}, "
        f"{checked['loads']} load(s)",
        **_boxes_in_words(card),
        "latency, batch 1": "not measured" if latency is None else f"{latency:.2f} ms (median)",
        "versions": ", ".join(f"{name} {number}" for name, number in card["versions"].items()),
    }
    if names := card.get("class_names"):
        rows["classes"] = f"{len(names)}: {', '.join(map(name_text, names))}"
    lines = [f"# {card['format']}, {card['precision']}", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items()), ""])


def _difference(checked):
    """Return the largest difference as text, and what of it the bound is for, where they differ."""
    largest, held = checked["max_abs_difference"], checked["difference"]
    return f"{largest:.2e}" + (f"; {held:.2e} by the output's size" if held < largest else "")


def _boxes_in_words(card):
    """Return the rows of a detector's card: how boxes are chosen, and how many the check saw."""
    rule = card.get("suppression")
    if rule is None:
        return {}
    found = card["check"]["num_boxes"]
    return {
        "boxes": f"at most {rule['max_detections']} an image, scores from {rule['least_score']}; "
        f"of two of a class that overlap by more than {rule['largest_overlap']} the better one. "
        "Non-maximum suppression is inside the file",
        "boxes in the check": f"{found}"
        if found
        else "none: the choice of boxes was checked on nothing; name images in which there are "
        "objects by --check_dataset",
    }
