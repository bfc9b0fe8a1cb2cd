"""Folders behind fsspec URLs, such as s3://bucket/folder, that may be given in place of local ones.

A network fails now and then. Every call is tried again, with growing pauses, for `PATIENCE_S` seconds. After that the
folder is Unavailable, which stops a batch, because every clip needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import fsspec
from tenacity import RetryError, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from stereotalker.errors import Unavailable, is_network_fault

PATIENCE_S = 120.0  # seconds for which a call that meets a fault of the network is repeated
_MAX_PAUSE_S = 10.0  # seconds between two tries
Result = TypeVar("Result")


def is_url(where: str | Path) -> bool:
    """Whether this is a URL rather than a path."""
    return "://" in str(where)


class RemoteFolder:
    """Files by name below a URL. An object store shows an object only when it is complete.

    Raises Unavailable if the library for the URL is not installed. Methods raise it if the server does not
    answer for PATIENCE_S, or refuses to write.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise Unavailable(f"{url}: {error}; for s3:// install stereotalker[s3]") from None

    def __str__(self) -> str:
        return self.url

    def name(self, name: str) -> str:
        """URL of a file."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None if it does not exist.

        S3 answers 403 for an object that does not exist if the caller may not list the bucket, so a file that may not
        be read counts as missing. Whether access is refused altogether is found when something is written.
        """
        try:
            return self._call(lambda: self._fs.cat_file(self._path(name)))
        except (FileNotFoundError, PermissionError):
            return None

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if it does not exist."""
        self._fs.invalidate_cache()
        try:
            return self._call(lambda: self._fs.size(self._path(name)))
        except (FileNotFoundError, PermissionError):
            return None

    def write(self, name: str, data: bytes, patience_s: float | None = None) -> None:
        """Write a file, or replace it. patience_s: other than PATIENCE_S."""
        self._write(name, lambda: self._fs.pipe_file(self._path(name), data), patience_s)

    def upload(self, name: str, source: Path) -> None:
        """Copy a local file."""
        self._write(name, lambda: self._fs.put_file(str(source), self._path(name)))

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        try:
            self._call(lambda: self._fs.rm_file(self._path(name)))
        except FileNotFoundError:
            pass

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _write(self, name: str, call: Callable[[], object], patience_s: float | None = None) -> None:
        try:
            self._call(call, patience_s)
        except (FileNotFoundError, PermissionError) as error:  # the bucket is missing, or may not be written
            raise Unavailable(f"{self.name(name)} cannot be written: {error}") from error

    def _call(self, call: Callable[[], Result], patience_s: float | None = None) -> Result:
        """The result of `call`, which is repeated while it meets faults of the network."""
        patience_s = PATIENCE_S if patience_s is None else patience_s
        retrying = Retrying(
            retry=retry_if_exception(is_network_fault),
            wait=wait_random_exponential(multiplier=0.2, max=_MAX_PAUSE_S),
            stop=stop_after_delay(patience_s),
        )
        try:
            return retrying(call)
        except RetryError as error:
            last = error.last_attempt.exception()
            raise Unavailable(
                f"{self.url} did not answer for {patience_s:.0f} s ({type(last).__name__}: {last}); "
                "see its address and the network, and run the batch again"
            ) from last
