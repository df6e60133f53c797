"""Checkpoints in several files: an index says which weight is in which."""

import json
import os
import re
from collections.abc import Callable
from typing import Any

SUFFIX = ".index.json"
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.(?:safetensors|bin)")


def is_shard(name: str) -> bool:
    """Return whether a file is, by its name, one of several of a checkpoint."""
    return _SHARD.fullmatch(os.path.basename(name)) is not None


def read_shards(path: str, read: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Return the weights of all files that an index names, and check that they are as it says.

    Args:
        path: of the index, `NAME.index.json`.
        read: function, path of a file to its weights by name.
    Raises:
        ValueError: naming what does not fit: a file that is not there, or not in the index's
            folder, or a weight that is not where the index says.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            places = json.load(stream)["weight_map"]
        valid = all(isinstance(name, str) for pair in places.items() for name in pair)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"`path` is truncated or broken. Received: {path} ({error})") from error
    if not valid or not places:
        raise ValueError(f"`path` must map names of weights to files. Received: {path}")
    folder, weights = os.path.dirname(path), {}
    files = list(dict.fromkeys(places.values()))
    for name in files:
        _check_place(path, folder, name)
    for name in files:
        found = read(os.path.join(folder, name))
        wanted = {weight for weight, place in places.items() if place == name}
        if found.keys() != wanted:
            missing, more = sorted(wanted - found.keys()), sorted(found.keys() - wanted)
            raise ValueError(
                f"`path` must be an index that fits its files. Received: {path}; {name} lacks "
                f"{missing[:4] or 'nothing'} and has {more[:4] or 'nothing'} beyond it"
            )
        weights.update(found)
    return weights


def _check_place(path: str, folder: str, name: str) -> None:
    """Raise a ValueError unless an index names a file below its own folder, which is there.

    By the words alone: the cache of a hub has links to files elsewhere.
    """
    parts = re.split(r"[/\\]", name)
    if os.path.isabs(name) or "" in parts or ".." in parts or ":" in parts[0]:
        raise ValueError(
            f"`path` must name files in its own folder. Received: {path}, which names {name}"
        )
    if not os.path.isfile(os.path.join(folder, name)):
        raise ValueError(
            f"`path` must be an index whose files are all there. Received: {path}; {name} is not"
        )
