"""Which of a file's weights are the model's, and what their names begin with.

Training scripts wrap a model (`module.`, `backbone.`, `_orig_mod.`) and keep several of it: a
student and its teacher, the weights and their average. An encoder is found by the one weight that
each vision transformer has, the projection of its patches.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

_PATCHES = re.compile(
    r"(?:(?P<prefix>.+)\.)?"
    r"(?:patch_embed\.proj|patch_embed\.projection|embeddings\.patch_embeddings\.projection)"
    r"\.weight"
)
# What torch.compile, FSDP and gradient checkpointing put into names, anywhere.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Words of the names of averages of weights, and of what they are the averages of.
_AVERAGES = {"teacher", "ema", "average", "averaged", "avg", "swa", "momentum", "target"}
_PLAIN = {"student", "online", "current"}
_DEEPEST = 4  # dicts in dicts
# What is known outside of an encoder: heads and decoders.
_BESIDE = re.compile(r"head|fc_norm|decoder|mask_token|classifier|neck")


@dataclasses.dataclass(frozen=True)
class Copy:
    """A copy of an encoder.

    Attributes:
        table: tuple of strings, the keys that lead to the dict of tensors that it is in.
        prefix: tuple of strings, what the names of its weights begin with there.
    """

    table: tuple
    prefix: tuple

    @property
    def path(self) -> tuple:
        return self.table + self.prefix


def model_weights(content: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return one model's weights of a file, under the names that they have in the model alone.

    Args:
        content: dict of what is in the file: tensors by name, or dicts of them.
    Returns:
        `(weights, line)`: the weights of the only copy of the encoder, or of the averaged one, with
        the head and decoder beside it; and a line for the user about copies left out, or None.
        Where there is no encoder, all tensors of the first dict that has some.
    Raises:
        ValueError: if there are several copies, and which is the average is not clear.
    """
    tables = {path: _unwrapped(table) for path, table in _tables(content)}
    copies = [
        Copy(path, tuple(match["prefix"].split(".")) if match["prefix"] else ())
        for path, table in tables.items()
        for match in map(_PATCHES.fullmatch, table)
        if match
    ]
    if not copies:
        return next(iter(tables.values()), {}), None
    chosen = copies[0] if len(copies) == 1 else _averaged(copies, tables)
    weights = _names_alone(tables[chosen.table], chosen, copies)
    left = [_text(_root(copy, copies)) for copy in copies if copy is not chosen]
    if not left:
        return weights, None
    root = _text(_root(chosen, copies))
    return weights, f"opened {root}, the averaged weights, and left out {', '.join(left)}"


def _tables(content: Mapping[str, Any], path: tuple = ()) -> Iterator[tuple[tuple, dict]]:
    """Yield (keys that lead to it, tensors by name) of each dict that holds tensors."""
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and hasattr(v, "shape")}
    if tensors:
        yield path, tensors
    for key, value in content.items():
        # A dict in a pickle can hold itself.
        if isinstance(key, str) and isinstance(value, Mapping) and len(path) < _DEEPEST:
            yield from _tables(value, (*path, key))


def _unwrapped(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors by their names without what wrappers put into them."""
    return {
        ".".join(part for part in name.split(".") if part not in _WRAPPERS): value
        for name, value in table.items()
    }


def _averaged(copies: list[Copy], tables: dict) -> Copy:
    """Return the copy that is the average of the others."""
    roots = [_text(_root(copy, copies)) for copy in copies]
    words = [set(re.split(r"[._]", root)) for root in roots]
    averaged = [copy for copy, found in zip(copies, words, strict=True) if found & _AVERAGES]
    plain = [copy for copy, found in zip(copies, words, strict=True) if found & _PLAIN]
    if not averaged and len(plain) == len(copies) - 1:
        averaged = [copy for copy in copies if copy not in plain]
    if len(averaged) != 1 or not _of_one_shape(copies, tables):
        raise ValueError(
            "`path` must hold one vision transformer, or one and its average; save the one that is "
            f"wanted alone. Received: {', '.join(roots)}"
        )
    return averaged[0]


def _of_one_shape(copies: list[Copy], tables: dict) -> bool:
    """Return whether copies are of one architecture: a teacher may be another, larger model."""
    shapes: dict[str, set] = {}
    for copy in copies:
        start = "".join(f"{part}." for part in copy.prefix)
        for name, value in tables[copy.table].items():
            if name.startswith(start):
                shapes.setdefault(name[len(start) :], set()).add(tuple(value.shape))
    return all(len(found) == 1 for found in shapes.values())


def _root(copy: Copy, copies: list[Copy]) -> tuple:
    """Return the shortest beginning of a copy's path that no other copy's path has, or it all."""
    others = [other.path for other in copies if other is not copy]
    for length in range(1, len(copy.path) + 1):
        if all(other[:length] != copy.path[:length] for other in others):
            return copy.path[:length]
    return copy.path


def _text(root: tuple) -> str:
    return ".".join(root) or "the weights without a prefix"


def _names_alone(table: dict[str, Any], chosen: Copy, copies: list[Copy]) -> dict[str, Any]:
    """Return a copy's weights, and what is beside it, without the prefixes that they share."""
    roots = {_root(copy, copies): copy for copy in copies if copy.table == chosen.table}
    inside: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    for name, value in table.items():
        parts = tuple(name.split("."))
        path = chosen.table + parts
        owners = [root for root in roots if path[: len(root)] == root]
        if owners and roots[max(owners, key=len)] is not chosen:
            continue
        shared = 0
        while shared < len(chosen.prefix) and parts[shared] == chosen.prefix[shared]:
            shared += 1
        group = inside if shared == len(chosen.prefix) else beside
        group[".".join(parts[shared:])] = value
    for name, value in beside.items():
        if _BESIDE.match(name) and name not in inside:
            inside[name] = value
        else:  # Not to be taken for one of the encoder's.
            inside[f"{name} (beside {'.'.join(chosen.prefix)})"] = value
    return inside
