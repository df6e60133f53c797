"""From stored pixels to a model's: channels, range of values, what is missing or transparent.

All images of a pipeline are float32 or uint8 from 0 to 255, which stand for the two ends of the
value range. An 8-bit image is what it is; every other is mapped linearly in floats, so that none
of its levels is lost.
"""

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from keras_mae.data.decoders.base import Decoded, Facts
from keras_mae.pixels import BYTE_RANGE, pixel_dtype

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# ITU-R 601-2: a grey value is the sum of red, green and blue with these shares.
_LUMA = np.array([0.299, 0.587, 0.114])
HEADERS = 64  # images whose headers tell channels and depth
SAMPLE = 2_000  # images whose pixels tell range and statistics
# (bands, channels) of images whose alpha becomes the last channel.
_WITH_ALPHA = {(3, 4), (1, 4), (1, 2)}
_SAMPLED_VALUES = 2**23  # of all these images together
_PERCENTILES = (0.1, 99.9)  # of floats


@dataclasses.dataclass(frozen=True)
class SensorOptions:
    """What a user says of the pixels; None is found out by a sample of the images.

    Attributes:
        channels: int C, what the model sees. Grey images can be seen as colour, and colour as
            grey; 4 keeps the alpha of colour as a fourth channel.
        bands: ints from 1 on, the bands of each image that are taken, in this order; or None: all.
        value_range: (low, high), the values that are mapped to 0 and 1, of images of any depth.
            None: 0 to 255 for 8 bits; for more, the smallest power of two that holds the sample,
            and for floats from the lowest thousandth to the highest.
        statistics: "imagenet", or (means, deviations), each of one float or of C, of values mapped
            to [0, 1]. None: ImageNet's for 8-bit colour, else the sample's.
        background: floats, one or C, in the images' own values: what transparent pixels become.
            None: the mean colour.
    """

    channels: int | None = None
    bands: tuple[int, ...] | None = None
    value_range: tuple[float, float] | None = None
    statistics: str | tuple | None = None
    background: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, fault in self.faults():
            raise ValueError(f"`{name}` must be {fault}. Received: {getattr(self, name)!r}")

    def faults(self) -> list[tuple[str, str]]:
        """Return (name, what it must be) of each option that does not fit."""
        found = []
        if self.channels is not None and self.channels < 1:
            found.append(("channels", "an int of at least 1"))
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            found.append(("bands", "band numbers, from 1 on"))
        if (
            self.channels is not None
            and self.bands is not None
            and not _fits(len(self.bands), self.channels)
        ):
            found.append(("channels", f"{len(self.bands)}, as many as `bands`"))
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            found.append(("value_range", "(low, high), the second greater than the first"))
        if isinstance(self.statistics, str) and self.statistics != "imagenet":
            found.append(("statistics", "'imagenet', or (means, deviations)"))
        if isinstance(self.statistics, tuple) and min(self.statistics[1]) <= 0:
            found.append(("statistics", "(means, deviations) with deviations above 0"))
        return found


