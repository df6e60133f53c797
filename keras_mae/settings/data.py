"""The settings that say which images, for what, and how their pixels are seen."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from keras_mae import registry
from keras_mae.settings.fields import Settings, setting

SOURCES = "keras_mae.data.sources"
DATA = "Data"
PIXELS = "Pixels"
OWN = "as the images are"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """Settings of all that reads images. None stands for what the images tell."""

    dataset: str = setting(
        "mnist5k",
        "Images: mnist5k, photos, folder:PATH, files:PATTERN, table:FILE, zip:FILE, "
        "webdataset:PATTERN, huggingface:NAME_OR_PATH[:SPLIT], tfds:NAME[:SPLIT], tfrecord:GLOB, "
        "digit_scenes[:SIDE], segmentation:IMAGES_DIR,MASKS_DIR, coco:FILE.json,IMAGES_DIR, or "
        "MODULE:CLASS[:ARGUMENT] for a source of your own.",
        DATA,
        sweep=False,
        first=1,
    )
    validation_dataset: str | None = setting(
        None,
        "Images to hold out, in place of a part of --dataset.",
        DATA,
        sweep=False,
        shown="the data set's own validation or test images, else a share",
    )
    test_dataset: str | None = setting(
        None,
        "Images to report on at the end, which nothing else sees.",
        DATA,
        sweep=False,
        shown="the data set's own test images, if it has validation images too",
    )
    holdout: float | None = setting(
        None,
        "Share of the images that is held out, the same of each class.",
        DATA,
        above=0,
        below=1,
        sweep=False,
        shown="0.05; 0.2 of mnist5k and photos",
    )
    image_column: str | None = setting(
        None,
        "Of table: and huggingface:, the column with the images.",
        DATA,
        sweep=False,
        shown="by its name",
    )
    label_column: str | None = setting(
        None,
        "Of table: and huggingface:, the column with the labels; of table: also several columns of "
        "0 and 1, divided by commas.",
        DATA,
        sweep=False,
        shown="by its name",
    )
    label_separator: str | None = setting(
        None,
        'Of table:, the text between several labels of an image, such as "|".',
        DATA,
        sweep=False,
        shown="one label an image",
    )
    class_names: str | None = setting(
        None,
        "Of segmentation:, a file with the names of the classes: one a line, or a JSON list.",
        DATA,
        sweep=False,
        shown="the numbers",
    )
    label_map: str | None = setting(
        None,
        "Of segmentation:, NUMBER:CLASS,...: the class of each number stored; 255: none.",
        DATA,
        sweep=False,
        shown="the numbers themselves",
    )
    max_bad_fraction: float = setting(
        0.1,
        "Share of images that cannot be read at which a run stops.",
        DATA,
        least=0,
        most=1,
        fixes=False,
        sweep=False,
    )
    channels: int | None = setting(
        None,
        "1: grey; 3: colour; 4: colour with alpha; any other number of bands.",
        PIXELS,
        least=1,
        sweep=False,
        shown=OWN,
    )
    bands: tuple[int, ...] | None = setting(
        None,
        "Which bands of each image, from 1 on, in this order.",
        PIXELS,
        least=1,
        sweep=False,
        shown="all",
    )
    value_range: tuple[float, ...] | None = setting(
        None,
        "LOW,HIGH: the values that become black and white. By default 0,255 of 8 bits, else what "
        "holds a sample.",
        PIXELS,
        lengths=(2, 2),
        sweep=False,
        shown=OWN,
    )
    statistics: str = setting(
        "auto",
        "imagenet, or MEAN:STD, a number each or one for each channel, of values mapped to "
        "[0, 1]. auto: ImageNet's for 8-bit colour, else a sample's.",
        PIXELS,
        sweep=False,
    )
    background: tuple[float, ...] | None = setting(
        None,
        "What transparent pixels become: a value, or one for each channel.",
        PIXELS,
        sweep=False,
        shown="the mean colour",
    )

    def faults_together(self) -> Iterator[str]:
        for name in ("dataset", "validation_dataset", "test_dataset"):
            spec = getattr(self, name)
            if spec is not None and not _is_source(spec):
                yield (
                    f"`{name}` must be one of {registry.names(SOURCES)}, with :ARGUMENT where it "
                    f"takes one, or MODULE:CLASS[:ARGUMENT] for your own. Received: {spec!r}"
                )
        if self.holdout is not None and self.validation_dataset is not None:
            yield (
                "`holdout` must be None where `validation_dataset` is given. "
                f"Received: {self.holdout} and {self.validation_dataset!r}"
            )
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            yield (
                "`value_range` must be LOW,HIGH with LOW less than HIGH. "
                f"Received: {list(self.value_range)}"
            )
        if self.bands is not None and self.channels not in (None, len(self.bands)):
            pair = (len(self.bands), self.channels)
            if pair not in ((1, 3), (3, 1)):
                yield (
                    f"`channels` must be the {len(self.bands)} of `bands`, or None. "
                    f"Received: {self.channels}"
                )
        try:
            self.given_statistics()
        except ValueError:
            yield (
                "`statistics` must be auto, imagenet, or MEAN:STD with numbers, STD above 0. "
                f"Received: {self.statistics!r}"
            )

    def given_statistics(self) -> Any:
        """Return None for auto, "imagenet", or (means, deviations), tuples of floats."""
        if self.statistics in ("auto", "imagenet"):
            return None if self.statistics == "auto" else "imagenet"
        mean, std = (
            tuple(float(value) for value in part.split(","))
            for part in self.statistics.split(":", 1)
        )
        if min(std) <= 0 or len(mean) != len(std):
            raise ValueError(self.statistics)
        return mean, std

    def data_settings(self) -> dict[str, Any]:
        """Return the settings of this class alone, to hand them on to other settings."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(DataSettings)}

    def source_options(self) -> dict[str, Any]:
        """Return the keyword arguments of `keras_mae.data.load_source`."""
        of_tables = ("image_column", "label_column", "label_separator", "class_names", "label_map")
        of_pixels = ("channels", "bands", "value_range", "background")
        options = {name: getattr(self, name) for name in (*of_tables, *of_pixels)}
        return {**options, "statistics": self.given_statistics()}


def _is_source(spec: str) -> bool:
    own = registry.is_own(":".join(spec.split(":")[:2]))
    return own or spec.partition(":")[0] in registry.names(SOURCES)
