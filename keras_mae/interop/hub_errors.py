"""Calls of huggingface_hub, and its errors in one line each.

It has been written on requests, httpx and httpx2 in turn, so its errors are told by their kind and
the answer's status. Their own text is never shown: it may hold an address with a token in it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from keras_mae.version import __version__

T = TypeVar("T")


def import_hub() -> Any:
    """Return the module huggingface_hub.

    Raises:
        ImportError: if it is not installed, with the extra that holds it.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "The hub (hf://) needs huggingface_hub, which is not installed: "
            'pip install "keras_mae[hub]"'
        ) from error
    return huggingface_hub


def hub_api() -> Any:
    """Return huggingface_hub's `HfApi`, which reads the token of HF_TOKEN or of its login."""
    return import_hub().HfApi(library_name="keras_mae", library_version=__version__)


@dataclasses.dataclass(frozen=True)
class Request:
    """What a call is for, as its errors say it.

    Attributes:
        spec: str, what the user wrote.
        repo, revision: str.
        name: str, of the file, or another word for what is wanted.
        argument: str, what the user gave `spec` as.
    """

    spec: str
    repo: str
    revision: str
    name: str
    argument: str = "path"


class NotThere(Exception):
    """The hub says that a revision has no such file."""


def asked(call: Callable[[], T], request: Request) -> T:
    """Return what a call of huggingface_hub returns, or raise its error in one line.

    Args:
        call: function without arguments.
        request: `Request`, what it is for.
    Raises:
        ValueError: if the name is wrong, not there, private or gated, or the token not accepted.
        ConnectionError: if the hub is not reached, or has a fault.
        NotThere: if the revision has no such file.
        OSError: of the disk.
    """
    with _quiet_hub():
        try:
            return call()
        except Exception as error:
            told = _told(error, request)
    # Outside of the handler: nothing of the error is chained to it.
    raise told


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Silence huggingface_hub's own lines on what it tries again: they name whole addresses."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _told(error: Exception, request: Request) -> Exception:
    """Return an error of huggingface_hub's as one of ours."""
    from huggingface_hub import errors

    argument, repo, hub = request.argument, request.repo, endpoint()
    received, name = f"Received: {request.spec!r}", request.name
    token = import_hub().get_token() is not None
    reason = _reason(error)
    status = getattr(getattr(reason, "response", None), "status_code", None)
    if isinstance(reason, errors.HFValidationError):
        return ValueError(f"`{argument}` must name a repository, OWNER/NAME. {received}")
    if isinstance(reason, errors.GatedRepoError):
        hint = "your token's account has no access yet" if token else "then give a token (HF_TOKEN)"
        return ValueError(
            f"`{argument}` is of {repo}, which is gated ({status}): ask for access at "
            f"{hub}/{repo}; {hint}. {received}"
        )
    if isinstance(reason, errors.RevisionNotFoundError):
        return ValueError(
            f"`{argument}` must name a revision that is there. {received}; {repo} has no "
            f"{request.revision}"
        )
    if isinstance(reason, errors.EntryNotFoundError) and status == 404:
        return NotThere(f"`{argument}` must be there. {received}; {repo} has no {name}")
    if isinstance(reason, errors.RepositoryNotFoundError) and token:
        return ValueError(
            f"`{argument}` must name a repository that is there and that your token may see "
            f"({status}): {hub} shows it no {repo}. {received}"
        )
    if isinstance(reason, errors.RepositoryNotFoundError):
        return ValueError(
            f"`{argument}` must name a repository that is there ({status}): {hub} has no {repo}, "
            f"or it is private, which the hub tells nobody without a token (HF_TOKEN). {received}"
        )
    if status == 401:
        refused = "it refuses yours" if token else "none is given (HF_TOKEN)"
        return ValueError(
            f"`{argument}` needs a token that {hub} accepts; {refused} (401). {received}"
        )
    if status == 403:
        return ValueError(
            f"`{argument}` needs a token with the right to it; {hub} refuses {name} of {repo} "
            f"(403). {received}"
        )
    if status is not None:
        return ConnectionError(f"{hub} answers {status} to {name} of {repo}. {received}")
    if isinstance(reason, errors.OfflineModeIsEnabled):
        return ConnectionError(
            f"{name} of {repo} at {request.revision} is not in the cache, and HF_HUB_OFFLINE "
            f"forbids to ask for it. {received}"
        )
    on_disk = isinstance(reason, OSError) and reason.errno is not None
    if on_disk and not isinstance(reason, ConnectionError | TimeoutError):
        return reason
    if isinstance(reason, errors.FileMetadataError | LookupError | TypeError | ValueError):
        return ConnectionError(
            f"{hub} does not answer as a hub does ({type(reason).__name__}): {name} of {repo} at "
            f"{request.revision}. {received}"
        )
    return ConnectionError(
        f"{hub} cannot be reached, or ended the transfer early ({type(reason).__name__}): {name} "
        f"of {repo} at {request.revision}. {received}"
    )


def _reason(error: Exception) -> Exception:
    """Return the error that a general one ("neither there nor in the cache") was raised for."""
    from huggingface_hub import errors

    general = errors.LocalEntryNotFoundError | RuntimeError
    while isinstance(error, general) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def endpoint() -> str:
    """Return the hub's address, without the user and password that it may hold."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