@dataclasses.dataclass(frozen=True)
class Sensor:
    """How stored pixels become a model's.

    Attributes:
        channels: int C.
        byte_range: (low, high) of uint8 images.
        wide_range: (low, high) of all others. None: none was met, and each has its own.
        is_said: bool. Whether the user has said the range.
        is_wide: bool. Whether the images are mostly of more than 8 bits: of which range
            `value_range` speaks.
        mean, std: C floats each, of values mapped to [0, 1].
        bands, background: see `SensorOptions`.
        num_bands: int, how many bands an image must have for `bands` to be what they are in the
            others; None: any.
        lines: what a person should know of the sample, a tuple of strings.
    """

    channels: int = 3
    byte_range: tuple[float, float] = BYTE_RANGE
    wide_range: tuple[float, float] | None = None
    is_said: bool = False
    is_wide: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    bands: tuple[int, ...] | None = None
    background: tuple[float, ...] | None = None
    num_bands: int | None = None
    lines: tuple[str, ...] = ()

    @property
    def value_range(self) -> tuple[float, float]:
        """The range that a model of these images has in its config."""
        if self.is_wide and self.wide_range is not None:
            return self.wide_range
        return self.byte_range

    @property
    def takes_bytes_as_they_are(self) -> bool:
        """Whether an 8-bit image needs nothing but its channels made fit."""
        return self.byte_range == BYTE_RANGE and self.bands is None

    def seen_by(
        self, mean: Sequence[float], value_range: tuple[float, float] | None = None
    ) -> "Sensor":
        """Return this sensor as a model sees it, which has learned with other numbers.

        A range that the user has said stays. 8-bit images keep theirs where the model's is not one
        of 8 bits, and wider images theirs where the model's is: a photograph of 8 bits and one of
        16 are the same picture.

        Args:
            mean: C floats, the model's.
            value_range: the model's, or None for the images' own.
        """
        changes: dict[str, Any] = {"mean": tuple(map(float, np.atleast_1d(mean)))}
        if value_range is not None and not self.is_said:
            is_byte = pixel_dtype(value_range) == "uint8"
            value_range = (float(value_range[0]), float(value_range[1]))
            changes["byte_range" if is_byte else "wide_range"] = value_range
        return dataclasses.replace(self, **changes)

    def range_of(
        self, pixels: np.ndarray, missing: np.ndarray | None = None
    ) -> tuple[float, float]:
        """Return the (low, high) by which an image's stored values are mapped."""
        if pixels.dtype == np.uint8:
            return self.byte_range
        return self.wide_range or auto_range([pixels if missing is None else pixels[~missing]])

    def see(self, image: Decoded, tally: "Tally | None" = None) -> np.ndarray:
        """Return an image's pixels as the pipeline has them.

        Args:
            image: `Decoded`.
            tally: counts what is clipped and missing.
        Returns:
            uint8 or float32 array `(H, W, channels)`, 0-255.
        Raises:
            ValueError: if it has other bands, or no pixel with data.
        """
        pixels, missing, alpha = self._seen_channels(image)
        plain = alpha is None and missing is None and self.takes_bytes_as_they_are
        if plain and pixels.dtype == np.uint8:
            return pixels
        value_range = self.range_of(pixels, missing)
        mapped, clipped = self._map(pixels, missing, value_range)
        if tally is not None:
            tally.add(mapped.size, clipped, 0 if missing is None else int(missing.sum()))
        mean = 255 * np.asarray(self.mean, "float32")
        if missing is not None:
            if missing.all():
                raise ValueError("no pixel holds data")
            mapped = np.where(missing, mean[: mapped.shape[2]], mapped)
        if alpha is None:
            return mapped
        alpha = alpha[..., None]
        if self._keeps_alpha(mapped.shape[2]):
            return np.concatenate([mapped, 255 * alpha], axis=2, dtype="float32")
        back = mean
        if self.background is not None:
            low, high = value_range
            back = np.asarray(self.background, "float64")
            back = np.clip((back - low) * (255 / (high - low)), 0, 255).astype("float32")
        return (alpha * mapped + (1 - alpha) * back).astype("float32")

    def _keeps_alpha(self, colours):
        """Whether alpha is the last channel, after so many colours."""
        return self.bands is None and colours < self.channels

    def _bands(self, image):
        """(pixels, missing) of the bands wanted, as stored; missing is None for none."""
        pixels, missing = image.pixels, image.missing
        if pixels.dtype.kind == "f":
            finite = np.isfinite(pixels)
            if not finite.all():
                missing = ~finite if missing is None else missing | ~finite
        if self.bands is not None:
            if max(self.bands) > pixels.shape[2]:
                raise ValueError(
                    f"expected band {max(self.bands)}, got an image of {pixels.shape[2]}"
                )
            if self.num_bands not in (None, pixels.shape[2]):
                raise ValueError(f"expected {self.num_bands} bands, got {pixels.shape[2]}")
            chosen = [band - 1 for band in self.bands]
            pixels = pixels[:, :, chosen]
            missing = None if missing is None else missing[:, :, chosen]
        return pixels, None if missing is None or not missing.any() else missing

    def _seen_channels(self, image):
        pixels, missing = self._bands(image)
        return self._channels(pixels, missing, image.alpha)

    def _channels(self, pixels, missing, alpha):
        """(pixels, missing, alpha) of the channels wanted, but for an alpha that is kept."""
        colours, wanted = pixels.shape[2], self.channels
        if self.bands is None and (colours, wanted) in _WITH_ALPHA:
            alpha = np.ones(pixels.shape[:2], "float32") if alpha is None else alpha
            wanted -= 1
        if not _fits(colours, wanted):
            raise ValueError(f"expected {wanted} channels, got {colours}")
        if colours == 1 and wanted == 3:
            pixels = np.repeat(pixels, 3, axis=2)
            missing = None if missing is None else np.repeat(missing, 3, axis=2)
        elif colours == 3 and wanted == 1:
            pixels = grey_of(pixels)
            missing = None if missing is None else missing.any(axis=2, keepdims=True)
        return pixels, missing, alpha

    @staticmethod
    def _map(pixels, missing, value_range):
        """Return float32 pixels, 0-255, and how many values were outside."""
        low, high = value_range
        # float32 holds all values of 16 bits; of wider ones it would round before the range is cut.
        exact = pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32
        mapped = pixels.astype("float32" if exact else "float64")
        if missing is not None:
            mapped = np.where(missing, mapped.dtype.type(low), mapped)
        if low:
            mapped = mapped - mapped.dtype.type(low)
        outside = int(np.count_nonzero(mapped < 0) + np.count_nonzero(mapped > high - low))
        mapped = np.clip(mapped * mapped.dtype.type(255 / (high - low)), 0, 255)
        return mapped.astype("float32"), outside


