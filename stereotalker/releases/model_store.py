"""Where releases lie: a local folder or a URL, with one file for each SHA-256, shared by all machines of a studio.

sha256/DIGEST                    a file of a release
releases/DIGEST/release.json     the manifest of a release
releases/DIGEST/release.sig      its signature, see signing.py
releases/DIGEST/card.md          its model card
releases/DIGEST/data.md          its data card

A file never changes once it is there, so a local copy is used without asking again. What is read is verified.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from stereotalker.errors import Unavailable
from stereotalker.releases.release import Release
from stereotalker.store.digests import bytes_digest, file_digest
from stereotalker.store.files import copy_atomic, replacing, write_atomic
from stereotalker.store.urls import RemoteFolder, is_url

MANIFEST, SIGNATURE, CARD, DATA_CARD = "release.json", "release.sig", "card.md", "data.md"


class ModelStore:
    """Releases and their files.

    where: folder or URL; local: a folder for copies of what is at the URL, and for the folders that `checkout` makes.
    Methods raise Unavailable if the store cannot be read or written, or holds another file than its name says.
    """

    def __init__(self, where: str, local: Path):
        self._remote = RemoteFolder(where) if is_url(where) else None
        self._folder = local if self._remote else Path(where)
        self._local = local

    def __str__(self) -> str:
        return str(self._remote or self._folder)

    def add(self, release: Release, files: dict[str, Path]) -> str:
        """Store a release, and its files by name. Returns its digest. What is there already is not written again."""
        for name, sha256 in release.files.items():
            if file_digest(files[name]) != sha256:
                raise Unavailable(f"{files[name]} was changed while the release was made; make it again")
            self._put(f"sha256/{sha256}", files[name])
        self.attach(release.digest, MANIFEST, release.to_json())
        return release.digest

    def attach(self, release: str, name: str, data: bytes) -> None:
        """Write a small file of a release: its manifest, its signature or its card. release: its digest."""
        path = f"releases/{release}/{name}"
        if self._remote:
            self._remote.write(path, data)
        write_atomic(self._folder / path, data)

    def read(self, release: str, name: str) -> bytes | None:
        """A small file of a release; None if it does not exist."""
        path = f"releases/{release}/{name}"
        local = self._folder / path
        if self._remote and (name != MANIFEST or not local.is_file()):  # a card or a signature may have been replaced
            data = self._remote.read(path)
            if data is not None:
                write_atomic(local, data)
            return data
        return local.read_bytes() if local.is_file() else None

    def release(self, digest: str) -> Release:
        """The release with this digest."""
        data = self.read(digest, MANIFEST)
        if data is None:
            raise Unavailable(f"{self}: release {digest[:12]} is not there; see releases.store in params.yaml")
        if bytes_digest(data) != digest:
            raise Unavailable(f"{self}: {MANIFEST} of release {digest[:12]} was changed; restore it from a backup")
        return Release.from_json(data)

    def file(self, sha256: str) -> Path:
        """The local path of a file, which is fetched if necessary, and verified."""
        path = self._folder / "sha256" / sha256
        if not path.is_file() and self._remote:
            data = self._remote.read(f"sha256/{sha256}")
            if data is not None:
                write_atomic(path, data)
        try:
            found = file_digest(path)
        except OSError:
            raise Unavailable(f"{self}: the file {sha256[:12]} of a release is not there") from None
        if found != sha256:
            raise Unavailable(f"{path} was changed: its digest is {found[:12]}; restore it from a backup, or remove it")
        return path

    def checkout(self, digest: str) -> Path:
        """A local folder with the files of a release under their own names, which `Models` reads.

        The files are links to those of the store, or copies on another disk. They are verified in any case.
        """
        release = self.release(digest)
        folder = self._local / "checkouts" / digest
        for name, sha256 in release.files.items():
            source, path = self.file(sha256), folder / name
            if path.is_file() and (os.path.samefile(path, source) or file_digest(path) == sha256):
                continue
            with replacing(path) as temporary:
                try:
                    os.link(source, temporary)
                except OSError:  # another disk, or one without links
                    shutil.copyfile(source, temporary)
        return folder

    def _put(self, name: str, source: Path) -> None:
        if self._remote and self._remote.size(name) != source.stat().st_size:
            self._remote.upload(name, source)
        if not (self._folder / name).is_file():
            copy_atomic(source, self._folder / name)
