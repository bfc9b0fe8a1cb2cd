"""Exceptions by what has to be done about them. Any other exception is a bug of ours and shows its traceback."""

from __future__ import annotations

import errno
import os
import re

SAME_CAUSE = "failed for the same cause"  # part of the message when a batch stops because clip after clip fails alike
_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how libraries written in Rust give an error number
_OUT_OF_MEMORY_TEXT = re.compile(r"can't allocate memory|out of memory|not enough memory", re.IGNORECASE)


class UserError(ValueError):
    """An input of the user cannot be used. The text says what was expected, what came, where it is, and what to do."""


class ClipError(UserError):
    """One clip of a batch cannot be produced; the others continue."""


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


def disk_fault(error: BaseException) -> OSError | None:
    """The disk's own fault behind an error, if the disk is full or read-only: every clip would meet it.

    It is looked for in the whole chain of causes. Libraries written in Rust, such as safetensors, raise exceptions of
    their own and give the error number in their text only.
    """
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        if isinstance(link, OSError) and link.errno in _DISK_ERRNOS:
            return link
        number = _RUST_OS_ERROR.search(str(link))
        if number and int(number[1]) in _DISK_ERRNOS:
            return OSError(int(number[1]), os.strerror(int(number[1])))
        seen.append(link)
        link = link.__cause__ or link.__context__
    return None


def is_transient(error: BaseException) -> bool:
    """Whether the next try may succeed, such as after a network file system or a service was unavailable."""
    return isinstance(error, OSError | WorkerLost | TimeoutError) and disk_fault(error) is None


def error_signature(text: str) -> str:
    """The first line of an error's text without names, numbers and paths. Clips that fail alike have the same cause."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*", "*", text.splitlines()[0] if text else "")
    return re.sub(r"\d[\d.,]*", "#", text)
