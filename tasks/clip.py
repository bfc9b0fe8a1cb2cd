"""The two Prefect tasks of a batch: `clip`, and inside it `render`. Thin: each is one library call and its bookkeeping."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.states import Cancelled, Completed, Failed, State
from prefect.tasks import exponential_backoff

from stereotalker.errors import Stopped, UserError, disk_fault, is_passing
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.clip import ClipMaker, FinishedClip, StageTimings, make_clip
from stereotalker.production.manifest import Clip
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import ClipResult
from stereotalker.production.segments import Progress, Render, RenderedSegment, SegmentJob
from stereotalker.tasks.pool import Pool

RETRY_S = 2  # before the first retry, then doubled
_FAILED = "ClipFailed"  # final; a state that Prefect makes of a raised Again is called Failed


@dataclass(frozen=True)
class BatchContext:
    """What every clip of a batch is made with."""

    maker: ClipMaker
    pool: Pool
    outputs: Outputs
    progress: Progress
    admission: AdmissionControl
    retries: int
    on_result: Callable[[ClipResult, bool], None]  # and whether it was a preview


@dataclass(frozen=True)
class WorkItem:
    """One clip to make: its row in the manifest, its place in the order of work, and whether this is the preview."""

    row: int
    place: int
    clip: Clip
    preview: bool = False

    @property
    def name(self) -> str:
        return f"{'preview' if self.preview else 'clip'}-{self.clip.id}"


class Again(Exception):
    """A fault that may pass; the clip is tried once more."""


@task(name="render", task_run_name="render-{name}", cache_policy=NO_CACHE, persist_result=False)
def render_task(name: str, context: BatchContext, jobs: list[SegmentJob], progress: Progress) -> list[RenderedSegment]:
    return context.pool.render(jobs, progress)


@task(
    name="clip", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False, retry_delay_seconds=exponential_backoff(RETRY_S),
    retry_condition_fn=lambda task, run, state: state.name != _FAILED,
)  # fmt: skip
def clip_task(name: str, item: WorkItem, context: BatchContext) -> State:
    """Its state is the clip's: Completed, Failed with the reason, Cancelled when not reached. The row goes to context.on_result."""
    _shield_children()
    attempt = task_run.run_count or 1
    result = produce_clip(item, context, lambda jobs, progress: render_task(name, context, jobs, progress), attempt)
    context.on_result(result, item.preview)
    if result.state == "stopped":
        return Cancelled(message=result.error)
    if result.state == "failed":
        return Failed(name=_FAILED, message=result.error)
    return Completed(
        message=f"{result.frames} frames, {result.verdict}" + "".join(f"; {reason}" for reason in result.reasons)
    )


def produce_inline(item: WorkItem, context: BatchContext) -> None:
    """The same without Prefect."""
    _shield_children()
    for attempt in range(1, context.retries + 2):
        try:
            context.on_result(produce_clip(item, context, context.pool.render, attempt), item.preview)
            return
        except Again:
            time.sleep(RETRY_S * 2 ** (attempt - 1))


def _camera(clip: Clip) -> str:
    """The kind, and whatever is not as it is by default."""
    keys = clip.camera.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
    return " ".join([clip.camera.kind, *(f"{name} {value}" for name, value in keys.items())])


def produce_clip(item: WorkItem, context: BatchContext, render: Render, attempt: int) -> ClipResult:
    """One clip and its row in the report, whatever happens to it. Raises Again while a passing fault may be tried once more."""
    clip, timings = item.clip, StageTimings()
    facts = {
        "avatar": clip.avatar, "speech": str(clip.audio) if clip.audio else (clip.script or "")[:80],
        "picture": f"{clip.width} x {clip.height}, {clip.fps:g} fps" + (f", stereo {clip.stereo.layout}" if clip.stereo else ""), "camera": _camera(clip), "seed": str(clip.seed),
    }  # fmt: skip
    known = {
        "id": clip.id,
        "row": item.row,
        "attempts": attempt,
        "seconds": timings.seconds,
        "made": timings.made,
        "facts": facts,
    }
    try:
        finished = make_clip(clip, context.maker, render, context.progress, timings, item.place)
        notes = context.maker.fit_notes(clip)
        files = _deliver(item, finished, context, timings)
    except Stopped as stop:
        return ClipResult(state="stopped", error=str(stop), **known)
    except Exception as error:  # a clip is never lost: its own fault in its own words, ours with a traceback beside it
        if fault := disk_fault(error):
            context.admission.stop(
                f"{fault.strerror}: {fault.filename or context.maker.store}; make room or mend it and run the batch again"
            )
            return ClipResult(state="stopped", error=context.admission.stopped, **known)
        if is_passing(error) and attempt <= context.retries:
            context.progress(clip.id, "retry", 0, 1)
            raise Again(str(error)) from error
        known_fault = isinstance(error, UserError) or is_passing(error)
        reason, log = (str(error), "") if known_fault else _our_fault(error, clip.id, context.outputs)
        context.admission.outcome(reason)
        return ClipResult(state="failed", error=reason, log=log, **known)
    context.admission.outcome("")
    verdict = finished.verdict
    told = {"verdict": verdict.verdict, "reasons": (*verdict.reasons, *notes), "measures": verdict.measures}
    return ClipResult(state="done", rendered=timings.rendered, frames=finished.frames, **told, **files, **known)


def _deliver(item: WorkItem, finished: FinishedClip, context: BatchContext, timings: StageTimings) -> dict[str, str]:
    """Sign the video and put it and its poster where results go. Returns their names there."""
    signed = context.maker.sign(item.clip, finished, timings)
    folder = "previews" if item.preview else "clips"
    files = {"video": f"{folder}/{item.clip.file_name}", "poster": f"posters/{item.clip.id}.jpg"}
    context.outputs.place(files["video"], signed)
    context.outputs.place(files["poster"], finished.poster)
    return files


def _shield_children() -> None:
    """A terminal's Ctrl-C reaches every process of its group; ffmpeg and espeak-ng, started from this thread, inherit that it is blocked."""
    assert threading.current_thread() is not threading.main_thread()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def _our_fault(error: Exception, clip: str, outputs: Outputs) -> tuple[str, str]:
    """A line for the row, and the name of the file with the traceback."""
    log = f"logs/{clip}.txt"
    outputs.put(log, "".join(traceback.format_exception(error)).encode())
    return (
        f"unexpected {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}; the traceback is in {outputs.name(log)}",
        log,
    )
