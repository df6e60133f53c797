"""Read a file, or a piece of one, from several threads at once: no file position is shared."""

import os

# O_NONBLOCK: a pipe that has an image's name must not stop the run. Files are read as ever.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)


def read_file(path: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: if it cannot be read.
    """
    # os.read needs no buffer and no file object: half the time of open().read().
    descriptor = os.open(path, _FLAGS)
    try:
        return _pread(descriptor, 0, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def read_range(path: str, start: int, size: int) -> bytes:
    """Return up to `size` bytes of a file from byte `start`; fewer where it ends before.

    Args:
        path: str, also one that `tf.io.gfile` knows, such as `gs://bucket/name`.
        start, size: ints >= 0, bytes.
    """
    if "://" in path:
        import tensorflow as tf

        with tf.io.gfile.GFile(path, "rb") as file:
            file.seek(start)
            return file.read(size)
    descriptor = os.open(path, _FLAGS)
    try:
        # What a damaged index asks for must not be allocated: it may be terabytes.
        return _pread(descriptor, start, max(0, min(size, os.fstat(descriptor).st_size - start)))
    finally:
        os.close(descriptor)


def _pread(descriptor, start, size):
    data = os.pread(descriptor, size, start)
    while len(data) < size:  # a read may return less, as from a network drive
        more = os.pread(descriptor, size - len(data), start + len(data))
        if not more:
            break
        data += more
    return data
