"""Which images a run uses for what: to train on, to hold out, to report on at the end."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from keras_mae.data.sources import Source, load_source
from keras_mae.files import printable

# Looking for copies reads the images of equal size; of more of them, it is not done.
MOST_COMPARED = 50_000
_DIFFERENCES_SHOWN = 10


class _Together:
    """All images of a run, over which the share of broken ones is judged."""

    def __init__(self, sources):
        self.num_examples = sum(source.num_examples for source in sources)


@dataclasses.dataclass
class Parts:
    """The images of a run by what they are for.

    Attributes:
        source: the `Source` that was asked for, of which `train` is a part or all.
        train, heldout: `Source`s; heldout is what a run measures itself by.
        test: `Source` that nothing but the last report sees, or None.
        origin: dict of part to where it is from, for people: "a part of folder:photos".
        notes: list of sentences for a person.
    """

    source: Source
    train: Source
    heldout: Source
    test: Source | None
    origin: dict[str, str]
    notes: list[str] = dataclasses.field(default_factory=list)

    def each(self) -> dict[str, Source]:
        """Return the parts that there are, by "train", "heldout" and "test"."""
        parts = {"train": self.train, "heldout": self.heldout, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    def map(self, function: Any) -> "Parts":
        """Return the parts with a function of a `Source` put to the source and to each."""
        changed = {name: function(part) for name, part in self.each().items()}
        return dataclasses.replace(self, source=function(self.source), **changed)

    def with_channels(self, channels: int) -> "Parts":
        """Return the parts seen with another number of channels; `EncodedSource`s only.

        Raises:
            ValueError: if the images cannot be seen so.
        """

        def seen(part: Any) -> Any:
            return part.with_options(dataclasses.replace(part.options, channels=channels))

        return _seen_alike(self.map(seen))

    def lines(self) -> list[str]:
        """Return a line for each part: what it is for, how many images, where from."""
        words = {"train": "to train on", "heldout": "held out", "test": "to test on at the end"}
        return [
            f"  {part.num_examples:,} {words[name]}: {self.origin[name]}"
            for name, part in self.each().items()
        ]

    def facts(self) -> dict[str, Any]:
        """Return what `config.json` says of them."""
        found: dict[str, Any] = {
            name: {"images": part.num_examples, "from": self.origin[name]}
            for name, part in self.each().items()
        }
        return {"parts": found, "notes": self.notes}


def open_parts(
    dataset: str,
    *,
    validation_dataset: str | None = None,
    test_dataset: str | None = None,
    holdout: float | None = None,
    seed: int = 0,
    **options: Any,
) -> Parts:
    """Open a data set, and decide which of its images are trained on, held out, and tested on.

    Held out is `validation_dataset`; else the share `holdout`; else the data set's own validation
    images, or its test images where it has no validation images; else the default share. Tested
    on, at the end, is `test_dataset`, else the data set's own test images if they are not held
    out.

    Args:
        dataset, validation_dataset, test_dataset: see `load_source`.
        holdout: float in (0, 1), or None.
        seed: int, decides which images a share is of.
        **options: of `load_source`, for all of them.
    Returns:
        `Parts`.
    Raises:
        ValueError: if classes or channels differ, or a part would have no image.
    """
    source = load_source(dataset, seed=seed, **options)
    if validation_dataset is not None and holdout is not None:
        raise ValueError(
            f"`holdout` must be None where `validation_dataset` is given. Received: {holdout}"
        )
    train: Source = source.part("train") or source
    heldout: Any
    own = {name: source.part(name) for name in ("validation", "test")}
    origin = {"train": f"{dataset}, its own training images" if source.own_parts else dataset}
    test = own["test"]
    if test is not None:
        origin["test"] = f"{dataset}, its own test images"
    if validation_dataset is not None:
        heldout = load_source(validation_dataset, seed=seed, **options)
        origin["heldout"] = validation_dataset
    elif holdout is None and own["validation"] is not None:
        heldout, origin["heldout"] = own["validation"], f"{dataset}, its own validation images"
    elif holdout is None and test is not None and test_dataset is None:
        heldout, test = test, None
        origin["heldout"] = origin.pop("test")
    else:
        train, heldout = train.split(holdout)
        share = train.default_holdout if holdout is None else holdout
        origin["heldout"] = f"{share:.0%} of {'each class of ' * _by_class(train)}{dataset}"
    if test_dataset is not None:
        test = load_source(test_dataset, seed=seed, **options)
        origin["test"] = test_dataset
    opened = _with_all_names(Parts(source, train, heldout, test, origin))
    _check_alike(opened, {"heldout": validation_dataset, "test": test_dataset})
    # Range and statistics are those of the training images.
    opened = _seen_alike(opened)
    together = _Together(opened.each().values())
    opened = opened.map(lambda part: part.judged_with(together))
    opened.notes += [*source.notes, *opened.train.sensor.lines]
    opened.notes += [note for note in (_untrained_note(opened), copies_note(opened)) if note]
    return opened


def _with_all_names(parts):
    """Return the parts with the classes of all, where these are counted by their labels."""
    counted = [part for part in parts.each().values() if getattr(part, "names_are_counted", False)]
    if len(counted) < len(parts.each()):
        return parts
    names = max((part.class_names for part in counted), key=len)
    return parts.map(lambda part: part.with_names(names))


def _by_class(train):
    return len(train.groups()) > 1


def _check_alike(parts, given):
    """Raise for a separate data set whose classes are others than the training images'."""
    for name, spec in given.items():
        part = parts.each().get(name)
        if spec is None or part is None:
            continue
        argument = "validation_dataset" if name == "heldout" else "test_dataset"
        theirs, ours = part.class_names, parts.train.class_names
        if theirs == ours or parts.train.num_classes is None:
            continue
        if theirs is None:
            raise ValueError(
                f"`{argument}` must have labels, as `dataset` has. Received: {spec}, without any"
            )
        raise ValueError(
            f"`{argument}` must have the classes of `dataset`, in their order. Received: {spec}, "
            f"{_differences(ours or [], theirs)}"
        )