class Tally:
    """Count values that were clipped or missing, over all images that a run has read.

    Attributes:
        values, clipped, missing: ints.
        rounded: int, images of more than 8 bits among those of 8, which were rounded to 8.
    """

    def __init__(self) -> None:
        self.values = self.clipped = self.missing = self.rounded = 0

    def add(self, values: int, clipped: int, missing: int) -> None:
        """Count those of one image."""
        self.values += values
        self.clipped += clipped
        self.missing += missing

    def line(self) -> str:
        """Return sentences for a person; "" where nothing was clipped, missing or rounded."""
        lines = [self._shares()]
        if self.rounded:
            lines.append(
                f"Images of more than 8 bits came {self.rounded:,} times among those of 8, and "
                "were rounded to 8: --value_range says what their values are."
            )
        return " ".join(filter(None, lines))

    def _shares(self):
        if not self.values or not (self.clipped or self.missing):
            return ""
        shares = [
            f"{count / self.values:.2%} {what}"
            for count, what in (
                (self.clipped, "outside the value range, and clipped"),
                (self.missing, "no data, and filled with the mean"),
            )
            if count
        ]
        return f"Of all values read, {'; '.join(shares)}."


def grey_of(pixels: np.ndarray) -> np.ndarray:
    """Return `(H, W, 1)` of colours `(H, W, 3)`.

    Of uint8 exactly what Pillow makes of it; of others, floats: float32 where it holds the stored
    values, else float64.
    """
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    grey = pixels.astype("float64") @ _LUMA
    fits = pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32
    return grey.astype("float32" if fits else "float64")[..., None]


def _fits(colours, wanted):
    """Whether images of so many bands can be seen as so many channels."""
    return colours == wanted or (colours, wanted) in ((1, 3), (3, 1))


