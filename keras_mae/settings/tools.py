"""The settings of the commands that are no runs: reconstruct, convert, export and others."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from keras_mae.settings.data import DataSettings
from keras_mae.settings.fields import Settings, changed, setting
from keras_mae.types import Size

FORMATS = "keras_mae.export.formats"
FILES = "What to read and write"
MODEL = "Model"
CHECK = "Check"
IMAGES = "What is done to images"
CARD = "Model card"
MASKS = "Masks"
SERVER = "Server"
MASKINGS = "keras_mae.layers.maskings"
LOOKS = ("attention", "components", "reconstructions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureSettings(Settings):
    """Settings of what shows a model's work on pictures of a person's own."""

    model: str | None = setting(
        None,
        "A run's directory, a .keras file, another library's checkpoint, or hf://OWNER/NAME.",
        FILES,
        required=True,
        first=1,
    )
    image: tuple[str, ...] = setting(
        (),
        "A picture, a folder, or a data set as --dataset of scripts/pretrain.py; can be given "
        "several times, or as an argument without a name.",
        FILES,
        multi=tuple,
        lengths=(0, 1000),
        first=2,
        shown="none",
    )
    num_images: int = setting(
        8, "Pictures taken of each folder and data set, spread over it.", FILES, least=1, most=1000
    )
    resize: str = setting(
        "crop",
        "crop: the middle of each picture, as in measuring. fit: all of it, the mean colour "
        "around.",
        IMAGES,
        choices=("crop", "fit"),
    )
    bands: tuple[int, ...] | None = setting(
        None,
        "Which bands of each picture, from 1 on, as --bands of the pre-training.",
        IMAGES,
        least=1,
        shown="all",
    )
    figure_bands: tuple[int, ...] | None = setting(
        None,
        "Channels of the model that are shown, from 1 on: one, or red, green and blue.",
        IMAGES,
        least=1,
        lengths=(1, 3),
        shown="the first three, else the first",
    )

    def faults_together(self) -> Iterator[str]:
        if not self.image:
            yield "`image` must name at least one picture. Received: none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskSettings(PictureSettings):
    """Settings of what hides patches and rebuilds them."""

    mask: str | None = setting(
        None,
        "A mask of your own: an image, bright where patches are hidden, or the hidden patches' "
        "numbers, from 1 on, row by row: 3,7,20-25.",
        MASKS,
        shown="none",
    )
    seed: int = setting(0, "Fixes which patches are hidden.", MASKS, least=0)
    oracle: bool = setting(
        False, "Use the hidden patches' true mean and deviation; the figure says so.", MASKS
    )

    def statistics(self) -> str:
        """Return the word of `MaskedAutoencoder.reconstruct`."""
        return "oracle" if self.oracle else "visible"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructSettings(MaskSettings):
    """What `scripts/reconstruct.py` draws."""

    output: str = setting("reconstructions.png", "The figure to write.", FILES, first=3)
    mask_ratio: float | None = setting(
        None, "Share of patches hidden.", MASKS, above=0, below=1, shown="the model's"
    )
    masking: str | None = setting(
        None, "Which patches are hidden.", MASKS, choices=MASKINGS, shown="as the model was trained"
    )

    def faults_together(self) -> Iterator[str]:
        yield from super().faults_together()
        if self.mask is not None and (self.mask_ratio, self.masking) != (None, None):
            yield (
                "`mask` must be None where `mask_ratio` or `masking` is given. "
                f"Received: {self.mask!r}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualizeSettings(MaskSettings):
    """What `scripts/visualize.py` draws."""

    output: str = setting("looks", "Directory of the figures.", FILES, first=3)
    parts: tuple[str, ...] | None = setting(
        None,
        "Which figures.",
        FILES,
        choices=LOOKS,
        first=4,
        shown="all that the model has",
    )
    block: int | None = setting(
        None, "Whose attention, from 1 on.", MODEL, least=1, shown="the last"
    )
    query: str = setting(
        "token",
        "token: what the class token looks at. patches: the mean over all patches.",
        MODEL,
        choices=("token", "patches"),
    )
    mask_ratio: tuple[float, ...] = setting(
        (0.5, 0.75, 0.9), "Shares of patches hidden.", MASKS, above=0, below=1
    )
    masking: tuple[str, ...] | None = setting(
        None,
        "Strategies; some of them, divided by commas.",
        MASKS,
        choices=MASKINGS,
        shown="the one the model was trained with",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """What `keras-mae demo` serves."""

    model: str | None = changed(PictureSettings, "model", None)
    image: tuple[str, ...] = changed(
        PictureSettings,
        "image",
        (),
        help="Examples: pictures, folders, or data sets as --dataset of scripts/pretrain.py; can "
        "be given several times, or as arguments without a name.",
        shown="embedded digits or photographs, by the model's channels",
    )
    num_images: int = changed(PictureSettings, "num_images", 8)
    resize: str = changed(PictureSettings, "resize", "crop")
    bands: tuple[int, ...] | None = changed(PictureSettings, "bands", None)
    figure_bands: tuple[int, ...] | None = changed(PictureSettings, "figure_bands", None)
    port: int = setting(
        7860, "Of 127.0.0.1, where the page is served.", SERVER, least=1, most=65535, first=3
    )
    upload_mb: float = setting(10, "Largest file that is taken, in megabytes.", SERVER, above=0)
    upload_megapixels: float = setting(
        40, "Largest picture that is taken, in millions of pixels.", SERVER, above=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertSettings(Settings):
    """What `scripts/convert.py` reads and writes."""

    source: str | None = setting(
        None,
        "The checkpoint: a file, a folder, or hf://OWNER/NAME[@REVISION][/FILE].",
        FILES,
        required=True,
        first=1,
    )
    target: str | None = setting(
        None,
        "What to write: a new folder, or for keras a new .keras file.",
        FILES,
        required=True,
        first=2,
    )
    format: str = setting(
        "hf",
        "hf: a folder for transformers; meta: a folder with a PyTorch file of Meta's and timm's "
        "names; keras_hub: a preset for KerasHub, without a decoder; keras: a .keras file.",
        FILES,
        choices=("hf", "meta", "keras_hub", "keras"),
        first=3,
    )
    image_size: tuple[int, ...] | None = setting(
        None,
        "SIDE or HEIGHT,WIDTH, pixels; positions follow.",
        MODEL,
        least=1,
        lengths=(1, 2),
        shown="the source's",
    )
    num_heads: int | None = setting(
        None,
        "Of the encoder, where the source does not tell.",
        MODEL,
        least=1,
        shown="the source's",
    )
    decoder_num_heads: int | None = setting(
        None,
        "Of the decoder, where the source does not tell.",
        MODEL,
        least=1,
        shown="the source's",
    )

    def faults_together(self) -> Iterator[str]:
        if self.format == "keras" and self.target and not self.target.endswith(".keras"):
            yield f"`target` must end in .keras for format='keras'. Received: {self.target!r}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushSettings(Settings):
    """What `scripts/push.py` puts on the Hugging Face hub."""

    source: str | None = setting(
        None,
        "The model: a run's directory, or a file or folder that --source of scripts/convert.py "
        "takes.",
        FILES,
        required=True,
        first=1,
    )
    repo: str | None = setting(
        None, "OWNER/NAME on the hub; made if it is not there.", FILES, required=True, first=2
    )
    format: str = setting(
        "hf",
        "hf: for transformers; keras_hub: a preset for KerasHub, without a decoder; keras: a "
        ".keras file, which holds every model.",
        FILES,
        choices=("hf", "keras_hub", "keras"),
        first=3,
    )
    licence: str | None = setting(
        None,
        "Identifier of the weights' licence, such as apache-2.0, cc-by-nc-4.0 or other.",
        CARD,
        required=True,
        first=4,
    )
    private: bool = setting(
        True,
        "A new repository is private, and one that is public already is refused.",
        FILES,
        first=5,
    )
    data: str | None = setting(
        None,
        "What the images are, for the card; no path is ever told.",
        CARD,
        shown="the name of a public data set, else not named",
    )
    figure: bool = setting(
        True,
        "A run's figure goes with the card; that of a pre-training shows some held-out images.",
        CARD,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordsSettings(Settings):
    """What `scripts/make_tfrecords.py` packs."""

    dataset: str | None = setting(
        None,
        "The images, as --dataset of scripts/pretrain.py: folder:PATH, zip:FILE, table:FILE ...",
        FILES,
        required=True,
        first=1,
    )
    output: str | None = setting(
        None,
        "Beginning of the files' names, such as /data/out/train.",
        FILES,
        required=True,
        first=2,
    )
    num_shards: int | None = setting(
        None, "Number of files.", FILES, least=1, shown="one for each 128 MiB", first=4
    )
    shorter_side: int | None = setting(
        None,
        "Pixels. Images whose shorter side is longer are shrunk to it.",
        IMAGES,
        least=1,
        shown="none is shrunk",
        first=3,
    )
    jpeg_quality: int = setting(
        90, "Quality of shrunk images that become JPEG.", IMAGES, least=1, most=100
    )
    image_column: str | None = changed(DataSettings, "image_column", None)
    label_column: str | None = changed(DataSettings, "label_column", None)
    label_separator: str | None = changed(DataSettings, "label_separator", None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """What `scripts/export.py` writes; each format adds its own options.

    See `keras_mae.commands.export_settings`.
    """

    option_names: ClassVar[tuple[str, ...]] = ()

    model: str | None = setting(
        None, "The model: a file, a folder, or hf://OWNER/NAME.", FILES, required=True, first=1
    )
    output: str | None = setting(
        None,
        "Directory. A SavedModel goes to its next free version, OUTPUT/1 at first; for other "
        "formats it must be new.",
        FILES,
        required=True,
        first=2,
    )
    format: str = setting("saved_model", "What to write.", FILES, choices=FORMATS, first=3)
    image_size: tuple[int, ...] | None = setting(
        None,
        "SIDE or HEIGHT,WIDTH, pixels; positions follow.",
        MODEL,
        least=1,
        lengths=(1, 2),
        shown="the model's",
    )
    check_dataset: str | None = setting(
        None,
        "Images compared, as --dataset of scripts/pretrain.py.",
        CHECK,
        shown="embedded digits or photographs, by the model's channels",
    )
    num_check_images: int = setting(16, "How many of them.", CHECK, least=1)
    loads: int = setting(1, "New processes that each load the file and compare.", CHECK, least=1)

    def options(self) -> dict[str, Any]:
        """Return the values of the format's own options, a dict."""
        return {name: getattr(self, name) for name in self.option_names}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeCheckSettings(Settings):
    """What `scripts/serve_check.py` asks."""

    saved_model: str | None = setting(
        None, "NAME/VERSION, or NAME for its newest version.", FILES, required=True, first=1
    )


def size_argument(image_size: Sequence[int] | None) -> Size | None:
    """Return a setting's sides as `image_size` arguments of models are: an int, a pair, or None."""
    if image_size is None:
        return None
    return image_size[0] if len(image_size) == 1 else (image_size[0], image_size[1])
