"""What the folders of a data set mean: its splits, and in these the classes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_mae.files import printable

# Names of folders, columns' values and tables that are splits, in lower case.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclasses.dataclass(frozen=True)
class Tree:
    """What the relative names of images say.

    Attributes:
        class_names: list of str, in label order and fit to be printed; or None.
        labels: int64 `(n,)`, one for each name; or None.
        own_parts: dict of "train", "validation" and "test" to int64 arrays of places in the list
            of names; or None where the folders are no splits.
    """

    class_names: list[str] | None = None
    labels: np.ndarray | None = None
    own_parts: dict[str, np.ndarray] | None = None


def read_tree(names: Sequence[str], shown: str) -> Tree:
    """Find splits and classes in the relative names of images.

    Top folders that are all named as splits are, with "train" among them, are splits. One such
    name among other folders is a class like them. The folders below, where every image lies in one
    and there are two or more of them, are the classes, in alphabetical order.

    Args:
        names: relative paths with "/".
        shown: str, the data set, for errors.
    Raises:
        ValueError: if some top folders are splits and others not, if "train" is not among them, if
            a split has two folders, or if the splits do not have the same class folders.
    Example: `read_tree(["train/cat/1.jpg", "train/dog/2.jpg"], "'folder:pets'").class_names`
    """
    tops, rest = _cut_top(names)
    folders = _split_folders(set(tops), shown)
    if folders is None:
        return _classes(tops)
    places = _places(tops, folders, shown)
    inner, _ = _cut_top(rest)
    _check_same_classes({top: [inner[i] for i in places[top]] for top in folders}, shown)
    tree = _classes(inner)
    return dataclasses.replace(tree, own_parts=_parts(folders, places))


def read_splits(names: Sequence[str], shown: str) -> dict[str, np.ndarray] | None:
    """Return the `own_parts` of a `Tree`, whatever the folders below the splits are.

    Args:
        names, shown: as in `read_tree`.
    Raises:
        ValueError: as `read_tree`, but not for folders of classes.
    """
    tops, _ = _cut_top(names)
    folders = _split_folders(set(tops), shown)
    return None if folders is None else _parts(folders, _places(tops, folders, shown))


def _places(tops, folders, shown):
    _check_each_split_once(folders, shown)
    return {top: np.flatnonzero([t == top for t in tops]) for top in folders}


def _parts(folders, places):
    return {folders[top]: places[top] for top in sorted(folders, key=_in_order)}


def _in_order(folder):
    return list(SPLITS).index(folder.lower())


def _cut_top(names):
    """First folders of paths, None where there is none, and what is left of each path."""
    cut = [name.partition("/") for name in names]
    tops = [first if slash else None for first, slash, _ in cut]
    return tops, [rest if slash else first for first, slash, rest in cut]


def _split_folders(tops, shown):
    """Dict of top folder to the split that it is, or None where they are no splits."""
    folders = {top: SPLITS[top.lower()] for top in tops if top and top.lower() in SPLITS}
    others = tops - set(folders)
    if not folders or (others and len(folders) == 1):
        return None
    if others:
        extra = sorted(f"{printable(top)}/" for top in others if top is not None)
        raise ValueError(
            f"`dataset` must have splits only beside {_listed(folders)}, or no splits. Received: "
            f"{shown}, with {', '.join(extra + ['images in no folder'] * (None in others))}, too"
        )
    if "train" not in folders.values():
        raise ValueError(
            f"`dataset` must have a folder train/ beside those of other splits; or name the one to "
            f"use as PATH/{min(folders)}. Received: {shown}, with {_listed(folders)} only"
        )
    return folders


def _check_each_split_once(folders, shown):
    for split in set(folders.values()):
        same = [top for top in folders if folders[top] == split]
        if len(same) > 1:
            raise ValueError(
                f"`dataset` must have one folder for each split. Received: {shown}, with "
                f"{_listed(same)} for {split}"
            )


def _check_same_classes(classes, shown):
    """Raise unless each split has the same class folders, or none of them has classes.

    Args:
        classes: dict of split folder to the class folders of its images, None for one in no folder.
    """
    if all(_classes(inner).class_names is None for inner in classes.values()):
        found = {name for inner in classes.values() if None not in inner for name in inner}
        if len(found) < 2:
            return
    union = {name for inner in classes.values() for name in inner if name is not None}
    faults = []
    for split, inner in sorted(classes.items()):
        loose, missing = inner.count(None), sorted(map(printable, union - set(inner)))
        if loose:
            count = f"{loose} image{'s' * (loose != 1)}"
            faults.append(f"{printable(split)}/ has {count} in no class folder")
        if missing:
            faults.append(f"{printable(split)}/ lacks {', '.join(map(repr, missing))}")
    if faults:
        raise ValueError(
            "`dataset` must have the same class folders in each split. Received: "
            f"{shown}: {'; '.join(faults)}"
        )


def _classes(folders):
    """Classes by folder, a `Tree` without splits; None in `folders` is an image in no folder."""
    names = set(folders)
    if None in names or len(names) < 2:
        return Tree()
    ordered = sorted(names)
    number = {name: label for label, name in enumerate(ordered)}
    labels = np.array([number[name] for name in folders], np.int64)
    return Tree([printable(name) for name in ordered], labels)


def _listed(folders):
    return ", ".join(f"{printable(folder)}/" for folder in sorted(folders))
