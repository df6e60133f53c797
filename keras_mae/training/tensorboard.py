"""Curves for TensorBoard."""

import importlib.util
import json
from pathlib import Path


def check_tensorboard():
    """Raise an ImportError that names the extra, if tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "TensorBoard logs need the package tensorboard, which is not installed. "
            'Install it with: pip install -e ".[tensorboard]"'
        )


class TensorBoardLog:
    """Writes scalars to a directory for TensorBoard, each step once however often a run is cut.

    What is in the directory from before is replaced by what `metrics.jsonl` holds: that file is
    trimmed to the last checkpoint when a run goes on, which event files cannot be.

    Args:
        directory: where the event files go.
        metrics_path: the `metrics.jsonl` of the run; it need not exist.
    Raises:
        ImportError: if tensorboard is not installed; it names the extra.
    """

    def __init__(self, directory, metrics_path):
        check_tensorboard()
        import tensorflow as tf

        self._summary = tf.summary
        for old in Path(directory).glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = tf.summary.create_file_writer(str(directory))
        if Path(metrics_path).exists():
            for line in Path(metrics_path).read_text().splitlines():
                self.write(**json.loads(line))

    def write(self, step, **values):
        """Write a line of `metrics.jsonl`: a scalar for each value but the epoch."""
        with self._writer.as_default(step=step):
            for name, value in values.items():
                if name != "epoch":
                    self._summary.scalar(name, value)

    def close(self):
        self._writer.close()
