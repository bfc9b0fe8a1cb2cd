"""What of the store may be removed: entries that nothing has used for some time, and that no batch needs.

A removed entry is made again when it is needed, so only time is lost. The videos in the outputs are not touched.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stereotalker.errors import Unavailable, UserError
from stereotalker.production.clip import make_clip
from stereotalker.production.clip_record import describe_inputs, sign_with_record
from stereotalker.production.clip_stages import ClipMaker, StageTimings
from stereotalker.production.finished_clips import recall
from stereotalker.production.manifest import Manifest
from stereotalker.production.segments import Progress, RenderedSegment, SegmentJob, stored_keys
from stereotalker.store.local import Entry, Store
from stereotalker.store.remote import AnyStore


@dataclass(frozen=True)
class Usage:
    """Entries and bytes of a stage."""

    entries: int
    bytes: int


def usage(store: Store) -> dict[str, Usage]:
    """What each stage takes, the largest first."""
    found: dict[str, list[int]] = defaultdict(list)
    for entry in store.entries():
        found[entry.stage].append(entry.bytes)
    stages = {stage: Usage(len(sizes), sum(sizes)) for stage, sizes in found.items()}
    return dict(sorted(stages.items(), key=lambda item: -item[1].bytes))


def collect(store: Store, keep_days: float, needed_by: Sequence[Manifest], maker: ClipMaker, dry_run: bool) -> Usage:
    """Remove entries that were last used more than `keep_days` ago. Returns what was, or would be, removed.

    needed_by: batches whose entries are kept; maker: knows their keys. Raises Unavailable while a batch uses the store,
    because what it needs next is not known.
    """
    if users := store.users():
        raise Unavailable(f"{store} is in use by {', '.join(users)}; collect when the batch has ended")
    needed = {entry for manifest in needed_by for entry in needed_entries(maker, manifest)}
    limit = time.time() - keep_days * 24 * 3600
    old = [e for e in store.entries() if e.last_used < limit and (e.stage, e.key) not in needed]
    if not dry_run:
        old = [entry for entry in old if _remove(store, entry, limit)]
    return Usage(len(old), sum(entry.bytes for entry in old))


def _remove(store: Store, entry: Entry, limit: float) -> bool:
    """Remove an entry, unless a batch that has begun meanwhile has used it. Returns whether it was removed."""
    try:
        if store.last_used(entry) >= limit:
            return False
    except FileNotFoundError:
        return False
    store.discard(entry.stage, entry.key)
    return True


def needed_entries(maker: ClipMaker, manifest: Manifest) -> set[tuple[str, str]]:
    """(stage, key) of the entries of a batch, as far as they are made. Nothing is made.

    Raises UserError if an input of a clip is missing or refused, because then its keys are not known.
    """
    finder = _Finder(maker.store)
    reader = ClipMaker(maker.models, finder, maker.signer, maker.library)  # type: ignore[arg-type]

    def take(jobs: list[SegmentJob], progress: Progress) -> list[RenderedSegment]:
        rendered = [RenderedSegment(stored_keys(job, finder), job.frames) for job in jobs]  # type: ignore[arg-type]
        finder.found |= {("render", key) for segment in rendered for key in segment.keys}
        return rendered

    for clip in manifest.clips:
        recall(reader, clip)
        try:
            timings = StageTimings()
            sign_with_record(
                reader, clip, make_clip(clip, reader, take, _ignore, timings), describe_inputs(reader, clip), timings
            )
        except _NotMade:
            continue
        except (UserError, OSError) as error:
            raise UserError(f"{manifest.path}, clip {clip.id!r}: {error}; nothing was removed") from None
    return finder.found


class _NotMade(Exception):
    """An entry is not in the store."""


class _Finder:
    """A store in which entries are found, and never made. found: (stage, key) of every entry that was asked for."""

    def __init__(self, store: AnyStore):
        self._store = store
        self.found: set[tuple[str, str]] = set()

    def has(self, stage: str, key: str) -> bool:
        self.found.add((stage, key))
        return self._store.has(stage, key)

    def find(self, stage: str, key: str) -> Path | None:
        self.found.add((stage, key))
        return self._store.find(stage, key)

    def make(self, stage: str, key: str, write: Callable[[Path], None]) -> Path:
        if (found := self.find(stage, key)) is None:
            raise _NotMade
        return found


def _ignore(*_) -> None:
    pass
