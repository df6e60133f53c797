"""What a source of dense targets is: images with a class for each pixel, or with boxes."""

import copy
from typing import Any, NamedTuple, Self

import numpy as np

from keras_mae.data.sources.base import EncodedSource

DENSE_TASKS = ("segment", "detect")
# Pixels with this label teach nothing and are counted nowhere.
IGNORED = 255
MOST_CLASSES = 255  # 0 to 254


class Boxes(NamedTuple):
    """The objects of an image, in pixels of the image upright as it is stored.

    Attributes:
        boxes: float32 `(n, 4)`: left, top, right, bottom; inside the image, each with an area.
        classes: int64 `(n,)` in [0, num_classes).
        is_crowd: bool `(n,)`. A crowd is a region with many objects: it is no target of training.
    """

    boxes: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray


class DenseSource(EncodedSource):
    """Images with targets that are more than one label.

    As opened, it is a source without labels, fit for pre-training, and `class_names` are those of
    its first task. `for_task` gives the same images with the targets of a task.

    Attributes:
        tasks: tuple of strings, the tasks that there are targets for: "segment", "detect".
        names_are_counted: bool. Whether the classes are known only by the labels that were met:
            another part of the same data set may lack some.

    Args:
        num_records: int.
        names: dict of task to the list of its class names, the first task first; empty where there
            are labels only.
        seed: int, as in `Source`.
    """

    names_are_counted = False

    def __init__(self, num_records: int, names: dict[str, list[str]], *, seed: int = 0) -> None:
        super().__init__(num_records, seed=seed)
        self._names = names
        if names:
            self.class_names = next(iter(names.values()))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self._names)

    @property
    def split_note(self) -> str | None:
        note = super().split_note
        if note is None or self.num_classes is None:
            return note
        measured = "mean IoU" if self.task == "segment" else "average precision"
        return f"{note.partition(':')[0]}: their {measured} is a rough guess"

    def for_task(self, task: str) -> Self:
        if task not in self._names or task == self.task:
            return super().for_task(task)
        other = copy.copy(self)
        other.task = task
        other.class_names = self._names[task]
        other.num_classes = len(other.class_names)
        return other

    def with_names(self, names: list[str]) -> Self:
        """The same source with more classes than were counted in it.

        Args:
            names: list of strings that begins with `class_names`.
        """
        other = copy.copy(self)
        other._names = {task: names for task in self._names}
        other.class_names = names
        other.num_classes = None if self.num_classes is None else len(names)
        return other

    def target(self, record: int) -> Any:
        """What is to be found in a record's image, of the task that was chosen.

        Returns:
            "segment": uint8 `(H, W)`, the class of each pixel, 255 for none that counts.
            "detect": `Boxes`.
        Raises:
            Exception: whatever a broken file raises: the image is then skipped by name.
        """
        raise NotImplementedError

    def target_size(self, record: int) -> tuple[int, int] | None:
        """`(height, width)` that the boxes of a record are said to be for, or None.

        An image of another size is skipped by name. Label maps have their own size.
        """
        return None

    @property
    def most_boxes(self) -> int:
        """How many boxes an image of the whole data set has at most; 1 at least."""
        raise NotImplementedError

    @property
    def category_ids(self) -> list[int]:
        """The ids of the classes in COCO's format, in the order of `class_names`."""
        raise NotImplementedError

    def image_id(self, record: int) -> Any:
        """The id of a record's image in COCO's format."""
        raise NotImplementedError

    def truth(self) -> dict[str, Any]:
        """The images and objects of this source in COCO's format, as they are stored.

        Returns:
            dict with "images", "annotations" (crowds and boxes without area, too) and
            "categories", of plain values: what pycocotools judges detections by.
        """
        raise NotImplementedError


def truth_of_targets(source: DenseSource) -> dict[str, Any]:
    """Return the `truth` of a source that has no file in COCO's format: that of its targets.

    The area of an object is that of its box.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in source.indices.tolist():
        try:
            size = source.target_size(record) or source.record_size(record)
            targets = source.target(record)
        except Exception:  # broken: named when it is read, and judged nowhere
            continue
        height, width = size or (0, 0)
        key = source.image_id(record)
        names = {"id": key, "file_name": source.key(record)}
        images.append({**names, "height": height, "width": width})
        for (left, top, right, bottom), label, is_crowd in zip(*targets, strict=True):
            box = [float(left), float(top), float(right - left), float(bottom - top)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": key,
                    "category_id": source.category_ids[int(label)],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(is_crowd),
                }
            )
    pairs = zip(source.category_ids, source.class_names or (), strict=True)
    categories = [{"id": key, "name": name} for key, name in pairs]
    return {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def numbered(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return COCO's annotations with ids that pycocotools takes: its 0 means "not matched".

    Args:
        annotations: list of dicts. Their own ids stay where these are distinct ints above 0.
    """
    ids = [annotation.get("id") for annotation in annotations]
    if all(isinstance(key, int) and key > 0 for key in ids) and len(set(ids)) == len(ids):
        return annotations
    return [{**a, "id": number} for number, a in enumerate(annotations, start=1)]
