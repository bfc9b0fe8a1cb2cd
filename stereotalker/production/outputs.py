"""The place for a batch's results: a local folder, or any URL that fsspec can write to, such as s3://bucket/night.

A file appears under its name only when it is complete.
"""

from __future__ import annotations

import os
from pathlib import Path

from stereotalker.errors import UserError
from stereotalker.store.digests import file_digest
from stereotalker.store.files import copy_atomic, write_atomic
from stereotalker.store.urls import is_url, open_url


class Outputs:
    """Files by name below one folder or URL. `str(outputs)` is that folder or URL."""

    def __init__(self, where: str | Path):
        self._where = str(where).rstrip("/") if is_url(where) else str(where)
        self._local = None if is_url(where) else Path(where)
        if self._local is None:
            self._fs, self._root = open_url(self._where)

    def __str__(self) -> str:
        return self._where

    def name(self, name: str) -> str:
        """The full path or URL of a file."""
        return str(self._local / name) if self._local else f"{self._where}/{name}"

    def put(self, name: str, data: bytes) -> None:
        """Write a file."""
        if self._local:
            write_atomic(self._local / name, data)
        else:
            # An object store shows an object only when it is complete.
            self._fs.pipe_file(f"{self._root}/{name}", data)

    def place(self, name: str, source: Path) -> None:
        """Copy a local file. A local copy that already has the same bytes is not written again."""
        if not self._local:
            self._fs.put_file(str(source), f"{self._root}/{name}")
            return
        target = self._local / name
        is_same = (
            target.is_file()
            and target.stat().st_size == source.stat().st_size
            and file_digest(target) == file_digest(source)
        )
        if not is_same:
            copy_atomic(source, target)

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None if it does not exist."""
        try:
            return (self._local / name).read_bytes() if self._local else self._fs.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None

    def check(self, name: str) -> None:
        """Raise UserError unless a file can be written and removed. name: the setting that the message mentions."""
        try:
            if self._local:
                self._local.mkdir(parents=True, exist_ok=True)
                probe = self._local / f".probe.{os.getpid()}"
                write_atomic(probe, b"probe")
                probe.unlink()
            else:
                self.put(".probe", b"probe")
                self._fs.rm_file(f"{self._root}/.probe")
        except Exception as error:  # every fsspec file system has errors of its own
            raise UserError(f"{name} {self._where} cannot be written: {type(error).__name__}: {error}") from None
