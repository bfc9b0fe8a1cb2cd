"""The place for a batch's results: a local folder, or any URL that fsspec can write to, such as s3://bucket/night.

A file appears under its name only when it is complete.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from stereotalker.errors import Unavailable
from stereotalker.store.digests import file_digest
from stereotalker.store.files import copy_atomic, write_atomic
from stereotalker.store.urls import RemoteFolder, is_url

_CHECK_PATIENCE_S = 5.0  # seconds for which a server may be away before a batch begins: nothing is lost yet


class Outputs:
    """Files by name below one folder or URL. `str(outputs)` is that folder or URL.

    With a URL, every method may raise Unavailable, see RemoteFolder; with a folder, OSError.
    """

    def __init__(self, where: str | Path):
        self._remote = RemoteFolder(str(where)) if is_url(where) else None
        self._folder = Path(where)  # not used with a URL

    def __str__(self) -> str:
        return str(self._remote or self._folder)

    @property
    def folder(self) -> Path | None:
        """The local folder; None if the results go to a URL."""
        return None if self._remote else self._folder

    def name(self, name: str) -> str:
        """The full path or URL of a file."""
        return self._remote.name(name) if self._remote else str(self._folder.absolute() / name)

    def put(self, name: str, data: bytes) -> None:
        """Write a file."""
        if self._remote:
            self._remote.write(name, data)
        else:
            write_atomic(self._folder / name, data)

    def place(self, name: str, source: Path) -> None:
        """Copy a local file. A local copy that already has the same bytes is not written again."""
        if self._remote:
            self._remote.upload(name, source)
            return
        target = self._folder / name
        is_same = (
            target.is_file()
            and target.stat().st_size == source.stat().st_size
            and file_digest(target) == file_digest(source)
        )
        if not is_same:
            copy_atomic(source, target)

    def holds(self, name: str, size: int, sha256: str) -> bool:
        """Whether there is a file of this size in bytes and with this digest. At a URL only the size is compared."""
        if self._remote:
            return self._remote.size(name) == size
        path = self._folder / name
        return path.is_file() and path.stat().st_size == size and file_digest(path) == sha256

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None if it does not exist."""
        if self._remote:
            return self._remote.read(name)
        try:
            return (self._folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, name: str) -> bool:
        """Remove a file. Returns whether there was one."""
        if self._remote:
            is_there = self._remote.size(name) is not None
            self._remote.remove(name)
            return is_there
        path = self._folder / name
        is_there = path.is_file()
        path.unlink(missing_ok=True)
        return is_there

    def move(self, name: str, new_name: str) -> bool:
        """Give a file another name, and replace what has that name. Returns whether there was such a file."""
        if not self._remote:
            target = self._folder / new_name
            if not (self._folder / name).is_file():
                return False
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._folder / name, target)
            return True
        data = self._remote.read(name)  # object stores cannot rename
        if data is None:
            return False
        self._remote.write(new_name, data)
        self._remote.remove(name)
        return True

    def check(self, setting: str) -> None:
        """Raise Unavailable unless a file can be written and removed here.

        A local folder is not made; then the file is written where the folder would be made. setting: the name of the
        setting that the message mentions.
        """
        probe = f".probe.{uuid.uuid4().hex}"  # several batches may check the same place at once
        try:
            if self._remote:
                self._remote.write(probe, b"probe", _CHECK_PATIENCE_S)
                self._remote.remove(probe)
            else:
                path = existing_part(self._folder) / probe
                write_atomic(path, b"probe")
                path.unlink()
        except Exception as error:  # every file system of fsspec has errors of its own
            raise Unavailable(f"{setting} {self} cannot be written: {type(error).__name__}: {error}") from error


def existing_part(path: Path) -> Path:
    """The path itself if it exists, else the nearest folder above it that does."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
