"""Scenes of digits on photographs, made of what two dependencies ship: exact masks and boxes."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_mae.data.decoders.base import Facts
from keras_mae.data.dense_source import Boxes, DenseSource, truth_of_targets
from keras_mae.data.sources.mnist5k import MNIST5k

TRAIN, VALIDATION = 4_000, 500
DEFAULT_SIDE, LEAST_SIDE, MOST_SIDE = 96, 32, 1024
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
# Left of this share of a photograph's width are the grounds of training, right of it the held-out.
BORDER = 0.65
# Sides of a ground in pixels of the photograph, and of a digit as shares of a scene.
GROUND_SIDES, DIGIT_SIDES = (96, 192), (0.25, 0.55)
MOST_DIGITS = 5
_TRIES = 20
# To make a scene takes longer than a step of a small model, so scenes are kept, in so many bytes.
_KEPT_BYTES = 2**28
# How far a digit's brightness is from that of what it covers, at least, of 255.
_CONTRAST = 90


class DigitScenes(DenseSource):
    """`[SIDE]`: square scenes of so many pixels (96), with one to five digits each.

    Digits of `mnist5k` lie at random sizes and places on crops of scikit-learn's two photographs,
    in colours of their own that differ from the ground; their boxes do not overlap. 4,000 scenes
    are for training and 500 held out, with other digits and other regions of the photographs. The
    scenes are the same on every machine and with every seed, but for the rounding of a decoder.

    "segment": background and ten digits; a pixel is a digit's where the digit covers half of it or
    more. "detect": ten digits, in boxes around just these pixels. Without a task the scenes are for
    pre-training. A scene is made when it is first read.
    """

    name = "digit_scenes"
    flips = "none"  # a mirrored digit is none, or another

    def __init__(self, argument: str = "", *, seed: int = 0) -> None:
        is_side = argument.isascii() and argument.isdigit()
        if argument and not (is_side and LEAST_SIDE <= int(argument) <= MOST_SIDE):
            raise ValueError(
                f"`dataset` must be digit_scenes[:SIDE] with {LEAST_SIDE} to {MOST_SIDE} pixels. "
                f"Received: 'digit_scenes:{argument}'"
            )
        self.side = int(argument) if argument else DEFAULT_SIDE
        self.image_size = (self.side, self.side)
        digits = [str(digit) for digit in range(10)]
        by_task = {"detect": digits, "segment": ["background", *digits]}
        super().__init__(TRAIN + VALIDATION, by_task, seed=seed)
        self.own_parts = {
            "train": np.arange(TRAIN),
            "validation": np.arange(TRAIN, TRAIN + VALIDATION),
        }
        # Always of the seed 0: the scenes are the same whatever this source's seed is.
        mnist = MNIST5k()
        self._digits, self._numbers = mnist.images[..., 0], mnist.record_labels()
        self._pools = [part.indices for part in mnist.split() if part is not None]
        self._photographs = _read_photographs()
        self._kept: dict[int, Any] = {}  # shared by all parts

    def key(self, record: int) -> str:
        part = "train" if record < TRAIN else "validation"
        return f"{part}/{record:04d}"

    def record_facts(self, record: int) -> Facts:
        return Facts(self.side, self.side, 3, is_byte=True)

    def read(self, record: int) -> tuple[Any, int | None]:
        return self._scene(record)[0], None

    def target(self, record: int) -> Any:
        _, labels, boxes = self._scene(record)
        return labels if self.task == "segment" else boxes

    def target_size(self, record: int) -> tuple[int, int]:
        return self.side, self.side

    @property
    def most_boxes(self) -> int:
        return MOST_DIGITS

    @property
    def category_ids(self) -> list[int]:
        return list(range(1, 11))

    def image_id(self, record: int) -> int:
        return record + 1

    def truth(self) -> dict[str, Any]:
        return truth_of_targets(self)

    def _scene(self, record):
        """`(pixels, labels, boxes)` of a scene: uint8 `(S, S, 3)`, uint8 `(S, S)`, `Boxes`."""
        scene = self._kept.get(record)
        if scene is None:
            scene = self._make(record)
            if len(self._kept) * 4 * self.side**2 < _KEPT_BYTES:
                self._kept[record] = scene
        return scene

    def _make(self, record):
        # RandomState: its numbers are the same in every version of NumPy.
        random = np.random.RandomState(record)
        is_held_out = record >= TRAIN
        pixels = self._ground(random, is_held_out)
        labels = np.zeros((self.side, self.side), np.uint8)
        squares: list[tuple[int, int, int]] = []
        boxes, classes = [], []
        for _ in range(random.randint(1, MOST_DIGITS + 1)):
            chosen = random.choice(self._pools[int(is_held_out)])
            low, high = (share * self.side for share in DIGIT_SIDES)
            side = int(low + (high - low) * random.random_sample())
            place = _free_place(random, squares, side, self.side)
            color = random.random_sample(3)
            if place is None:
                continue
            squares.append((*place, side))
            digit = Image.fromarray(self._digits[chosen]).resize((side, side))
            cover = np.asarray(digit, "float32")[..., None] / 255
            window = tuple(slice(start, start + side) for start in place)
            paint = _contrasting(color, pixels[window][cover[..., 0] > 0.5])
            pixels[window] = np.rint(pixels[window] * (1 - cover) + paint * cover)
            rows, columns = np.nonzero(cover[..., 0] >= 0.5)
            label = int(self._numbers[chosen])
            labels[window][rows, columns] = label + 1
            top, left = place
            boxes.append((left + columns.min(), top + rows.min()))
            boxes[-1] += (left + columns.max() + 1, top + rows.max() + 1)
            classes.append(label)
        corners = np.array(boxes, "float32").reshape(-1, 4)
        return (
            pixels,
            labels,
            Boxes(corners, np.array(classes, np.int64), np.zeros(len(classes), bool)),
        )

    def _ground(self, random, is_held_out):
        photo = self._photographs[random.randint(len(self._photographs))]
        border = int(BORDER * photo.width)
        start, end = (border, photo.width) if is_held_out else (0, border)
        side = random.randint(GROUND_SIDES[0], GROUND_SIDES[1] + 1)
        left = start + random.randint(end - start - side + 1)
        top = random.randint(photo.height - side + 1)
        box = (left, top, left + side, top + side)
        size = (self.side, self.side)
        return np.array(photo.resize(size, Image.Resampling.BILINEAR, box=box))


def _free_place(random, squares, side, scene):
    """Top and left of a square that overlaps no other, or None where none was found."""
    for _ in range(_TRIES):
        top, left = random.randint(scene - side + 1, size=2).tolist()
        apart = (
            abs(2 * (top - t) + side - s) >= side + s or abs(2 * (left - x) + side - s) >= side + s
            for t, x, s in squares
        )
        if all(apart):
            return top, left
    return None


def _contrasting(color, covered):
    """A color `(3,)`, 0-255, lighter or darker than the pixels `(n, 3)` that it will cover."""
    ground = float(covered.mean()) if len(covered) else 0.0
    if ground > 127:
        return color * max(ground - _CONTRAST, 0)
    return 255 - color * max(255 - ground - _CONTRAST, 0)


def _read_photographs():
    # scikit-learn itself is not imported: that takes a second.
    spec = importlib.util.find_spec("sklearn")
    if spec is None:
        raise ValueError(
            "`dataset` must be one whose package is installed. Received: 'digit_scenes', whose "
            "photographs lie in scikit-learn; run `pip install scikit-learn`"
        )
    folder = Path(spec.origin).parent / "datasets" / "images"
    return [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]
