"""Where the samples of a tar shard lie, found once and kept in a small file.

A sample is what lies in one shard under one key. A name is cut as webdataset cuts it, at the first
dot of its last part: `v1.0/0001.seg.png` is the field `seg.png` of the sample `v1.0/0001`.
"""

import hashlib
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

from keras_mae.data.listing import names
from keras_mae.files import atomic_path, printable

VERSION = 1
# A label's file is a few letters: what is longer is none.
_MOST_LABEL_BYTES = 2**20
_NAME = re.compile(r"((?:.*/|)[^./]+)[.]([^/]*)", re.DOTALL)
# Where a sample has several of these, the first is the image: a PNG beside a JPEG is mostly its
# mask, and an array what some model made of it.
_IMAGE_FIELDS = (
    *("jpg", "jpeg", "jpe", "jfif", "webp", "avif", "bmp", "gif", "tif", "tiff", "dcm", "dicom"),
    *("png", "npy", "npz"),
)
_LABEL_KEYS = ("label", "cls", "class")
_COMPRESSED = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2", b"\xfd7z": "xz", b"(\xb5/": "zstd"}


def shard_index(path: str) -> dict[str, Any]:
    """Return where the samples of a shard lie, from the kept index if the shard is the same.

    The index is kept as `.NAME.index.json` beside the shard, or where that cannot be written in the
    user's cache directory. It counts as long as the shard's size and time of change are as they
    were.

    Args:
        path: str, a local tar file.
    Returns:
        dict with `keys`, `starts`, `sizes` (lists, of the images: name, first byte and number of
        bytes), `labels` (list: int, text, list of these, or None for each) and `notes` (list of
        strings, what of the shard is not used).
    Raises:
        ValueError: if the file is no tar archive, is compressed, or holds links, names that lead
            out of it, or a field twice.
    """
    status = os.stat(path)
    stamp = [VERSION, status.st_size, status.st_mtime_ns]
    places = _index_paths(path)
    for place in places:
        kept = _read_kept(place, stamp)
        if kept is not None:
            return kept
    index = _scan(path, status.st_size)
    for place in places:
        try:
            with atomic_path(place) as temporary:
                temporary.write_text(json.dumps({"stamp": stamp, **index}), encoding="utf-8")
            break
        except OSError:  # a read-only data set
            continue
    return index


def _index_paths(path):
    path = Path(path).absolute()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.blake2b(os.fsencode(path), digest_size=16).hexdigest()
    return path.with_name(f".{path.name}.index.json"), cache / "keras_mae" / f"{digest}.index.json"


def _read_kept(place, stamp):
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) and kept.pop("stamp", None) == stamp else None


def _scan(path, size):
    """The index of a shard, read from the headers of its members."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    with open(path, "rb") as file:
        damage = None
        try:
            tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
            while (member := tar.next()) is not None:
                tar.members = []  # or it keeps all of them
                _add(samples, member, path)
            damage = _what_follows(file, tar.offset, size)
        except (tarfile.TarError, OverflowError, UnicodeError, OSError) as error:
            damage = str(error) or type(error).__name__
        if not samples and damage:
            file.seek(0)
            way = _COMPRESSED.get(file.read(3))
            raise ValueError(
                "`dataset` must be tar files without compression, so that an image can be read "
                f"alone. Received: {printable(path)!r}, "
                f"{f'compressed by {way}; unpack it to .tar once' if way else damage}"
            )
        return _index_of(samples, file, path, damage)


def _add(samples, member, path):
    name, fault = member.name, None
    if member.isdir():
        return
    if name.startswith("/") or ".." in name.split("/"):
        fault = "whose name leads out of it"
    elif not member.isreg() or member.issparse():
        fault = "which is a link, a device or has holes, not a plain file"
    if fault is None and (names.has_stray(name.removeprefix("./")) or name.startswith("__")):
        return  # webdataset, too, takes what begins with __ as notes on the shard
    match = _NAME.fullmatch(name)
    if fault is None and match is None:
        return
    if fault is None:
        fields = samples.setdefault(match[1], {})
        if match[2].lower() not in fields:
            fields[match[2].lower()] = (member.offset_data, member.size)
            return
        fault = "which is there twice"
    raise ValueError(
        "`dataset` must be shards of plain files. Received: "
        f"{printable(path)!r}, with {printable(name)!r}, {fault}"
    )


def _what_follows(file, offset, size):
    """None where a shard ends as it should: tarfile takes a damaged header for the end, too."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    return f"no header at byte {offset} of {size}" if block.strip(b"\0") else None


def _index_of(samples, file, path, damage):
    index: dict[str, list] = {"keys": [], "starts": [], "sizes": [], "labels": [], "notes": []}
    without = more = 0
    for key, fields in samples.items():
        images = [field for field in _IMAGE_FIELDS if field in fields]
        without += not images
        more += len(images) > 1
        for field in images[:1]:
            index["keys"].append(key)
            index["starts"].append(fields[field][0])
            index["sizes"].append(fields[field][1])
            index["labels"].append(_label(fields, file, f"{printable(path)}, {printable(key)}"))
    shown = printable(os.path.basename(path))
    if without:
        index["notes"].append(f"{shown}: {without} samples without an image are left out")
    if more:
        first = f"the first of {' '.join(_IMAGE_FIELDS)} is"
        index["notes"].append(f"{shown}: of {more} samples with several images {first} used")
    if damage:
        index["notes"].append(f"{shown} is damaged ({damage}); what lies behind is not read")
    return index


def _label(fields, file, shown):
    """The label of a sample as it is written: int, text, list of these, or None."""
    for field, read in (("cls", _read_cls), ("json", _read_json)):
        start, size = fields.get(field, (0, _MOST_LABEL_BYTES + 1))
        if size > _MOST_LABEL_BYTES:
            continue
        file.seek(start)
        try:
            return read(file.read(size))
        except ValueError as error:
            raise ValueError(
                f"`dataset` must have an int in .cls, and an object in .json. Received: {shown}."
                f"{field} ({error})"
            ) from error
    return None


def _read_cls(data):
    text = data.decode("utf-8").strip()
    return int(text) if text else None


def _read_json(data):
    content = json.loads(data)
    if not isinstance(content, dict):
        return None
    return next((content[key] for key in _LABEL_KEYS if key in content), None)
