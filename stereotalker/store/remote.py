"""A store that several machines share: any fsspec URL, with a local store in front of it.

An object store knows no rename, so an entry's files go up first and its marker last; an entry with a marker is whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from stereotalker.errors import UserError
from stereotalker.store.digests import bytes_digest
from stereotalker.store.local import MARKER, Store
from stereotalker.store.urls import is_url, open_url


class SharedStore:
    """Same calls as Store; folders it returns are local copies."""

    def __init__(self, url: str, local: Store):
        self.url, self._local = url.rstrip("/"), local
        self._fs, self._root = open_url(self.url)

    def __str__(self) -> str:
        return self.url

    def find(self, stage: str, key: str) -> Path | None:
        """The entry's local copy, brought here if need be; a damaged entry is removed where it lies."""
        if (found := self._local.find(stage, key)) and self._marker(stage, key) is not None:
            return found
        marker = self._marker(stage, key)
        if marker is None:
            return None
        try:
            return self._local.make(stage, key, lambda folder: self._download(stage, key, marker, folder))
        except _Damaged:
            self._fs.rm_file(self._path(stage, key, MARKER))
            return None

    def make(self, stage: str, key: str, write: Callable[[Path], None]) -> Path:
        if found := self.find(stage, key):
            return found
        folder = self._local.make(stage, key, write)
        names = [path.name for path in sorted(folder.iterdir()) if path.name != MARKER]
        for name in [*names, MARKER]:
            self._fs.put_file(str(folder / name), self._path(stage, key, name))
        return folder

    def sweep(self) -> int:
        return self._local.sweep()

    def _path(self, stage: str, key: str, name: str) -> str:
        return f"{self._root}/{stage}/{key}/{name}"

    def _marker(self, stage: str, key: str) -> dict | None:
        try:
            marker = json.loads(self._fs.cat_file(self._path(stage, key, MARKER)))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        return marker if "files" in marker else None

    def _download(self, stage: str, key: str, marker: dict, folder: Path) -> None:
        for name, expected in marker["files"].items():
            try:
                data = self._fs.cat_file(self._path(stage, key, name))
            except FileNotFoundError:
                raise _Damaged from None
            if bytes_digest(data) != expected:
                raise _Damaged
            (folder / name).write_bytes(data)


class _Damaged(Exception):
    """A shared entry whose files are not what its marker says."""


AnyStore = Store | SharedStore


def open_store(where: str, local: Path) -> AnyStore:
    """`where`: a folder or an fsspec URL; `local`: the folder of local copies of a shared store."""
    if not where:
        raise UserError("the store needs a folder or a URL")
    return SharedStore(where, Store(local)) if is_url(where) else Store(Path(where))
