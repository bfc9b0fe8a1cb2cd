"""The two Prefect tasks of a batch: `clip`, and inside it `render`. Thin: each is one library call and its bookkeeping."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from stereotalker.clip import ClipMaker, Ledger, Progress, SegmentDone, SegmentJob, make_clip
from stereotalker.errors import UserError
from stereotalker.manifest import Clip
from stereotalker.report import ClipResult
from stereotalker.store import write_atomic
from stereotalker.video import probe
from tasks.pool import Pool, render_all


@dataclass(frozen=True)
class Bench:
    """What every clip of a batch is made with."""

    maker: ClipMaker
    pool: Pool
    out: Path
    progress: Progress


@task(name="render", task_run_name="render-{name}", cache_policy=NO_CACHE, persist_result=False)
def render_task(name: str, bench: Bench, jobs: list[SegmentJob]) -> list[SegmentDone]:
    return render_all(bench.pool, jobs, bench.progress)


@task(name="clip", task_run_name="clip-{name}", cache_policy=NO_CACHE, persist_result=False)
def clip_task(name: str, row: int, clip: Clip, bench: Bench):
    """Never raises for the clip's own faults: a failed clip ends as Completed(name="ClipFailed"), its reason in the result."""
    result = produce_clip(row, clip, bench, lambda jobs, progress: render_task(name, bench, jobs))
    return result if result.ok else Completed(name="ClipFailed", message=result.error, data=result)


def produce_clip(row: int, clip: Clip, bench: Bench, render) -> ClipResult:
    """One clip and its row in the report, whatever happens to it."""
    ledger = Ledger()
    facts = {
        "avatar": clip.avatar, "speech": str(clip.audio) if clip.audio else (clip.script or "")[:80],
        "picture": f"{clip.width} x {clip.height}, {clip.fps:g} fps", "camera": clip.camera.kind, "seed": str(clip.seed),
    }  # fmt: skip
    try:
        video = make_clip(clip, bench.maker, render, bench.out, bench.progress, ledger)
    except Exception as error:  # a clip is never lost: its own fault in its own words, ours with a traceback beside it
        reason = str(error) if isinstance(error, UserError) else _our_fault(error, clip.id, bench.out)
        return ClipResult(clip.id, row, False, reason, seconds=ledger.seconds, made=ledger.made, facts=facts)
    frames = probe(video).frames
    return ClipResult(clip.id, row, True, "", str(video.relative_to(bench.out)), frames, ledger.seconds, ledger.made, facts)


def _our_fault(error: Exception, clip: str, out: Path) -> str:
    log = out / "logs" / f"{clip}.txt"
    write_atomic(log, "".join(traceback.format_exception(error)).encode())
    return f"unexpected {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}; the traceback is in {log}"
