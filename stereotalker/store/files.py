"""Files that are there whole or not at all: written under a temporary name, synced to the disk, then renamed."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file as one step: temporary name, sync, rename."""
    with _replacing(path) as temporary:
        temporary.write_bytes(data)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An .npz, compressed, as one step."""
    with _replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def copy_atomic(source: Path, path: Path) -> None:
    """As write_atomic, from a file of any size."""
    with _replacing(path) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Come back when the disk has it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
