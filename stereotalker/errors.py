"""Faults by what is to be done about them. Everything not named here is our own bug and shows its traceback."""

from __future__ import annotations

import errno
import os
import re

SAME_CAUSE = "failed for the same cause"  # of a batch that the breaker stopped
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_ALLOCATION = re.compile(r"can't allocate memory|out of memory|not enough memory", re.IGNORECASE)


class UserError(ValueError):
    """Something the user gave cannot be used. The text says what was expected, what came, where, and what to do."""


class ClipError(UserError):
    """One clip of a batch cannot be made; the others go on."""


class Stopped(Exception):
    """The batch ends before this work: nothing is wrong with it, and the next run makes it. The text says why."""


class OutOfMemory(Exception):
    """The work did not fit: it goes on in halves."""


class WorkerLost(Exception):
    """A worker died or never came: its work goes to another one. `blameless` when its whole node went."""

    def __init__(self, reason: str, blameless: bool = False):
        super().__init__(reason)
        self.blameless = blameless


def is_out_of_memory(error: BaseException) -> bool:
    """Python's, torch's on a GPU, and torch's on a CPU, which is a plain RuntimeError."""
    return isinstance(error, MemoryError | OutOfMemory) or (
        isinstance(error, RuntimeError) and bool(_ALLOCATION.search(str(error)))
    )


def disk_fault(error: BaseException) -> OSError | None:
    """The disk's own fault behind an error, if the disk is full or read-only: every clip would meet it.

    It is looked for in the whole chain of causes. Libraries written in Rust, such as safetensors, raise exceptions of
    their own and give the error number in their text only.
    """
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        if isinstance(link, OSError) and link.errno in _DISK:
            return link
        number = _RUST_OS_ERROR.search(str(link))
        if number and int(number[1]) in _DISK:
            return OSError(int(number[1]), os.strerror(int(number[1])))
        seen.append(link)
        link = link.__cause__ or link.__context__
    return None


def is_passing(error: BaseException) -> bool:
    """What may be gone at the next try: a network file or service that was away."""
    return isinstance(error, OSError | WorkerLost | TimeoutError) and disk_fault(error) is None


def cause(text: str) -> str:
    """A reason without its names, numbers and paths: two clips that fail alike have the same one."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*", "*", text.splitlines()[0] if text else "")
    return re.sub(r"\d[\d.,]*", "#", text)
