"""Colour photographs shipped inside scikit-learn and, where installed, scikit-image."""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from keras_mae.data.sources.base import ArraySource

# Natural colour photographs only. Of scikit-image's stereo pair one is enough: the other, held
# out, would show the model nothing new.
PHOTOGRAPHS = (
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/rocket.jpg"),
)
WINDOWS_PER_PHOTO = 128


class Photos(ArraySource):
    """Square windows of a few photographs, unlabelled.

    Record `p * 128 + w` is window w of photograph p: a square with .6 to 1 of the photograph's
    short side, at a place fixed by its number. Pre-training crops inside the window, so an epoch
    has 128 examples a photograph. `split` parts whole photographs, so no pixel is on both sides.
    """

    name = "photos"
    default_holdout = 0.2

    def __init__(self, argument: str = "", *, seed: int = 0) -> None:
        if argument:
            raise ValueError(
                f"`dataset` must be photos without an argument. Received: 'photos:{argument}'"
            )
        paths = [path for path in map(_find, PHOTOGRAPHS) if path is not None]
        self.photographs = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        self.photo_names = [path.stem for path in paths]
        super().__init__(len(paths) * WINDOWS_PER_PHOTO, seed=seed)
        self.order_guarantee += f"; {len(paths)} photographs, {WINDOWS_PER_PHOTO} windows of each"
        if importlib.util.find_spec("skimage") is None:
            self.order_guarantee += "; `pip install keras_mae[photos]` adds five photographs"

    def key(self, record: int) -> str:
        return f"{self.split_key(record)}/{record % WINDOWS_PER_PHOTO:03d}"

    def split_key(self, record: int) -> str:
        return self.photo_names[record // WINDOWS_PER_PHOTO]

    def record_size(self, record: int) -> tuple[int, int] | None:
        side = int(self.windows()[record, 2])
        return side, side

    def windows(self) -> np.ndarray:
        """int64 `(records, 3)`: top, left and side of each record's window, in pixels."""
        boxes = []
        for photo, name in zip(self.photographs, self.photo_names, strict=True):
            height, width = photo.shape[:2]
            # Seeded by the name: a photograph's windows do not depend on which others are there.
            digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
            draws = np.random.RandomState(np.frombuffer(digest, np.uint32)).random_sample(
                (WINDOWS_PER_PHOTO, 3)
            )
            side = np.round((0.6 + 0.4 * draws[:, 0]) * min(height, width)).astype(np.int64)
            top = np.floor(draws[:, 1] * (height - side + 1)).astype(np.int64)
            left = np.floor(draws[:, 2] * (width - side + 1)).astype(np.int64)
            boxes.append(np.stack([top, left, side], axis=1))
        return np.concatenate(boxes)

    def image_reader(self) -> Callable[[int], np.ndarray]:
        windows = self.windows()

        def read(record):
            top, left, side = windows[record]
            photo = self.photographs[record // WINDOWS_PER_PHOTO]
            return photo[top : top + side, left : left + side]

        return read


def _find(entry):
    package, path = entry
    spec = importlib.util.find_spec(package)  # finds the folder; imports nothing
    path = None if spec is None else Path(spec.origin).parent / path
    return path if path is not None and path.is_file() else None
