"""Sets of recordings that a studio adds to the training data, each with its licence and the consent of its speakers."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from stereotalker.avatar.names import safe_id
from stereotalker.dataset.speech_corpus import TRANSCRIPTS
from stereotalker.errors import UserError
from stereotalker.media.audio_files import media_seconds
from stereotalker.store.digests import tree_digest

CARD = "card.json"
_COLUMNS = ("path", "speaker", "lang", "text")


@dataclass(frozen=True)
class SetCard:
    """What is known of a set."""

    name: str
    licence: str
    consent: str  # whose permission covers the speakers, and for what
    added: str  # ISO date
    recordings: int
    speakers: int
    seconds: float
    digest: str  # of the files


def add_recordings(folder: Path, sets: Path, name: str, licence: str, consent: str) -> SetCard:
    """Copy the recordings that folder/transcripts.csv names, with the table and a card, to the folder sets/name.

    Raises UserError, which names the row, for a missing column, file, speaker or text, and if the name is taken.
    """
    if safe_id(name) != name:
        raise UserError(f"--name {name!r}: expected letters, digits, dashes and underscores")
    if not licence.strip() or not consent.strip():
        raise UserError("--licence and --consent must say under what terms the recordings may be used")
    target = sets / name
    if target.exists():
        raise UserError(f"{target} exists; choose another --name, or remove it")
    table = folder / TRANSCRIPTS
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected one of recordings with {TRANSCRIPTS}")
    if not table.is_file():
        raise UserError(f"{table} not found; expected a table with the columns {', '.join(_COLUMNS)}")
    rows, seconds = _read(table), 0.0
    staging = sets / f".{name}.adding"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        for number, row in enumerate(rows, 1):
            source = folder / row["path"]
            seconds += media_seconds(source)
            row["path"] = f"{number:05d}{source.suffix.lower()}"
            shutil.copyfile(source, staging / row["path"])
        with open(staging / TRANSCRIPTS, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        speakers = len({row["speaker"] for row in rows})
        content = tree_digest(staging)
        card = SetCard(
            name, licence, consent, date.today().isoformat(), len(rows), speakers, round(seconds, 2), content
        )
        (staging / CARD).write_text(json.dumps(asdict(card), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return card


def read_cards(sets: Path) -> list[SetCard]:
    """The cards of all sets, by name."""
    return [SetCard(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(sets.glob(f"[!.]*/{CARD}"))]


def _read(table: Path) -> list[dict[str, str]]:
    """The rows of a table. Raises UserError, which names every faulty one."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="more")
            rows, columns = list(reader), set(reader.fieldnames or ())
    except UnicodeDecodeError:
        raise UserError(f"{table} is not UTF-8 text; save it as CSV in UTF-8") from None
    if missing := set(_COLUMNS) - columns:
        raise UserError(f"{table}: columns {', '.join(sorted(missing))} are missing")
    faults, paths = [], set()
    for number, row in enumerate(rows, 2):
        path = row.get("path") or ""
        if "more" in row:
            faults.append(f"line {number} has too many fields: put texts that hold commas into quotation marks")
        elif empty := [name for name in _COLUMNS if not (row[name] or "").strip()]:
            faults.append(f"line {number}: {', '.join(empty)} is empty")
        elif path in paths:
            faults.append(f"line {number}: {path} is there twice")
        elif not (table.parent / path).resolve().is_relative_to(table.parent.resolve()):
            faults.append(f"line {number}: {path} lies outside {table.parent}")
        elif not (table.parent / path).is_file():
            faults.append(f"line {number}: {path} not found beside the table")
        paths.add(path)
    if faults:
        raise UserError("\n".join(f"{table}, {fault}" for fault in faults))
    if not rows:
        raise UserError(f"{table} has no rows")
    return rows
