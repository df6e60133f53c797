"""Some image files, by a pattern or one by one."""

import glob
import os
from collections.abc import Sequence
from typing import Any

from keras_mae.data.decode import image_facts
from keras_mae.data.decoders.base import Facts
from keras_mae.data.listing.names import is_image_name, shortest_names
from keras_mae.data.listing.ranges import read_file
from keras_mae.data.sources.base import EncodedSource
from keras_mae.data.sources.folder import walk_images
from keras_mae.files import printable


class Files(EncodedSource):
    """The image files that `PATTERN` matches, such as `files:photos/*.jpg`, without labels.

    `**` stands for folders of any depth. In Python the argument can be a list of paths, too, of
    files and of folders, whose images are meant at any depth; these are in the order given.
    """

    name = "files"

    def __init__(self, argument: str | Sequence[str] = "", *, seed: int = 0) -> None:
        if isinstance(argument, str):
            found = sorted(glob.glob(os.path.expanduser(argument), recursive=True))
            paths = [path for path in found if is_image_name(path)]
            if not paths:
                raise ValueError(
                    "`dataset` must be files:PATTERN of image files that there are. "
                    f"Received: {printable(f'files:{argument}')!r}"
                )
        else:
            paths = [path for given in argument for path in _images_of(os.fspath(given))]
        self._paths = list(dict.fromkeys(paths))
        self._names = shortest_names(self._paths)
        super().__init__(len(self._paths), seed=seed)

    def key(self, record: int) -> str:
        return self._names[record]

    def path(self, record: int) -> str:
        return self._paths[record]

    def record_bytes(self, record: int) -> int | None:
        try:
            return os.stat(self._paths[record]).st_size
        except OSError:
            return None

    def record_facts(self, record: int) -> Facts:
        return image_facts(self._paths[record])

    def read(self, record: int) -> tuple[Any, int | None]:
        return read_file(self._paths[record]), None


def _images_of(path):
    """The path of a file; of a folder, those of its images."""
    if not os.path.exists(path):
        raise ValueError(
            f"`image` must be a file or a folder that exists. Received: {printable(path)!r}"
        )
    if not os.path.isdir(path):
        return [path]
    inside = [os.path.join(path, name) for name in sorted(walk_images(path))]
    if not inside:
        raise ValueError(
            f"`image` must be a folder with images. Received: {printable(path)!r}, without any"
        )
    return inside
