"""Content-addressed store in a local folder. A stage's result is looked up by what it depends on, or else it is made.

An entry is a folder `<root>/<stage>/<key>/`. It is written under a temporary name and synced, its marker file is
written last, and then it is renamed. So an entry that has its final name is complete. The key covers the stage, the
code, every input and every parameter (see store/keys.py).
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from stereotalker.runtime.process_identity import HOST, identity, is_dead
from stereotalker.store.digests import file_digest
from stereotalker.store.files import sync, write_atomic

MARKER = "done.json"  # holds the SHA-256 of every file of the entry
_TEMPORARY = ".tmp"  # ends the names of folders of entries that are being written or removed
_RUNNING = ".running"  # folder of the notes of batches that use the store
_MAX_RUN_S = 7 * 24 * 3600  # age of a note in s from which the batch, of another machine, is taken to have ended


class Store:
    """A store below the folder `root`. Several threads and processes may use it at once."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def __str__(self) -> str:
        return str(self.root)

    def find(self, stage: str, key: str) -> Path | None:
        """Folder of an entry; None if there is no such entry.

        Every file is compared with its digest. A damaged entry is removed, and counts as not there.
        """
        folder = self.root / stage / key
        try:
            files = read_marker((folder / MARKER).read_bytes())
        except FileNotFoundError:
            return None
        if files is not None and all(
            (folder / name).is_file() and file_digest(folder / name) == expected for name, expected in files.items()
        ):
            _note_use(folder / MARKER)
            return folder
        self._discard(folder)
        return None

    def has(self, stage: str, key: str) -> bool:
        """Whether there is such an entry, by its marker alone. Its files are not read, so damage is not noticed."""
        return _note_use(self.root / stage / key / MARKER)

    def make(self, stage: str, key: str, write: Callable[[Path], None]) -> Path:
        """Folder of an entry. If there is none, `write(folder)` must write its files."""
        if found := self.find(stage, key):
            return found
        folder = self.root / stage / key
        temporary = _temporary_name(folder, "new")
        temporary.mkdir(parents=True)
        try:
            write(temporary)
            files = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
            for name in files:
                sync(temporary / name)
            (temporary / MARKER).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
            sync(temporary / MARKER)
            if folder.exists() and not (folder / MARKER).exists():
                # An interrupted deletion has left a folder without a marker, on which every rename would fail.
                self._discard(folder)
            os.rename(temporary, folder)
        except OSError:
            # Another thread or process may have finished the same entry first. Its bytes are the same.
            if not (folder / MARKER).exists():
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(folder.parent)
        return folder

    def discard(self, stage: str, key: str) -> None:
        """Remove an entry, if there is one."""
        self._discard(self.root / stage / key)

    def _discard(self, folder: Path) -> None:
        """Remove an entry.

        It is renamed first. If the removal is interrupted, only a temporary folder is left, which `sweep` removes.
        """
        moved = _temporary_name(folder, "old")
        try:
            os.rename(folder, moved)
        except OSError:  # another process has removed it, or is removing it
            return
        shutil.rmtree(moved, ignore_errors=True)

    def entries(self) -> Iterator[Entry]:
        """All complete entries. Those that are being written or removed are not among them."""
        for marker in self.root.glob(f"*/*/{MARKER}"):
            if marker.parent.suffix == _TEMPORARY:
                continue
            try:
                size = sum(path.stat().st_size for path in marker.parent.iterdir())
                times = marker.stat()
                yield Entry(marker.parent.parent.name, marker.parent.name, size, times.st_atime, times.st_mtime_ns)
            except OSError:  # it was removed meanwhile
                continue

    def last_used(self, entry: Entry) -> float:
        """When an entry was used last, s since 1970. Raises FileNotFoundError if it is gone."""
        return (self.root / entry.stage / entry.key / MARKER).stat().st_atime

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Say that a batch of this process needs entries of the store, so that none are collected meanwhile."""
        note = self.root / _RUNNING / uuid.uuid4().hex
        with suppress(OSError):  # a full disk, on which the batch stops by itself
            write_atomic(note, identity().encode())
        try:
            yield
        finally:
            with suppress(OSError):
                note.unlink(missing_ok=True)

    def users(self) -> list[str]:
        """Identities of the processes that use the store. Those that are known to have ended are forgotten."""
        alive = []
        for note in (self.root / _RUNNING).glob("*"):
            try:
                owner, age = note.read_text(encoding="utf-8"), time.time() - note.stat().st_mtime
            except FileNotFoundError:  # its batch has just ended
                continue
            if is_dead(owner) or age > _MAX_RUN_S:
                note.unlink(missing_ok=True)
            else:
                alive.append(owner)
        return alive

    def sweep(self) -> int:
        """Remove temporary folders of processes that no longer run. Returns the number of folders.

        Those of another machine, or of a container that was started anew, are known by their age.
        """
        removed = 0
        for path in self.root.glob(f"*/*{_TEMPORARY}"):
            _, _, owner = path.name.removesuffix(_TEMPORARY).partition(".")
            host, _, process = owner.rpartition(".")
            has_ended = host == HOST and not psutil.pid_exists(int(process.split("-")[0]))
            if has_ended or _age(path) > _MAX_RUN_S:
                shutil.rmtree(path, ignore_errors=True)
                removed += 1
        return removed


@dataclass(frozen=True)
class Entry:
    """An entry of the store."""

    stage: str
    key: str
    bytes: int
    last_used: float  # s since 1970
    finished_ns: int  # ns since 1970


def _age(path: Path) -> float:
    """Seconds since a folder was changed; 0 if it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _note_use(marker: Path) -> bool:
    """Set the time of the last access of a marker to now. Returns whether the marker exists.

    Its time of writing stays. File systems do not note accesses reliably by themselves.
    """
    try:
        os.utime(marker, ns=(time.time_ns(), marker.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    except OSError:  # a store that may only be read
        pass
    return True


def read_marker(data: bytes) -> dict[str, str] | None:
    """SHA-256 of every file of an entry, by name, from its marker; None if the marker is damaged."""
    try:
        files = json.loads(data)["files"]
        return {str(name): str(expected) for name, expected in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _temporary_name(folder: Path, purpose: str) -> Path:
    """A path beside the entry that nothing else uses, now or later: process ids and thread ids come again."""
    return folder.with_name(f"{folder.name}.{HOST}.{os.getpid()}-{uuid.uuid4().hex[:12]}-{purpose}{_TEMPORARY}")
