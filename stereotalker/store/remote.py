"""A store that several machines share: any fsspec URL, with a local store as a cache.

Object stores cannot rename, so the files of an entry are uploaded first and its marker last. An entry with a marker is
complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from stereotalker.errors import UserError
from stereotalker.store.digests import bytes_digest
from stereotalker.store.local import MARKER, Store
from stereotalker.store.urls import is_url, open_url


class RemoteStore:
    """Has the same methods as Store. The folders that they return are local copies of the shared entries."""

    def __init__(self, url: str, local: Store):
        self.url, self._local = url.rstrip("/"), local
        self._fs, self._root = open_url(self.url)

    def __str__(self) -> str:
        return self.url

    def find(self, stage: str, key: str) -> Path | None:
        """Folder of the local copy of an entry, downloaded if necessary; None if the shared store has no such entry.

        The marker of a damaged entry is removed from the shared store.
        """
        marker = self._marker(stage, key)
        if marker is None:
            return None
        if found := self._local.find(stage, key):
            return found
        try:
            return self._local.make(stage, key, lambda folder: self._download(stage, key, marker, folder))
        except _Damaged:
            self._fs.rm_file(self._path(stage, key, MARKER))
            return None

    def make(self, stage: str, key: str, write: Callable[[Path], None]) -> Path:
        """Folder of the local copy of an entry. If there is no entry, `write(folder)` writes one, which is uploaded."""
        if found := self.find(stage, key):
            return found
        folder = self._local.make(stage, key, write)
        names = [path.name for path in sorted(folder.iterdir()) if path.name != MARKER]
        for name in [*names, MARKER]:
            self._fs.put_file(str(folder / name), self._path(stage, key, name))
        return folder

    def sweep(self) -> int:
        """Remove temporary folders from the local store. See Store.sweep."""
        return self._local.sweep()

    def _path(self, stage: str, key: str, name: str) -> str:
        return f"{self._root}/{stage}/{key}/{name}"

    def _marker(self, stage: str, key: str) -> dict | None:
        """Content of the marker in the shared store; None if it is missing or damaged."""
        try:
            marker = json.loads(self._fs.cat_file(self._path(stage, key, MARKER)))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        return marker if "files" in marker else None

    def _download(self, stage: str, key: str, marker: dict, folder: Path) -> None:
        """Download the files of an entry. Raises _Damaged if one is missing or differs from its digest."""
        for name, expected in marker["files"].items():
            try:
                data = self._fs.cat_file(self._path(stage, key, name))
            except FileNotFoundError:
                raise _Damaged from None
            if bytes_digest(data) != expected:
                raise _Damaged
            (folder / name).write_bytes(data)


class _Damaged(Exception):
    """The files of a shared entry differ from what its marker says."""


AnyStore = Store | RemoteStore


def open_store(where: str, local: Path) -> AnyStore:
    """Open the store at a folder or an fsspec URL.

    local: the folder for local copies of a shared store. Raises UserError if `where` is empty or cannot be opened.
    """
    if not where:
        raise UserError("the store needs a folder or a URL")
    return RemoteStore(where, Store(local)) if is_url(where) else Store(Path(where))
