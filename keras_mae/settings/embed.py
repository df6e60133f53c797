"""The settings of the commands that make a table of images: embed and predict."""

import dataclasses
from collections.abc import Iterator

from keras_mae.poolings import POOLING_HELP, POOLINGS, is_pooling
from keras_mae.settings.data import DATA, DataSettings
from keras_mae.settings.fields import changed, setting
from keras_mae.settings.run import DEVICES, MODEL, OUTPUT, RunSettings

PARTS = ("all", "train", "heldout", "test")
SEARCH = "Search"
WORST = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableSettings(DataSettings):
    """Settings of every command that makes a row for each image."""

    dataset: str | None = changed(  # type: ignore[assignment]
        DataSettings, "dataset", None, shown="the files and folders given without a name", first=2
    )
    image: tuple[str, ...] = setting(
        (),
        "In place of a data set: an image file, or a folder of them. Can be given several times, "
        "or as an argument without a name.",
        DATA,
        multi=tuple,
        lengths=(0, 1_000_000),
        shown="none",
    )
    part: str = setting(
        "all",
        "all images; or those that a run on this data set trains on (train), holds out (heldout), "
        "or tests on at its end (test).",
        DATA,
        choices=PARTS,
        first=4,
    )
    batch_size: int = setting(64, "Images at a time.", DEVICES, least=1)
    jit: bool = changed(RunSettings, "jit", False)
    overwrite: bool = setting(False, "Replace what is there, and begin anew.", OUTPUT, fixes=False)

    def faults_together(self) -> Iterator[str]:
        yield from super().faults_together()
        if (self.dataset is None) == (not self.image):
            yield (
                "`dataset` must be given, or else files and folders. Received: "
                f"{self.dataset!r} and {list(self.image)[:3]}"
            )
        given = [n for n in ("validation_dataset", "test_dataset", "holdout") if getattr(self, n)]
        if self.part == "all" and given:
            yield (
                f"`{given[0]}` must be None where `part` is 'all' images of the data set. "
                f"Received: {getattr(self, given[0])!r}"
            )
        if self.image and self.part != "all":
            yield f"`part` must be 'all' for files and folders. Received: {self.part!r}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedSettings(TableSettings):
    """What `scripts/embed.py` computes and writes.

    Example:
        settings = EmbedSettings(model="encoder.keras", dataset="mnist5k", output="digits.npz")
    Raises:
        SettingsError: a ValueError, with all values that do not fit.
    """

    model: str | None = setting(
        None,
        "A run's directory, a .keras file, another library's checkpoint, hf://OWNER/NAME, or a "
        "SavedModel's directory.",
        MODEL,
        required=True,
        first=1,
    )
    output: str = setting(
        "features.npz",
        "File of the features, in .npz, .npy or .parquet. What else is written lies beside it.",
        OUTPUT,
        fixes=False,
        first=3,
    )
    pooling: str | None = setting(
        None,
        POOLING_HELP,
        MODEL,
        choices=POOLINGS,
        accepts=is_pooling,
        shown="mean, or the model's own",
        first=5,
    )
    blocks: int | None = setting(
        None,
        "So many last blocks' tokens are pooled, side by side.",
        MODEL,
        least=1,
        shown="1, or the model's own",
    )
    whiten: int | None = setting(
        None,
        "Whiten to so many principal components, of the training images where the data set tells "
        "which they are, else of all. The model that does it is kept beside the output.",
        MODEL,
        least=1,
        shown="off",
        first=6,
    )
    neighbors: int | None = setting(
        None,
        "Write so many nearest neighbours of each image, by cosine: neighbors.csv and a contact "
        "sheet.",
        SEARCH,
        least=1,
        shown="off",
        first=7,
    )
    duplicates: float | None = setting(
        None,
        "Write groups of images of at least this cosine similarity: duplicates.csv and a contact "
        "sheet.",
        SEARCH,
        above=0,
        most=1,
        shown="off",
        first=8,
    )
    outliers: bool = setting(
        False,
        "Write how far each image is from its 10 nearest: outliers.csv, the farthest first, and a "
        "contact sheet.",
        SEARCH,
        first=9,
    )
    search: str = setting(
        "exact",
        "exact: by scikit-learn; faiss: faster for hundreds of thousands of images, some "
        "neighbours are missed.",
        SEARCH,
        choices=("exact", "faiss"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictSettings(TableSettings):
    """What `scripts/predict.py` computes and writes.

    Example:
        settings = PredictSettings(model="saved_models/few", dataset="folder:new", output="new.csv")
    Raises:
        SettingsError: a ValueError, with all values that do not fit.
    """

    model: str | None = setting(
        None,
        "A fine-tuned classifier: a run's directory, a file, hf://OWNER/NAME, or an exported "
        "SavedModel's directory.",
        MODEL,
        required=True,
        first=1,
    )
    output: str = setting(
        "predictions.csv",
        "The table to write, .csv or .parquet.",
        OUTPUT,
        fixes=False,
        first=3,
    )
    top: int = setting(
        5, "So many classes of each image, the most probable first.", MODEL, least=1, first=5
    )
    metrics: bool = setting(
        True,
        "Where images have labels: measure the predictions, and draw the worst mistakes.",
        OUTPUT,
    )
