"""Features of images, with their names; who is near to whom."""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_mae.data import SensorOptions, Source, load_source, open_parts
from keras_mae.data.sources.files import Files
from keras_mae.evaluation.neighbors import (
    OUTLIER_NEIGHBORS,
    check_search,
    duplicate_groups,
    nearest,
    unit_rows,
)
from keras_mae.files import (
    check_writable,
    printable,
    save_model,
    saved_model_path,
    weights_digest,
)
from keras_mae.interop import load_encoder, load_pretrained
from keras_mae.interop.hub import is_hub
from keras_mae.layers.whitening import Moments, rank_note
from keras_mae.models.embedder import ViTEmbedder
from keras_mae.plots.contact_sheet import contact_sheet, shown_images
from keras_mae.poolings import pooling_words
from keras_mae.settings.embed import EmbedSettings, TableSettings
from keras_mae.tasks.outputs import Outputs, form_of, seen_as
from keras_mae.tasks.probe import compiled_function
from keras_mae.tasks.tables import FEATURES, check_suffix, names_path, write_features, write_rows
from keras_mae.types import AnyPath

logger = logging.getLogger(__name__)

SHEET_ROWS = 12  # of a contact sheet with a row a query or group
SHEET_COLUMNS = 8
SHEET_IMAGES = 48
LARGE = 200_000  # images; more take hours to compare each with each


class Embedding(NamedTuple):
    """Features with the names of their images.

    Attributes:
        names: list of str, as `scripts/embed.py` writes them.
        features: float32 `(n, F)`.
    """

    names: list[str]
    features: np.ndarray


def embed(
    model: keras.Model | AnyPath,
    dataset: Any,
    *,
    pooling: str | None = None,
    blocks: int | None = None,
    whiten: int | None = None,
    batch_size: int = 64,
    max_bad_fraction: float = 0.1,
    **options: Any,
) -> Embedding:
    """Return the features of all images of a data set that can be read, and their names.

    Args:
        model: what `keras_mae.load_encoder` takes, or a `ViTEmbedder`.
        dataset: a `keras_mae.data.Source`; what `keras_mae.data.load_source` takes, such as
            "folder:photos"; a folder; or a list of image files.
        pooling, blocks: see `ViTEmbedder`; None: the mean of the last block, or the embedder's own.
        whiten: int, components of a whitening fitted to these images; None for none.
        batch_size: int. Images at a time.
        max_bad_fraction: float in [0, 1]. Share of images that cannot be read at which it stops.
        **options: of `load_source`.
    Returns:
        `Embedding`: `(names, features)`. What could not be read is logged, and left out.
    Raises:
        ValueError: if something does not fit.
        TooManyBadImages: if too many cannot be read.
    Example:
        names, features = keras_mae.embed("saved_models/mae_mnist5k", "folder:photos")
    """
    source = source_of(dataset, **options)
    embedder = open_embedder(model, pooling, blocks, source)
    if whiten is not None:
        check_unwhitened(embedder, whiten)
    source = seen_as(source, embedder.encoder, options.get("channels"))
    outputs = Outputs(
        source,
        compiled_function(lambda images: embedder(images)),
        form_of(embedder.encoder),
        batch_size=batch_size,
        max_bad_fraction=max_bad_fraction,
    )
    for name, reason in outputs.skipped():
        logger.warning("%s could not be read, and has no features: %s", name, reason)
    features = outputs.matrix()
    if whiten is not None:
        fitted = embedder.whitened(features, whiten)
        if note := rank_note(whiten, fitted.whiten):
            logger.warning("%s", note)
        features = whitened(fitted, features)
    return Embedding(outputs.names(outputs.numbers()), features)


def embed_command(settings: EmbedSettings) -> None:
    """Write features, and what else the settings ask for."""
    _Run(settings).run()


def source_of(dataset: Any, **options: Any) -> Source:
    """Return the `Source` that a data set is, or names; see `embed`."""
    if isinstance(dataset, Source):
        return dataset
    if isinstance(dataset, str | os.PathLike):
        is_folder = Path(dataset).expanduser().is_dir()
        return load_source(f"folder:{dataset}" if is_folder else dataset, **options)
    return Files([os.fspath(path) for path in dataset])