def _differences(ours, theirs):
    lacks = [name for name in ours if name not in theirs][:_DIFFERENCES_SHOWN]
    more = [name for name in theirs if name not in ours][:_DIFFERENCES_SHOWN]
    found = [f"without {lacks}"] * bool(lacks) + [f"with {more}"] * bool(more)
    return ", ".join(found) or "with the same in another order"


def _seen_alike(parts):
    """Return the parts, all of them seen by the sensor of the training images."""
    sensor = parts.train.sensor  # measured here, by the training images

    def seen(part):
        return part.seen_through(sensor) if hasattr(part, "seen_through") else part

    for name, part in parts.each().items():
        if not hasattr(part, "seen_through") and part.channels != sensor.channels:
            raise ValueError(
                f"`{name}` images must have the {sensor.channels} channels of the training "
                f"images. Received: {part.name!r}, with {part.channels}"
            )
    return parts.map(seen)


def _untrained_note(parts):
    """Return a sentence on classes that no training image has; or ""."""
    labels, names = parts.train.labels(), parts.train.class_names
    if labels is None or names is None:
        return ""
    numbers = np.arange(len(names))
    there = (labels == 1).any(axis=0) if labels.ndim > 1 else np.isin(numbers, labels)
    lacking = [name for name, known in zip(names, there, strict=False) if not known]
    more = f" and {len(lacking) - _DIFFERENCES_SHOWN} more" * (len(lacking) > _DIFFERENCES_SHOWN)
    shown = ", ".join(lacking[:_DIFFERENCES_SHOWN])
    return f"no training image has the class {shown}{more}" if lacking else ""


def copies_note(parts: Parts) -> str:
    """Return a sentence on training images that are, byte by byte, held out or tested on too.

    Args:
        parts: `Parts`.
    Returns:
        "" where there are none, or the contents have no known size.
    """
    measured = [part for name, part in parts.each().items() if name != "train"]
    sizes = _sizes(parts.train)
    wanted = {size for part in measured for size in _sizes(part)}
    candidates = [r for size, records in sizes.items() if size in wanted for r in records]
    held = [
        (part, record)
        for part in measured
        for size, records in _sizes(part).items()
        if size in sizes
        for record in records
    ]
    if not candidates or not held:
        return ""
    if len(candidates) + len(held) > MOST_COMPARED:
        return (
            f"Copies of held-out images were not looked for: {len(candidates) + len(held):,} "
            "images have the size of another."
        )
    digests = {_digest(part, record) for part, record in held} - {None}
    found = [record for record in candidates if _digest(parts.train, record) in digests]
    if not found:
        return ""
    first = printable(parts.train.path(found[0]))
    return (
        f"{len(found):,} training image{'s are' if len(found) > 1 else ' is'} byte for byte also "
        f"held out or tested on, such as {first}: accuracies are too good by that."
    )


def _sizes(part):
    """Return a dict of size in bytes to the records of it."""
    found: dict[int, list[int]] = {}
    for record in part.indices.tolist():
        size = part.record_bytes(record)
        if size is not None:
            found.setdefault(size, []).append(record)
    return found


def _digest(part, record):
    try:
        content = part.content(record)
    except Exception:  # it will be named when it is read for its own sake
        return None
    return None if content is None else hashlib.blake2b(content, digest_size=16).digest()


def missing_labels_note(parts: Parts) -> str:
    """Return a sentence on images without a label, which a task with labels leaves out; or ""."""
    count = sum(part.num_examples - part.labelled().num_examples for part in parts.each().values())
    return f"{count:,} images without a label are left out." if count else ""


def labelled(parts: Parts) -> Parts:
    """Return the parts without images that have no label."""
    return parts.map(lambda part: part.labelled())
