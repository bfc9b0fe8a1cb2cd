"""Atomic writes: a file appears under its name only when it is complete.

It is written under a temporary name, synced to the disk, and then renamed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file, or replace it, in one atomic step."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed .npz file in one atomic step."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # mypy takes an array for allow_pickle


def copy_atomic(source: Path, path: Path) -> None:
    """Copy a file of any size in one atomic step."""
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder. It appears under its name only when it is complete."""
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        shutil.copytree(source, staging)
        os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, and rename it to `path` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:80]}.{os.getpid()}-{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return when the disk has stored the file or folder (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
