"""Tar shards as webdataset writes them, read by random access."""

import glob
import itertools
import os
import re
from typing import Any

import numpy as np

from keras_mae.data.listing import labels as numbering
from keras_mae.data.listing.names import shortest_names
from keras_mae.data.listing.ranges import read_range
from keras_mae.data.listing.shards import shard_index
from keras_mae.data.sources.base import EncodedSource
from keras_mae.files import printable

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_SHARDS = 1_000_000


class WebDataset(EncodedSource):
    """The samples of all local tar files that match `PATTERN`, by shard and place in it.

    A pattern has braces, `train-{000..123}.tar` or `{a,b}.tar`, and the wildcards of a shell. Each
    shard that braces name has to be there. A sample's image is the field whose whole extension is
    an image's, in any case: `jpg`, and never `seg.png`. Its label is in `cls` (an int) or in `json`
    (under "label", "cls" or "class": an int, a text, or a list for several labels). -1 and null
    stand for no label. Class names are the texts, or the ints as text.

    A shard's headers are read once; `keras_mae.data.listing.shards` says where their index is kept.
    """

    name = "webdataset"

    def __init__(self, argument: str = "", *, seed: int = 0) -> None:
        shown = f"'webdataset:{printable(argument)}'"
        self.shards = _find(argument, shown)
        indexes = [shard_index(shard) for shard in self.shards]
        counts = [len(index["keys"]) for index in indexes]
        if not sum(counts):
            raise ValueError(
                f"`dataset` must be shards with images. Received: {shown}, without any"
            )
        super().__init__(sum(counts), seed=seed)
        self.order_guarantee += "; each image's place comes from an index of its shard"
        self.notes = [note for index in indexes for note in index["notes"]]
        self._shard = np.repeat(np.arange(len(counts)), counts)
        self._keys = [key for index in indexes for key in index["keys"]]
        self._starts = [start for index in indexes for start in index["starts"]]
        self._sizes = [size for index in indexes for size in index["sizes"]]
        self._names = shortest_names(self.shards)
        self._labels: np.ndarray | None = None
        self._number([label for index in indexes for label in index["labels"]], shown)

    def _number(self, labels, shown):
        """Take classes from labels as they are written."""
        if all(label is None for label in labels):
            return
        lists = [label for label in labels if isinstance(label, list)]
        self.multi_label = bool(lists)
        if lists and len(lists) < len(labels) - labels.count(None):
            raise ValueError(
                "`dataset` must have a list of labels in each sample, or in none. Received: "
                f"{shown}"
            )
        texts = [_text(label, shown) for label in labels]
        if all(text is None for text in texts):
            return
        number = numbering.number_label_sets if lists else numbering.number_labels
        names, self._labels = number(texts)
        self.class_names = list(map(printable, names))
        self.num_classes = len(self.class_names)
        self.notes += numbering.unlabelled_note(self._labels)

    def key(self, record: int) -> str:
        return f"{self._names[self._shard[record]]}/{self._keys[record]}"

    def path(self, record: int) -> str:
        return f"{self.shards[self._shard[record]]}/{self._keys[record]}"

    def record_labels(self) -> np.ndarray | None:
        return self._labels

    def record_bytes(self, record: int) -> int | None:
        return self._sizes[record]

    def read(self, record: int) -> tuple[Any, int | None]:
        size = self._sizes[record]
        data = read_range(self.shards[self._shard[record]], self._starts[record], size)
        if len(data) < size:
            raise ValueError(f"the shard ends {size - len(data)} bytes before the image does")
        labels = None if self.multi_label else self._labels
        return data, None if labels is None else int(labels[record])


def _find(pattern, shown):
    """Sorted paths of the shards of a pattern.

    Raises:
        ValueError: if a part of the pattern matches none; those are named.
    """
    if "://" in pattern or pattern.startswith("pipe:"):
        raise ValueError(f"`dataset` must be webdataset:PATTERN of local files. Received: {shown}")
    found, missing = [], []
    for part in _expand(os.path.expanduser(pattern), shown):
        # A name that is there is meant as it stands, brackets and all.
        paths = [part] if os.path.isfile(part) else sorted(glob.glob(part, recursive=True))
        paths = [path for path in paths if os.path.isfile(path)]
        found += paths
        missing += [] if paths else [part]
    if missing:
        some = ", ".join(printable(part) for part in missing[:5]) + ", ..." * (len(missing) > 5)
        raise ValueError(
            "`dataset` must be webdataset:PATTERN whose shards are all there. Received: "
            f"{shown}, of which {len(missing)} match no file: {some}"
        )
    return list(dict.fromkeys(found))


def _expand(pattern, shown):
    """The patterns without braces that one with braces stands for, in order."""
    pieces = _BRACES.split(pattern)  # text, inside of braces, text, ...
    choices = [
        _choices(piece) if place % 2 else [piece] for place, piece in enumerate(pieces) if piece
    ]
    if np.prod([len(choice) for choice in choices], dtype=float) > _MOST_SHARDS:
        raise ValueError(
            f"`dataset` must name at most {_MOST_SHARDS} shards by braces. Received: {shown}"
        )
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(inside):
    match = _RANGE.fullmatch(inside)
    if match is None:
        return inside.split(",")
    first, last = int(match[1]), int(match[2])
    if abs(last - first) > _MOST_SHARDS:
        return [""] * (_MOST_SHARDS + 1)  # refused by whoever counts them
    step = 1 if first <= last else -1
    padded = any(len(text) > 1 and text[0] == "0" for text in match.groups())
    width = max(map(len, match.groups())) if padded else 0
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]


def _text(label, shown):
    if isinstance(label, list):
        return [_text(entry, shown) for entry in label]
    if label is None or label == "" or (label == -1 and not isinstance(label, bool)):
        return None
    if isinstance(label, int | str):
        return str(label)
    raise ValueError(
        "`dataset` must have ints, texts or lists of these as labels. Received: "
        f"{label!r} in {shown}"
    )
