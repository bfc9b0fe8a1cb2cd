"""One driver an output folder: two batches in one folder would mix their reports and move each other's videos away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from filelock import FileLock, Timeout

from stereotalker.errors import Unavailable
from stereotalker.production.outputs import Outputs
from stereotalker.runtime.process_identity import identity
from stereotalker.store.files import write_atomic

_LOCK, _HOLDER = ".batch.lock", ".batch.json"


@contextmanager
def lock_outputs(outputs: Outputs, batch: str) -> Iterator[None]:
    """Hold the lock of a local output folder, which is made if necessary. A URL has no lock.

    The system releases the lock when the process ends, however it ends. Raises Unavailable if another process holds it,
    or if the folder cannot be written.
    """
    folder = outputs.folder
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise Unavailable(
            f"{folder} is being written by {_holder(outputs)}; wait for it, or give another --out"
        ) from None
    except OSError as error:
        raise Unavailable(f"--out {folder} cannot be written: {error}") from error
    try:
        holder = {"batch": batch, "process": identity(), "since": time.strftime("%Y-%m-%d %H:%M")}
        with suppress(OSError):  # a full disk; the lock holds without the note
            write_atomic(folder / _HOLDER, json.dumps(holder).encode())
        yield
    finally:
        lock.release()
        with suppress(OSError):  # the disk may be read-only or away by now
            (folder / _HOLDER).unlink(missing_ok=True)


def _holder(outputs: Outputs) -> str:
    """Who holds the lock, as text for a person."""
    try:
        holder = json.loads(outputs.read(_HOLDER) or b"")
        host, process, _ = holder["process"].split("/")
        return f"the batch {holder['batch']}, process {process} on {host}, since {holder['since']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "another batch"
