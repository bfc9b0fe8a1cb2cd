"""Places named by an fsspec URL, such as s3://bucket/folder."""

from __future__ import annotations

from pathlib import Path

import fsspec

from stereotalker.errors import UserError


def is_url(where: str | Path) -> bool:
    return "://" in str(where)


def open_url(url: str):
    """(file system, root path) of an fsspec URL. Raises UserError where its library is not installed."""
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: {error}; for s3:// install stereotalker[s3]") from None
