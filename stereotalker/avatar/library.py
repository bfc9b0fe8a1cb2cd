"""Avatars by name: a user's own in a folder of their own, then the shipped synthetic ones.

An avatar of one's own is a folder NAME/ with avatar.safetensors, card.json (whose it is, how well it fits), card.png (what it
looks like) and texture.png (its surface without the light's shading; alpha 255 where the portrait showed it, 128 where its mirror image, 0 where guessed).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path

from stereotalker.avatar.consent import Consent, check_consent
from stereotalker.avatar.names import safe_id
from stereotalker.errors import ClipError, UserError
from stereotalker.media.photos import is_picture
from stereotalker.params import ROOT
from stereotalker.records import Avatar, load, save
from stereotalker.store.files import sync

SHIPPED = ROOT / "stereotalker" / "assets" / "avatars"
RECORD, CARD, PICTURE, TEXTURE = "avatar.safetensors", "card.json", "card.png", "texture.png"


@dataclass(frozen=True)
class Card:
    """What is known of an avatar of one's own."""

    name: str
    key: str  # of the fit in the store: picture, code, detector and numbers
    picture: str  # the file's name
    sha256: str  # of the file
    made: str  # ISO date
    size: tuple[int, int]  # (height, width) px
    detector: str
    residuals: dict[str, float | None]
    notes: tuple[str, ...]
    style: str
    consent: Consent | None

    def to_json(self) -> str:
        return (
            json.dumps(
                self.__dict__ | {"consent": self.consent and self.consent.model_dump(mode="json")},
                indent=2,
                ensure_ascii=False,
            )
            + "\n"
        )

    @classmethod
    def from_json(cls, text: str) -> Card:
        values = json.loads(text)
        consent = values.pop("consent")
        return cls(
            **values | {"size": tuple(values["size"]), "notes": tuple(values["notes"])},
            consent=consent and Consent.model_validate(consent),
        )


class Library:
    """own: the folder of a user's avatars; None: the shipped ones alone."""

    def __init__(self, own: Path | None = None, shipped: Path = SHIPPED):
        self.own, self.shipped = own, shipped

    def names(self) -> list[str]:
        """One's own, then the shipped ones."""
        return [*self.own_names(), *sorted(path.stem for path in self.shipped.glob("*.safetensors"))]

    def own_names(self) -> list[str]:
        return sorted(path.parent.name for path in self.own.glob(f"[!.]*/{CARD}")) if self.own else []

    def find(self, name: str) -> Path:
        """The avatar's record. Raises ClipError that names those there are."""
        safe = name and Path(name).name == name and not name.startswith(".")
        places = [self.own / name / RECORD] if name in self.own_names() else []
        for path in (*places, self.shipped / f"{name}.safetensors"):
            if safe and path.is_file():
                return path
        raise ClipError(
            f"avatar {name!r} is unknown; expected a picture file or one of {', '.join(self.names()) or 'none, as none are there'}"
        )

    def card(self, name: str) -> Card | None:
        """None for a shipped avatar. Raises ClipError where there is no such avatar."""
        path = self.find(name)
        return Card.from_json((path.parent / CARD).read_text()) if path.name == RECORD else None

    def consent(self, avatar: str, clip_consent: Consent | None) -> Consent | None:
        """The consent that covers a clip's face: the avatar card's for an avatar of the library, else the clip's own."""
        card = None if is_picture(avatar) else self.card(avatar)
        return card.consent if card else clip_consent

    def check_consent(self, avatar: str, clip_consent: Consent | None, required: bool, today: date) -> None:
        """Raise ClipError if the avatar is unknown, or if a clip would use a person's face without consent.

        Shipped avatars are synthetic, so they need no consent.
        """
        if is_picture(avatar) or self.card(avatar):
            check_consent(avatar, self.consent(avatar, clip_consent), required, today)

    def check_name(self, name: str) -> None:
        """Raises UserError for a name that an avatar of one's own cannot have."""
        if safe_id(name) != name or is_picture(name):
            raise UserError(
                f"avatar name {name!r}: expected letters, digits, dashes and underscores, beginning with a letter or a digit"
            )
        if (self.shipped / f"{name}.safetensors").is_file():
            raise UserError(f"avatar {name!r} is a shipped one; choose another name")

    def add(self, card: Card, avatar: Avatar, pictures: list[Path]) -> Path:
        """Keep an avatar, its card and pictures. The folder takes its place as a whole. Returns it."""
        folder = self.own / card.name
        self.own.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.own, prefix=".adding-") as staging:
            staged, old = Path(staging) / "new", Path(staging) / "old"
            staged.mkdir()
            save(avatar, staged / RECORD)
            for picture in pictures:
                shutil.copyfile(picture, staged / picture.name)
            (staged / CARD).write_text(card.to_json())
            for path in staged.iterdir():
                sync(path)
            if folder.exists():
                os.replace(folder, old)
            os.replace(staged, folder)
        return folder

    def remove(self, name: str) -> None:
        """Of one's own only; the fit and what clips were made from stay in the store. Raises UserError."""
        if name not in self.own_names():
            shipped = (
                "is shipped and stays"
                if name in self.names()
                else f"is unknown; your own are {', '.join(self.own_names()) or 'none'}"
            )
            raise UserError(f"avatar {name!r} {shipped}")
        with tempfile.TemporaryDirectory(dir=self.own, prefix=".removing-") as bin_:
            os.replace(self.own / name, Path(bin_) / name)


@lru_cache(maxsize=8)
def read_avatar(path: Path) -> Avatar:
    """Of a file that never changes: a shipped one, or one in the store."""
    return load(Avatar, path)
