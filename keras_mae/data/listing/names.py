"""Which names are images, and which nobody has put there: one place for all sources.

The suffix only says that somebody meant a file to be an image; the content decides how it is
decoded.
"""

import os
from collections.abc import Sequence

IMAGE_SUFFIXES = frozenset(
    # What Pillow reads and people keep pictures in,
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
    # and what sensors' images are kept in.
    + (".npy", ".npz", ".dcm", ".dicom")
)
# Left by macOS, Windows, and network drives, in lower case.
_STRAYS = frozenset(
    (
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "$recycle.bin",
        "system volume information",
        "@eadir",
        "#recycle",
        "#snapshot",
        "lost+found",
    )
)
# Bytes of a file that are enough to tell whether it is DICOM.
DICOM_BEGINNING = 132


def is_stray(part: str) -> bool:
    """Return whether a file or folder is hidden, or something that a system leaves behind.

    Args:
        part: str, a name without folders, such as "Thumbs.db" or "._1.jpg".
    """
    return part.startswith(".") or part.lower() in _STRAYS


def has_stray(path: str) -> bool:
    """Return whether a part of a relative path, with "/", is a stray."""
    return any(map(is_stray, path.split("/")))


def is_image_name(name: str) -> bool:
    """Return whether a name or path has the suffix of an image, in any case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def may_be_dicom(name: str) -> bool:
    """Return whether a name or path has no suffix: scanners name files by numbers, as 1.2.840.5."""
    suffix = os.path.splitext(name)[1][1:]
    return not suffix or (suffix.isascii() and suffix.isdigit())


def is_dicom(beginning: bytes) -> bool:
    """Return whether a file that begins with these `DICOM_BEGINNING` bytes is DICOM."""
    return beginning[128:132] == b"DICM"


def shortest_names(paths: Sequence[str]) -> list[str]:
    """Return names for files that stay the same when all are moved elsewhere, each another.

    Args:
        paths: distinct paths. Their last parts are the names where these differ, else the paths
            below the folder that holds all.
    """
    last = [os.path.basename(path) for path in paths]
    if len(set(last)) == len(paths):
        return last
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [path[len(root) :].lstrip("/") for path in paths]
