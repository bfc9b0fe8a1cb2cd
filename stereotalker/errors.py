"""Faults by what is to be done about them. Everything not named here is our own bug and shows its traceback."""

from __future__ import annotations

import errno
import re

SAME_CAUSE = "failed for the same cause"  # of a batch that the breaker stopped
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
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


def is_disk_fault(error: BaseException) -> bool:
    """Full or read-only: every clip would meet it, so the batch stops instead."""
    return isinstance(error, OSError) and error.errno in _FULL


def is_passing(error: BaseException) -> bool:
    """What may be gone at the next try: a network file or service that was away."""
    return isinstance(error, OSError | WorkerLost | TimeoutError) and not is_disk_fault(error)


def cause(text: str) -> str:
    """A reason without its names, numbers and paths: two clips that fail alike have the same one."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*", "*", text.splitlines()[0] if text else "")
    return re.sub(r"\d[\d.,]*", "#", text)
