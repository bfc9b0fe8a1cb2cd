"""Where a batch's results go: a local folder, or any URL that fsspec knows (s3://bucket/night). A file is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from stereotalker.errors import UserError
from stereotalker.store.digests import file_digest
from stereotalker.store.files import copy_atomic, write_atomic
from stereotalker.store.urls import is_url, open_url


class Outputs:
    """Files by name below one place. `str(outputs)` is that place."""

    def __init__(self, where: str | Path):
        self._where = str(where).rstrip("/") if is_url(where) else str(where)
        self._local = None if is_url(where) else Path(where)
        if self._local is None:
            self._fs, self._root = open_url(self._where)

    def __str__(self) -> str:
        return self._where

    def name(self, name: str) -> str:
        """The path or URL a person finds a file under."""
        return str(self._local / name) if self._local else f"{self._where}/{name}"

    def put(self, name: str, data: bytes) -> None:
        if self._local:
            write_atomic(self._local / name, data)
        else:
            self._fs.pipe_file(f"{self._root}/{name}", data)  # object stores show an object when all of it is there

    def place(self, name: str, source: Path) -> None:
        """Copy a local file there. What is there already, byte for byte, stays."""
        if not self._local:
            self._fs.put_file(str(source), f"{self._root}/{name}")
            return
        final = self._local / name
        if not (
            final.is_file()
            and final.stat().st_size == source.stat().st_size
            and file_digest(final) == file_digest(source)
        ):
            copy_atomic(source, final)

    def read(self, name: str) -> bytes | None:
        """None where there is no such file."""
        try:
            return (self._local / name).read_bytes() if self._local else self._fs.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None

    def check(self, name: str) -> None:
        """Raises UserError, with the `name` of the setting, unless a file can be written and removed."""
        try:
            if self._local:
                self._local.mkdir(parents=True, exist_ok=True)
                probe = self._local / f".probe.{os.getpid()}"
                write_atomic(probe, b"probe")
                probe.unlink()
            else:
                self.put(".probe", b"probe")
                self._fs.rm_file(f"{self._root}/.probe")
        except Exception as error:  # every file system has errors of its own
            raise UserError(f"{name} {self._where} cannot be written: {type(error).__name__}: {error}") from None
