"""A table that names image files, and says what is in them."""

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.data.decode import image_facts
from keras_mae.data.decoders.base import Facts
from keras_mae.data.listing import labels as numbering
from keras_mae.data.listing.ranges import read_file
from keras_mae.data.listing.tree import SPLITS
from keras_mae.data.sources.base import EncodedSource
from keras_mae.files import printable

IMAGE_COLUMNS = ("image", "path", "file", "file_name", "filename")
LABEL_COLUMNS = ("label", "class", "target")
SPLIT_COLUMN = "split"
# Values of a column that says of one class whether it is in the image.
_TRUTH = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


class Table(EncodedSource):
    """The image files that `FILE` names: a `.csv`, `.tsv`, `.jsonl` or `.parquet` table.

    Paths are relative to the table. A row has one label, or several: divided by `label_separator`,
    a list (`.jsonl`, `.parquet`), or a column of 0 and 1 for each class. Labels of `.csv` and
    `.tsv` are the text that stands there: `NA` and `001` are names, and only an empty field is no
    label. Null is none in the others, and so is the int -1. Class names are in order of number
    where all are plain ints, else of text. A column `split` with train, val and test (or
    training, valid, validation, testing) divides the images.

    Args:
        image_column: string, the column of paths. None: the one called image, path, file,
            file_name or filename.
        label_column: string, the column of labels; or the names of several columns of 0 and 1,
            divided by commas. None: the one called label, class or target, if there is one.
        label_separator: string between the labels of an image, such as "|". None: one label each.
    """

    name = "table"
    OPTIONS = ("image_column", "label_column", "label_separator")

    def __init__(
        self,
        argument: str = "",
        *,
        seed: int = 0,
        image_column: str | None = None,
        label_column: str | None = None,
        label_separator: str | None = None,
    ) -> None:
        path = Path(argument).expanduser()
        kind = path.suffix.lower()
        self._shown = f"'table:{printable(argument)}'"
        if kind not in _READERS or not path.is_file():
            raise ValueError(
                f"`dataset` must be table:FILE of a {', '.join(_READERS)} file that exists. "
                f"Received: {self._shown}"
            )
        if label_separator == "":
            raise ValueError("`label_separator` must be a text between labels. Received: ''")
        self.columns, self._rows = _READERS[kind](str(path), self._shown)
        self._root = str(path.parent / "-")[:-1]
        self.files = self._image_files(self._find(image_column, IMAGE_COLUMNS, "image_column"))
        super().__init__(len(self.files), seed=seed)
        self._labels: np.ndarray | None = None
        self._read_labels(label_column, label_separator)
        self.own_parts = self._splits()
        del self.columns, self._rows  # all of the table, of which more is not needed

    def _find(self, given, plain, argument):
        """The name of a column: the one given, or the one of a plain name, or None."""
        if given is not None:
            if given not in self.columns:
                self._refuse(argument, "a column of the table", f"{given!r}, not one")
            return given
        found = [column for column in self.columns if column.strip().lower() in plain]
        if len(found) > 1 or (not found and argument == "image_column"):
            what = f"with {' and '.join(map(repr, found))}" if found else "with none that is plain"
            self._refuse(argument, "given where more than one or none is plain", what)
        return found[0] if found else None

    def _refuse(self, argument, expected, received):
        columns = ", ".join(map(printable, self.columns))
        raise ValueError(
            f"`{argument}` must be {expected}. Received: {printable(received)}, in {self._shown} "
            f"of the columns {columns}"
        )

    def _image_files(self, column):
        """Paths as the table has them, each of a file that is there and named once."""
        values = self.columns[column]
        self._check_rows(
            column, (not isinstance(v, str) or not v for v in values), "a path in each row"
        )
        files = [os.path.normpath(value) for value in values]
        seen: dict[str, int] = {}
        self._check_rows(
            column,
            (seen.setdefault(file, row) != row for row, file in enumerate(files)),
            "each image in one row only; several labels stand in one field",
        )
        self._check_rows(
            column, (not os.path.isfile(self._root + f) for f in files), "files that are there"
        )
        return files

    def _check_rows(self, column, is_wrong: Iterable[bool], expected):
        """Raise a ValueError that counts the wrong rows of a column, and names the first."""
        wrong = [row for row, fault in enumerate(is_wrong) if fault]
        if not wrong:
            return
        some = "; ".join(
            f"row {self._rows[row]}: {printable(self.columns[column][row])!r}" for row in wrong[:5]
        )
        raise ValueError(
            f"`dataset` must be a table with {expected} in column {printable(column)!r}. Received: "
            f"{self._shown}, where {len(wrong)} of {len(self._rows)} do not fit: {some}"
            + "; ..."
            * (len(wrong) > 5)
        )

    def _read_labels(self, given, separator):
        several = [] if given is None or given in self.columns else given.split(",")
        if len(several) > 1:
            if separator is not None:
                self._refuse("label_separator", "None for several label columns", repr(separator))
            columns = [self._find(name.strip(), LABEL_COLUMNS, "label_column") for name in several]
            self.class_names, self._labels = self._truth_table(columns)
            self.multi_label = True
        else:
            column = self._find(given, LABEL_COLUMNS, "label_column")
            if column is None:
                if separator is not None:
                    self._refuse("label_column", "given with `label_separator`", "None")
                return
            self._number(column, separator)
        if self._labels is not None:
            self.num_classes = len(self.class_names or ())
            self.notes += numbering.unlabelled_note(self._labels)

    def _truth_table(self, columns):
        """Class names and labels of columns of 0 and 1; a row in which all are empty has none."""
        labels = np.empty((len(self._rows), len(columns)), np.uint8)
        empty = np.array([[_text(v) is None for v in self.columns[c]] for c in columns]).all(0)
        for number, column in enumerate(columns):
            truth = [_TRUTH.get(str(_text(value)).lower()) for value in self.columns[column]]
            self._check_rows(
                column,
                (value is None and not e for value, e in zip(truth, empty, strict=True)),
                "0 or 1",
            )
            labels[:, number] = [numbering.UNKNOWN if value is None else value for value in truth]
        return [printable(column) for column in columns], labels

    def _number(self, column, separator):
        values = self.columns[column]
        self._check_rows(column, (not _is_label(value) for value in values), "a label")
        lists = [isinstance(value, list) for value in values]
        self.multi_label = separator is not None or any(lists)
        if self.multi_label:
            sets = [_label_set(value, separator) for value in values]
            names, labels = numbering.number_label_sets(sets)
        else:
            names, labels = numbering.number_labels([_text(value) for value in values])
        if len(names) > 1 or (names and self.multi_label):
            self.class_names, self._labels = list(map(printable, names)), labels
        else:
            self.multi_label = False
            self.notes.append(
                f"column {printable(column)!r} has {len(names)} classes: it is not used"
            )

    def _splits(self):
        """`own_parts` of the column `split`, or None."""
        column = next((c for c in self.columns if c.strip().lower() == SPLIT_COLUMN), None)
        if column is None:
            return None
        words = [SPLITS.get(str(value).strip().lower()) for value in self.columns[column]]
        if not any(words):
            self.notes.append(f"column {printable(column)!r} has no train: it is not used")
            return None
        self._check_rows(column, (word is None for word in words), "train, val or test")
        if "train" not in words:
            self._check_rows(column, (True for _ in words), "train somewhere")
        found = np.array(words)
        return {
            part: np.flatnonzero(found == part)
            for part in dict.fromkeys(SPLITS.values())
            if part in words
        }

    def key(self, record: int) -> str:
        return self.files[record]

    def path(self, record: int) -> str:
        return os.path.join(self._root, self.files[record])

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
        labels = None if self.multi_label else self._labels
        return read_file(self.path(record)), None if labels is None else int(labels[record])


