"""File names that are safe on every system, for avatars, clips and batches."""

from __future__ import annotations

import re

from stereotalker.store.digests import bytes_digest

SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_safe_id(value: str) -> str:
    """Return the value if it matches SAFE_ID. Raises ValueError if not, as pydantic's validators expect."""
    if not SAFE_ID.fullmatch(value):
        raise ValueError(
            "must be a safe file name: letters, digits, dot, dash, underscore, at most 100, not starting with a dot"
        )
    return value


def safe_id(name: str) -> str:
    """Convert any name to a safe id: other characters become dashes.

    Two names never share an id: where anything is lost, the beginning of the name's digest is added.
    """
    kept = "".join(c if c.isalnum() and c.isascii() or c in "-_" else "-" for c in name)[:88].strip("-_")
    return kept if kept and kept == name else f"{kept or 'clip'}-{bytes_digest(name.encode(errors='replace'))[:8]}"