def source_of_settings(settings: TableSettings) -> tuple[Source, Source | None]:
    """Return the images that settings name, and those that are trained on, where that is known."""
    options = settings.source_options()
    if settings.image:
        given = {name: value for name, value in options.items() if value is not None}
        of_pixels = ("channels", "bands", "value_range", "background", "statistics")
        if other := next((name for name in given if name not in of_pixels), None):
            raise ValueError(f"`{other}` must be None for files. Received: {given[other]!r}")
        source: Any = Files(settings.image)
        sensor: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in given.items()
        }
        return (source.with_options(SensorOptions(**sensor)) if sensor else source), None
    if settings.part == "all":
        source = load_source(settings.dataset, **options)
        return source, source.part("train")
    parts = open_parts(
        settings.dataset,
        validation_dataset=settings.validation_dataset,
        test_dataset=settings.test_dataset,
        holdout=settings.holdout,
        **options,
    )
    if settings.part not in parts.each():
        raise ValueError(
            f"`part` must be one of {list(parts.each())} of {settings.dataset}. "
            f"Received: {settings.part!r}"
        )
    return parts.each()[settings.part], parts.train


def open_embedder(
    model: Any, pooling: str | None, blocks: int | None, source: Source
) -> ViTEmbedder:
    """Return the embedder that a model is, or that is made of its encoder.

    Args:
        model: see `embed`.
        pooling, blocks: what the user has said, or None.
        source: a `Source`, whose statistics a SavedModel gets that does not tell its own.
    Raises:
        ValueError: if they do not fit.
    """
    if isinstance(model, str | os.PathLike):
        if not is_hub(model) and not Path(model).exists():
            raise ValueError(
                f"`model` must be a file or a folder that exists. Received: {printable(model)!r}"
            )
        if Path(model).is_file() and Path(model).suffix == ".keras":
            model = load_pretrained(model)
        elif saved_model_path(model) is not None:
            model = load_encoder(model, source.mean, source.std)
    if isinstance(model, ViTEmbedder):
        for name, given, own in (
            ("pooling", pooling, model.pooling),
            ("blocks", blocks, model.pooled_blocks),
        ):
            if given not in (None, own):
                raise ValueError(
                    f"`{name}` must be {own!r}, or None, for an embedder that has its own. "
                    f"Received: {given!r}"
                )
        return model
    return ViTEmbedder(load_encoder(model), pooling or "mean", blocks or 1)


def check_unwhitened(embedder: ViTEmbedder, whiten: int) -> None:
    """Raise a ValueError for a model that whitens already."""
    if embedder.whitening is not None:
        raise ValueError(f"`whiten` must be None for a model that whitens. Received: {whiten}")


def whitened(embedder: ViTEmbedder, features: np.ndarray) -> np.ndarray:
    """Return pooled features put through an embedder's whitening, float32."""
    return keras.ops.convert_to_numpy(embedder.whitening(features)).astype("float32", copy=False)


def model_digest(model: keras.Model) -> str:
    """Return a digest of all weights of a model, in their order."""
    return weights_digest({f"{i:06d}": np.array(v) for i, v in enumerate(model.weights)})


def chunks_path(output: AnyPath) -> Path:
    """Return where the chunks of an output lie until it is done."""
    return Path(f"{output}.chunks")


def check_output(settings: TableSettings, suffixes: Sequence[str]) -> None:
    """Raise, before any work, unless a command's output can be written.

    Raises:
        ValueError, ImportError: see `check_suffix`; or if it is there already.
    """
    output: Any = settings.output  # type: ignore[attr-defined]
    check_suffix(output, suffixes)
    check_writable(Path(output).parent, "output")
    chunks = chunks_path(output)
    if settings.overwrite:
        shutil.rmtree(chunks, ignore_errors=True)
    elif Path(output).exists() and not chunks.exists():
        raise ValueError(f"`output` must be new, or overwrite. Received: {output}")