def _is_label(value):
    if isinstance(value, list):
        return all(isinstance(v, str | int) for v in value)
    return value is None or isinstance(value, str | int)


def _text(value):
    """A label as text, or None where there is none."""
    if value is None or value == "" or (value == -1 and not isinstance(value, bool)):
        return None
    return str(value)


def _label_set(value, separator):
    if isinstance(value, list):
        return [str(v) for v in value]
    text = _text(value)
    if text is None:
        return None
    pieces = [text] if separator is None else text.split(separator)
    return [piece.strip() for piece in pieces if piece.strip()]


def _read_csv(path, shown):
    """(dict of column to the list of its values, the line numbers of the rows)."""
    with open(path, "rb") as file:
        utf16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    # utf-8-sig: without the mark that Excel puts before the first column's name.
    coding = "utf-16" if utf16 else "utf-8-sig"
    rows, lines = [], []
    try:
        with open(path, encoding=coding, errors="surrogateescape", newline="") as file:
            first = file.readline()
            file.seek(0)
            # Where a comma divides decimals, spreadsheets divide columns by semicolons.
            by_semicolons = ";" in first and "," not in first
            tabs = path.lower().endswith(".tsv")
            delimiter = "\t" if tabs else ";" if by_semicolons else ","
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for row in reader:
                if row:
                    rows.append(row)
                    lines.append(reader.line_num)
    except (csv.Error, UnicodeError) as error:
        raise ValueError(
            f"`dataset` must be a table that can be read. Received: {shown} "
            f"({error} near line {lines[-1] + 1 if lines else 1})"
        ) from error
    if len(rows) < 2:
        raise ValueError(f"`dataset` must be a table with a head and rows. Received: {shown}")
    head = rows[0]
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(head):
            raise ValueError(
                "`dataset` must be a table whose rows have as many fields as its head. Received: "
                f"{shown}, where row {line} has {len(row)}, not {len(head)}"
            )
    if len(set(head)) < len(head):
        raise ValueError(
            f"`dataset` must be a table whose columns have different names. Received: {shown}, "
            f"with {', '.join(map(printable, head))}"
        )
    columns = dict(zip(head, map(list, zip(*rows[1:], strict=True)), strict=True))
    return columns, lines[1:]


def _read_jsonl(path, shown):
    entries, lines = [], []
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                entry = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"`dataset` must have a JSON object in each line. Received: {shown}, "
                    f"row {line} ({error})"
                ) from error
            if not isinstance(entry, dict):
                raise ValueError(
                    f"`dataset` must have a JSON object in each line. Received: {shown}, "
                    f"where row {line} is {printable(text.strip()[:40])!r}"
                )
            entries.append(entry)
            lines.append(line)
    if not entries:
        raise ValueError(f"`dataset` must be a table with rows. Received: {shown}")
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {name: [entry.get(name) for entry in entries] for name in names}, lines


def _read_parquet(path, shown):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f"`dataset` must be one whose package is installed. Received: {shown}, which needs "
            f'pyarrow ({error}); run `pip install "keras_mae[huggingface]"`'
        ) from error
    try:
        table = pyarrow.parquet.read_table(path)
        columns = {
            name: column.to_pylist()
            for name, column in zip(table.column_names, table.columns, strict=True)
            if not pyarrow.types.is_binary(column.type)
        }
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"`dataset` must be a parquet table that can be read. Received: {shown} ({error})"
        ) from error
    if not table.num_rows:
        raise ValueError(f"`dataset` must be a table with rows. Received: {shown}")
    return columns, list(range(1, table.num_rows + 1))


_READERS = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
