"""Decoded images that are kept in memory, so that each is decoded once a run."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.data.handle import Handle

# Of the memory that is free when a run begins.
AUTO_SHARE, MOST_SHARE = 0.25, 0.75


class PixelCache:
    """Pixels by record, up to a number of bytes; what comes later is decoded each time.

    What a pipeline gives does not depend on what is kept: an image of which less than all pixels
    may be decoded is never kept.

    Args:
        most_bytes: int.
        least: `(H, W)` that crops are resized to, if they need not be exact, see `Handle.crop`;
            None: they are exact.
    """

    def __init__(self, most_bytes: float, least: tuple[int, int] | None) -> None:
        self.most_bytes, self.least, self.num_bytes = most_bytes, least, 0
        self._kept: dict[int, tuple[np.ndarray, Any]] = {}

    def get(self, record: int) -> tuple[np.ndarray, Any] | None:
        """Return (pixels, label) of a record, or None."""
        return self._kept.get(record)

    def keep(self, record: int, picture: Handle, label: Any) -> None:
        """Keep a picture's pixels, if they are decoded and may be kept."""
        pixels = picture.pixels
        if pixels is None or (self.least is not None and picture.may_shrink(self.least)):
            return
        if record not in self._kept and self.num_bytes + pixels.nbytes <= self.most_bytes:
            self.num_bytes += pixels.nbytes
            self._kept[record] = pixels, label


def memory_for(choice: str, wanted: float) -> tuple[float, str]:
    """Return how many bytes of decoded images are to be kept, and a line that says so.

    Args:
        choice: "auto": all images or none; "memory": as many as go in; or "none".
        wanted: how many bytes all images take, about.
    Returns:
        (bytes, line); 0 and "" to keep none.
    """
    free = free_memory()
    if choice == "none" or free is None:
        return 0, ""
    share = AUTO_SHARE if choice == "auto" else MOST_SHARE
    most = share * free
    if choice == "auto" and wanted > most:
        return 0, ""
    sizes = " of ".join(map(_in_words, (min(wanted, most), free)))
    return most, f"Decoded images stay in memory: about {sizes} that are free."


def _in_words(size):
    return f"{size / 1e9:,.2g} GB" if size >= 1e9 else f"{size / 1e6:,.2g} MB"


def free_memory() -> float | None:
    """Return the bytes of memory that are free for this process; None where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
        free = 1024 * int(line.split()[1])
    except (OSError, ValueError):
        try:
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            return None
    # A container may be allowed less than the machine has.
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            left = int(Path(limit).read_text()) - int(Path(used).read_text())
        except (OSError, ValueError):
            continue
        free = min(free, max(left, 0))
    return free
