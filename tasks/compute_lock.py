"""Batches come before retrainings on a machine, and there is one retraining at a time."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stereotalker.errors import Unavailable
from stereotalker.runtime.home import Home
from stereotalker.runtime.process_identity import identity
from stereotalker.store.files import write_atomic

_BATCH, _RETRAINING = "batch", "retrain"


class BatchTurn:
    """Makes retrainings on this machine wait, from `begin` to the end of the block. Each batch has a lock of its own.

    It is a context manager. `begin` may be called again and again.
    """

    def __init__(self, home: Home):
        self._lock = _lock(home, f"{_BATCH}-{uuid.uuid4().hex[:12]}")

    def begin(self) -> None:
        """The batch begins to compute; until then, it may wait for its time of the day."""
        if not self._lock.is_locked:
            self._lock.acquire()

    def __enter__(self) -> BatchTurn:
        return self

    def __exit__(self, *error) -> None:
        if self._lock.is_locked:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()


def is_batch_running(home: Home) -> bool:
    """Whether a batch computes on this machine. Locks that killed batches left are removed."""
    for path in (home.root / "locks").glob(f"{_BATCH}-*.lock"):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        path.unlink(missing_ok=True)
        lock.release()
    return False


@contextmanager
def retraining_of(home: Home) -> Iterator[None]:
    """Hold the lock of the retraining. Raises Unavailable, with who holds it, if there is one already."""
    lock, holder = _lock(home, _RETRAINING), home.root / "locks" / f"{_RETRAINING}.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Unavailable(f"a retraining is running{_since(holder)}; wait for it") from None
    try:
        write_atomic(holder, json.dumps({"process": identity(), "since": time.strftime("%Y-%m-%d %H:%M")}).encode())
        yield
    finally:
        lock.release()


def _since(holder: Path) -> str:
    """Who holds the lock, and since when, as text for a person; empty if it is not known."""
    try:
        values = json.loads(holder.read_text(encoding="utf-8"))
        return f" since {values['since']}, process {values['process']}"
    except (OSError, ValueError, KeyError):
        return ""


def _lock(home: Home, name: str) -> FileLock:
    (home.root / "locks").mkdir(parents=True, exist_ok=True)
    return FileLock(home.root / "locks" / f"{name}.lock")
