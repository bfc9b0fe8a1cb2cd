"""Avatars by name: the shipped synthetic ones, found beside the package."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from stereotalker.errors import ClipError
from stereotalker.params import ROOT
from stereotalker.records import Avatar, load

SHIPPED = ROOT / "stereotalker" / "assets" / "avatars"
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".heic", ".bmp", ".gif"}


def avatar_names(folder: Path = SHIPPED) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.safetensors"))


def find_avatar(name: str, folder: Path = SHIPPED) -> Path:
    """The avatar's file. Raises ClipError that names those there are."""
    if Path(name).suffix.lower() in _PICTURES:
        raise ClipError(f"avatar {name!r}: portraits of one's own cannot be fitted yet; use one of {', '.join(avatar_names(folder))}")
    path = folder / f"{name}.safetensors"
    if Path(name).name != name or not path.is_file():
        raise ClipError(f"avatar {name!r} is unknown; expected one of {', '.join(avatar_names(folder)) or 'none, as none are there'}")
    return path


@lru_cache(maxsize=8)
def read_avatar(path: Path) -> Avatar:
    return load(Avatar, path)
