"""Content-addressed store: where truth lives. A stage's result is found by what it was made from, or it is made.

An entry is a folder `<root>/<stage>/<key>/`. It is written under a temporary name, synced, its marker written last, then
renamed: an entry that has its final name is whole. `key` covers the stage, the code, every input and every parameter.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import psutil

from stereotalker.alive import HOST

MARKER = "done.json"


class Store:
    def __init__(self, root: Path):
        self.root = Path(root)

    def __str__(self) -> str:
        return str(self.root)

    def find(self, stage: str, key: str) -> Path | None:
        """The entry's folder if it is there and every file is as it was written; a damaged entry is removed."""
        folder = self.root / stage / key
        try:
            marker = json.loads((folder / MARKER).read_text())
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, UnicodeDecodeError):
            marker = {}
        if "files" in marker and all((folder / n).is_file() and file_digest(folder / n) == d for n, d in marker["files"].items()):
            return folder
        shutil.rmtree(folder, ignore_errors=True)  # another process may be removing it too
        return None

    def make(self, stage: str, key: str, write: Callable[[Path], None]) -> Path:
        """The entry's folder, made by `write(folder)` unless it is there already."""
        if found := self.find(stage, key):
            return found
        folder = self.root / stage / key
        temporary = folder.with_name(f"{key}.{HOST}.{os.getpid()}-{threading.get_ident()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            write(temporary)
            files = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
            for name in files:
                sync(temporary / name)
            (temporary / MARKER).write_text(json.dumps({"files": files}, indent=1))
            sync(temporary / MARKER)
            os.rename(temporary, folder)
        except OSError:
            if not (folder / MARKER).exists():  # else another thread or process finished the same entry first: its bytes are ours
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(folder.parent)
        return folder

    def sweep(self) -> int:
        """Remove what processes of this machine left behind when they died. Returns how many folders went."""
        gone = 0
        for path in self.root.glob("*/*.tmp"):
            _, _, owner = path.name.removesuffix(".tmp").partition(".")
            host, _, process = owner.rpartition(".")
            if host == HOST and not psutil.pid_exists(int(process.split("-")[0])):
                shutil.rmtree(path, ignore_errors=True)
                gone += 1
        return gone


def digest(*parts) -> str:
    """SHA-256 of nested plain values, records' arrays included: the one way keys are made."""
    hasher = hashlib.sha256()
    _feed(hasher, parts)
    return hasher.hexdigest()[:40]


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_digest(data: bytes) -> str:
    """As file_digest, of bytes in memory."""
    return hashlib.sha256(data).hexdigest()


@cache
def code_version() -> str:
    """Digest of the library's own source: a changed line never finds an old result."""
    root = Path(__file__).parent
    return digest([(str(p.relative_to(root)), p.read_bytes()) for p in sorted(root.rglob("*.py"))])


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


def _feed(hasher, value) -> None:
    if isinstance(value, np.ndarray):
        hasher.update(f"array {value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        hasher.update(b"dict")
        for key in sorted(value):
            _feed(hasher, (key, value[key]))
    elif isinstance(value, list | tuple):
        hasher.update(f"list {len(value)}".encode())
        for item in value:
            _feed(hasher, item)
    elif isinstance(value, bytes):
        hasher.update(f"bytes {len(value)} ".encode() + value)
    elif value is None or isinstance(value, str | int | float | bool):
        text = f"{type(value).__name__} {value!r}"
        hasher.update(f"{len(text)} {text}".encode())
    elif isinstance(value, Path):
        _feed(hasher, str(value))
    else:
        raise TypeError(f"no digest for a {type(value).__name__}")


def sync(path: Path) -> None:
    """Come back when the disk has it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
