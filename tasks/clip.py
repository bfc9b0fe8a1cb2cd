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

from stereotalker.avatar.consent import Consent
from stereotalker.avatar.library import Library
from stereotalker.errors import BatchStopped, ClipError, UserError, is_transient, shared_fault
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.captions import to_files
from stereotalker.production.clip import make_clip
from stereotalker.production.clip_record import complete, describe_inputs, sign_with_record, to_json
from stereotalker.production.clip_stages import ClipMaker, StageTimings
from stereotalker.production.conversation import Turn, turns_of
from stereotalker.production.delivery import Places, deliver, deliver_captions, deliver_preview, supersede
from stereotalker.production.finished_clips import FinishedRecord, clip_key, recall, remember
from stereotalker.production.manifest import Clip
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import BatchRecord, ClipResult
from stereotalker.production.segments import Progress, Render, RenderedSegment, SegmentJob
from stereotalker.store.digests import file_digest
from stereotalker.tasks.pool import Pool

RETRY_S = 2  # seconds before the first retry; the pause doubles with every retry

# Name of the final state of a failed clip. It is not retried. Prefect calls the state of a task that raised "Failed".
_FAILED = "ClipFailed"


@dataclass(frozen=True)
class BatchContext:
    """Everything that the clips of a batch share."""

    batch: BatchRecord
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
    anew: bool = False  # whether frames that an earlier run rendered are rendered again

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
    result = partial(
        ClipResult,
        id=clip.id,
        row=item.row,
        attempts=attempt,
        seconds=timings.seconds,
        made=timings.made,
        facts=clip_facts(clip, context.maker.library),
    )
    try:
        key, inputs = clip_key(context.maker, clip), describe_inputs(context.maker, clip)
        anew = item.anew and attempt == 1  # a later try takes what the first one has rendered
        finished = make_clip(clip, context.maker, render, context.progress, timings, item.place, anew)
        signed, made = sign_with_record(context.maker, clip, finished, inputs, timings)
        if item.preview:
            return result(state="done", preview=deliver_preview(context.outputs, clip, signed))
        verdict, places = finished.verdict, Places.of(clip, finished.verdict.verdict)
        clip_record = complete(made, places.video, signed, context.batch.name, context.batch.manifest)
        captions = to_files(finished.captions)
        deliver(context.outputs, clip, places, signed, finished.poster, to_json(clip_record), captions)
        record = FinishedRecord(
            file_digest(signed),
            signed.stat().st_size,
            verdict.verdict,
            (*verdict.reasons, *finished.notes),
            verdict.measures,
            finished.frames,
            clip_record,
            captions,
            verdict.cues,
        )
        remember(context.maker, clip, key, record)
    except BatchStopped as stop:
        return result(state="stopped", error=str(stop))
    except Exception as error:  # every clip gets a row
        return _failure(item, context, attempt, result, error)
    # A renderer that paints black fails every clip alike, and then the batch stops.
    context.admission.outcome("; ".join(verdict.reasons) if verdict.verdict == "fail" else "")
    return result(
        state="done",
        rendered=timings.rendered,
        frames=record.frames,
        verdict=record.verdict,
        reasons=record.reasons,
        measures=record.measures,
        sha256=record.sha256,
        recognized=finished.recognized,
        cues=record.cues,
        video=places.video,
        poster=places.poster,
        record=places.record,
    )


def _failure(
    item: WorkItem, context: BatchContext, attempt: int, result: Callable[..., ClipResult], error: Exception
) -> ClipResult:
    """The row of a clip that met an error. Raises RetryClip if it shall be tried again, and no other error.

    For an error that nobody expects, the traceback is saved beside the results.
    """
    clip = item.clip
    if fault := shared_fault(error):
        context.admission.stop(f"{fault}; make room or mend it and run the batch again")
        return result(state="stopped", error=context.admission.stopped)
    if is_transient(error) and attempt <= context.retries:
        context.progress(clip.id, "retry", 0, 1)
        raise RetryClip(str(error)) from error
    is_expected = isinstance(error, UserError) or is_transient(error)
    try:
        reason, log = (str(error), "") if is_expected else _save_traceback(error, clip.id, context.outputs)
        if not item.preview:
            supersede(context.outputs, clip.id)
    except (OSError, UserError) as other:  # the disk of the results is full or away, too
        reason, log = f"{str(error) or type(error).__name__} (and then: {other})", ""
    context.admission.outcome(reason)
    return result(state="failed", error=reason, log=log)