class _Run:
    """One call of the command."""

    def __init__(self, settings):
        self.settings, self.output = settings, Path(settings.output)
        self.chunks = chunks_path(settings.output)
        check_output(settings, FEATURES)
        check_search(settings.search)
        self.source, self.train = source_of_settings(settings)
        self.embedder = open_embedder(
            settings.model, settings.pooling, settings.blocks, self.source
        )
        if settings.whiten is not None:
            check_unwhitened(self.embedder, settings.whiten)
        self.encoder = self.embedder.encoder
        self.source = seen_as(self.source, self.encoder, settings.channels)
        self.written = []

    def run(self):
        settings, embedder = self.settings, self.embedder
        predict = compiled_function(lambda images: embedder(images), settings.jit)
        print(
            f"Embedding {self.source.num_examples:,} images of "
            f"{printable(settings.dataset or 'files')}: {describe(embedder)}.",
            flush=True,
        )
        self.outputs = self._outputs(self.source, predict, self.chunks)
        make = self._whitening(predict)
        outputs = self.outputs

        def parts():
            for numbers, rows in outputs:
                yield outputs.names(numbers), make(rows)

        width = self.embedder.compute_output_shape((None,))[1]
        write_features(self.output, parts, outputs.num_rows, width)
        self.written.append((self.output, f"{outputs.num_rows:,} x {width:,} features"))
        if self.output.suffix == ".npy":
            self.written.append((names_path(self.output), "their names, one a line"))
        self._skipped()
        self._search(make)
        outputs.discard()
        speed = outputs.computed / max(outputs.seconds, 1e-9)
        print(f"\n{outputs.computed:,} images in {outputs.seconds:.1f} s ({speed:,.0f} images/s).")
        if line := outputs.skips.tally.line():
            print(line)
        print("\nWrote:")
        longest = max(len(str(path)) for path, _ in self.written)
        for path, words in self.written:
            print(f"  {path!s:<{longest}}  {words}")

    def _outputs(self, source, predict, directory):
        settings = self.settings
        form = form_of(self.encoder)
        about = {
            "model": model_digest(self.embedder),
            "pooling": self.embedder.pooling,
            "blocks": self.embedder.pooled_blocks,
            "form": form,
            "sensor": str(source.sensor),
            "jit": settings.jit,
        }
        return Outputs(
            source,
            predict,
            form,
            directory=directory,
            about=about,
            batch_size=settings.batch_size,
            max_bad_fraction=settings.max_bad_fraction,
            say=lambda line: print(line, flush=True),
        )

    def _whitening(self, predict):
        """Return a function from pooled rows to features; fit and keep the model that does it."""
        whiten = self.settings.whiten
        if whiten is None:
            return lambda rows: rows
        moments, train = Moments(), self.train
        fitted_on = self.outputs
        if self.settings.part in ("heldout", "test"):
            print(f"Fitting the whitening on {train.num_examples:,} training images.", flush=True)
            train = seen_as(train, self.encoder, self.settings.channels)
            fitted_on = self._outputs(train, predict, self.chunks / "train")
        keep = None
        if self.settings.part == "all" and train is not None:
            keep = np.isin(self.source.indices, train.indices)
        for numbers, rows in fitted_on:
            moments.add(rows if keep is None else rows[keep[numbers]])
        embedder = self.embedder = self.embedder.whitened(moments, whiten)
        of = "these images" if keep is None and fitted_on is self.outputs else "training images"
        print(rank_note(whiten, embedder.whiten) or f"Whitened to {whiten} components of {of}.")
        path = self.output.with_suffix(".model.keras")
        save_model(embedder, path)
        self.written.append((path, "the encoder with its pooling and whitening: --model of others"))
        return lambda rows: whitened(embedder, rows)

    def _skipped(self):
        skipped = self.outputs.skipped()
        if not skipped:
            return
        path = self.output.with_suffix(".skipped.csv")
        write_rows(path, [("name", str), ("reason", str)], [skipped])
        self.written.append((path, f"{len(skipped):,} images that could not be read"))

    def _search(self, make):
        settings, count = self.settings, self.outputs.num_rows
        if not (settings.neighbors or settings.duplicates or settings.outliers):
            return
        if count < 2:
            print("Of one image there are no neighbours.")
            return
        if self.embedder.whiten is None:
            print("By plain features; --whiten=64 tells images better apart (docs/features.md).")
        if count > LARGE and settings.search == "exact":
            print(f"Comparing {count:,} images with each other; --search=faiss is faster.")
        self.units = self.outputs.matrix(lambda rows: unit_rows(make(rows)))
        self.numbers = self.outputs.numbers()
        wanted = [k for k in (settings.neighbors, settings.outliers and OUTLIER_NEIGHBORS) if k]
        if wanted:
            self._neighbors(min(max(wanted), count - 1))
        if settings.duplicates:
            self._duplicates()

    def _names(self, rows):
        return self.outputs.names(self.numbers[np.asarray(rows)])

    def _beside(self, name):
        return self.output.parent / name

    def _neighbors(self, k):
        settings, count = self.settings, len(self.units)
        shown = np.unique(np.linspace(0, count - 1, min(SHEET_ROWS, count)).round().astype(int))
        near = min(settings.neighbors or 0, count - 1)
        if near < (settings.neighbors or 0):
            print(f"Each image has {near} others, not {settings.neighbors}.")
        far = min(OUTLIER_NEIGHBORS, count - 1)
        rows_shown, distances = {}, np.zeros(count, "float32")

        def parts():
            for first, found, similarity in nearest(self.units, k, settings.search):
                distances[first : first + len(found)] = 1 - similarity[:, :far].mean(axis=1)
                for row in shown[(shown >= first) & (shown < first + len(found))]:
                    rows_shown[row] = found[row - first][:near], similarity[row - first][:near]
                names = self._names(np.arange(first, first + len(found)))
                others = self._names(found[:, :near].ravel())
                yield [
                    (name, j + 1, others[i * near + j], similarity[i, j])
                    for i, name in enumerate(names)
                    for j in range(near)
                ]

        if settings.neighbors:
            path = self._beside("neighbors.csv")
            columns = [("name", str), ("rank", int), ("neighbor", str), ("similarity", float)]
            write_rows(path, columns, parts())
            self.written.append((path, f"{near} nearest of each image, by cosine"))
            lines = [(row, *rows_shown[row]) for row in shown]
            self._sheet_of_rows("neighbors.png", lines, "Images (left), and their nearest")
        else:
            for _ in parts():
                pass
        if settings.outliers:
            self._outliers(distances, far)

    def _outliers(self, distances, far):
        order = np.argsort(-distances, kind="stable")
        path = self._beside("outliers.csv")
        columns = [("rank", int), ("name", str), ("distance", float)]
        rows = zip(range(1, len(order) + 1), self._names(order), distances[order], strict=True)
        write_rows(path, columns, [list(rows)])
        words = f"1 - mean cosine to the {far} nearest, the farthest first"
        self.written.append((path, words))
        first = order[:SHEET_IMAGES]
        captions = [
            f"{name}\n{distances[row]:.3f}"
            for row, name in zip(first, self._names(first), strict=True)
        ]
        self._sheet("outliers.png", first, captions, f"Outliers: {words}", SHEET_COLUMNS)

    def _duplicates(self):
        threshold = self.settings.duplicates
        groups = duplicate_groups(self.units, threshold)
        labels, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
        several = np.flatnonzero(counts > 1)
        rows = np.flatnonzero(np.isin(inverse, several))
        # Groups in the order of their first image.
        rows = rows[np.lexsort((rows, _first_of(inverse, len(labels))[inverse[rows]]))]
        found, table = [], []
        for row in rows:
            if not found or inverse[found[-1][0]] != inverse[row]:
                found.append([])
            found[-1].append(row)
        names = dict(zip(rows.tolist(), self._names(rows), strict=True))
        for number, group in enumerate(found, 1):
            similarity = np.asarray(self.units[group]) @ np.asarray(self.units[group[0]])
            table += [
                (number, names[row], min(float(s), 1.0))
                for row, s in zip(group, similarity, strict=True)
            ]
        path = self._beside("duplicates.csv")
        columns = [("group", int), ("name", str), ("similarity", float)]
        write_rows(path, columns, [table])
        more = len(rows) - len(found)
        words = f"{len(found):,} groups of near-duplicates, {more:,} images more than groups"
        self.written.append((path, f"{words}; similarity to the group's first"))
        if found:
            lines = []
            for group in found[:SHEET_ROWS]:
                others = np.array(group[1:SHEET_COLUMNS])
                similarity = np.asarray(self.units[others]) @ np.asarray(self.units[group[0]])
                lines.append((group[0], others, similarity))
            title = f"Near-duplicates: similarity of at least {threshold:g}"
            self._sheet_of_rows("duplicates.png", lines, title)

    def _sheet_of_rows(self, name, lines, title):
        """Draw a row for each (row, others, their similarity)."""
        columns = min(1 + max(len(others) for _, others, _ in lines), SHEET_COLUMNS)
        rows, captions = [], []
        for row, others, similarity in lines:
            others, similarity = others[: columns - 1], similarity[: columns - 1]
            rows += [row, *others] + [None] * (columns - 1 - len(others))
            captions += [self._names([row])[0]]
            captions += [
                f"{other}\n{s:.3f}"
                for other, s in zip(self._names(others), similarity, strict=True)
            ]
            captions += [""] * (columns - 1 - len(others))
        self._sheet(name, rows, captions, title, columns, divided=True)

    def _sheet(self, name, rows, captions, title, columns, divided=False):
        images = sheet_images(self.outputs, [r if r is None else self.numbers[r] for r in rows])
        path = self._beside(name)
        contact_sheet(path, images, captions, columns, title, divided)
        self.written.append((path, "a contact sheet"))


def sheet_images(outputs: Outputs, numbers: Sequence[int | None]) -> np.ndarray:
    """Return images of a contact sheet, `(n, H, W, 3)` in [0, 1]; white without a number."""
    known = [number for number in numbers if number is not None]
    form = outputs.form
    shown = shown_images(outputs.images(known), form["mean"], form["std"], form["value_range"])
    images = np.ones((len(numbers), *shown.shape[1:]))
    images[[number is not None for number in numbers]] = shown
    return images


def describe(embedder: ViTEmbedder) -> str:
    """Return how an embedder makes features of tokens, in words."""
    count = embedder.pooled_blocks
    blocks = "last block" if count == 1 else f"last {count} blocks"
    white = "" if embedder.whiten is None else f", whitened to {embedder.whiten} components"
    return f"{pooling_words(embedder.pooling)} of the {blocks}{white}"


def _first_of(inverse, count):
    """The first place of each label."""
    first = np.full(count, len(inverse))
    np.minimum.at(first, inverse, np.arange(len(inverse)))
    return first
