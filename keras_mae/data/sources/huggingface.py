"""Data sets of the `datasets` library: saved tables, parquet, image folders, and its cache."""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.data.listing import labels as numbering
from keras_mae.data.listing.ranges import read_file
from keras_mae.data.listing.tree import SPLITS
from keras_mae.data.sources.base import EncodedSource
from keras_mae.files import printable

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMN = "label"


class HuggingFace(EncodedSource):
    """`NAME_OR_PATH[:SPLIT]`, such as `/data/pets`, `/data/pets.parquet:train[:90%]` or `beans`.

    A path is a folder that `save_to_disk` wrote, a parquet file, or a folder of parquet files or
    images. Another name is one of the hub, which has to be in the cache of `datasets` on this
    machine: nothing is ever downloaded. Without SPLIT, a set with several splits has its own
    parts: train, validation and test, by these and their usual short names.

    The images are the column of type Image, the labels that of type ClassLabel, or else `label`,
    of ints or texts. Classes of a ClassLabel have their stored order, whatever occurs; -1 and null
    stand for no label. A list of labels makes several an image. Records are read from the Arrow
    table in place; images that it names by path are opened.

    Args:
        image_column: string. None: the one of type Image; of several, `image` or `img`.
        label_column: string. None: as above.
    """

    name = "huggingface"
    OPTIONS = ("image_column", "label_column")

    def __init__(
        self,
        argument: str = "",
        *,
        seed: int = 0,
        image_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        self._shown = f"'huggingface:{printable(argument)}'"
        name, split = _split_spec(argument)
        if not name:
            raise ValueError(
                f"`dataset` must be huggingface:NAME_OR_PATH[:SPLIT]. Received: {self._shown}"
            )
        library = _import()
        tables = _load(library, name, self._shown)
        self._where, notes = name, list[str]()
        parts, own_parts = self._choose(library, tables, split, notes)
        features = parts[0][1].features
        for part, table, *_ in parts:
            if table.features != features:
                raise ValueError(
                    "`dataset` must have the same columns in each split. Received: "
                    f"{self._shown}, where {part} has others than {parts[0][0]}"
                )
        self._image_column = self._find_images(library, features, image_column)
        self._open(parts)
        super().__init__(int(self._starts[-1]), seed=seed)
        self.notes, self.own_parts = notes, own_parts
        self._labels: np.ndarray | None = None
        self._read_labels(library, features, parts, label_column)

    def _choose(self, library, tables, split, notes):
        """The parts to use, (split, table, first row, end), and `own_parts` or None."""
        lengths = {name: table.num_rows for name, table in tables.items()}
        if split is not None:
            try:
                pieces = library.ReadInstruction.from_spec(split).to_absolute(lengths)
            except Exception as error:
                raise ValueError(
                    f"`dataset` must name a split that is there: one of {', '.join(lengths)}, or a "
                    f"part. Received: {self._shown} ({error})"
                ) from error
            parts = [(p.splitname, tables[p.splitname], p.from_, p.to) for p in pieces]
            if not sum(end - start for _, _, start, end in parts):
                raise ValueError(f"`dataset` must have rows. Received: {self._shown}, without any")
            return parts, None
        used = {name: count for name, count in lengths.items() if count}
        if not used:
            raise ValueError(f"`dataset` must have rows. Received: {self._shown}, without any")
        words = {name: SPLITS[name.lower()] for name in used if name.lower() in SPLITS}
        if len(used) == 1:
            return [(name, tables[name], 0, count) for name, count in used.items()], None
        if "train" not in words.values() or len(set(words.values())) < len(words):
            raise ValueError(
                "`dataset` must have one split for training, or name the one to use. Received: "
                f"{self._shown} with the splits {', '.join(used)}; write huggingface:"
                f"{printable(self._where)}:{next(iter(used))}"
            )
        for name in used:
            if name not in words:
                notes.append(f"split {name!r} is left out: it is none of train, validation, test")
        parts, own_parts, start = [], {}, 0
        for word in dict.fromkeys(SPLITS.values()):
            for name in words:
                if words[name] == word:
                    parts.append((name, tables[name], 0, used[name]))
                    own_parts[word] = np.arange(start, start + used[name])
                    start += used[name]
        return parts, own_parts

    def _find_images(self, library, features, given):
        images = [name for name, kind in features.items() if isinstance(kind, library.Image)]
        if given is not None and given not in images:
            raise ValueError(
                "`image_column` must be a column of type Image. Received: "
                f"{given!r}, in {self._shown} with {', '.join(images) or 'none'}"
            )
        found = [given] if given else [name for name in IMAGE_COLUMNS if name in images] or images
        if not found:
            raise ValueError(
                "`dataset` must have a column of type Image. Received: "
                f"{self._shown}, with {', '.join(features)}; a table of paths is read by table:FILE"
            )
        if not given and found[0] not in IMAGE_COLUMNS and len(found) > 1:
            raise ValueError(
                f"`image_column` must be given where there are several. Received: None, in "
                f"{self._shown} with {', '.join(images)}"
            )
        return found[0]

    def _open(self, parts):
        """Lay out where each record lies: the number of its chunk, and its row in it."""
        self._bytes, self._paths, lengths = [], [], []
        splits, rows = [], []
        for name, table, start, end in parts:
            column = self._column(table, self._image_column, start, end)
            for chunk in column.chunks:
                lengths.append(len(chunk))
                self._bytes.append(chunk.field("bytes"))
                self._paths.append(chunk.field("path"))
            splits.append(name)
            rows.append((start, end))
        self._starts = np.cumsum([0, *lengths])
        self._splits, self._rows = splits, rows
        self._split_starts = np.cumsum([0] + [end - start for start, end in rows])

    def _column(self, table, name, start, end):
        """Rows of a column, checked: Arrow takes places from a damaged file as they are."""
        column = table.data.column(name).slice(start, end - start)
        try:
            column.validate(full=True)
        except Exception as error:
            raise ValueError(
                f"`dataset` must be a whole table. Received: {self._shown}, where column {name!r} "
                f"is damaged ({error})"
            ) from error
        return column

    def _read_labels(self, library, features, parts, given):
        if given is not None and given not in features:
            raise ValueError(
                f"`label_column` must be a column. Received: {given!r}, in {self._shown} with "
                f"{', '.join(features)}"
            )
        classes = [n for n, kind in features.items() if _class_label(library, kind) is not None]
        if given is None and LABEL_COLUMN not in classes and classes:
            given = classes[0]
            if len(classes) > 1:
                self.notes.append(f"labels are column {given!r}; others are {classes[1:]}")
        column = given or LABEL_COLUMN
        if column not in features:
            return
        kind = _class_label(library, features[column])
        if kind is None and not _is_text_or_int(library, features[column]):
            if given is None:
                return
            raise ValueError(
                f"`label_column` must be of ClassLabel, ints or texts. Received: {column!r}, in "
                f"{self._shown}"
            )
        values: list[Any] = []
        for _, table, start, end in parts:
            values += self._column(table, column, start, end).to_pylist()
        if kind is not None:
            self._take_class_numbers(values, list(kind.names), column)
        else:
            texts = [None if v is None or v == "" or v == -1 else str(v) for v in values]
            names, labels = numbering.number_labels(texts)
            if len(names) < 2:
                self.notes.append(f"column {column!r} has {len(names)} classes: it is not used")
                return
            self.class_names, self._labels = list(map(printable, names)), labels
        self.num_classes = len(self.class_names or ())
        if self._labels is not None:
            self.notes += numbering.unlabelled_note(self._labels)

    def _take_class_numbers(self, values, names, column):
        several = any(isinstance(value, list) for value in values)
        flat = [n for v in values if v is not None for n in (v if several else [v])]
        wrong = [n for n in flat if n is not None and not -1 <= n < len(names)]
        if wrong:
            raise ValueError(
                f"`dataset` must have labels below {len(names)}, its number of classes. Received: "
                f"{wrong[0]} in column {column!r} of {self._shown}"
            )
        self.class_names, self.multi_label = names, several
        if several:
            sets = [
                None if v is None else [names[n] for n in v if n is not None and n >= 0]
                for v in values
            ]
            self._labels = numbering.number_label_sets(sets, names)[1]
        else:
            self._labels = np.array([-1 if v is None else v for v in values], np.int64)

    def _place(self, record):
        chunk = int(np.searchsorted(self._starts, record, side="right")) - 1
        return chunk, int(record - self._starts[chunk])

    def key(self, record: int) -> str:
        part = int(np.searchsorted(self._split_starts, record, side="right")) - 1
        row = record - self._split_starts[part] + self._rows[part][0]
        return f"{self._splits[part]}#{row}"

    def path(self, record: int) -> str:
        return f"{self._where}:{self.key(record)}"

    def record_labels(self) -> np.ndarray | None:
        return self._labels

    def record_bytes(self, record: int) -> int | None:
        chunk, row = self._place(record)
        data = self._bytes[chunk][row].as_buffer()
        if data is not None:
            return data.size
        try:
            return os.stat(self._paths[chunk][row].as_py()).st_size
        except (OSError, TypeError):
            return None

    def read(self, record: int) -> tuple[Any, int | None]:
        chunk, row = self._place(record)
        data = self._bytes[chunk][row].as_py()
        if data is None:
            path = self._paths[chunk][row].as_py()
            if path is None:
                raise ValueError("the table has no image here")
            data = read_file(path)
        labels = None if self.multi_label else self._labels
        return data, None if labels is None else int(labels[record])


def _class_label(library, kind):
    """The `ClassLabel` of a column's type, or of the entries of its lists; else None."""
    inner = getattr(kind, "feature", kind[0] if isinstance(kind, list) and kind else kind)
    return inner if isinstance(inner, library.ClassLabel) else None


def _is_text_or_int(library, kind):
    return isinstance(kind, library.Value) and kind.dtype.strip("u0123468").removeprefix(
        "large_"
    ) in ("int", "string", "bool")


def _split_spec(argument):
    """(name or path, split or None): of a path with ":" in its name, what is there counts."""
    path = Path(argument).expanduser()
    if argument and path.exists():
        return str(path), None
    for match in re.finditer(":", argument):
        path = Path(argument[: match.start()]).expanduser()
        if match.start() and path.exists():
            return str(path), argument[match.end() :]
    name, colon, split = argument.partition(":")
    return name, split if colon else None


def _load(library, name, shown):
    """Dict of split to `datasets.Dataset`."""
    path = Path(name)
    try:
        with _offline_and_quiet(library):
            if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
                found = library.load_from_disk(name)
            elif path.is_file() and path.suffix.lower() == ".parquet":
                found = library.load_dataset("parquet", data_files=name)
            else:
                found = library.load_dataset(name)
    except Exception as error:  # each of its readers raises in its own way
        reason = " ".join(str(error).split())[:500]
        if path.exists():
            raise ValueError(
                "`dataset` must be what save_to_disk wrote, parquet, or a folder of images. "
                f"Received: {shown} ({type(error).__name__}: {reason})"
            ) from error
        raise ValueError(
            "`dataset` must be a path, or a name of the hub that is in the cache of this machine. "
            f"Received: {shown} ({type(error).__name__}: {reason}). Get it once, on a machine that "
            f"can: python -c \"import datasets; datasets.load_dataset('{printable(name)}')\""
        ) from error
    if isinstance(found, library.DatasetDict):
        return dict(found)
    return {str(found.split or "train"): found}


@contextlib.contextmanager
def _offline_and_quiet(library):
    """Without the network: a hub that does not answer would be asked for minutes."""
    offline, bars = library.config.HF_HUB_OFFLINE, library.is_progress_bar_enabled()
    library.config.HF_HUB_OFFLINE = True
    library.disable_progress_bars()
    try:
        yield
    finally:
        library.config.HF_HUB_OFFLINE = offline
        if bars:
            library.enable_progress_bars()


def _import():
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            "`dataset` must be one whose package is installed. Received: 'huggingface', which "
            f'needs datasets ({error}); run `pip install "keras_mae[huggingface]"`'
        ) from error
    return datasets
