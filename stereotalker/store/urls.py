"""fsspec URLs, such as s3://bucket/folder, that may be given in place of a folder."""

from __future__ import annotations

from pathlib import Path

import fsspec

from stereotalker.errors import UserError


def is_url(where: str | Path) -> bool:
    """Whether this is a URL rather than a path."""
    return "://" in str(where)


def open_url(url: str):
    """Returns (file system, root path) of an fsspec URL. Raises UserError if the library for it is not installed."""
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: {error}; for s3:// install stereotalker[s3]") from None
