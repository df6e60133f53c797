"""A folder of images and a folder of label maps, PNGs of the same names."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.data.decode import image_facts
from keras_mae.data.decoders.base import Facts
from keras_mae.data.dense_labels import (
    LabelNumbers,
    NoLabelMap,
    decode_label_map,
    read_class_names,
)
from keras_mae.data.dense_source import IGNORED, MOST_CLASSES, DenseSource
from keras_mae.data.listing.ranges import read_file
from keras_mae.data.listing.tree import read_splits
from keras_mae.data.sources.folder import walk_images
from keras_mae.files import printable

_SHOWN = 5


class Segmentation(DenseSource):
    """`IMAGES_DIR,MASKS_DIR`: `a/scene.jpg` in the first goes with `a/scene.png` in the second.

    A mask is a label map, see `keras_mae.data.dense_labels`: grey or palette, of 1 to 16 bits, as
    large as its image upright. 255 is no class. All masks are read when the source is opened, to
    find out and check their labels; one that is broken is skipped by name later, with its image.
    Top folders named train, val and test are splits, as of `folder:`.

    Args:
        class_names: path of a file with the name of each class, see `read_class_names`. None: the
            numbers up to the largest label.
        label_map: string, what stored numbers mean, see `LabelNumbers`.
    """

    name = "segmentation"
    OPTIONS = ("class_names", "label_map")

    def __init__(
        self,
        argument: str = "",
        *,
        seed: int = 0,
        class_names: str | None = None,
        label_map: str | None = None,
    ) -> None:
        shown = f"'segmentation:{printable(argument)}'"
        images, masks = two_paths(argument, os.path.isdir, os.path.isdir)
        if not os.path.isdir(images) or not os.path.isdir(masks):
            missing = printable(images if not os.path.isdir(images) else masks)
            raise ValueError(
                "`dataset` must be segmentation:IMAGES_DIR,MASKS_DIR, two folders that exist. "
                f"Received: {shown}, without the folder {missing!r}"
            )
        self._numbers = LabelNumbers(label_map)
        said = None if class_names is None else read_class_names(class_names)
        self._images, self._masks = (str(Path(path) / "-")[:-1] for path in (images, masks))
        self.files = sorted(walk_images(images))
        if not self.files:
            raise ValueError(f"`dataset` must have images in {images!r}. Received: {shown}")
        notes = self._pair(sorted(walk_images(masks)))
        found = self._check_masks(said)
        if said is None:
            table = self._numbers.table
            known = found if table is None else set(table.values()) - {IGNORED}
            said = [str(number) for number in range(max(known) + 1)]
            self.names_are_counted = table is None
        super().__init__(len(self.files), {"segment": said}, seed=seed)
        self.own_parts = read_splits(self.files, shown)
        self.notes += notes

    def _pair(self, masks):
        """Set `mask_files`, the mask of each image; return a note on masks without an image."""
        by_stem: dict[str, list[str]] = {}
        for file in self.files:
            by_stem.setdefault(os.path.splitext(file)[0], []).append(file)
        alike = [files for files in by_stem.values() if len(files) > 1]
        if alike:
            raise ValueError(
                "`dataset` must have images whose names differ without suffix: they share a mask. "
                f"Received: {_listed(alike[0])}"
            )
        pngs = [file for file in masks if file.lower().endswith(".png")]
        found = {os.path.splitext(file)[0]: file for file in pngs}
        without = [files[0] for stem, files in by_stem.items() if stem not in found]
        spare = [file for stem, file in found.items() if stem not in by_stem]
        if without:
            others = [file for file in masks if os.path.splitext(file)[0] in by_stem]
            others = [file for file in others if file not in pngs]
            hint = f"; masks without an image: {_listed(spare)}" if spare else ""
            hint += f"; masks that are no PNG: {_listed(others)}" if others else ""
            raise ValueError(
                "`dataset` must have a mask for each image, of the same name with .png. Received: "
                f"no mask for {_listed(without)}{hint}"
            )
        self.mask_files = [found[stem] for stem in by_stem]
        if not spare:
            return []
        return [f"Masks without an image are not used: {_listed(spare)}."]

    def _check_masks(self, said):
        """Return the set of classes in all masks; a mask that cannot be read says nothing.

        Raises:
            ValueError: if a mask is no label map, of another size than its image, has a label that
                is no class, or if only one class is there beside 255.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            read = list(pool.map(self._look_at, range(len(self.files))))
        stored: set[int] = set()
        most = MOST_CLASSES if said is None else len(said)
        for record, numbers in enumerate(read):
            for number in sorted(numbers - stored):
                label = number if self._numbers.table is None else self._numbers.table.get(number)
                if label is None or not (label < most or label == IGNORED):
                    raise ValueError(
                        f"`dataset` must have masks with labels of {self._allowed(said)}. "
                        f"Received: {printable(self._masks + self.mask_files[record])!r}, with the "
                        f"label {number}"
                    )
            stored |= numbers
        table = self._numbers.table
        classes = {number if table is None else table[number] for number in stored} - {IGNORED}
        if len(classes) < 2:
            self._refuse_one_class(sorted(stored), sorted(classes))
        return classes

    def _look_at(self, record):
        """The numbers in a mask; none where it or its image is broken."""
        file = self._masks + self.mask_files[record]
        try:
            labels = decode_label_map(read_file(file))
            facts = image_facts(self.path(record))
        except NoLabelMap as error:
            raise ValueError(
                f"`dataset` must have label maps. Received: {printable(file)!r}: {error}"
            ) from error
        except Exception:  # it is named when it is to be trained on
            return set()
        if labels.shape != (facts.height, facts.width):
            raise ValueError(
                "`dataset` must have masks of the size of their images as these are seen, turned "
                f"by their EXIF. Received: {printable(file)!r} of {labels.shape[1]} x "
                f"{labels.shape[0]} pixels, with an image of {facts.width} x {facts.height}"
            )
        return set(np.flatnonzero(np.bincount(labels.ravel())).tolist())

    def _allowed(self, said):
        if self._numbers.table is not None:
            return f"`label_map`, {self._numbers.text}"
        most = MOST_CLASSES if said is None else len(said)
        named = "" if said is None else ", the number of `class_names`,"
        return f"less than {most}{named} or {IGNORED} for no class"

    def _refuse_one_class(self, stored, classes):
        if IGNORED in stored and self._numbers.table is None:
            pairs = ",".join(f"{number}:{label}" for label, number in enumerate(stored))
            raise ValueError(
                "`dataset` must have masks of two classes or more. Received: the labels "
                f"{stored}, of which {IGNORED} means that a pixel has no class, so that one class "
                f"is left. If {IGNORED} is a class here, say so by --label_map={pairs}"
            )
        raise ValueError(
            "`dataset` must have masks of two classes or more. "
            f"Received: {classes or 'none that can be read'}"
        )

    def key(self, record: int) -> str:
        return self.files[record]

    def path(self, record: int) -> str:
        return self._images + self.files[record]

    def record_bytes(self, record: int) -> int | None:
        try:
            return os.stat(self.path(record)).st_size
        except OSError:
            return None

    def record_facts(self, record: int) -> Facts:
        return image_facts(self.path(record))

    def read(self, record: int) -> tuple[Any, int | None]:
        return read_file(self.path(record)), None

    def target(self, record: int) -> np.ndarray:
        data = read_file(self._masks + self.mask_files[record])
        return self._numbers.classes(decode_label_map(data))


def two_paths(argument, is_first, is_second):
    """Divide `FIRST,SECOND` at the comma that leaves two paths which are there, else at the first.

    Args:
        argument: string.
        is_first, is_second: functions that tell whether a path is what it should be.
    Returns:
        (first, second), with ~ expanded; second is empty where there is no comma.
    """
    parts = argument.split(",")
    pairs = [(",".join(parts[:n]), ",".join(parts[n:])) for n in range(1, len(parts))]
    pairs = [tuple(map(os.path.expanduser, pair)) for pair in pairs] or [(argument, "")]
    return next((p for p in pairs if is_first(p[0]) and is_second(p[1])), pairs[0])


def _listed(files):
    more = f" and {len(files) - _SHOWN:,} more" if len(files) > _SHOWN else ""
    return ", ".join(map(printable, files[:_SHOWN])) + more
