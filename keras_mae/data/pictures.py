"""Pictures of a person's own, a few at a time, as a model sees them; and masks drawn by hand."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae.data import augment
from keras_mae.data.decode import decode_image, image_facts, reason_of
from keras_mae.data.decoders.base import Decoded
from keras_mae.data.sensor import Sensor
from keras_mae.data.sources import Source, load_source
from keras_mae.data.sources.base import decoded
from keras_mae.files import printable
from keras_mae.pixels import BYTE_RANGE, normalize
from keras_mae.types import AnyPath

GEOMETRIES = ("crop", "fit")


@dataclasses.dataclass(frozen=True)
class View:
    """How a model sees pictures.

    Attributes:
        image_size: (H, W), pixels.
        channels: int C.
        mean, std: C floats each, of values mapped to [0, 1].
        value_range: (low, high), the values that are mapped to 0 and 1.
        bands: ints from 1 on, which bands of each picture are taken; None: all.
        resize: "crop": the middle is cut out, as in measuring; "fit": all of the picture is seen,
            in its proportions, with the mean colour around it.
    """

    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float] = BYTE_RANGE
    bands: tuple[int, ...] | None = None
    resize: str = "crop"

    def __post_init__(self) -> None:
        if self.resize not in GEOMETRIES:
            raise ValueError(f"`resize` must be one of {GEOMETRIES}. Received: {self.resize!r}")

    @classmethod
    def of(cls, encoder: Any, bands: Sequence[int] | None = None, resize: str = "crop") -> "View":
        """Return the view of an encoder: whatever has the attributes of the same names."""
        return cls(
            tuple(encoder.image_size),
            encoder.channels,
            tuple(encoder.mean),
            tuple(encoder.std),
            tuple(encoder.value_range),
            None if bands is None else tuple(bands),
            resize,
        )

    def see(self, image: Decoded, whole: bool = False) -> np.ndarray:
        """Return a decoded image as float32 `(H, W, C)`, normalised.

        Args:
            image: `Decoded`.
            whole: bool. Whether the image is stretched to the size, as those of one size are.
        Raises:
            ValueError: if it cannot be seen with so many channels.
        """
        sensor = Sensor(channels=self.channels, bands=self.bands)
        pixels = sensor.seen_by(self.mean, self.value_range).see(image)
        if whole:
            seen = augment.evaluation_transform(pixels, self.image_size, whole=True)
            seen = 255 * np.asarray(seen)
        else:
            seen = self._placed(pixels, 255 * np.asarray(self.mean, "float32"))
        return np.asarray(normalize(seen.astype("float32"), self.mean, self.std))

    def _placed(self, pixels: np.ndarray, around: Any) -> np.ndarray:
        """Return pixels `(h, w, C)`, 0-255, at the model's size."""
        if self.resize == "crop":
            return 255 * np.asarray(augment.evaluation_transform(pixels, self.image_size))
        return augment.fit_inside(pixels, self.image_size, around)

    def hidden_share(self, mask: np.ndarray, patch_size: tuple[int, int]) -> np.ndarray:
        """Return float `(N,)`, how much of each patch a mask `(h, w)` of bools covers.

        The mask is cut or fitted as a picture of its size would be.
        """
        placed = self._placed(255 * mask[..., None].astype("uint8"), 0) / 255
        (height, width), (p, q) = self.image_size, patch_size
        patches = placed.reshape(height // p, p, width // q, q)
        return patches.mean(axis=(1, 3)).ravel()


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures that were read.

    Attributes:
        names: list of str.
        images: float32 `(B, H, W, C)`, normalised.
        notes: list of str: what a person should know of how they were read.
    """

    names: list[str]
    images: np.ndarray
    notes: list[str]


def read_pictures(specs: Sequence[AnyPath], view: View, most: int = 8) -> Pictures:
    """Read files, folders and data sets.

    Args:
        specs: each a file, a folder, or what `keras_mae.data.load_source` opens.
        view: a `View`.
        most: int, images taken of each folder and data set, spread over all of it.
    Raises:
        ValueError: if a file is no image or cannot be seen, or a folder has none that can be.
    Example:
        view = View.of(encoder)
        images = read_pictures(["a.png", "folder:photos"], view).images
    """
    names, images, notes = [], [], []
    resized, greyed, coloured = [], [], []
    for spec in specs:
        source = None if Path(spec).is_file() else _source(spec)
        found = _of_file(spec) if source is None else _of_source(source, most)
        broken, count = [], 0
        whole = source is not None and source.image_size is not None
        for name, read in found:
            try:
                image = read()
                seen = view.see(image, whole)
            except Exception as error:
                if source is None:
                    raise ValueError(
                        "`image` must be an image that can be read, and that a model of "
                        f"{view.channels} channels can see; `bands` takes some of more. "
                        f"Received: {name} ({reason_of(error)})"
                    ) from error
                broken.append(f"{name} ({reason_of(error)})")
                continue
            count += 1
            names.append(name)
            images.append(seen)
            colours = image.pixels.shape[2] if view.bands is None else len(view.bands)
            if (colours, view.channels) == (3, 1):
                greyed.append(name)
            elif (colours, view.channels) == (1, 3):
                coloured.append(name)
            if not whole and image.pixels.shape[:2] != view.image_size:
                resized.append(name)
        if source is not None:
            notes += _notes_of(spec, source, count, broken)
            if not count:
                raise ValueError(
                    f"`image` must have an image that can be read. Received: {printable(spec)!r}: "
                    f"{'; '.join(broken)}"
                )
    notes += _said_of(
        (greyed, "in colour: the model has one channel, and sees grey."),
        (coloured, "grey: the model's three channels are alike."),
        (resized, _size_words(view)),
    )
    return Pictures(names, np.stack(images), notes)


def _source(spec: AnyPath) -> Source:
    text = str(spec)
    if Path(spec).is_dir():
        text = f"folder:{text}"
    elif ":" not in text and Path(text).suffix:
        raise ValueError(f"`image` must be there. Received: {printable(text)!r}, which is not")
    try:
        return load_source(text)
    except ValueError as error:
        words = str(error).replace("`dataset` must be", "a data set must be")
        raise ValueError(
            f"`image` must be a file, a folder, or a data set. Received: {printable(text)!r} "
            f"({words})"
        ) from error


def _of_file(path: AnyPath) -> Iterator[tuple[str, Any]]:
    yield printable(path), lambda: decode_image(Path(path).read_bytes())


def _of_source(source: Source, most: int) -> Iterator[tuple[str, Any]]:
    """Yield names, and functions that read, of images spread over a source."""
    count = min(most, source.num_examples)
    places = np.linspace(0, source.num_examples - 1, count).round().astype(int)
    for record in source.indices[places]:
        yield printable(source.key(int(record))), lambda record=int(record): _read(source, record)


def _read(source: Source, record: int) -> Decoded:
    return decoded(source.record_reader()(record)[0])


def _said_of(*groups: tuple[list[str], str]) -> Iterator[str]:
    """Yield a sentence for each group of names that is not empty."""
    for names, words in groups:
        if names:
            yield (
                f"{names[0]} is {words}"
                if len(names) == 1
                else f"{len(names)} pictures are {words}"
            )


def _notes_of(spec: AnyPath, source: Source, count: int, broken: list[str]) -> list[str]:
    notes = [f"Left out, of {printable(spec)}: {name}" for name in broken]
    if count + len(broken) < source.num_examples:
        notes.append(
            f"{printable(spec)}: {count} of {source.num_examples:,} images, spread over all."
        )
    return notes


def _size_words(view: View) -> str:
    height, width = view.image_size
    if view.resize == "crop":
        return (
            f"resized, and cropped to the middle {height} x {width} pixels; --resize=fit shows all."
        )
    return f"resized to fit into {height} x {width} pixels, the mean colour around."


def read_mask(text: str, view: View, patch_size: tuple[int, int]) -> np.ndarray:
    """Return bool `(N,)`, which patches a mask of a person's own hides.

    Args:
        text: path of an image, bright where patches are hidden: above half of its brightest value,
            over at least half of a patch. Or numbers of patches that are hidden, from 1 on, row by
            row, such as "3,7,20-25".
        view: a `View`. The mask is cut or fitted as a picture of its size.
        patch_size: (p, q).
    Raises:
        ValueError: if it is neither, or hides no patch or all of them.
    Example:
        hidden = read_mask("1-7,43-49", View.of(encoder), encoder.patch_size)
    """
    rows, columns = (side // p for side, p in zip(view.image_size, patch_size, strict=True))
    if Path(text).is_file():
        hidden = view.hidden_share(_bright(text), patch_size) >= 0.5
    else:
        hidden = _listed(text, rows, columns)
    if not 0 < hidden.sum() < hidden.size:
        raise ValueError(
            f"`mask` must hide at least 1 and show at least 1 of the {hidden.size} patches. "
            f"Received: {printable(text)!r}, which hides {hidden.sum()}"
        )
    return hidden


def _bright(path: str) -> np.ndarray:
    """Return bool `(h, w)`, where an image file is above half of its brightest value."""
    try:
        image = decode_image(Path(path).read_bytes())
    except Exception as error:
        raise ValueError(
            f"`mask` must be an image that can be read. Received: {printable(path)} "
            f"({reason_of(error)})"
        ) from error
    grey = image.pixels.astype("float64").mean(axis=2)
    grey = grey if image.alpha is None else grey * image.alpha
    return grey > max(grey.max(), 0) / 2


def _listed(text: str, rows: int, columns: int) -> np.ndarray:
    hidden = np.zeros(rows * columns, bool)
    try:
        for part in text.split(","):
            start, _, end = part.strip().partition("-")
            first, last = int(start), int(end or start)
            if not 1 <= first <= last <= hidden.size:
                raise ValueError(part)
            hidden[first - 1 : last] = True
    except ValueError as error:
        raise ValueError(
            f"`mask` must be an image file, or numbers of patches from 1 to {hidden.size} "
            f"({rows} rows of {columns}), such as 3,7,20-25. Received: {printable(text)!r}"
        ) from error
    return hidden


def check_pixels(path: AnyPath, most: int) -> None:
    """Raise a ValueError if an image file's header tells more than so many pixels.

    Args:
        path: of an image file.
        most: int, height times width.
    """
    try:
        facts = image_facts(path)
    except Exception as error:
        raise ValueError(
            f"`image` must be an image that can be read. Received: {printable(Path(path).name)} "
            f"({reason_of(error)})"
        ) from error
    if facts.height * facts.width > most:
        raise ValueError(
            f"`image` must have at most {most:,} pixels. "
            f"Received: {facts.height:,} x {facts.width:,}"
        )
