"""COCO's format: a JSON file of objects, and a folder of images."""

import json
import math
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.data.decode import image_facts
from keras_mae.data.decoders.base import Facts
from keras_mae.data.dense_masks import check_mask, decode_mask
from keras_mae.data.dense_source import IGNORED, MOST_CLASSES, Boxes, DenseSource, numbered
from keras_mae.data.listing.ranges import read_file
from keras_mae.data.sources.segmentation import two_paths
from keras_mae.files import printable

BACKGROUND = "background"
# So many images' sizes are compared with the file's before a run; the others when they are read.
CHECKED = 2_000
_SHOWN = 5


class Coco(DenseSource):
    """`ANNOTATIONS.json,IMAGES_DIR`; `detect`: boxes, `segment`: label maps made of the masks.

    Classes are the categories in the order of their ids, which may have holes; in "segment" after
    the background, class 0. Boxes and masks are for the images upright, whose size the file states.
    Images without objects are images like others. Annotations of images that the file does not
    list are left out, as by pycocotools.

    "detect": a box is cut at the border of its image; what then has no area is left out of
    training. "segment": crowds are 255, smaller objects lie on larger ones.
    """

    name = "coco"

    def __init__(self, argument: str = "", *, seed: int = 0) -> None:
        self._shown = f"'coco:{printable(argument)}'"
        self.file, root = two_paths(argument, os.path.isfile, os.path.isdir)
        if not os.path.isfile(self.file) or not os.path.isdir(root):
            missing = printable(self.file if not os.path.isfile(self.file) else root)
            raise ValueError(
                "`dataset` must be coco:ANNOTATIONS.json,IMAGES_DIR of a file and a folder that "
                f"exist. Received: {self._shown}, without {missing!r}"
            )
        self._root = str(Path(root) / "-")[:-1]
        parsed = self._parse()
        self._categories = sorted(self._each(parsed, "categories"), key=lambda c: c["id"])
        self._images = self._each(parsed, "images")
        self._check_fields()
        self._check_files()
        self._take(self._annotations(parsed))
        names = self._class_names()
        by_task = {"detect": names}
        if len(names) < MOST_CLASSES:
            by_task["segment"] = [BACKGROUND, *names]
        super().__init__(len(self._images), by_task, seed=seed)
        self.notes += self._notes()

    def _refuse(self, where: str, expected: str, received: Any) -> None:
        raise ValueError(
            f"`dataset` must have {expected} in {where}. "
            f"Received: {printable(repr(received)[:200])}, in {printable(self.file)!r}"
        )

    def _parse(self):
        try:
            parsed = json.loads(read_file(self.file))
        except (ValueError, OSError, RecursionError) as error:
            raise ValueError(
                f"`dataset` must name a JSON file. Received: {printable(self.file)!r} ({error})"
            ) from error
        if not isinstance(parsed, dict):
            self._refuse("the file", "a dict with images, annotations and categories", parsed)
        return parsed

    def _each(self, parsed, field):
        """The list of dicts under a field, each with an id of its own."""
        entries = parsed.get(field)
        if not isinstance(entries, list) or not entries:
            self._refuse(field, "a list of dicts", entries)
        for number, entry in enumerate(entries):
            if not isinstance(entry, dict) or not _is_id(entry.get("id")):
                self._refuse(f"{field}[{number}].id", "an id", entry)
        ids = Counter(entry["id"] for entry in entries)
        twice = [key for key, count in ids.items() if count > 1]
        if twice:
            self._refuse(f"{field}[].id", "each id once", twice[0])
        kinds = {type(key) for key in ids}
        if len(kinds) > 1:
            self._refuse(f"{field}[].id", "ids of one type", sorted(k.__name__ for k in kinds))
        return entries

    def _check_fields(self):
        for number, category in enumerate(self._categories):
            if not isinstance(category.get("name"), str):
                self._refuse(f"categories[{number}].name", "a name", category.get("name"))
        names = set()
        for number, image in enumerate(self._images):
            name = image.get("file_name")
            if not isinstance(name, str) or not name or name in names:
                self._refuse(f"images[{number}].file_name", "a name of its own", name)
            names.add(name)
            for side in ("height", "width"):
                if not _is_number(image.get(side)) or image[side] < 1 or image[side] % 1:
                    self._refuse(f"images[{number}].{side}", "pixels, 1 or more", image.get(side))

    def _check_files(self):
        """Refuse missing images, and images of another size than the file says; read some sizes."""
        missing = [i["file_name"] for i in self._images if not os.path.isfile(self._file_of(i))]
        if missing:
            more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
            raise ValueError(
                f"`dataset` must have each image of the file in {printable(self._root)!r}. "
                f"Received: no {', '.join(map(printable, missing[:_SHOWN]))}{more}"
            )
        places = np.linspace(0, len(self._images) - 1, min(len(self._images), CHECKED)).astype(int)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda place: self._check_size(self._images[place]), places))

    def _check_size(self, image):
        try:
            facts = image_facts(self._file_of(image))
        except Exception:  # it is named when it is to be trained on
            return
        if (facts.height, facts.width) != (image["height"], image["width"]):
            raise ValueError(
                "`dataset` must state width and height of images as these are seen, turned by "
                f"their EXIF. Received: {image['width']} x {image['height']} for "
                f"{printable(image['file_name'])!r} of {facts.width} x {facts.height}, in "
                f"{printable(self.file)!r}"
            )

    def _file_of(self, image):
        return self._root + image["file_name"]

    def _annotations(self, parsed):
        """Annotations whose numbers are such, each of a known category."""
        annotations = parsed.get("annotations")
        if not isinstance(annotations, list):
            self._refuse("annotations", "a list of dicts", annotations)
        known = {category["id"] for category in self._categories}
        for number, annotation in enumerate(annotations):
            where = f"annotations[{number}]"
            if not isinstance(annotation, dict) or not _is_id(annotation.get("image_id")):
                self._refuse(f"{where}.image_id", "the id of an image", annotation)
            where += f" (id {annotation.get('id')})"
            category = annotation.get("category_id")
            if not _is_id(category) or category not in known:
                self._refuse(f"{where}.category_id", "the id of a category", category)
            box = annotation.get("bbox")
            numbers = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
            if not numbers or min(box[2:]) < 0:
                self._refuse(f"{where}.bbox", "x, y, width, height, finite and not negative", box)
            if annotation.get("iscrowd", 0) not in (0, 1):
                self._refuse(f"{where}.iscrowd", "0 or 1", annotation["iscrowd"])
        return annotations

    def _take(self, annotations):
        """Sort annotations by image; count what will not be as it stands."""
        record_of = {image["id"]: record for record, image in enumerate(self._images)}
        self._objects: list[list[dict]] = [[] for _ in self._images]
        records = [record_of.get(annotation["image_id"], -1) for annotation in annotations]
        for record, annotation in zip(records, annotations, strict=True):
            if record >= 0:
                self._objects[record].append(annotation)
        # All at once: image by image it would take longer than to read the file.
        sizes = np.array([self.target_size(n) for n in range(len(self._images))])
        is_listed = np.array(records, np.int64) >= 0
        owners = np.array(records, np.int64)[is_listed]
        listed = [a for a, record in zip(annotations, records, strict=True) if record >= 0]
        stored, cut = _corners(listed, sizes[owners])
        has_area = _have_area(cut)
        is_object = has_area & ~_are_crowds(listed)
        self._most = int(np.bincount(owners[is_object], minlength=1).max())
        self._num_stray = int((~is_listed).sum())
        self._num_thin = int((~has_area).sum())
        # Half a pixel beyond the border is rounding, as COCO's own files have it.
        self._num_cut = int((has_area & (abs(stored - cut).max(axis=1) > 0.5)).sum())

    def _class_names(self):
        names = [printable(category["name"]) for category in self._categories]
        twice = {name for name, count in Counter([*names, BACKGROUND]).items() if count > 1}
        return [
            f"{name} ({category['id']})" if name in twice else name
            for name, category in zip(names, self._categories, strict=True)
        ]

    def _notes(self):
        notes = []
        if self._num_stray:
            notes.append(f"{self._num_stray:,} annotations are of images that are not listed.")
        if self._num_thin:
            notes.append(f"{self._num_thin:,} boxes have no area in their image: not trained on.")
        if self._num_cut:
            notes.append(f"{self._num_cut:,} boxes reach beyond their image, and are cut.")
        empty = sum(not objects for objects in self._objects)
        if empty:
            notes.append(f"{empty:,} images have no objects: all background.")
        return notes

    def for_task(self, task: str) -> "Coco":
        if task == "segment" and "segment" in self.tasks and self.task != "segment":
            self._check_masks()
        return super().for_task(task)

    def _check_masks(self):
        for record, objects in enumerate(self._objects):
            for annotation in objects:
                try:
                    check_mask(annotation.get("segmentation", []), *self.target_size(record))
                except ValueError as error:
                    self._refuse(
                        f"segmentation of the annotation with the id {annotation.get('id')}",
                        f"a mask for the task 'segment' (this one: {error})",
                        annotation.get("segmentation"),
                    )

    @property
    def most_boxes(self) -> int:
        return max(1, self._most)

    @property
    def category_ids(self) -> list[int]:
        return [category["id"] for category in self._categories]

    def image_id(self, record: int) -> Any:
        return self._images[record]["id"]

    def key(self, record: int) -> str:
        return self._images[record]["file_name"]

    def path(self, record: int) -> str:
        return self._file_of(self._images[record])

    def record_bytes(self, record: int) -> int | None:
        try:
            return os.stat(self.path(record)).st_size
        except OSError:
            return None

    def record_facts(self, record: int) -> Facts:
        return image_facts(self.path(record))

    def read(self, record: int) -> tuple[Any, int | None]:
        return read_file(self.path(record)), None

    def target_size(self, record: int) -> tuple[int, int]:
        image = self._images[record]
        return int(image["height"]), int(image["width"])

    def target(self, record: int) -> Any:
        return self._label_map(record) if self.task == "segment" else self._boxes(record)

    def _boxes(self, record):
        objects = self._objects[record]
        _, corners = _corners(objects, self.target_size(record))
        number = {category: label for label, category in enumerate(self.category_ids)}
        classes = np.array([number[a["category_id"]] for a in objects], np.int64)
        has_area = _have_area(corners)
        return Boxes(
            corners[has_area].astype("float32"),
            classes[has_area],
            _are_crowds(objects)[has_area],
        )

    def _label_map(self, record):
        size = self.target_size(record)
        labels = np.zeros(size, np.uint8)
        number = {category: label for label, category in enumerate(self.category_ids, start=1)}
        objects = [(a, decode_mask(a["segmentation"], *size)) for a in self._objects[record]]
        # Crowds first, then from the largest to the smallest: what is small lies on top.
        objects.sort(key=lambda pair: (not pair[0].get("iscrowd", 0), -int(pair[1].sum())))
        for annotation, mask in objects:
            is_crowd = annotation.get("iscrowd", 0)
            labels[mask] = IGNORED if is_crowd else number[annotation["category_id"]]
        return labels

    def truth(self) -> dict[str, Any]:
        annotations = []
        for record in self.indices.tolist():
            for annotation in self._objects[record]:
                _, _, width, height = annotation["bbox"]
                annotations.append({"area": width * height, "iscrowd": 0, **annotation})
        return {
            "info": {},
            "images": [self._images[record] for record in self.indices.tolist()],
            "annotations": numbered(annotations),
            "categories": self._categories,
        }


def _is_id(value):
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_number(value):
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _corners(objects, sizes):
    """Corners of boxes, float64 `(n, 4)`: as stored, and cut at the border of their images.

    Args:
        objects: n annotations.
        sizes: ints `(n, 2)` or `(2,)`, height and width.
    """
    boxes = np.array([a["bbox"] for a in objects], np.float64).reshape(-1, 4)
    stored = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    borders = np.asarray(sizes)[..., [1, 0, 1, 0]]
    return stored, np.clip(stored, 0, borders)


def _have_area(corners):
    # In float32, as the pipeline has them: a sliver may have an area in float64 only.
    sides = np.diff(corners.astype("float32").reshape(-1, 2, 2), axis=1)[:, 0]
    return (sides > 0).all(axis=1)


def _are_crowds(objects):
    return np.array([a.get("iscrowd", 0) for a in objects], bool)
