"""The library of avatars by name: first the user's own, which have a folder each, then the shipped synthetic ones.

The folder NAME/ of an own avatar holds avatar.safetensors, card.json (consent, how well it fits), card.png (what it
looks like) and texture.png (the texture atlas without shading; its alpha is 255 where the portrait shows the surface,
192 where shown colors are continued, 128 where it shows the mirror image, and 0 where the texel is guessed).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from pathlib import Path

from stereotalker.avatar.consent import Consent, check_consent
from stereotalker.avatar.names import safe_id
from stereotalker.errors import ClipError, UserError
from stereotalker.media.photos import is_picture
from stereotalker.params import ASSETS
from stereotalker.records import Avatar, load, save
from stereotalker.store.files import sync, write_atomic

SHIPPED = ASSETS / "avatars"
RECORD_FILE, CARD, CARD_IMAGE_FILE, TEXTURE_FILE = "avatar.safetensors", "card.json", "card.png", "texture.png"


@dataclass(frozen=True)
class Card:
    """What the library stores about an own avatar beside its record."""

    name: str
    key: str  # store key of the fit, a digest of picture, code, detector and parameters
    picture: str  # name of the portrait's file
    sha256: str  # of the portrait's file
    made: str  # ISO date of the day on which it was added
    size: tuple[int, int]  # (height, width) px of the fitted picture
    detector: str  # name and version
    residuals: dict[str, float | None]  # see `fit_portrait.Residuals`
    notes: tuple[str, ...]  # sentences about the fit for the user
    style: str  # name of the acting style
    consent: Consent | None

    def to_json(self) -> str:
        """The text of card.json."""
        values = self.__dict__ | {"consent": self.consent and self.consent.model_dump(mode="json")}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        consent = values.pop("consent")
        return cls(
            **values | {"size": tuple(values["size"]), "notes": tuple(values["notes"])},
            consent=consent and Consent.model_validate(consent),
        )


class Library:
    """Avatars by name.

    own: the folder of the user's avatars, None for the shipped ones alone; shipped: the folder of the shipped avatars.
    """

    def __init__(self, own: Path | None = None, shipped: Path = SHIPPED):
        self.own, self.shipped = own, shipped

    def names(self) -> list[str]:
        """Names of all avatars: the user's own, then the shipped ones, each sorted."""
        return [*self.own_names(), *sorted(path.stem for path in self.shipped.glob("*.safetensors"))]

    def own_names(self) -> list[str]:
        """Sorted names of the user's own avatars. A folder without a card does not count."""
        return sorted(path.parent.name for path in self.own.glob(f"[!.]*/{CARD}")) if self.own else []

    def find(self, name: str) -> Path:
        """Path of the avatar's record. Raises ClipError, which lists the names, if there is no such avatar."""
        is_safe = name and Path(name).name == name and not name.startswith(".")
        paths = [self.own / name / RECORD_FILE] if self.own and name in self.own_names() else []
        for path in (*paths, self.shipped / f"{name}.safetensors"):
            if is_safe and path.is_file():
                return path
        names = ", ".join(self.names()) or "none, as none are there"
        raise ClipError(f"avatar {name!r} is unknown; expected a picture file or one of {names}")

    def card(self, name: str) -> Card | None:
        """The card of an own avatar, None for a shipped one. Raises ClipError if there is no such avatar."""
        path = self.find(name)
        return Card.from_json((path.parent / CARD).read_text(encoding="utf-8")) if path.name == RECORD_FILE else None

    def consent(self, avatar: str, clip_consent: Consent | None) -> Consent | None:
        """The consent that covers a clip's face: that of the card for an own avatar, else that of the clip.

        avatar: a name, or a picture's path. Raises ClipError if there is no such avatar.
        """
        card = None if is_picture(avatar) else self.card(avatar)
        return card.consent if card else clip_consent

    def check_consent(self, avatar: str, clip_consent: Consent | None, required: bool, today: date) -> None:
        """Raise ClipError if the avatar is unknown, or if a clip would use a person's face without consent.

        Shipped avatars are synthetic, so they need no consent.
        """
        if is_picture(avatar) or self.card(avatar):
            check_consent(avatar, self.consent(avatar, clip_consent), required, today)

    def check_name(self, name: str) -> None:
        """Raise UserError if an own avatar cannot have this name."""
        if safe_id(name) != name or is_picture(name):
            raise UserError(
                f"avatar name {name!r}: expected letters, digits, dashes and underscores,"
                " beginning with a letter or a digit"
            )
        if (self.shipped / f"{name}.safetensors").is_file():
            raise UserError(f"avatar {name!r} is a shipped one; choose another name")

    def add(self, card: Card, avatar: Avatar, pictures: list[Path]) -> Path:
        """Store an own avatar with its card and pictures, and return its folder.

        The files are written to a temporary folder, which then takes the place of an old one as a whole.
        """
        assert self.own is not None
        folder = self.own / card.name
        self.own.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.own, prefix=".adding-") as staging:
            staged, old = Path(staging) / "new", Path(staging) / "old"
            staged.mkdir()
            save(avatar, staged / RECORD_FILE)
            for picture in pictures:
                shutil.copyfile(picture, staged / picture.name)
            (staged / CARD).write_text(card.to_json(), encoding="utf-8")
            for path in staged.iterdir():
                sync(path)
            if folder.exists():
                os.replace(folder, old)
            os.replace(staged, folder)
        return folder

    def withdraw_consent(self, name: str, day: date) -> Consent:
        """Note on the card of an own avatar that its consent was withdrawn. Returns the consent.

        Raises UserError if there is no such avatar, or no consent.
        """
        card = self.card(name) if name in self.own_names() else None
        if card is None or card.consent is None:
            own = ", ".join(self.own_names()) or "none"
            reason = "has no consent on its card" if card else f"is none of your own, which are {own}"
            raise UserError(f"avatar {name!r} {reason}")
        assert self.own is not None
        consent = card.consent.model_copy(update={"withdrawn": day})
        write_atomic(self.own / name / CARD, replace(card, consent=consent).to_json().encode())
        return consent

    def remove(self, name: str) -> None:
        """Remove an own avatar from the library. The store keeps the fit and what clips were made from.

        Raises UserError for a shipped or unknown avatar.
        """
        if name not in self.own_names():
            reason = (
                "is shipped and stays"
                if name in self.names()
                else f"is unknown; your own are {', '.join(self.own_names()) or 'none'}"
            )
            raise UserError(f"avatar {name!r} {reason}")
        assert self.own is not None
        with tempfile.TemporaryDirectory(dir=self.own, prefix=".removing-") as trash:
            os.replace(self.own / name, Path(trash) / name)


@lru_cache(maxsize=8)
def read_avatar(path: Path) -> Avatar:
    """Read and cache an avatar's record. Only for files that never change: shipped ones, and those in the store."""
    return load(Avatar, path)
