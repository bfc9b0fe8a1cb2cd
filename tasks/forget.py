"""Forgets an avatar: portrait, fit, frames and videos are removed, and a receipt says what is gone.

Records of the clips stay, because they say who had consented to what; they hold no picture.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stereotalker.avatar.library import Library
from stereotalker.avatar.names import safe_id
from stereotalker.errors import Unavailable, UserError
from stereotalker.media.photos import is_picture
from stereotalker.production.audit import read_record
from stereotalker.production.captions import ENDINGS
from stereotalker.production.delivery import FOLDERS
from stereotalker.production.outputs import Outputs
from stereotalker.runtime.home import Home
from stereotalker.store.digests import bytes_digest, digest
from stereotalker.store.files import write_atomic
from stereotalker.store.remote import AnyStore, RemoteStore
from stereotalker.tasks.report import CLIP_RECORD
from stereotalker.tasks.tracking import Tracker

_STAGES = ("avatar", "render", "video", "quality")  # stages whose entries show the person
RECEIPTS = "receipts"


@dataclass
class Receipt:
    """What was removed, and what could not be."""

    avatar: str
    when: str
    consent: str = ""  # holder, if there was a consent
    removed: list[str] = field(default_factory=list)
    not_removed: list[str] = field(default_factory=list)
    clips: list[str] = field(default_factory=list)  # ids, with the digests of their videos


def forget(name: str, home: Home, store: AnyStore) -> tuple[Receipt, Path]:
    """Remove an own avatar, or what was made of a portrait's file, and all that shows it, as far as records lead.

    name: of an avatar, or the path of a portrait as manifests name it; the picture itself stays. Returns the receipt
    and its path. Raises UserError if there is nothing of it, Unavailable while a batch uses the store.
    """
    library, tracker = Library(home.avatars), Tracker(home, "batch")
    if not is_picture(name) and name not in library.own_names() and name in library.names():
        raise UserError(f"avatar {name!r} is a shipped one: it shows nobody, and stays")
    rows = [(run, read_record(tracker.attached(run.id, CLIP_RECORD))) for run in tracker.find({"avatar": name})]
    runs = [(run, record) for run, record in rows if run.tags.get("record")]
    is_own = name in library.own_names()
    if not is_own and not runs:
        raise UserError(f"avatar {name!r} is unknown; your own are {', '.join(library.own_names()) or 'none'}")
    local = store.local if isinstance(store, RemoteStore) else store
    if users := local.users():
        raise Unavailable(f"{store} is in use by {', '.join(users)}; forget {name} when the batch has ended")
    receipt = Receipt(name, time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    card = library.card(name) if is_own else None
    if card is not None:
        receipt.consent = card.consent.holder if card.consent else ""
        _discard(store, "portrait", card.key, receipt)
        library.remove(name)
        receipt.removed.append(f"avatar {name} with its portrait's fit")
    for run, record in runs:
        for stage, keys in (record["made"]["store"] if record else {}).items():
            for key in [keys] if isinstance(keys, str) else keys:
                if stage in _STAGES:
                    _discard(store, stage, key, receipt)
        if record:
            _discard(store, "provenance", record["delivered"]["entry"], receipt)
        else:
            receipt.not_removed.append(f"store entries of clip {run.tags['clip']}: its record is gone from MLflow")
        _remove_videos(run.tags, receipt)
        receipt.clips.append(f"{run.tags['clip']} {run.tags.get('sha256', '')}")
        tracker.tag(run.id, "forgotten", receipt.when)
    path = home.root / RECEIPTS / f"{_receipt_name(name)} {time.strftime('%Y%m%d-%H%M%S')}.json"
    write_atomic(path, (json.dumps(asdict(receipt), indent=1, ensure_ascii=False) + "\n").encode())
    return receipt, path


def forgotten_on(home: Home, name: str) -> str:
    """When an avatar was forgotten; empty if it was not."""
    receipts = sorted((home.root / RECEIPTS).glob(f"{_receipt_name(name)} *.json"))
    return json.loads(receipts[-1].read_text(encoding="utf-8"))["when"] if receipts else ""


def _receipt_name(name: str) -> str:
    """The beginning of a receipt's file name. Names of avatars hold no space, and paths may hold anything."""
    return f"{safe_id(Path(name).stem)}-{digest(name)[:8]}" if is_picture(name) else name


def _discard(store: AnyStore, stage: str, key: str, receipt: Receipt) -> None:
    if store.has(stage, key):
        store.discard(stage, key)
        receipt.removed.append(f"store {stage} {key}")


def _remove_videos(tags: dict[str, str], receipt: Receipt) -> None:
    """Remove a delivered video wherever its verdicts have moved it, with its poster and its preview.

    Only the bytes that were delivered are removed: a later clip of the same id may show somebody else. So posters and
    previews go only if the video is still there.
    """
    video, clip = tags.get("video", ""), tags["clip"]
    folder, _, file = video.rpartition("/")
    where = folder.rpartition("/")[0]
    if not where:
        return
    outputs, found = Outputs(where), False
    try:
        for place in (*FOLDERS.values(), "superseded"):
            data = outputs.read(f"{place}/{file}")
            if data is not None and bytes_digest(data) == tags.get("sha256"):
                outputs.remove(f"{place}/{file}")
                receipt.removed.append(outputs.name(f"{place}/{file}"))
                found = True
        for name in (
            (f"posters/{clip}.jpg", f"previews/{file}", *(f"captions/{clip}.{ending}" for ending in ENDINGS))
            if found
            else ()
        ):
            if outputs.remove(name):
                receipt.removed.append(outputs.name(name))
    except (UserError, OSError) as error:
        receipt.not_removed.append(f"{video}: {error}")
        return
    if not found and "forgotten" not in tags:
        receipt.not_removed.append(f"{video}: the delivered file is not there any more; it was moved, or replaced")
