"""What a model gives for each image of a source: in chunks, with each row's place, resumable."""

import dataclasses
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mae.data import EncodedSource, SkipLog, Source, eval_dataset
from keras_mae.files import atomic_path, name_text, printable, write_json
from keras_mae.training.callbacks import duration
from keras_mae.types import AnyPath

CHUNK_IMAGES = 2048  # about: a run that is killed loses at most these
SECONDS_A_LINE = 10
ABOUT, SKIPPED = "about.json", "skipped.jsonl"


class Outputs:
    """The rows that a function gives for the images of a source, computed a chunk at a time.

    A row belongs to the number of its example, so that an image that cannot be read shifts nothing.
    In a directory each chunk is a file, `FIRST.npz`, which appears when it is whole; the same call
    goes on after the last of them, with the same batches. Memory holds a chunk at a time.

    Args:
        source: a `Source`.
        predict: function, normalised images `(B, H, W, C)` to rows `(B, F)`.
        form: dict, `image_size`, `mean`, `std` and `value_range` that images are seen with.
        directory: where chunks lie; None: in memory.
        about: dict that JSON can hold, all that fixes the rows beside the images: chunks of another
            are refused.
        batch_size: int. Images at a time; always full batches, as a compiled function wants.
        max_bad_fraction: see `SkipLog`.
        say: function of a line on progress, or None.
    Attributes:
        skips: the `SkipLog`; `reasons` has each image that could not be read.
    """

    def __init__(
        self,
        source: Source,
        predict: Callable[[Any], Any],
        form: dict[str, Any],
        *,
        directory: AnyPath | None = None,
        about: dict[str, Any] | None = None,
        batch_size: int = 64,
        max_bad_fraction: float = 0.1,
        say: Callable[[str], None] | None = None,
    ) -> None:
        # Shares of broken images are judged over all, not over those that are left to do.
        self.source = source.judged_with(source.whole)
        self.predict, self.form, self.batch_size, self.say = predict, form, batch_size, say
        self.chunk = batch_size * max(1, CHUNK_IMAGES // batch_size)
        self.directory = None if directory is None else Path(directory)
        self._chunks: list[Any] = []  # (numbers, rows), or paths
        skipped = None
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._check({**(about or {}), "images": source.fingerprint(), "chunk": self.chunk})
            skipped = self.directory / SKIPPED
        self.skips = SkipLog(skipped, max_bad_fraction=max_bad_fraction)
        self._compute()

    def _check(self, about):
        """Begin a directory, or go on with one of the same rows."""
        path, about = self.directory / ABOUT, json.loads(json.dumps(about, default=str))
        if path.exists():
            before = json.loads(path.read_text())
            differing = [
                name for name in {**before, **about} if before.get(name) != about.get(name)
            ]
            if differing:
                raise ValueError(
                    f"`output` must be new, or that of the same images and model as the chunks in "
                    f"{printable(self.directory)}; delete these to start over, or overwrite. They "
                    f"differ in {', '.join(sorted(differing))}"
                )
        else:
            write_json(path, about)
        numbered = sorted(self.directory.glob("[0-9]*.npz"))
        for expected, path in zip(itertools.count(0, self.chunk), numbered, strict=False):
            if int(path.stem) != expected:
                break  # what comes after a gap is computed again
            self._chunks.append(path)

    def _compute(self):
        total, done = self.source.num_examples, len(self._chunks) * self.chunk
        if done and done < total and self.say:
            self.say(f"Goes on after {done:,} of {total:,} images.")
        begin = last = time.monotonic()
        first = done
        for numbers, rows in self._new_chunks(done):
            if not done and not len(self._chunks) and total > self.chunk and self.say:
                last = 0  # the first chunk tells how long it will take
            self._keep(done, numbers, rows)
            done = min(done + self.chunk, total)
            now = time.monotonic()
            if self.say and done < total and now - last > SECONDS_A_LINE:
                last, rate = now, (done - first) / (now - begin)
                self.say(
                    f"{done:,} of {total:,} images ({done / total:.1%}) - {rate:,.0f} images/s - "
                    f"{duration((total - done) / rate)} left"
                )
        if not self.num_rows:
            self.skips.stop(f"None of the {total:,} images of {self.source.name!r} can be read:")
        self.seconds = time.monotonic() - begin
        self.computed = total - first

    def _new_chunks(self, start):
        """Yield (numbers, rows) of each chunk from an example on."""
        total, size = self.source.num_examples, self.batch_size
        if start >= total:
            return
        positions, before = np.arange(start, total), 0
        if start:
            # A batch of an image that was read before: a rest that cannot be read ends no run.
            known = next((c[0][0] for c in map(self._load, self._chunks) if len(c[0])), None)
            if known is None:
                self._chunks, start, positions = [], 0, np.arange(total)
            else:
                before = size
                positions = np.concatenate([np.full(before, known), positions])
        dataset = eval_dataset(
            self.source.subset(positions),
            batch_size=size,
            with_weights=True,
            on_skip=self.skips,
            **self.form,
        )
        parts: list[Any] = []
        try:
            for batch, (images, _, weights) in enumerate(dataset):
                place = batch * size - before
                if place < 0:
                    continue
                rows = keras.ops.convert_to_numpy(self.predict(images))
                read = np.flatnonzero(np.asarray(weights) > 0)
                numbers = start + place + read
                parts.append((numbers.astype("int64"), np.asarray(rows, "float32")[read]))
                if (place + size) % self.chunk == 0 or start + place + size >= total:
                    yield tuple(np.concatenate(part) for part in zip(*parts, strict=True))
                    parts = []
        except Exception:
            if self.skips.error is not None:  # TensorFlow has wrapped what ended the pipeline
                raise self.skips.error from None
            raise

    def _keep(self, start, numbers, rows):
        if self.directory is None:
            self._chunks.append((numbers, rows))
            return
        path = self.directory / f"{start:012d}.npz"
        with atomic_path(path) as temporary:
            np.savez(temporary, numbers=numbers, rows=rows)
        self._chunks.append(path)

    @staticmethod
    def _load(chunk):
        if isinstance(chunk, tuple):
            return chunk
        with np.load(chunk, allow_pickle=False) as file:
            return file["numbers"], file["rows"]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield `(numbers, rows)`: int64 `(n,)` of examples, rising, and float32 `(n, F)`."""
        yield from map(self._load, self._chunks)

    @property
    def num_rows(self) -> int:
        """How many images could be read."""
        if not hasattr(self, "_num_rows"):
            self._num_rows = sum(len(numbers) for numbers, _ in self)
        return self._num_rows

    def numbers(self) -> np.ndarray:
        """Return the examples' numbers of all rows, int64 `(n,)`."""
        return np.concatenate([numbers for numbers, _ in self])

    def names(self, numbers: Any) -> list[str]:
        """Return the names of examples, as tables have them; each another's is another."""
        records = self.source.indices[np.asarray(numbers, int)]
        return [name_text(self.source.key(int(record))) for record in records]

    def matrix(self, make: Callable[[np.ndarray], np.ndarray] = lambda rows: rows) -> np.ndarray:
        """Return all rows, each chunk put through a function; in a directory as a file's memory."""
        if self.directory is None:
            return np.concatenate([make(rows) for _, rows in self])
        path, found, place = self.directory / "matrix.npy", None, 0
        for _, rows in self:
            made = make(rows)
            if found is None:
                shape = (self.num_rows, made.shape[1])
                found = np.lib.format.open_memmap(path, "w+", "float32", shape)
            found[place : place + len(made)] = made
            place += len(made)
        return found

    def images(self, numbers: Any) -> np.ndarray:
        """Return examples' images as the model sees them, float32 `(n, H, W, C)`, normalised."""
        some = self.source.subset(np.asarray(numbers, int)).apart()
        batches = eval_dataset(some, batch_size=self.batch_size, with_weights=True, **self.form)
        images = np.concatenate([np.asarray(images) for images, _, _ in batches])
        return images[: len(numbers)]

    def skipped(self) -> list[tuple[str, str]]:
        """Return (name, reason) of each image that could not be read, in their order."""
        lacking = np.setdiff1d(np.arange(self.source.num_examples), self.numbers())
        records = self.source.indices[lacking]
        reasons = (self.skips.reasons.get(self.source.path(int(r)), "") for r in records)
        return [(n, name_text(r)) for n, r in zip(self.names(lacking), reasons, strict=True)]

    def discard(self) -> None:
        """Delete the directory of chunks."""
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)


def form_of(encoder: Any) -> dict[str, Any]:
    """Return how an encoder sees images, as arguments of `eval_dataset`."""
    names = ("image_size", "mean", "std", "value_range")
    return {name: getattr(encoder, name) for name in names}


def seen_as(source: Source, encoder: Any, channels: int | None = None) -> Source:
    """Return a source seen with an encoder's channels.

    Args:
        source: a `Source`.
        encoder: what sees it.
        channels: int that the user has said, or None.
    Raises:
        ValueError: if it cannot be.
    """
    if source.channels == encoder.channels:
        return source
    if not isinstance(source, EncodedSource) or channels is not None:
        raise ValueError(
            f"`model` must take the {source.channels} channels of {source.name!r}. "
            f"Received: one of {encoder.channels}"
        )
    return source.with_options(dataclasses.replace(source.options, channels=encoder.channels))
