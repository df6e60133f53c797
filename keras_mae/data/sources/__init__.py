"""Where images come from. `load_source` turns a spec such as "folder:/data" into a source."""

from keras_mae.data.sources.base import ArraySource, EncodedSource, Source
from keras_mae.data.sources.folder import Folder
from keras_mae.data.sources.mnist5k import MNIST5k
from keras_mae.data.sources.photos import Photos
from keras_mae.data.sources.tfds import TFDS
from keras_mae.data.sources.tfrecord import TFRecord

# The word before the colon -> (class, how the spec is written). A new source gets its line here.
SOURCES = {
    "mnist5k": (MNIST5k, "mnist5k"),
    "photos": (Photos, "photos"),
    "folder": (Folder, "folder:PATH"),
    "tfds": (TFDS, "tfds:NAME[:SPLIT]"),
    "tfrecord": (TFRecord, "tfrecord:GLOB"),
}


def load_source(spec, *, seed=0):
    """Open a source of images.

    Args:
        spec: string, one of `mnist5k`, `photos`, `folder:PATH`, `tfds:NAME[:SPLIT]`,
            `tfrecord:GLOB`.
        seed: int, decides which examples `split` holds out and nothing else. Keep it when a later
            run must hold out the same ones.
    Returns:
        A `Source`.
    Raises:
        ValueError: if the spec names no source, or what it names is not there.
    """
    word, _, argument = str(spec).partition(":")
    if word not in SOURCES:
        forms = ", ".join(form for _, form in SOURCES.values())
        raise ValueError(f"source: expected one of {forms}; got {spec!r}.")
    source_class = SOURCES[word][0]
    return source_class(argument, seed=seed)


__all__ = ["SOURCES", "ArraySource", "EncodedSource", "Source", "load_source"]