def auto_range(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the (low, high) that holds values of more than 8 bits.

    Of whole numbers 0 to the smallest power of two less one, or from -2^k to 2^k - 1 where some
    are negative; of floats from the lowest thousandth to the highest.

    Args:
        values: arrays of valid values, all of their images; an empty one counts nothing.
    Example: `auto_range([np.array([3, 3000], "uint16")])` is `(0.0, 4095.0)`
    """
    values = [part for part in values if part.size]
    if not values:
        return BYTE_RANGE
    if all(part.dtype.kind in "iub" for part in values):
        least = min(int(part.min()) for part in values)
        most = max(int(part.max()) for part in values)
        if least >= 0:
            return 0.0, float(2 ** max(most.bit_length(), 1) - 1)
        bits = max((-least - 1).bit_length(), most.bit_length())
        return float(-(2**bits)), float(2**bits - 1)
    pooled = np.concatenate([part.ravel().astype("float64") for part in values])
    low, high = (float(value) for value in np.percentile(pooled, _PERCENTILES))
    if not low < high:
        return low, low + max(1.0, abs(low) * 1e-6)
    digits = 5 - math.floor(math.log10(high - low))  # short in a config, and near enough
    return round(low, digits), round(high, digits)


def measure(
    records: np.ndarray,
    facts_of: Callable[[int], Facts | None],
    decode: Callable[[int], Decoded],
    options: SensorOptions,
    channels: int | None = None,
) -> Sensor:
    """Find out what the images of a source are, by a sample.

    Images that cannot be read are left out: they are named when they are trained on. The sample
    is a function of the records alone.

    Args:
        records: int array.
        facts_of: function from a record to its `Facts`, or None where it has none; may raise.
        decode: function from a record to `Decoded`; may raise. Called from several threads.
        options: `SensorOptions`.
        channels: what the source says of itself, or None.
    Raises:
        ValueError: if the options do not go with the images.
    """
    draw = np.random.default_rng(0).permutation(records)
    headers = _each(_safe(facts_of), draw[:HEADERS])
    wanted = options.channels or (len(options.bands) if options.bands else channels)
    if wanted is None:
        wanted = _common_channels(headers)
    _check_convertible(headers, wanted, options)
    wide = [facts for facts in headers if not facts.is_byte]
    sensor = Sensor(
        channels=wanted,
        is_wide=2 * len(wide) > len(headers),
        bands=options.bands,
        num_bands=_common_channels(headers) if options.bands and headers else None,
        background=_each_channel(options.background, wanted, "background"),
    )
    if options.value_range is not None:
        sensor = dataclasses.replace(
            sensor,
            byte_range=options.value_range,
            wide_range=options.value_range,
            is_said=True,
        )
    plain = not wide and wanted == 3 and (options.bands or (1, 2, 3)) == (1, 2, 3)
    statistics = options.statistics
    if statistics is None and plain and options.value_range is None:
        statistics = "imagenet"
    if statistics == "imagenet":
        sensor = dataclasses.replace(sensor, **_imagenet(wanted))
    elif statistics is not None:
        mean, std = (_each_channel(part, wanted, "statistics") for part in statistics)
        sensor = dataclasses.replace(sensor, mean=mean, std=std)
    needs_range = bool(wide) and options.value_range is None
    if headers and (statistics is None or needs_range):
        sample = _Sample(sensor, decode, draw[:SAMPLE])
        if needs_range:
            sensor = dataclasses.replace(sensor, wide_range=sample.wide_range())
        if statistics is None:
            mean, std = sample.statistics(sensor)
            sensor = dataclasses.replace(sensor, mean=mean, std=std)
        sensor = dataclasses.replace(sensor, lines=sample.lines(sensor))
    elif statistics is None:
        sensor = dataclasses.replace(sensor, **_imagenet(wanted))
    if wide and len(wide) < len(headers) and sensor.wide_range is not None:
        low, high = sensor.wide_range
        line = (
            f"{len(wide)} of {len(headers)} images looked at have more than 8 bits: their "
            f"{low:g} to {high:g} are what 0 to 255 are for the others"
        )
        sensor = dataclasses.replace(sensor, lines=(*sensor.lines, line))
    return sensor


class _Sample:
    """Values of some places of some images, those without data left out."""

    def __init__(self, sensor, decode, records):
        # Channels are made fit by a sensor that maps nothing.
        self.frames = Counter()
        self.total = self.num_missing = 0
        count = max(1, _SAMPLED_VALUES // (len(records) * sensor.channels))

        def values(record):
            image = decode(record)
            stored, missing = sensor._bands(image)
            pixels, valid, alpha = sensor._channels(
                stored, np.zeros(stored.shape, bool) if missing is None else missing, image.alpha
            )
            seen = np.ones(pixels.shape[:2], bool) if alpha is None else alpha > 0
            whole = stored[seen] if missing is None else stored[~missing & seen[..., None]]
            # As they are stored: grey of whole numbers is none.
            ends = np.array([whole.min(), whole.max()]) if whole.size else whole
            rows, valid = (part.reshape(-1, pixels.shape[2]) for part in (pixels, ~valid))
            seen = seen.reshape(-1, 1)
            total, lost = int(seen.sum()) * rows.shape[1], int((~valid & seen).sum())
            valid = valid & seen
            kept = sensor._keeps_alpha(pixels.shape[2])
            last = alpha.reshape(-1, 1) if kept else None
            if len(rows) > count:
                places = np.random.default_rng(int(record)).integers(0, len(rows), count)
                rows, valid = rows[places], valid[places]
                last = None if last is None else last[places]
            return rows, valid, last, ends, total, lost, image.frames

        self.parts = _each(_safe(values), records)
        for *_, total, lost, frames in self.parts:
            self.total += total
            self.num_missing += lost
            self.frames[frames] += 1

    def wide_range(self):
        wide = [part for part in self.parts if part[3].dtype != np.uint8]
        if not wide:
            return None
        whole_numbers = all(part[3].dtype.kind in "iub" for part in wide)
        # Of whole numbers the ends count, which few places may miss.
        return auto_range(
            [ends if whole_numbers else rows[valid] for rows, valid, _, ends, *_ in wide]
        )

    def _mapped(self, sensor):
        for rows, valid, alpha, *_ in self.parts:
            mapped, _ = sensor._map(rows, ~valid, sensor.range_of(rows, ~valid))
            mapped = mapped.astype("float64") / 255
            if alpha is not None:
                mapped = np.concatenate([mapped, alpha], axis=1)
                valid = np.concatenate([valid, np.ones_like(valid[:, :1])], axis=1)
            yield mapped, valid

    def statistics(self, sensor):
        """Return (mean, std), tuples, of values mapped to [0, 1], clipped."""
        count, total, squares = np.zeros((3, sensor.channels))
        for mapped, valid in self._mapped(sensor):
            mapped = np.where(valid, mapped, 0)
            count += valid.sum(axis=0)
            total += mapped.sum(axis=0)
            squares += (mapped**2).sum(axis=0)
        count = np.maximum(count, 1)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        std = np.where(std < 1e-6, 1.0, std)  # all of one value: nothing to scale by
        return tuple(tuple(round(float(value), 6) for value in part) for part in (mean, std))

    def lines(self, sensor):
        """Return sentences for a person."""
        found = []
        clipped = count = 0
        for rows, valid, *_ in self.parts:
            low, high = sensor.range_of(rows, ~valid)
            clipped += int((valid & ((rows < low) | (rows > high))).sum())
            count += int(valid.sum())
        if clipped:
            found.append(f"{clipped / count:.2%} of the values lie outside the range: clipped")
        if self.num_missing:
            share = self.num_missing / max(self.total, 1)
            found.append(f"{share:.1%} of the values are no data: filled with the mean")
        several = {frames: n for frames, n in self.frames.items() if frames > 1}
        if several:
            found.append(
                f"{sum(several.values())} of {len(self.parts)} files hold several images, up to "
                f"{max(several)}: the first is taken"
            )
        return tuple(found)


def _each(function, items):
    """Return what a function that may give None gives of each item, None left out."""
    items = [int(item) for item in items]
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        return [value for value in pool.map(function, items) if value is not None]


def _safe(function):
    def call(record):
        try:
            return function(record)
        except Exception:  # it will be named when it is to be trained on
            return None

    return call


def _common_channels(headers):
    """Return the number of channels that most images can be seen with."""
    counts = Counter(facts.channels for facts in headers)
    if not counts:
        return 3
    if set(counts) <= {1, 3}:
        return max(counts)  # grey among colour is made three
    return counts.most_common(1)[0][0]


def _check_convertible(headers, wanted, options):
    counts = Counter(facts.channels for facts in headers)
    if options.bands is not None:
        if counts and max(counts) < max(options.bands):
            raise ValueError(
                f"`bands` must be at most the {max(counts)} of the images. "
                f"Received: {options.bands}"
            )
        return
    if counts and not any(_fits(n, wanted) or (n, wanted) in _WITH_ALPHA for n in counts):
        raise ValueError(
            f"`channels` must be what the images have, {sorted(counts)}; grey and colour stand "
            "for each other, 4 is colour with alpha, and `bands` takes some bands of more. "
            f"Received: {wanted}, as asked for or as the encoder has"
        )


def _imagenet(channels):
    if channels == 3:
        return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    # The averages of the three, where another number of channels has them.
    return {"mean": (0.449,) * channels, "std": (0.226,) * channels}


def _each_channel(values, channels, argument):
    """Return a tuple of a float for each channel, from one for all or one for each; or None."""
    if values is None:
        return None
    values = tuple(float(value) for value in values)
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise ValueError(
            f"`{argument}` must be one number or {channels}, one for each channel. "
            f"Received: {values}"
        )
    return values
