"""SHA-256 digests of files, of bytes and of nested values. Store keys are made of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np


def digest(*parts) -> str:
    """First 40 hexadecimal characters of the SHA-256 of nested values. All store keys are made with it.

    Values are None, str, int, float, bool, bytes, paths, NumPy arrays, and lists, tuples and dicts of those. Raises
    TypeError for any other value.
    """
    hasher = hashlib.sha256()
    _feed(hasher, parts)
    return hasher.hexdigest()[:40]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal characters. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files below a folder; of nothing if there is none."""
    if path.is_file():
        return file_digest(path)
    files = sorted(found for found in path.rglob("*") if found.is_file())
    return digest([[str(found.relative_to(path)), file_digest(found)] for found in files])


def bytes_digest(data: bytes) -> str:
    """SHA-256 of bytes, 64 hexadecimal characters."""
    return hashlib.sha256(data).hexdigest()


def _feed(hasher, value) -> None:
    """Add a value to the hash, with its type and length, so that different values never look the same."""
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
