"""Which images could not be read: each named once, all counted, and a limit to how many."""

import json
import math
import threading
from pathlib import Path
from typing import NoReturn

from keras_mae.data.sensor import Tally
from keras_mae.errors import RunError
from keras_mae.files import printable
from keras_mae.types import AnyPath


class TooManyBadImages(RunError):
    """More images are broken than the run accepts; the message lists them."""


class SkipLog:
    """Names every image that cannot be read, once, and stops the run when there are too many.

    One log serves all datasets of a run. It may be called from several threads.

    Args:
        path: `skipped.jsonl` to append to, one line `{"path": ..., "reason": ...}` an image, or
            None to keep the names in memory only. An existing file (a resumed run) is read first,
            so what it names is not named again. Bytes of a name that are not UTF-8 are written as
            Python's `os.fsdecode` gives them, "\\udce9" for E9: `os.fsencode` gives them back.
        max_bad_fraction: float in [0, 1]. Largest accepted share of broken images. The run stops
            when more than this share of all its images has been found broken, or long before, when
            the share among the images asked for so far is clearly over it (by three standard
            deviations).
        min_seen: int. The share so far is not judged before this many images were asked for: a
            broken file among the first ten proves nothing.

    Attributes:
        num_seen: int, images asked for in this process, an image once each time it was asked for.
        num_bad: int, how many of those could not be read and were replaced or left out.
        reasons: dict path -> reason, of all images ever named, those of a resumed run included.
        tally: `Tally` of the values of the images that could be read.
        error: the `TooManyBadImages` that stopped the run, or None. TensorFlow turns an exception
            of the pipeline into one of its own; this is the original.
    """

    def __init__(
        self, path: AnyPath | None = None, *, max_bad_fraction: float = 0.1, min_seen: int = 1000
    ) -> None:
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(
                f"`max_bad_fraction` must be a float in [0, 1]. Received: {max_bad_fraction!r}"
            )
        self.path = None if path is None else Path(path)
        self.max_bad_fraction = max_bad_fraction
        self.min_seen = min_seen
        self.num_seen = self.num_bad = 0
        self.reasons: dict[str, str] = {}
        self.error: TooManyBadImages | None = None
        self._known_bad: dict[object, set[str]] = {}
        self.tally = Tally()
        self._lock = threading.Lock()
        if self.path is not None and self.path.exists():
            self._read()

    def known_bad(self, source: object) -> set[str]:
        """Return the set of paths found broken so far among some images, for readers to add to.

        Args:
            source: the `whole` of a `Source`: all images of a run.
        """
        return self._known_bad.setdefault(source, set())

    def seen(self) -> None:
        """Count one image that was read."""
        with self._lock:
            self.num_seen += 1

    def bad(
        self, path: str, reason: str, *, num_known: int, num_examples: int, asked_for: bool = True
    ) -> None:
        """Count one image that could not be read, and name it if it was not named before.

        Args:
            path, reason: strings.
            num_known: int, how many images of this one's data set, the parts of a split together,
                are now known to be broken.
            num_examples: int, how many images that data set has.
            asked_for: bool. False for one met in looking for a replacement: named, not counted.
        Raises:
            TooManyBadImages: if the share is over `max_bad_fraction`.
        """
        with self._lock:
            self.num_seen += asked_for
            self.num_bad += asked_for
            self._name(path, reason)
            share, seen = self.max_bad_fraction, self.num_seen
            if num_known > share * num_examples:
                self._stop_at_share(f"{num_known} of all {num_examples}")
            likely = share * seen + 3 * math.sqrt(share * (1 - share) * seen)
            if seen >= self.min_seen and self.num_bad > likely:
                self._stop_at_share(f"{self.num_bad} of the first {seen}")

    def name(self, path: str, reason: str) -> None:
        """Name a broken image, if it was not named before, without counting it."""
        with self._lock:
            self._name(path, reason)

    def stop(self, message: str) -> NoReturn:
        """Raise `TooManyBadImages` with the list, and keep it as `error`."""
        names = list(self.reasons.items())
        lines = [f"  {printable(path)}: {printable(reason)}" for path, reason in names[:50]]
        if len(names) > 50:
            lines.append(
                f"  ... and {len(names) - 50} more" + (f", see {self.path}" * bool(self.path))
            )
        error = self.error = TooManyBadImages("\n".join([message, *lines]))
        raise error

    def _stop_at_share(self, count):
        self.stop(
            f"{count} images could not be read, more than max_bad_fraction="
            f"{self.max_bad_fraction:g} allows. Repair or remove them, or allow more. Broken:"
        )

    def _name(self, path, reason):
        if path in self.reasons:
            return
        self.reasons[path] = reason
        if self.path is not None:
            # Opened for each line: broken files are few, and the line is on its way at once.
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"path": path, "reason": reason}) + "\n")

    def _read(self):
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # killed in the middle of a line: it is written again when met again
            self.path.write_text(whole, encoding="utf-8")
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
                self.reasons[entry["path"]] = entry["reason"]
            except (ValueError, KeyError, TypeError):
                continue  # not ours; naming an image twice does less harm than stopping
