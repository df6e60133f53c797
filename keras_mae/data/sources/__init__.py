"""Where images come from. `load_source` turns a spec such as "folder:/data" into a source.

A source is one file here, found by its name; another's own class is found by `MODULE:CLASS`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_mae import registry
from keras_mae.data.sensor import SensorOptions
from keras_mae.data.sources.base import ArraySource, EncodedSource, Source
from keras_mae.files import printable
from keras_mae.types import AnyPath


def load_source(
    spec: AnyPath,
    *,
    seed: int = 0,
    task: str | None = None,
    channels: int | None = None,
    bands: Sequence[int] | None = None,
    value_range: Sequence[float] | None = None,
    statistics: str | Sequence | None = None,
    background: Sequence[float] | None = None,
    **options: Any,
) -> Source:
    """Open a source of images.

    Args:
        spec: string, `KIND[:ARGUMENT]`: `mnist5k`, `photos`, `folder:PATH`, `files:PATTERN`,
            `zip:FILE`, `table:FILE`, `webdataset:PATTERN`, `huggingface:NAME_OR_PATH[:SPLIT]`,
            `tfds:NAME[:SPLIT]` or `tfrecord:GLOB`; with dense targets `digit_scenes[:SIDE]`,
            `segmentation:IMAGES_DIR,MASKS_DIR` or `coco:ANNOTATIONS.json,IMAGES_DIR`; or
            `MODULE:CLASS[:ARGUMENT]` for your own subclass of `EncodedSource` or `ArraySource`,
            which is called with `(argument, seed=seed)`.
        seed: int, decides which examples `split` holds out and nothing else. Keep it when a later
            run must hold out the same ones.
        task: "segment" or "detect": open the source with the targets of this task, see
            `Source.for_task`. None: as it is, with its labels where it has some.
        channels, bands, value_range, statistics, background: how pixels are seen, see
            `keras_mae.data.SensorOptions`; for image files only. None: a sample tells.
        **options: of the kind of source, such as `label_column` of a table; None is as if left out.
    Returns:
        A `Source`.
    Raises:
        ValueError: if the spec names no source, what it names is not there, or an option does not
            go with it.
    Example: `load_source("folder:/data/photos")`, `load_source("my_package.my_module:Checker:12")`
    """
    spec = str(spec)
    name, argument = _split(spec)
    if spec and Path(spec).expanduser().is_dir():
        raise ValueError(
            f"`dataset` must be KIND:ARGUMENT, such as folder:{printable(spec)}. "
            f"Received: {printable(spec)!r}"
        )
    kind: Any = registry.find(__name__, name, Source, "dataset")
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        if key not in kind.OPTIONS:
            takes = ", ".join(kind.OPTIONS) or "no options"
            raise ValueError(
                f"`{key}` must be None for {name!r}, which takes {takes}. Received: {value!r}"
            )
    pixels = {
        "channels": channels,
        "bands": None if bands is None else tuple(bands),
        "value_range": None if value_range is None else tuple(map(float, value_range)),
        "statistics": _frozen(statistics),
        "background": None if background is None else tuple(background),
    }
    pixels = {key: value for key, value in pixels.items() if value is not None}
    if pixels and not issubclass(kind, EncodedSource):
        key, value = next(iter(pixels.items()))
        raise ValueError(f"`{key}` must be None for {name!r}, in memory. Received: {value!r}")
    sensor = SensorOptions(**pixels)
    source = kind(argument, seed=seed, **given)
    source = source.with_options(sensor) if pixels else source
    return source if task is None else source.for_task(task)


def _frozen(statistics):
    if statistics is None or isinstance(statistics, str):
        return statistics
    return tuple(tuple(map(float, part)) for part in statistics)


def _split(spec):
    """The name of the class that a spec is of, and the argument that comes after it."""
    kind, _, rest = spec.partition(":")
    if kind in registry.names(__name__):
        return kind, rest
    name, _, argument = rest.partition(":")
    own = f"{kind}:{name}"
    return (own, argument) if registry.is_own(own) else (spec, "")


__all__ = ["ArraySource", "EncodedSource", "Source", "load_source"]
