"""Curves and figures for TensorBoard."""

from keras_mae.training.boards import Board


class TensorBoardLog(Board):
    """Writes scalars and images to `tensorboard` in the output directory.

    What is there from before is removed: the run shows again what `metrics.jsonl` holds, which is
    trimmed to the last checkpoint when a run goes on, as event files cannot be.
    """

    def __init__(self, directory, config=None):
        import tensorflow as tf

        self._tf = tf
        directory = directory / "tensorboard"
        for old in directory.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = tf.summary.create_file_writer(str(directory))

    def write(self, step, **values):
        with self._writer.as_default(step=step):
            for name, value in values.items():
                if name != "epoch":
                    self._tf.summary.scalar(name, value)

    def image(self, step, name, path):
        pixels = self._tf.io.decode_png(path.read_bytes(), channels=3)
        with self._writer.as_default(step=step):
            self._tf.summary.image(name, pixels[None])

    def close(self, failed=False):
        self._writer.close()
