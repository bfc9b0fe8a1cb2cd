"""The two Prefect tasks of a batch: `clip`, and inside it `render`.

Each is one call of the library, with the bookkeeping for retries, errors and the row in the report.
"""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.states import Cancelled, Completed, Failed, State
from prefect.tasks import exponential_backoff

from stereotalker.errors import BatchStopped, UserError, disk_fault, is_transient
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.clip import ClipMaker, FinishedClip, StageTimings, make_clip
from stereotalker.production.manifest import Clip
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import ClipResult
from stereotalker.production.segments import Progress, Render, RenderedSegment, SegmentJob
from stereotalker.tasks.pool import Pool

RETRY_S = 2  # seconds before the first retry; the pause doubles with every retry

# Name of the final state of a failed clip. It is not retried. Prefect calls the state of a task that raised "Failed".
_FAILED = "ClipFailed"


@dataclass(frozen=True)
class BatchContext:
    """Everything that the clips of a batch share."""

    maker: ClipMaker
    pool: Pool
    outputs: Outputs
    progress: Progress
    admission: AdmissionControl
    retries: int  # of a clip, after a fault that may pass
    on_result: Callable[[ClipResult, bool], None]  # the second argument: whether it is a preview


@dataclass(frozen=True)
class WorkItem:
    """One clip to make, or its preview."""

    row: int  # in the manifest, from 1
    place: int  # in the order of work
    clip: Clip
    preview: bool = False

    @property
    def name(self) -> str:
        """Name of the task run."""
        return f"{'preview' if self.preview else 'clip'}-{self.clip.id}"


class RetryClip(Exception):
    """A fault occurred that may pass. The clip is tried again."""


@task(name="render", task_run_name="render-{name}", cache_policy=NO_CACHE, persist_result=False)
def render_task(name: str, context: BatchContext, jobs: list[SegmentJob], progress: Progress) -> list[RenderedSegment]:
    """Render the segments of a clip. See Pool.render."""
    return context.pool.render(jobs, progress)


@task(
    name="clip",
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_delay_seconds=exponential_backoff(RETRY_S),
    retry_condition_fn=lambda task, run, state: state.name != _FAILED,
)
def clip_task(name: str, item: WorkItem, context: BatchContext) -> State:
    """Make a clip. Its row of the report goes to context.on_result.

    The state that it returns is Completed; Failed, with the reason; or Cancelled, if the batch stopped before the clip
    was done.
    """
    _block_signals()
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
    """Make a clip as `clip_task` does, but without Prefect."""
    _block_signals()
    for attempt in range(1, context.retries + 2):
        try:
            context.on_result(produce_clip(item, context, context.pool.render, attempt), item.preview)
            return
        except RetryClip:
            time.sleep(RETRY_S * 2 ** (attempt - 1))


def _camera_text(clip: Clip) -> str:
    """The kind of camera path, and its keys that differ from the defaults."""
    keys = clip.camera.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
    return " ".join([clip.camera.kind, *(f"{name} {value}" for name, value in keys.items())])


def produce_clip(item: WorkItem, context: BatchContext, render: Render, attempt: int) -> ClipResult:
    """Make one clip and return its row in the report. An error becomes a row, too.

    render: renders the segments; attempt: 1 for the first. Raises RetryClip after a fault that may pass, if the clip
    has retries left.
    """
    clip, timings = item.clip, StageTimings()
    stereo = f", stereo {clip.stereo.layout}" if clip.stereo else ""
    facts = {
        "avatar": clip.avatar,
        "speech": str(clip.audio) if clip.audio else (clip.script or "")[:80],
        "picture": f"{clip.width} x {clip.height}, {clip.fps:g} fps{stereo}",
        "camera": _camera_text(clip),
        "seed": str(clip.seed),
    }
    result = partial(
        ClipResult,
        id=clip.id,
        row=item.row,
        attempts=attempt,
        seconds=timings.seconds,
        made=timings.made,
        facts=facts,
    )
    try:
        finished = make_clip(clip, context.maker, render, context.progress, timings, item.place)
        notes = context.maker.fit_notes(clip)
        video, poster = _deliver(item, finished, context, timings)
    except BatchStopped as stop:
        return result(state="stopped", error=str(stop))
    except Exception as error:  # every clip gets a row; for a bug of ours the traceback is saved beside it
        if fault := disk_fault(error):
            place = fault.filename or context.maker.store
            context.admission.stop(f"{fault.strerror}: {place}; make room or mend it and run the batch again")
            return result(state="stopped", error=context.admission.stopped)
        if is_transient(error) and attempt <= context.retries:
            context.progress(clip.id, "retry", 0, 1)
            raise RetryClip(str(error)) from error
        is_expected = isinstance(error, UserError) or is_transient(error)
        reason, log = (str(error), "") if is_expected else _save_traceback(error, clip.id, context.outputs)
        context.admission.outcome(reason)
        return result(state="failed", error=reason, log=log)
    context.admission.outcome("")
    verdict = finished.verdict
    return result(
        state="done",
        rendered=timings.rendered,
        frames=finished.frames,
        verdict=verdict.verdict,
        reasons=(*verdict.reasons, *notes),
        measures=verdict.measures,
        video=video,
        poster=poster,
    )


def _deliver(item: WorkItem, finished: FinishedClip, context: BatchContext, timings: StageTimings) -> tuple[str, str]:
    """Sign the video, and copy it and its poster to the outputs. Returns the names of both there."""
    signed = context.maker.sign(item.clip, finished, timings)
    folder = "previews" if item.preview else "clips"
    video, poster = f"{folder}/{item.clip.file_name}", f"posters/{item.clip.id}.jpg"
    context.outputs.place(video, signed)
    context.outputs.place(poster, finished.poster)
    return video, poster


def _block_signals() -> None:
    """Block SIGINT and SIGTERM in this thread, and so in ffmpeg and espeak-ng, which are started from it.

    Otherwise Ctrl-C on a terminal would end them, because it reaches every process of the group.
    """
    assert threading.current_thread() is not threading.main_thread()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def _save_traceback(error: Exception, clip: str, outputs: Outputs) -> tuple[str, str]:
    """Save the traceback of a bug. Returns a line for the row, and the name of the file in the outputs."""
    log = f"logs/{clip}.txt"
    outputs.put(log, "".join(traceback.format_exception(error)).encode())
    message = str(error).splitlines()[0] if str(error) else "no message"
    return f"unexpected {type(error).__name__}: {message}; the traceback is in {outputs.name(log)}", log
