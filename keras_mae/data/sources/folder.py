"""A folder of image files, at any depth, with splits and class folders or without."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.data.decode import image_facts
from keras_mae.data.decoders.base import Facts
from keras_mae.data.listing import names
from keras_mae.data.listing.ranges import read_file, read_range
from keras_mae.data.listing.tree import read_tree
from keras_mae.data.sources.base import EncodedSource
from keras_mae.files import printable


class Folder(EncodedSource):
    """All images under `PATH`, sorted by relative path.

    Where the top folders are named train or training; val, valid or validation; test or testing, in
    any case, they are splits, with the same class folders in each, or none. Of other data sets the
    top folders are the classes, where every image lies in one and there are two or more of them;
    else the source has no labels. Class names are in alphabetical order.

    Names that start with a dot and what systems leave behind (`__MACOSX`, `Thumbs.db`) are left
    out. A file without a suffix is an image if it is DICOM. A name whose bytes are not UTF-8 is one
    like any other.
    """

    name = "folder"

    def __init__(self, argument: str = "", *, seed: int = 0) -> None:
        self.root = Path(argument).expanduser()
        shown = f"'folder:{printable(argument)}'"
        if not argument or not self.root.is_dir():
            is_there = bool(argument) and self.root.exists()
            raise ValueError(
                f"`dataset` must be folder:PATH of a folder that exists. Received: {shown}, "
                f"{'which is a file' if is_there else 'which is not there'}"
            )
        self._prefix = str(self.root / "-")[:-1]
        self.files = sorted(walk_images(str(self.root)))
        if not self.files:
            raise ValueError(
                "`dataset` must be a folder with images "
                f"({' '.join(sorted(names.IMAGE_SUFFIXES))}). "
                f"Received: {shown}, with none at any depth"
            )
        super().__init__(len(self.files), seed=seed)
        tree = read_tree(self.files, shown)
        self.class_names, self.own_parts, self._labels = (
            tree.class_names,
            tree.own_parts,
            tree.labels,
        )
        self.num_classes = None if tree.class_names is None else len(tree.class_names)

    def key(self, record: int) -> str:
        return self.files[record]

    def path(self, record: int) -> str:
        return self._prefix + self.files[record]

    def record_labels(self) -> np.ndarray | None:
        return self._labels

    def record_bytes(self, record: int) -> int | None:
        try:
            return os.stat(self.path(record)).st_size
        except OSError:
            return None

    def record_facts(self, record: int) -> Facts:
        return image_facts(self.path(record))

    def read(self, record: int) -> tuple[Any, int | None]:
        label = None if self._labels is None else int(self._labels[record])
        return read_file(self.path(record)), label


def walk_images(root: str) -> list[str]:
    """Return the relative paths, with "/", of all that is called an image under a folder."""
    return _walk(root, "", ())


def _walk(root, prefix, above):
    """Relative paths, with "/", of what is called an image under root/prefix.

    A directory with an image's name is walked into like any other; if no image is inside, its own
    name is given, so that reading it fails and it gets named among the broken ones.
    """
    status = os.stat(os.path.join(root, prefix))
    here = (status.st_dev, status.st_ino)
    if here in above:
        return []  # a link back to a folder that we are in
    found = []
    with os.scandir(os.path.join(root, prefix)) as entries:
        for entry in entries:
            if names.is_stray(entry.name):
                continue
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            named_image = names.is_image_name(entry.name)
            if entry.is_dir():
                inside = _walk(root, path, (*above, here))
                found += inside if inside or not named_image else [path]
            elif named_image or (names.may_be_dicom(entry.name) and _is_dicom_file(entry)):
                found.append(path)
    return found


def _is_dicom_file(entry):
    try:
        return entry.is_file() and names.is_dicom(read_range(entry.path, 0, names.DICOM_BEGINNING))
    except OSError:
        return False
