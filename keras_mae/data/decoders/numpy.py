"""Arrays in NumPy's own files, `.npy` and `.npz`; nothing in them is ever unpickled."""

import io
import math
import zipfile
from typing import IO

import numpy as np

from keras_mae.data.decoders.base import Decoded, Facts, check_size, open_file
from keras_mae.types import AnyPath

# How files begin: an array's own, and an archive's.
MAGIC = (b"\x93NUMPY", b"PK\x03\x04")
# Which array of a `.npz` file with several is the image.
NAMES = ("image", "x", "data")


def decode(data: bytes) -> Decoded:
    """Decode an array `(H, W)` or `(H, W, C)` of whole numbers, floats or booleans.

    Booleans are uint8, 0 and 255. Of an `.npz` file the only array is taken, or the one of
    `NAMES`.

    Raises:
        ValueError: if it is no such array, the file is cut, or more than `base.MAX_BYTES`.
        Exception: whatever `zipfile` raises.
    """
    with io.BytesIO(data) as file:
        if data.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                member = _member(archive)
                with archive.open(member) as opened:
                    return Decoded(_read(opened))
        return Decoded(_read(file))


def facts(file: AnyPath | bytes) -> Facts:
    """Return what the header of the array says."""
    with open_file(file) as opened:
        if opened.read(2) == b"PK":
            with zipfile.ZipFile(opened) as archive, archive.open(_member(archive)) as member:
                shape, _, dtype = _header(member)
        else:
            opened.seek(0)
            shape, _, dtype = _header(opened)
    height, width, channels = shape
    return Facts(height, width, channels, is_byte=dtype in (np.uint8, np.bool_))


def _member(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """Return the entry of an `.npz` file that holds the image."""
    members = {info.filename[:-4]: info for info in archive.infolist() if _is_array(info)}
    for name in (*NAMES, *(members if len(members) == 1 else ())):
        if name in members:
            return members[name]
    raise ValueError(
        f"an .npz file must hold one array, or one named {', '.join(NAMES)}. "
        f"Received: {sorted(members)[:10]}"
    )


def _is_array(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith(".npy")


def _header(file: IO[bytes]) -> tuple[tuple[int, int, int], bool, np.dtype]:
    """Read the header of an array: its shape `(H, W, C)`, whether in Fortran's order, its dtype."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:  # of structures only
        raise ValueError(f"an .npy file must be of version 1.0 or 2.0. Received: {version}")
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise ValueError(f"an array must hold whole numbers, floats or bool. Received: {dtype}")
    if len(shape) not in (2, 3):
        raise ValueError(f"an array must be (H, W) or (H, W, C). Received: {shape}")
    height, width, channels = (*shape, 1)[:3]
    if channels < 1:
        raise ValueError(f"an array must have a channel. Received: {shape}")
    check_size(height, width, channels * dtype.itemsize)
    return (height, width, channels), is_fortran, dtype


def _read(file: IO[bytes]) -> np.ndarray:
    """Read an array; no memory is taken for more bytes than there are."""
    shape, is_fortran, dtype = _header(file)
    size = math.prod(shape) * dtype.itemsize
    content = file.read(size)
    if len(content) != size:
        raise ValueError(f"an array must be whole: {len(content)} of {size} bytes are there")
    pixels = np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")
    if dtype == np.bool_:
        return pixels.view(np.uint8).astype(bool) * np.uint8(255)
    return np.ascontiguousarray(pixels, dtype.newbyteorder("="))
