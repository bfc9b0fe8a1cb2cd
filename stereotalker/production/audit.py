"""Checks what a clip was made from: its file, record, sound, avatar and consent. What is in MLflow, see tasks/audit.py.

A link of the chain is broken if something is gone or is not what the record says. Its text names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal

from stereotalker.avatar.consent import Consent
from stereotalker.avatar.library import Library
from stereotalker.errors import UserError
from stereotalker.media.content_credentials import Credentials
from stereotalker.media.content_credentials import verify as read_credentials
from stereotalker.production.clip_record import FORMAT, people_of, record_digest
from stereotalker.production.delivery import RECORD_ENDING
from stereotalker.store.digests import file_digest


@dataclass(frozen=True)
class Link:
    """A link of the chain from a video to its origins."""

    name: str
    state: Literal["whole", "broken", "not checked"]
    text: str


def whole(name: str, text: str) -> Link:
    """A link that holds."""
    return Link(name, "whole", text)


def broken(name: str, text: str) -> Link:
    """A link that does not hold."""
    return Link(name, "broken", text)


def read_record(data: bytes | None) -> dict | None:
    """A clip's record from the bytes of its file; None if it is none of ours."""
    try:
        record = json.loads(data or b"null")
        is_ours = record["format"] == FORMAT and isinstance(record["made"], dict)
        return record if is_ours and isinstance(record["delivered"], dict) else None
    except (ValueError, KeyError, TypeError):
        return None


def record_beside(video: Path) -> tuple[dict | None, str]:
    """The record beside a video, or None with the reason."""
    path = video.with_suffix(RECORD_ENDING)
    try:
        record = read_record(path.read_bytes())
    except FileNotFoundError:
        return None, f"{path.name} is not beside the video"
    return record, "" if record else f"{path.name} beside the video cannot be read as a record"


def credentials_of(video: Path) -> tuple[Credentials | None, str]:
    """The content credentials of a video, or None with the reason."""
    try:
        return read_credentials(video), ""
    except UserError as error:
        return None, str(error)


def file_links(video: Path, credentials: Credentials | None, reason: str, record: dict, missing: str) -> list[Link]:
    """Whether the bytes are those that were delivered, and whether the credentials belong to the record.

    reason: why there are no credentials; missing: why the record comes from MLflow, empty if it lay beside the video.
    """
    made, delivered = record["made"], record["delivered"]
    links = [_same_file("video", video, delivered["sha256"], "the delivered bytes")]
    if not made["video"]["signed"]:
        links.append(Link("credentials", "not checked", "provenance.sign was off"))
    elif credentials is None:
        links.append(broken("credentials", reason))
    elif not credentials.good:
        links.append(broken("credentials", "; ".join(credentials.faults) or f"they are {credentials.state}"))
    elif credentials.claims.get("record") != record["digest"]:
        clip = credentials.claims.get("clip")
        links.append(broken("credentials", f"they are those of clip {clip}, the record is that of {made['clip']}"))
    else:
        links.append(whole("credentials", f"unchanged since they were signed by: {credentials.signer}"))
    if approval := delivered.get("approved"):
        links.append(whole("approval", f"{approval['who']}, {approval['when']}: {approval['why']}"))
    digest = record_digest(made)
    same = digest == record["digest"]
    if missing:
        links.append(broken("record", f"{missing}; MLflow's copy was read instead"))
        return links
    links.append(
        whole("record", f"{digest[:12]}, delivered {delivered['when']}")
        if same
        else broken("record", "it was changed: its digest does not fit its content")
    )
    return links


def origin_links(record: dict, library: Library, forgotten: Callable[[str], str]) -> list[Link]:
    """Whether sound, other files, avatar and consent are still what they were. forgotten: see _avatar_link."""
    made = record["made"]
    row = made["row"]
    links = [whole("row", f"clip {made['clip']} of {record['delivered']['manifest']}")]
    if row.get("script") or any(person.get("script") for person in row.get("scene") or ()):
        links.append(whole("sound", "spoken from the script in the record"))
    people = people_of(made)
    if "people" in made:
        links += _file_links(made["files"])
    for person in people:
        found = [*_file_links(person["files"]), _avatar_link(person["avatar"], library, forgotten)]
        found.append(_consent_link(person, date.fromisoformat(record["delivered"]["when"][:10]), library))
        of = f" of {person['name']}" if "name" in person else ""
        links += [replace(link, name=link.name + of) for link in found]
    return links


def _file_links(files: dict) -> list[Link]:
    """Whether files are still what they were. files: as of the record."""
    return [
        _same_file("sound" if name == "audio" else name, Path(file["path"]), file["sha256"], file["path"])
        for name, file in files.items()
    ]


def _same_file(name: str, path: Path, sha256: str, what: str) -> Link:
    try:
        found = file_digest(path)
    except OSError as error:
        return broken(name, f"{path} cannot be read: {error.strerror}")
    return whole(name, f"{what}, {sha256[:12]}") if found == sha256 else broken(name, f"{path} was changed since then")


def _avatar_link(avatar: dict, library: Library, forgotten: Callable[[str], str]) -> Link:
    """forgotten: of an avatar's name, the date on which it was forgotten, or empty."""
    if "portrait" in avatar:
        return _same_file("avatar", Path(avatar["portrait"]), avatar["sha256"], f"portrait {avatar['portrait']}")
    try:
        path = library.find(avatar["name"])
    except UserError:
        when = forgotten(avatar["name"])
        return broken("avatar", f"{avatar['name']} was forgotten on {when}" if when else f"{avatar['name']} is gone")
    return _same_file("avatar", path, avatar["sha256"], f"{avatar['name']}, {avatar['origin']}")


def _consent_link(person: dict, day: date, library: Library) -> Link:
    """Whether a consent covered the day, and whether the card still says the same. person: see `people_of`."""
    if person["avatar"]["origin"] == "synthetic":
        return whole("consent", "a synthetic person: none is needed")
    if person["consent"] is None:
        return broken("consent", "none is on record: produce.require_consent was off")
    consent = Consent.model_validate(person["consent"])
    text = f"{consent.holder}: {consent.scope}, " + (f"until {consent.expires}" if consent.expires else "no last day")
    if not consent.covers(day):
        return broken("consent", f"{text}; it did not cover {day}")
    name = person["avatar"].get("name")
    if name is None:
        return whole("consent", f"{text}; from the manifest")
    try:
        now = library.consent(name, None)
    except (UserError, OSError, ValueError) as error:
        return broken("consent", f"{text}; its card is gone: {error}")
    if now is not None and now.withdrawn:
        return broken("consent", f"{text}; withdrawn on {now.withdrawn}: take the clip down")
    if now is None or (now.holder, now.scope) != (consent.holder, consent.scope):
        return broken("consent", f"{text}; the card says otherwise now")
    return whole("consent", text if now == consent else f"{text}; renewed since then")
