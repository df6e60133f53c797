"""Weights on the Hugging Face hub: from `hf://OWNER/NAME[@REVISION][/FILE]` to a file on disk.

All transfers are huggingface_hub's (`pip install "keras_mae[hub]"`), with its cache and its
variables: HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN, HF_ENDPOINT.
"""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from keras_mae.interop.hub_errors import NotThere, Request, asked, hub_api, import_hub
from keras_mae.models.openers import HUB_SCHEME
from keras_mae.types import AnyPath

# What is taken where no file is named, the first that there is.
USUAL_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "mae.keras",
    "model.keras",
    "encoder.keras",
    "model.weights.h5",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# A name with another ending is a folder's.
_WEIGHTS = (".safetensors", ".index.json", ".keras", ".weights.h5", ".bin", ".pth", ".pt")
_CARD = "README.md"
KERAS_HUB_FILES = (
    "config.json",
    "metadata.json",
    "image_converter.json",
    "preprocessor.json",
    "task.json",
    "task.weights.h5",
)
_NAME = r"[A-Za-z0-9][\w.-]*"
# As huggingface_hub writes them: refs/pr/N and refs/convert/NAME as they are, other slashes as %2F.
_SPEC = re.compile(
    rf"{HUB_SCHEME}(?:models/)?(?P<repo>{_NAME}/{_NAME})"
    r"(?:@(?P<revision>refs/(?:pr/\d+|convert/[\w.-]+)|[^/]+))?(?:/(?P<file>.*))?"
)
_HASH = re.compile("[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True)
class HubPath:
    """The parts of `hf://OWNER/NAME[@REVISION][/FILE]`.

    Attributes:
        repo: str, OWNER/NAME.
        revision: str, a branch, a tag or a commit hash, without %2F.
        file: str, a file or a folder of the repository; "" for its root.
    """

    repo: str
    revision: str
    file: str


def is_hub(path: Any) -> bool:
    """Return whether something is a text that begins with hf://."""
    return isinstance(path, str) and path.startswith(HUB_SCHEME)


def resolve(path: AnyPath) -> AnyPath:
    """Return a file on disk for what begins with hf://, and any other path as it is.

    The file's config and preprocessor, of its own folder and revision, lie beside it. A line is
    printed that names the repository, the revision's hash and the licence that its card states. In
    one process a revision is looked up once. What is in the cache is not asked for again, so a
    complete cache is enough without network.

    Args:
        path: str or path; `hf://OWNER/NAME[@REVISION][/FILE]`. REVISION is a branch, a tag, a
            hash or `refs/pr/N`; other slashes in it are %2F. FILE is a file or a folder; without
            one, the first of `USUAL_FILES` is taken.
    Raises:
        ValueError: if it is written wrong, is not there, is private or gated, or if the token is
            not accepted.
        ConnectionError: if something is not in the cache, and the hub cannot be reached.
        ImportError: if huggingface_hub is not installed.
    Example:
        file = resolve("hf://facebook/vit-mae-base")
    """
    return _resolved(path) if is_hub(path) else path  # type: ignore[arg-type]


@functools.cache
def _resolved(spec: str) -> str:
    hub_path = parse(spec)
    import_hub()
    snapshot = _Snapshot(spec, hub_path, _commit(spec, hub_path))
    print(
        f"hf://{hub_path.repo}: revision {snapshot.commit}, {_licence(snapshot)}",
        flush=True,
    )
    weights = _weights(snapshot, hub_path.file)
    for name in _companions(snapshot, weights):
        snapshot.fetch(name)
    return os.fspath(snapshot.wanted(weights))


def parse(spec: str) -> HubPath:
    """Return the parts of a text that begins with hf://.

    Raises:
        ValueError: if it is written otherwise.
    """
    match = _SPEC.fullmatch(spec)
    file = (match["file"] or "").rstrip("/") if match else ""
    parts = file.split("/") if file else []
    other_kind = match is not None and match["repo"].split("/")[0] in ("datasets", "spaces")
    if match is None or other_kind or not all(part.strip(".") for part in parts):
        raise ValueError(
            "`path` must be hf://OWNER/NAME[@REVISION][/FILE], a repository of a model; slashes of "
            f"a revision are %2F, but for refs/pr/N. Received: {spec!r}"
        )
    return HubPath(match["repo"], unquote(match["revision"] or "main"), file)


@dataclasses.dataclass(frozen=True)
class _Snapshot:
    """A repository at one commit."""

    spec: str
    path: HubPath
    commit: str

    def fetch(self, name: str) -> Path | None:
        """Return a file's path in the cache, downloaded if need be; None if there is none."""
        hub = import_hub()
        cached = hub.try_to_load_from_cache(self.path.repo, name, revision=self.commit)
        if isinstance(cached, str):
            return Path(cached)
        listed = self.listed()
        if cached is not None or (listed is not None and name not in listed):
            return None  # known not to be there
        try:
            return Path(
                asked(
                    lambda: hub_api().hf_hub_download(self.path.repo, name, revision=self.commit),
                    self.request(name),
                )
            )
        except NotThere:
            return None

    def request(self, name: str) -> Request:
        return Request(self.spec, self.path.repo, self.path.revision, name)

    def wanted(self, name: str) -> Path:
        """Return `fetch`, or raise a ValueError that lists what there is."""
        found = self.fetch(name)
        if found is None:
            raise ValueError(
                f"`path` must name a file that is there. Received: {self.spec!r}; revision "
                f"{self.commit} has no {name}, but {_listing(self.files(name))}"
            )
        return found

    def listed(self) -> list[str] | None:
        """Return the names of all files where the cache knows them, else None."""
        tree = getattr(import_hub(), "get_cached_repo_tree", None)
        if tree is None:
            return None
        try:
            return [file.path for file in tree(self.path.repo, revision=self.commit)]
        except Exception:  # its own error for "not known", which older versions have not
            return None

    def files(self, name: str) -> list[str]:
        """Return the names of all files, of the cached ones where the hub cannot be reached.

        Args:
            name: str, what they are asked for; for an error.
        """
        listed = self.listed()
        if listed is not None:
            return listed
        try:
            return asked(
                lambda: hub_api().list_repo_files(self.path.repo, revision=self.commit),
                self.request(name),
            )
        except ConnectionError:
            folder = _cache_of(self.path.repo) / "snapshots" / self.commit
            files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
            if not files:
                raise
            return sorted(files)


def _commit(spec: str, path: HubPath) -> str:
    """Return the hash of a revision; without network, of the one that was fetched last."""
    if _HASH.fullmatch(path.revision):
        return path.revision
    repo, revision = path.repo, path.revision
    request = Request(spec, repo, revision, _CARD)
    try:
        card = asked(lambda: hub_api().hf_hub_download(repo, _CARD, revision=revision), request)
        return Path(card).parent.name
    except NotThere:
        return asked(lambda: hub_api().model_info(repo, revision=revision), request).sha
    except ConnectionError:
        # The cache keeps a branch's hash also where the repository has no card.
        known = _cache_of(repo) / "refs" / revision
        if not known.is_file():
            raise
        return known.read_text().strip()


def _cache_of(repo: str) -> Path:
    """Return the folder of a model's repository in the cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _licence(snapshot: _Snapshot) -> str:
    """Return what a repository's card states, in words."""
    try:
        card = snapshot.fetch(_CARD)
    except ConnectionError:
        return "licence not known: its card is not in the cache"
    if card is None:
        return "licence not known: it has no card"
    from huggingface_hub import repocard

    try:
        stated = repocard.metadata_load(card) or {}
        licence = stated.get("license")
        if licence == "other":
            licence = stated.get("license_name", licence)
    except Exception:  # YAML that is none; the card changes nothing of the model
        licence = None
    return f"licence {licence} (as its card states)" if licence else "its card states no licence"


def _weights(snapshot: _Snapshot, file: str) -> str:
    """Return the name of the file with the weights: `file`, or one of the folder `file`."""
    if file.endswith(_WEIGHTS):
        return file
    folder = f"{file}/" if file else ""
    for name in USUAL_FILES:
        if snapshot.fetch(folder + name) is not None:
            return folder + name
    inside = [name for name in snapshot.files(file or "weights") if name.startswith(folder)]
    found = [name for name in inside if name.endswith(_WEIGHTS) and "/" not in name[len(folder) :]]
    if len(found) == 1:
        return found[0]
    wanted = f"name one of {_listing(found)}" if found else f"it holds {_listing(inside)}"
    raise ValueError(
        f"`path` must hold one checkpoint ({', '.join(USUAL_FILES)}, or one file of another name); "
        f"{wanted}. Received: {snapshot.spec!r}"
    )


def _companions(snapshot: _Snapshot, weights: str) -> Iterator[str]:
    """Yield the names of the files that are read together with the weights."""
    folder = weights[: -len(Path(weights).name)]
    if weights.endswith(".keras"):
        return
    if weights.endswith(".weights.h5"):
        yield from (folder + name for name in KERAS_HUB_FILES)
        return
    config = _json(snapshot.fetch(f"{folder}config.json"))
    # timm's config has the statistics in it; the preprocessor is transformers'.
    if "architecture" not in config or "model_type" in config:
        yield f"{folder}preprocessor_config.json"
    if weights.endswith(".index.json"):
        shards = _json(snapshot.fetch(weights)).get("weight_map")
        for name in sorted(set(shards.values())) if isinstance(shards, dict) else ():
            # What lies elsewhere is refused by who reads the index.
            if isinstance(name, str) and name == os.path.basename(name):
                yield folder + name


def _json(file: Path | None) -> dict[str, Any]:
    """Return a file's JSON object; empty where it is none, which its reader tells."""
    try:
        content = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _listing(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "no file") + more
