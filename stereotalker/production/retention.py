"""What of the store may be removed: entries that nothing has used for some time, and that no batch needs.

A removed entry is made again when it is needed, so only time is lost. The videos in the outputs are not touched.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stereotalker.errors import ClipError, Unavailable
from stereotalker.production.clip import ClipMaker, StageTimings, make_clip
from stereotalker.production.finished_clips import recall
from stereotalker.production.manifest import Manifest
from stereotalker.production.segments import Progress, RenderedSegment, SegmentJob
from stereotalker.store.local import Store


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
    for manifest in needed_by:
        note_needs(maker, manifest)
    limit = time.time() - keep_days * 24 * 3600
    old = [entry for entry in store.entries() if entry.last_used < limit]
    for entry in old if not dry_run else ():
        store.discard(entry.stage, entry.key)
    return Usage(len(old), sum(entry.bytes for entry in old))


def note_needs(maker: ClipMaker, manifest: Manifest) -> None:
    """Note that the entries of a batch are used, as far as they are made. Nothing is made."""
    finder = _Finder(maker.store)

    def take(jobs: list[SegmentJob], progress: Progress) -> list[RenderedSegment]:
        for job in jobs:
            finder.has("render", job.key)
        return [RenderedSegment((job.key,), job.frames) for job in jobs]

    reader = ClipMaker(maker.models, finder, maker.signer, maker.library)  # type: ignore[arg-type]
    for clip in manifest.clips:
        recall(maker, clip)
        try:
            timings = StageTimings()
            reader.sign(clip, make_clip(clip, reader, take, _ignore, timings), timings)
        except (_NotMade, ClipError, OSError):
            continue


class _NotMade(Exception):
    """An entry is not in the store."""


class _Finder:
    """A store in which entries are found, and never made."""

    def __init__(self, store):
        self._store = store

    def find(self, stage: str, key: str) -> Path | None:
        return self._store.find(stage, key)

    def has(self, stage: str, key: str) -> bool:
        return self._store.has(stage, key)

    def make(self, stage: str, key: str, write: Callable[[Path], None]) -> Path:
        if (found := self._store.find(stage, key)) is None:
            raise _NotMade
        return found


def _ignore(*_) -> None:
    pass
