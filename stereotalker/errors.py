"""Exceptions by what has to be done about them. Any other exception is a bug of ours and shows its traceback."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

# A disk that is full, over its quota, read-only or away: every clip would meet it. EIO is left out, because it may be
# the fault of a single file.
_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTCONN}
_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how libraries written in Rust give an error number
_FULL_DISK_TEXT = re.compile(r"no space left on device|database or disk is full|disk quota exceeded", re.IGNORECASE)
_OUT_OF_MEMORY_TEXT = re.compile(r"can't allocate memory|out of memory|not enough memory", re.IGNORECASE)

# Base classes of the errors that network libraries raise when a connection fails, is cut or takes too long. They are
# named, not imported, because most of these libraries are optional.
_NETWORK_ERRORS = {
    ("botocore.exceptions", "HTTPClientError"),
    ("botocore.exceptions", "ConnectionError"),
    ("aiohttp.client_exceptions", "ClientConnectionError"),
    ("aiohttp.client_exceptions", "ClientPayloadError"),
    ("aiohttp.http_exceptions", "HttpProcessingError"),
    ("httpx", "TransportError"),
    ("urllib3.exceptions", "HTTPError"),
    ("http.client", "HTTPException"),
}
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}  # of HTTP: the server asks to try again, or is broken for a moment


class UserError(ValueError):
    """An input of the user cannot be used. The text says what was expected, what came, where it is, and what to do."""


class ClipError(UserError):
    """One clip of a batch cannot be produced; the others continue."""


class Unavailable(UserError):
    """A disk, a service, a model file or the machine is not ready. The input is not at fault and may work later."""


class BatchStopped(Exception):
    """The batch ended before this work was done. The work is valid, and the next run does it. The text says why."""


class OutOfMemory(Exception):
    """The work did not fit into memory. It is repeated in halves."""


class WorkerLost(Exception):
    """A worker died or did not start. Another worker gets its work.

    node_was_lost: the whole node was lost, so that the work cannot be the cause.
    """

    def __init__(self, reason: str, node_was_lost: bool = False):
        super().__init__(reason)
        self.node_was_lost = node_was_lost


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: in Python, in torch on a GPU, or in torch on a CPU.

    torch on a CPU raises a plain RuntimeError, which only its text identifies.
    """
    return isinstance(error, MemoryError | OutOfMemory) or (
        isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY_TEXT.search(str(error)))
    )


def shared_fault(error: BaseException) -> str:
    """What is wrong with a disk or a service that every clip needs, if that is behind an error; else empty.

    It is looked for in the whole chain of causes, because libraries wrap errors in exceptions of their own. Some give
    the error number or the system's message in their text only.
    """
    for link in _chain(error):
        if isinstance(link, Unavailable):
            return str(link)
        if isinstance(link, UserError):
            continue  # its text may quote a script
        number = link.errno if isinstance(link, OSError) else None
        if number is None and (match := _RUST_OS_ERROR.search(str(link))):
            number = int(match[1])
        if number in _DISK_ERRNOS:
            place = f": {link.filename}" if isinstance(link, OSError) and link.filename else ""
            return os.strerror(number) + place
        if match := _FULL_DISK_TEXT.search(str(link)):
            return match[0]
    return ""


def is_transient(error: BaseException) -> bool:
    """Whether the next try may succeed, such as after a network file system or a service was unavailable."""
    return not shared_fault(error) and any(
        isinstance(link, OSError | WorkerLost | TimeoutError) or _is_network_error(link) for link in _chain(error)
    )


def is_network_fault(error: BaseException) -> bool:
    """Whether a connection failed, was cut or took too long, or a server answered that it is out of order."""
    return any(_is_network_error(link) for link in _chain(error, contexts=False))


def _is_network_error(error: BaseException) -> bool:
    """As `is_network_fault`, of the error alone, not of its causes."""
    kinds = [(kind.__module__, kind.__name__) for kind in type(error).__mro__]
    kinds += [(module.split(".")[0], name) for module, name in kinds]
    response = getattr(error, "response", None)
    answer = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}  # of botocore's ClientError
    status = answer.get("HTTPStatusCode") or getattr(error, "status", None)  # of aiohttp's errors
    return (
        isinstance(error, ConnectionError | TimeoutError)
        or not _NETWORK_ERRORS.isdisjoint(kinds)
        or status in _PASSING_STATUS
    )


def _chain(error: BaseException, contexts: bool = True) -> Iterator[BaseException]:
    """An error and its causes, the last first.

    contexts: whether an error during whose handling another one was raised counts as its cause, too.
    """
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        yield link
        seen.append(link)
        link = link.__cause__ or (link.__context__ if contexts else None)


def error_signature(text: str) -> str:
    """The first line of an error's text without names, numbers and paths. Clips that fail alike have the same cause."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*", "*", text.splitlines()[0] if text else "")
    return re.sub(r"\d[\d.,]*", "#", text)
