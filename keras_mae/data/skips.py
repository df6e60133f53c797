"""Which images could not be read: each named once, all counted, and a limit to how many."""

import json
import threading
from pathlib import Path


class TooManyBadImages(RuntimeError):
    """More images are broken than the run accepts; the message lists them."""


class SkipLog:
    """Names every image that cannot be read, once, and stops the run when there are too many.

    One log serves all datasets of a run. It may be called from several threads.

    Args:
        path: `skipped.jsonl` to append to, one line `{"path": ..., "reason": ...}` an image, or
            None to keep the names in memory only. An existing file (a resumed run) is read first,
            so what it names is not named again.
        max_bad_fraction: float in [0, 1]. Largest accepted share of the images asked for that
            could not be read.
        min_seen: int. The share is not judged before this many images (or one epoch, where that
            is less) were asked for: a broken file among the first ten proves nothing.

    Attributes:
        num_seen: int, images asked for in this process, an image once each time it was asked for.
        num_bad: int, how many of those could not be read and were replaced or left out.
        reasons: dict path -> reason, of all images ever named, those of a resumed run included.
        error: the `TooManyBadImages` that stopped the run, or None. TensorFlow turns an exception
            of the pipeline into one of its own; this is the original.
    """

    def __init__(self, path=None, *, max_bad_fraction=0.1, min_seen=1000):
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(
                f"max_bad_fraction: expected a float in [0, 1], got {max_bad_fraction!r}."
            )
        self.path = None if path is None else Path(path)
        self.max_bad_fraction = max_bad_fraction
        self.min_seen = min_seen
        self.num_seen = self.num_bad = 0
        self.reasons = {}
        self.error = None
        self._lock = threading.Lock()
        if self.path is not None and self.path.exists():
            self._read()

    def seen(self, num_examples):
        """Count one image that was read. `num_examples`: images in an epoch."""
        with self._lock:
            self.num_seen += 1
            self._judge(num_examples)

    def bad(self, path, reason, num_examples):
        """Count one image that could not be read, and name it if it was not named before.

        Raises:
            TooManyBadImages: if the share is over `max_bad_fraction`.
        """
        with self._lock:
            self.num_seen += 1
            self.num_bad += 1
            self._name(path, reason)
            self._judge(num_examples)

    def name(self, path, reason):
        """Name a broken image without counting it: it was met in looking for a replacement."""
        with self._lock:
            self._name(path, reason)

    def stop(self, message):
        """Raise `TooManyBadImages` with the list, and keep it as `error`."""
        names = list(self.reasons.items())
        lines = [f"  {path}: {reason}" for path, reason in names[:50]]
        if len(names) > 50:
            lines.append(
                f"  ... and {len(names) - 50} more" + (f", see {self.path}" * bool(self.path))
            )
        self.error = TooManyBadImages("\n".join([message, *lines]))
        raise self.error

    def _judge(self, num_examples):
        if self.num_seen < min(self.min_seen, num_examples):
            return
        if self.num_bad > self.max_bad_fraction * self.num_seen:
            self.stop(
                f"{self.num_bad} of {self.num_seen} images could not be read, more than "
                f"max_bad_fraction={self.max_bad_fraction:g} allows. Repair or remove them, or "
                "allow more. Broken:"
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
