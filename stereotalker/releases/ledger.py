"""The ledger of releases: an append-only file of JSON lines, each with the digest of the line before it.

A line says who made which release the champion, when, why, and by which figures. MLflow keeps the present champion
only, and its history is mirrored there as tags. Whoever changes, removes or inserts a line breaks the chain.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stereotalker.errors import UserError
from stereotalker.store.digests import bytes_digest
from stereotalker.store.files import sync

START = "0" * 64  # what the first line names as the digest of the line before it


@dataclass(frozen=True)
class Entry:
    """A line of the ledger."""

    action: str  # registered, promoted, rolled back, refused, waiting, used, canary
    release: str  # digest of the release that the action is about; after a promotion or a roll back the champion
    number: int  # of that release
    before: str = ""  # digest of the champion before
    who: str = ""  # user and machine
    when: str = ""  # UTC, ISO 8601
    why: str = ""  # what a person or the gates said
    gates: tuple[dict, ...] = field(
        default_factory=tuple
    )  # rows of the table of the gates, see evaluation/release_comparison.py
    batch: str = ""  # of a "used" line: the first batch that used the champion


class Ledger:
    """The ledger at a path. One writer at a time: the caller holds a lock."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, entry: Entry) -> str:
        """Add a line and return its digest. A line that a killed process left incomplete is replaced."""
        lines = self.lines()
        last = bytes_digest(lines[-1]) if lines else START
        line = json.dumps({"previous": last, **asdict(entry)}, sort_keys=True, ensure_ascii=False).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "r+b" if self.path.is_file() else "w+b") as file:
            file.seek(sum(len(line) + 1 for line in lines))
            file.truncate()
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync(self.path.parent)
        return bytes_digest(line)

    def entries(self) -> list[Entry]:
        """All lines. Raises UserError, which names the line, if the chain is broken."""
        entries, last = [], START
        for number, line in enumerate(self.lines(), 1):
            try:
                values = json.loads(line)
                previous = values.pop("previous")
                entry = Entry(**values | {"gates": tuple(values["gates"])})
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self.path}, line {number} is no line of a ledger ({type(error).__name__}: {error}); restore "
                    "your copy of the file. MLflow has short copies of all lines, as tags of the model `stereotalker`"
                ) from None
            if previous != last:
                raise UserError(
                    f"{self.path}, line {number}: the line before it was changed, removed or inserted afterwards"
                )
            last = bytes_digest(line)
            entries.append(entry)
        return entries

    def head(self) -> str:
        """Digest of the last line, which MLflow's mirror holds, too; START if there is none."""
        lines = self.lines()
        return bytes_digest(lines[-1]) if lines else START

    def lines(self) -> list[bytes]:
        """All complete lines, without their line feeds."""
        try:
            return self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
