"""Where images come from. `load_source` turns a spec such as "folder:/data" into a source.

A source is one file here, found by its name; another's own class is found by `MODULE:CLASS`.
"""

from pathlib import Path
from typing import Any

from keras_mae import registry
from keras_mae.data.sources.base import ArraySource, EncodedSource, Source
from keras_mae.files import printable
from keras_mae.types import AnyPath


def load_source(spec: AnyPath, *, seed: int = 0, **options: Any) -> Source:
    """Open a source of images.

    Args:
        spec: string, `KIND[:ARGUMENT]`: `mnist5k`, `photos`, `folder:PATH`, `zip:FILE`,
            `table:FILE`, `webdataset:PATTERN`, `huggingface:NAME_OR_PATH[:SPLIT]`,
            `tfds:NAME[:SPLIT]` or `tfrecord:GLOB`; or `MODULE:CLASS[:ARGUMENT]` for your own
            subclass of `EncodedSource` or `ArraySource`, which is called with
            `(argument, seed=seed)`.
        seed: int, decides which examples `split` holds out and nothing else. Keep it when a later
            run must hold out the same ones.
        options: what the kind takes beside these, see its class's `OPTIONS`, such as
            `label_column` for `table`. None is as good as not given.
    Returns:
        A `Source`.
    Raises:
        ValueError: if the spec names no source, what it names is not there, or the kind does not
            take an option.
    Example: `load_source("folder:/data/photos")`, `load_source("my_package.my_module:Checker:12")`
    """
    spec = str(spec)
    name, argument = _split(spec)
    if spec and Path(spec).expanduser().is_dir():
        raise ValueError(
            f"`dataset` must be KIND:ARGUMENT, such as folder:{printable(spec)}. "
            f"Received: {printable(spec)!r}"
        )
    found = registry.find(__name__, name, Source, "dataset")
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in found.OPTIONS:
            takes = ", ".join(found.OPTIONS) or "no options"
            raise ValueError(
                f"`{option}` must be None for {name!r}, which takes {takes}. Received: {value!r}"
            )
    return found(argument, seed=seed, **given)


def _split(spec):
    """The name of the class that a spec is of, and the argument that comes after it."""
    kind, _, rest = spec.partition(":")
    if kind in registry.names(__name__):
        return kind, rest
    name, _, argument = rest.partition(":")
    own = f"{kind}:{name}"
    return (own, argument) if registry.is_own(own) else (spec, "")


__all__ = ["ArraySource", "EncodedSource", "Source", "load_source"]
