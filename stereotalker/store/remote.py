"""A store that several machines share: any fsspec URL, with a local store as a cache.

Object stores cannot rename, so the files of an entry are uploaded first and its marker last. An entry with a marker is
complete.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from stereotalker.errors import UserError
from stereotalker.store.digests import bytes_digest
from stereotalker.store.local import MARKER, Store, read_marker
from stereotalker.store.urls import RemoteFolder, is_url


class RemoteStore:
    """Has the same methods as Store. The folders that they return are local copies of the shared entries."""

    def __init__(self, url: str, local: Store):
        self._shared, self._local = RemoteFolder(url), local
        self.url = self._shared.url

    def __str__(self) -> str:
        return self.url

    def has(self, stage: str, key: str) -> bool:
        """Whether the shared store has such an entry, by its marker alone. Nothing else is downloaded."""
        return self._marker(stage, key) is not None

    def find(self, stage: str, key: str) -> Path | None:
        """Folder of the local copy of an entry, downloaded if necessary; None if the shared store has no such entry.

        The marker of a damaged entry is removed from the shared store.
        """
        files = self._marker(stage, key)
        if files is None:
            return None
        if found := self._local.find(stage, key):
            if read_marker((found / MARKER).read_bytes()) == files:
                return found
            self._local.discard(stage, key)  # another machine has made the entry anew
        try:
            return self._local.make(stage, key, lambda folder: self._download(stage, key, files, folder))
        except _Damaged:
            self._shared.remove(f"{stage}/{key}/{MARKER}")
            return None

    def make(self, stage: str, key: str, write: Callable[[Path], None]) -> Path:
        """Folder of the local copy of an entry. If there is no entry, `write(folder)` writes one, which is uploaded."""
        if found := self.find(stage, key):
            return found
        folder = self._local.make(stage, key, write)
        names = [path.name for path in sorted(folder.iterdir()) if path.name != MARKER]
        for name in [*names, MARKER]:
            self._shared.upload(f"{stage}/{key}/{name}", folder / name)
        return folder

    def discard(self, stage: str, key: str) -> None:
        """Remove an entry with all its files, if there is one. Without its marker, which goes first, it is missing."""
        names = self._marker(stage, key) or {}
        for name in (MARKER, *names):
            self._shared.remove(f"{stage}/{key}/{name}")
        self._local.discard(stage, key)

    @property
    def local(self) -> Store:
        """The store of the local copies."""
        return self._local

    def in_use(self) -> AbstractContextManager[None]:
        """Say that a batch of this process needs local copies. See Store.in_use."""
        return self._local.in_use()

    def sweep(self) -> int:
        """Remove temporary folders from the local store. See Store.sweep."""
        return self._local.sweep()

    def _marker(self, stage: str, key: str) -> dict[str, str] | None:
        """SHA-256 of every file of the shared entry, by name; None if its marker is missing or damaged."""
        data = self._shared.read(f"{stage}/{key}/{MARKER}")
        return None if data is None else read_marker(data)

    def _download(self, stage: str, key: str, files: dict[str, str], folder: Path) -> None:
        """Download the files of an entry. Raises _Damaged if one is missing or differs from its digest."""
        for name, expected in files.items():
            data = self._shared.read(f"{stage}/{key}/{name}")
            if data is None or bytes_digest(data) != expected:
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
