"""Tables of names and numbers, written a part at a time: CSV, parquet, NumPy's files."""

import csv
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.files import atomic_path
from keras_mae.types import AnyPath

FEATURES = (".npz", ".npy", ".parquet")
ROWS = (".csv", ".parquet")
# (names, rows) of some images after the other.
Parts = Callable[[], Iterator[tuple[list[str], np.ndarray]]]


def check_suffix(path: AnyPath, suffixes: Sequence[str], argument: str = "output") -> None:
    """Raise unless a path ends in one of `suffixes`, and what writes such a file is installed.

    Raises:
        ValueError: for another suffix.
        ImportError: for parquet without pyarrow, naming the extra.
    """
    suffix = Path(path).suffix
    if suffix not in suffixes:
        raise ValueError(f"`{argument}` must end in {', '.join(suffixes)}. Received: {path}")
    if suffix == ".parquet":
        _pyarrow()


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            'Parquet needs pyarrow: pip install "keras_mae[parquet]", or take another suffix.'
        ) from error
    return pyarrow


def write_features(path: AnyPath, parts: Parts, num_rows: int, width: int) -> None:
    """Write names and features; memory holds a part.

    Args:
        path: `.npz` with `names` and `features`; `.npy` with the features, the names in
            `NAME.names.txt` beside it, one a line; or `.parquet` with `name` and `features`, lists
            of fixed size. It appears whole, or not at all.
        parts: function that begins the parts anew: (names, float32 `(n, width)`).
        num_rows, width: ints, of all parts together.
    """
    path = Path(path)
    write = {".npz": _write_npz, ".npy": _write_npy, ".parquet": _write_parquet}[path.suffix]
    with atomic_path(path) as temporary:
        write(temporary, path, parts, num_rows, width)


def names_path(path: AnyPath) -> Path:
    """Return the path of the names beside a `.npy` file."""
    return Path(path).with_suffix(".names.txt")


def _header(stream: Any, shape: tuple[int, ...], dtype: str) -> None:
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _write_npy(temporary: Path, path: Path, parts: Parts, num_rows: int, width: int) -> None:
    with (
        atomic_path(names_path(path)) as names,
        open(names, "w", encoding="utf-8", newline="\n") as lines,
        open(temporary, "wb") as stream,
    ):
        _header(stream, (num_rows, width), "<f4")
        for some, rows in parts():
            stream.write(np.ascontiguousarray(rows, "<f4").tobytes())
            lines.writelines(f"{name}\n" for name in some)


def _write_npz(temporary: Path, path: Path, parts: Parts, num_rows: int, width: int) -> None:
    longest = max((len(name) for some, _ in parts() for name in some), default=1)

    def member(archive: zipfile.ZipFile, name: str, compression: int) -> Any:
        info = zipfile.ZipInfo(name)  # of no time: the same features are the same bytes
        info.compress_type = compression
        return archive.open(info, "w", force_zip64=True)

    with zipfile.ZipFile(temporary, "w") as archive:
        with member(archive, "names.npy", zipfile.ZIP_DEFLATED) as stream:
            _header(stream, (num_rows,), f"<U{max(1, longest)}")
            for some, _ in parts():
                stream.write(np.array(some, f"<U{max(1, longest)}").tobytes())
        with member(archive, "features.npy", zipfile.ZIP_STORED) as stream:
            _header(stream, (num_rows, width), "<f4")
            for _, rows in parts():
                stream.write(np.ascontiguousarray(rows, "<f4").tobytes())


def _write_parquet(temporary: Path, path: Path, parts: Parts, num_rows: int, width: int) -> None:
    arrow = _pyarrow()
    schema = arrow.schema(
        [("name", arrow.string()), ("features", arrow.list_(arrow.float32(), width))]
    )
    with arrow.parquet.ParquetWriter(str(temporary), schema) as writer:
        for some, rows in parts():
            flat = arrow.array(np.ascontiguousarray(rows, "float32").ravel())
            lists = arrow.FixedSizeListArray.from_arrays(flat, width)
            writer.write_table(arrow.table([arrow.array(some, arrow.string()), lists], schema))


def write_rows(
    path: AnyPath, columns: Sequence[tuple[str, type]], parts: Iterable[Iterable[Sequence[Any]]]
) -> None:
    """Write rows of text and numbers; memory holds a part.

    Args:
        path: `.csv` in UTF-8, or `.parquet`. It appears whole, or not at all.
        columns: (name, `str`, `int` or `float`) of each; floats are float32 in parquet.
        parts: rows, each of a value a column, in parts.
    """
    with atomic_path(path) as temporary:
        if Path(path).suffix == ".parquet":
            _write_rows_parquet(temporary, columns, parts)
            return
        with open(temporary, "w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow([name for name, _ in columns])
            for rows in parts:
                writer.writerows(_cells(row) for row in rows)


def _cells(row: Sequence[Any]) -> list[Any]:
    return [f"{v:.6g}" if isinstance(v, float | np.floating) else v for v in row]


def _write_rows_parquet(
    temporary: Path,
    columns: Sequence[tuple[str, type]],
    parts: Iterable[Iterable[Sequence[Any]]],
) -> None:
    arrow = _pyarrow()
    types = {str: arrow.string(), int: arrow.int64(), float: arrow.float32()}
    schema = arrow.schema([(name, types[kind]) for name, kind in columns])
    with arrow.parquet.ParquetWriter(str(temporary), schema) as writer:
        for rows in parts:
            cells = list(zip(*rows, strict=True)) or [()] * len(columns)
            arrays = [
                arrow.array(values, types[kind])
                for values, (_, kind) in zip(cells, columns, strict=True)
            ]
            writer.write_table(arrow.table(arrays, schema))
