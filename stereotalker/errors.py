"""Exceptions by what has to be done about them. Any other exception is a bug of ours and shows its traceback."""

from __future__ import annotations

import errno
import re

SAME_CAUSE = "failed for the same cause"  # part of the message when a batch stops because clip after clip fails alike
_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_OUT_OF_MEMORY_TEXT = re.compile(r"can't allocate memory|out of memory|not enough memory", re.IGNORECASE)


class UserError(ValueError):
    """An input of the user cannot be used. The text says what was expected, what came, where it is, and what to do."""


class ClipError(UserError):
    """One clip of a batch cannot be produced; the others continue."""


class Stopped(Exception):
    """The batch ended before this work was done. The work is valid, and the next run does it. The text says why."""


class OutOfMemory(Exception):
    """The work did not fit into memory. It is repeated in halves."""


class WorkerLost(Exception):
    """A worker died or did not start. Another worker gets its work.

    blameless: the whole node was lost, so that the work cannot be the cause.
    """

    def __init__(self, reason: str, blameless: bool = False):
        super().__init__(reason)
        self.blameless = blameless


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: in Python, in torch on a GPU, or in torch on a CPU.

    torch on a CPU raises a plain RuntimeError, which only its text identifies.
    """
    return isinstance(error, MemoryError | OutOfMemory) or (
        isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY_TEXT.search(str(error)))
    )


def is_disk_fault(error: BaseException) -> bool:
    """Whether the disk is full or read-only. Every clip would fail in the same way, so the batch stops instead."""
    return isinstance(error, OSError) and error.errno in _DISK_ERRNOS


def is_passing(error: BaseException) -> bool:
    """Whether the next try may succeed, such as after a network file system or a service was unavailable."""
    return isinstance(error, OSError | WorkerLost | TimeoutError) and not is_disk_fault(error)


def cause(text: str) -> str:
    """The first line of an error's text without names, numbers and paths. Clips that fail alike have the same cause."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*", "*", text.splitlines()[0] if text else "")
    return re.sub(r"\d[\d.,]*", "#", text)
