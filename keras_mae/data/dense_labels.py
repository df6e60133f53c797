"""Label maps as files: the numbers that a PNG stores, not its colours; and the names of classes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from keras_mae.data.decoders.base import turn
from keras_mae.data.decoders.pillow import ORIENTATION, open_image
from keras_mae.data.dense_source import IGNORED, MOST_CLASSES
from keras_mae.files import printable

# Which bytes of a PNG's header hold the bits of a sample.
_DEPTH = 24
_COLOURS = "its pixels are colours; a label map has one number a pixel: grey, or a palette"


class NoLabelMap(ValueError):
    """A file that can be read, but is no label map."""


def decode_label_map(data: bytes) -> np.ndarray:
    """Return the numbers that a PNG stores: grey of 1 to 16 bits, or the indices of a palette.

    Grey of 1, 2 and 4 bits is not stretched, and colours of a palette mean nothing. Grey with
    alpha is taken where all is opaque.

    Args:
        data: bytes of the whole file.
    Returns:
        uint8 or uint16 `(H, W)`, upright by the file's own EXIF.
    Raises:
        NoLabelMap: if it is a readable image, but no PNG, coloured, or transparent.
        Exception: whatever Pillow raises for a broken file.
    """
    with open_image(data) as image:
        if image.format != "PNG":
            raise NoLabelMap(f"it is {image.format}; a label map is a PNG, which changes no number")
        image.load()
        labels = _numbers(image, data[_DEPTH])
        return turn(labels, image.getexif().get(ORIENTATION, 1))


def _numbers(image: Image.Image, depth: int) -> np.ndarray:
    if image.mode in ("P", "1"):
        return np.asarray(image).astype("uint8")
    if image.mode == "L":
        # Pillow stretches few bits to 8: 1 of 2 bits becomes 85.
        return np.asarray(image) // np.uint8(255 // (2 ** min(depth, 8) - 1))
    if image.mode.startswith("I"):
        return np.asarray(image).astype("uint16")
    if image.mode == "LA":
        labels, alpha = np.moveaxis(np.asarray(image), -1, 0)
        if alpha.min(initial=255) < 255:
            raise NoLabelMap("some of its pixels are transparent: they may be labelled or not")
        return labels
    raise NoLabelMap(_COLOURS)


class LabelNumbers:
    """What stored numbers mean.

    Args:
        text: string such as "0:0,255:1", pairs of a stored number and its class, 0 to 254, or 255
            for no class; then each number must be named. None: numbers are classes, and 255 is
            none.
    Raises:
        ValueError: if the text is no such list.
    """

    def __init__(self, text: str | None = None) -> None:
        self.text = text
        self.table: dict[int, int] | None = None if text is None else _parse(text)
        if self.table is not None:
            self._fast = np.full(2**16, IGNORED, np.uint8)
            self._fast[list(self.table)] = list(self.table.values())

    def unknown(self, numbers: Sequence[int]) -> list[int]:
        """Return those of some stored numbers that stand for nothing."""
        if self.table is None:
            return [number for number in numbers if number > IGNORED]
        return [number for number in numbers if number not in self.table]

    def classes(self, labels: np.ndarray) -> np.ndarray:
        """Return a stored map as classes, uint8.

        Raises:
            ValueError: if it has a number that stands for nothing.
        """
        if self.table is None and labels.dtype == np.uint8:
            return labels
        unknown = self.unknown(np.unique(labels).tolist())
        if unknown:
            raise ValueError(f"label {unknown[0]} is no class and not {IGNORED}")
        return labels.astype("uint8") if self.table is None else self._fast[labels]


def _parse(text):
    table: dict[int, int] = {}
    try:
        for pair in text.split(","):
            stored, label = (int(part) for part in pair.split(":"))
            if stored in table or not 0 <= stored < 2**16 or not 0 <= label <= IGNORED:
                raise ValueError
            table[stored] = label
    except ValueError:
        raise ValueError(
            "`label_map` must be NUMBER:CLASS,..., such as 0:0,255:1, each stored number once and "
            f"classes of 0 to {IGNORED}, {IGNORED} for none. Received: {text!r}"
        ) from None
    return table


def read_class_names(path: str) -> list[str]:
    """Return names of classes from a file: a line each in the order of their numbers, or JSON.

    Args:
        path: string. A `.json` file holds a list of strings.
    Raises:
        ValueError: if it cannot be read, a name is empty or comes twice, or there are too many.
    """
    shown = printable(path)
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
        names = json.loads(text) if path.lower().endswith(".json") else text.rstrip().splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`class_names` must be a text file that can be read. Received: {shown!r} ({error})"
        ) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`class_names` must be a list of names. Received: {shown!r}")
    names = [name.strip() for name in names]
    twice = [name for number, name in enumerate(names) if name in names[:number] or not name]
    if twice or not 1 <= len(names) <= MOST_CLASSES:
        fault = f"{twice[0]!r} twice or empty" if twice else f"{len(names)}"
        raise ValueError(
            f"`class_names` must be 1 to {MOST_CLASSES} different names, a line each. "
            f"Received: {shown!r}, with {fault}"
        )
    return names
