"""Images in a zip archive, read by their places: nothing is unpacked."""

import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.data.listing import names
from keras_mae.data.listing.ranges import read_range
from keras_mae.data.listing.tree import read_tree
from keras_mae.data.sources.base import EncodedSource
from keras_mae.files import printable

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED, _UTF8 = 0x1, 0x800  # bits of a member's flags
_FROM_DOS = 0  # the system whose names may have backslashes
# Deflate makes nothing smaller than by this factor: a header that says more lies.
_MOST_DEFLATED = 1032
# A member that unpacks to more than these bytes, and to more than this multiple of its own, is no
# photograph: it is made to fill the memory, or a blank page that should be stored otherwise.
BOMB_BYTES, BOMB_RATIO = 128 * 2**20, 100


class Zip(EncodedSource):
    """All images in the archive `FILE`, sorted by name.

    Folders inside mean what they mean for `folder`: splits, or classes. One folder around all
    images is passed over. Members may be stored or deflated. Names are UTF-8, or else any bytes.

    A member is read by its place with its checksum compared, so from several threads at once. An
    archive with a member that leads out of it, a link, an encrypted member or a bomb is refused.
    """

    name = "zip"

    def __init__(self, argument: str = "", *, seed: int = 0) -> None:
        self._shown = f"'zip:{printable(argument)}'"
        self.file = str(Path(argument).expanduser())
        if not argument or not os.path.isfile(self.file):
            raise ValueError(
                f"`dataset` must be zip:FILE of a file that exists. Received: {self._shown}"
            )
        members = self._members()
        self._check_apart(members.values())
        images = sorted(name for name, info in members.items() if self._is_image(name, info))
        if not images:
            raise ValueError(
                "`dataset` must be an archive with images "
                f"({' '.join(sorted(names.IMAGE_SUFFIXES))}). "
                f"Received: {self._shown}, with none at any depth"
            )
        super().__init__(len(images), seed=seed)
        self.files = images
        infos = [members[name] for name in images]
        self._starts = [info.header_offset for info in infos]
        self._packed = [info.compress_size for info in infos]
        self._sizes = [info.file_size for info in infos]
        self._deflated = [info.compress_type == zipfile.ZIP_DEFLATED for info in infos]
        self._checksums = [info.CRC for info in infos]
        tree = read_tree(_without_the_folder_around_all(images), self._shown)
        self.class_names, self.own_parts = tree.class_names, tree.own_parts
        self._labels = tree.labels
        self.num_classes = None if tree.class_names is None else len(tree.class_names)

    def _members(self):
        """Dict of name to `ZipInfo` of the members that are files; the last of one name counts."""
        try:
            with zipfile.ZipFile(self.file) as archive:
                infos = archive.infolist()
        except Exception as error:  # damaged archives break zipfile in many ways
            raise ValueError(
                f"`dataset` must be a whole zip archive. Received: {self._shown} "
                f"({type(error).__name__}: {error})"
            ) from error
        members = {}
        for info in infos:
            name = _name_of(info)
            self._check(name, info)
            if not name.endswith("/") and not names.has_stray(name):
                members[name] = info
        return members

    def _check(self, name, info):
        """Raise a ValueError, naming the member, if a careful reader would not touch it."""
        mode, fault = info.external_attr >> 16, None
        if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/") or "\0" in name:
            fault = "whose name leads out of the archive"
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "which is a link or a device, not a file"
        elif info.flag_bits & _ENCRYPTED:
            fault = "which is encrypted"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            fault = f"compressed by method {info.compress_type}; stored and deflated ones are read"
        elif info.file_size > _MOST_DEFLATED * (info.compress_size + 1) or (
            info.file_size > max(BOMB_BYTES, BOMB_RATIO * info.compress_size)
        ):
            fault = f"which unpacks from {info.compress_size} to {info.file_size} bytes"
        if fault is not None:
            raise ValueError(
                "`dataset` must be a zip archive of plain files. Received: "
                f"{self._shown}, with {printable(name)!r}, {fault}"
            )

    def _check_apart(self, infos):
        """Raise if members share bytes: so an archive of 10 MB can unpack to 281 TB."""
        places = sorted((info.header_offset, info.compress_size) for info in infos)
        for (start, size), (after, _) in zip(places, places[1:], strict=False):
            if start + _LOCAL_HEADER.size + size > after:
                raise ValueError(
                    "`dataset` must be a zip archive whose members lie apart. Received: "
                    f"{self._shown}, where two share the bytes from {after} on"
                )

    def _is_image(self, name, info):
        if names.is_image_name(name):
            return True
        if not names.may_be_dicom(name):
            return False
        try:
            return names.is_dicom(self._beginning(info))
        except (OSError, ValueError, zlib.error):
            return False

    def _beginning(self, info):
        start = self._content_start(info.header_offset)
        data = read_range(self.file, start, min(info.compress_size, 4 * names.DICOM_BEGINNING))
        if info.compress_type == zipfile.ZIP_STORED:
            return data
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, names.DICOM_BEGINNING)

    def _content_start(self, header_start):
        """Where a member's bytes begin: its own header says how long that header is."""
        header = read_range(self.file, header_start, _LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            raise ValueError(f"no whole header at byte {header_start}")
        magic, name_size, extra_size = _LOCAL_HEADER.unpack(header)
        if magic != b"PK\3\4":
            raise ValueError(f"no member's header at byte {header_start}")
        return header_start + _LOCAL_HEADER.size + name_size + extra_size

    def key(self, record: int) -> str:
        return self.files[record]

    def path(self, record: int) -> str:
        return f"{self.file}/{self.files[record]}"

    def record_labels(self) -> np.ndarray | None:
        return self._labels

    def record_bytes(self, record: int) -> int | None:
        return self._sizes[record]

    def read(self, record: int) -> tuple[Any, int | None]:
        label = None if self._labels is None else int(self._labels[record])
        packed, size = self._packed[record], self._sizes[record]
        start = self._content_start(self._starts[record])
        data = read_range(self.file, start, packed)
        if len(data) < packed:
            raise ValueError(f"the archive ends {packed - len(data)} bytes before the file does")
        if self._deflated[record]:
            # One byte more than declared tells a bomb; what else is in it stays packed.
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        if len(data) != size:
            raise ValueError(f"unpacks to another size than the {size} bytes declared")
        if zlib.crc32(data) != self._checksums[record]:
            raise ValueError("its checksum does not fit")
        return data, label


def _name_of(info):
    """A member's name as `os.fsdecode` gives it: zipfile takes names of no stated coding as DOS's.

    cp437 has a letter for each byte, so the bytes can be had back.
    """
    name = info.orig_filename
    if not info.flag_bits & _UTF8:
        name = os.fsdecode(name.encode("cp437"))
    return name.replace("\\", "/") if info.create_system == _FROM_DOS else name


def _without_the_folder_around_all(paths):
    cut = [path.partition("/") for path in paths]
    if len({first for first, _, _ in cut}) > 1 or not all(slash for _, slash, _ in cut):
        return paths
    return [rest for _, _, rest in cut]