def refused(row: int, clip: Clip, fault: str, context: BatchContext) -> ClipResult:
    """The row of a clip that the pre-flight check refused. Its older videos are moved away."""
    try:
        supersede(context.outputs, clip.id)
    except (OSError, UserError) as error:  # the disk of the results is full or away
        fault = f"{fault} (and then: {error})"
    return ClipResult(clip.id, row, "failed", fault, facts=clip_facts(clip, context.maker.library))


def confirm(item: WorkItem, maker: ClipMaker, outputs: Outputs, before: ClipResult | None) -> ClipResult | None:
    """The row of a clip that an earlier run finished and delivered with the same inputs; None if there is no such.

    before: its row of the last run with the same outputs.
    """
    record = recall(maker, item.clip) if before else None  # new clips need no look into the store
    if record is None or before is None or before.sha256 != record.sha256:
        return None
    if not outputs.holds(before.video, record.bytes, record.sha256):
        return None
    deliver_captions(outputs, item.clip, record.captions)
    place = Places.of(item.clip, record.verdict).record
    if outputs.read(place) is None:
        outputs.put(place, to_json(record.clip_record))
    return ClipResult(
        item.clip.id,
        item.row,
        "done",
        verdict=record.verdict,
        reasons=record.reasons,
        measures=record.measures,
        frames=record.frames,
        sha256=record.sha256,
        cues=record.cues,
        recognized=(record.clip_record["made"]["recognized"] or {}).get("text", ""),
        video=before.video,
        poster=before.poster,
        preview=before.preview,
        record=place,
        facts=clip_facts(item.clip, maker.library),
    )


def clip_facts(clip: Clip, library: Library) -> dict[str, str]:
    """What a clip is, for its row in the report."""
    people, turns = clip.people, turns_of(clip)
    consents = [_consent(alone, library) for alone in people]
    languages = dict.fromkeys(alone.language for alone in people if alone.language)
    holders = dict.fromkeys(consent.holder for consent in consents if consent)
    stereo = f", stereo {clip.stereo.layout}" if clip.stereo else ""
    return {
        "avatar": ", ".join(_who(clip, k) for k in range(len(people))),
        "speech": " / ".join(_said(clip, turn) for turn in turns)[:160],
        "picture": f"{clip.width} x {clip.height}, {clip.fps:g} fps{stereo}",
        "camera": _camera_text(clip),
        **({"language": ", ".join(languages)} if languages else {}),
        "seed": ", ".join(dict.fromkeys(str(alone.seed) for alone in people)),
        **({"consent": ", ".join(holders)} if holders else {}),
    }


def _consent(clip: Clip, library: Library) -> Consent | None:
    """The consent to the avatar of a clip of one person, as far as it is known."""
    try:
        return library.consent(clip.avatar, clip.consent)
    except (ClipError, OSError):  # there is no such avatar
        return clip.consent


def _who(clip: Clip, person: int) -> str:
    """The avatar of a person of a clip, in a scene with the name that the person has there."""
    avatar = clip.people[person].avatar
    label = clip.scene[person].label if clip.scene else avatar
    return avatar if label == avatar else f"{label} ({avatar})"


def _said(clip: Clip, turn: Turn) -> str:
    """Where what is said comes from, in a few words, and in a scene who says it."""
    text = str(turn.clip.audio) if turn.clip.audio else (turn.clip.script or "")[:80]
    return f"{clip.scene[turn.person].label}: {text}" if clip.scene else text


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
