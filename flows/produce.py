"""Produces a batch: from a manifest to finished videos and a report, with Prefect and Ray, or inline for tests."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from stereotalker.avatar.library import Library
from stereotalker.errors import BatchStopped, Unavailable, is_network_fault
from stereotalker.media.content_credentials import open_signer
from stereotalker.models import Models
from stereotalker.params import Params
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.clip import preview
from stereotalker.production.clip_stages import ClipMaker
from stereotalker.production.manifest import Manifest, read_manifest
from stereotalker.production.output_lock import lock_outputs
from stereotalker.production.outputs import Outputs
from stereotalker.production.preflight import CLIPS_AHEAD, Plan, prepare
from stereotalker.production.progress import Display
from stereotalker.production.report import (
    Again,
    BatchRecord,
    BatchSummary,
    ClipResult,
    previous_results,
    unfinished_batch,
)
from stereotalker.runtime.environment import set_library_defaults
from stereotalker.runtime.home import Home
from stereotalker.runtime.process_identity import identity
from stereotalker.store.code import checkout_commit, code_version
from stereotalker.store.digests import digest
from stereotalker.store.remote import AnyStore, open_store
from stereotalker.tasks.canary import run_canary
from stereotalker.tasks.clip import RETRY_S, BatchContext, WorkItem, confirm, produce_inline, refused
from stereotalker.tasks.compute_lock import BatchTurn
from stereotalker.tasks.notify import notify
from stereotalker.tasks.pool import LocalSlot, Pool, Slot
from stereotalker.tasks.registry import ModelSource, Registered, note_first_use, resolve, settings_note
from stereotalker.tasks.report import BatchLog


@dataclass(frozen=True)
class BatchResult:
    """The result of `produce`."""

    end: BatchSummary
    report: str  # path or URL of the page
    run: str  # MLflow run id

    @property
    def results(self) -> list[ClipResult]:
        """A row for every clip of the manifest."""
        return self.end.results

    @property
    def failed(self) -> int:
        """Number of clips that were not made, or that failed the quality gate."""
        return sum(not result.ok for result in self.results)


def produce(
    manifest_path: Path,
    out: str | Path,
    params: Params,
    home: Home,
    executor: str = "ray",
    weights: Path | None = None,
    stream=None,
    again: Again | None = None,
    release: int | None = None,
) -> BatchResult:
    """Make every clip of a manifest. What was finished in an earlier run is found in the store and not made again.

    executor: "ray" or "inline"; weights: folder of weights that belong to no release, None: those of a release;
    release: its number, None: that with which the batch began, or else the champion; stream: text stream for the
    progress display, stderr if None; again: which clips of the last run are made, None: all that are not finished.
    Raises UserError if the manifest is faulty, Unavailable if models are missing, the results cannot be written or
    another batch writes them. The fault of one clip becomes its row.
    """
    set_library_defaults()
    manifest, outputs, rules = read_manifest(manifest_path), Outputs(out), params.produce
    with lock_outputs(outputs, manifest.path.stem), BatchTurn(home) as turn:
        source = ModelSource(weights) if weights else _release(manifest, outputs, home, params, release)
        models = Models(params, source.folder, source.release, source.number, source.store)
        plan = prepare(manifest, outputs, models, home, executor)
        ids = {clip.id for clip in manifest.clips}
        previous = again.previous(outputs, ids) if again else previous_results(outputs)
        before = _rows_that_stay(plan, previous, again)
        notes = (*manifest.notes, *plan.warnings, source.note, settings_note(home, params, source))
        for note in filter(None, notes):
            _say(note)

        store = open_store(rules.store or str(home.store), home.store)
        store.sweep()
        torch.set_num_threads(rules.worker.threads)
        admission = AdmissionControl(rules.window, rules.budget_hours, rules.breaker, say=_say)
        maker = ClipMaker(models, store, open_signer(params.provenance, home.credentials), Library(home.avatars))
        batch = _batch_record(manifest, models)
        log = BatchLog(batch, manifest, outputs, home, admission, before)
        log.attempt("the release's first use", lambda: note_first_use(home, params.releases, source, batch.name))
        items = _work_items(plan, before, rules.previews, _made_anew(previous, again))
        try:
            if again is None:
                items = _without_finished(items, maker, outputs, previous, log)
            with ExitStack() as stack:
                stack.enter_context(store.in_use())
                workers = plan.workers if items else 0
                pool = stack.enter_context(_open_pool(executor, models, workers, store, home, admission))
                shown = [clip.id for clip in manifest.clips if clip.id not in log.rows]
                display = stack.enter_context(Display(shown, stream))

                def on_result(result: ClipResult, is_preview: bool = False) -> None:
                    row = log.take(result, rules.worker.threads, is_preview)
                    if not is_preview:
                        display(row.id, row.shown, 0, 1, row.error or "; ".join(row.reasons))

                context = BatchContext(batch, maker, pool, outputs, display, admission, rules.retries, on_result)
                for faulty in plan.faults:
                    on_result(refused(faulty.row, faulty.clip, faulty.fault, context))
                if executor == "inline":
                    _inline(items, context, log, turn)
                else:
                    _prefect(batch, items, context, log, turn)
        except BaseException as error:  # a bug of ours: save the rows made so far
            admission.stop(f"the driver failed: {type(error).__name__}: {error}")
            log.close()
            raise
        end, page = log.close()
        if params.releases.canary and source.release and not end.stopped:
            clips, rows = manifest.clips[: params.releases.canary], {row.id: row for row in end.results}
            log.attempt("the canary", lambda: run_canary(clips, rows, params, home, store, outputs, _say))
    if rules.notify:
        notify(rules.notify, f"{batch.name}: {end.summary()}", "\n".join([page, *end.reasons()]))
    return BatchResult(end, page, log.run)


def _release(manifest: Manifest, outputs: Outputs, home: Home, params: Params, number: int | None) -> ModelSource:
    """The models of a release, see `produce`."""
    begun = unfinished_batch(outputs, manifest) if number is None else None
    pinned = Registered(begun.release_number, begun.release) if begun and begun.release else None
    source = resolve(home, params.releases, pinned, number)
    if begun and pinned and source.release != pinned.digest:
        note = "the package was changed since this batch began; the remaining clips use the new one"
        return replace(source, note=note)
    return source


def _rows_that_stay(plan: Plan, previous: dict[str, ClipResult], again: Again | None) -> dict[str, ClipResult]:
    """Rows of the last run that stay as they are, by clip id.

    A clip that the pre-flight check refuses gets a new row in any case: its consent may have run out.
    """
    if again is None:
        return {}
    refused_clips = {planned.clip.id for planned in plan.faults}
    return {name: row for name, row in previous.items() if not again.includes(row) and name not in refused_clips}


def _made_anew(previous: dict[str, ClipResult], again: Again | None) -> set[str]:
    """Ids of clips whose stored frames are not used: those that were made before, and shall be made again.

    What a stopped batch has rendered is used.
    """
    if again is None:
        return set()
    return {name for name, row in previous.items() if again.includes(row) and row.state == "done"} | set(again.clips)


def _work_items(plan: Plan, finished: Container[str], side: int | None, anew: set[str]) -> list[WorkItem]:
    """The work in its order: previews of the whole batch first, if wanted, then the clips.

    finished: ids of clips that are left out; side: px of the previews' smaller side, None: no previews; anew: ids, see
    WorkItem.
    """
    feasible = [planned for planned in plan.clips if not planned.fault and planned.clip.id not in finished]
    previews = [WorkItem(p.row, place, preview(p.clip, side), True) for place, p in enumerate(feasible)] if side else []
    return previews + [
        WorkItem(p.row, len(feasible) + place, p.clip, anew=p.clip.id in anew) for place, p in enumerate(feasible)
    ]


def _without_finished(
    items: list[WorkItem], maker: ClipMaker, outputs: Outputs, previous: dict[str, ClipResult], log: BatchLog
) -> list[WorkItem]:
    """The items of clips that an earlier run did not finish and deliver. The rows of the others go to the log."""
    finished = set()
    for item in items:
        if not item.preview and (row := confirm(item, maker, outputs, previous.get(item.clip.id))):
            log.confirm(row)
            finished.add(item.clip.id)
    return [item for item in items if item.clip.id not in finished]


def _inline(items: list[WorkItem], context: BatchContext, log: BatchLog, turn: BatchTurn) -> None:
    """Make one clip after the other in another thread, so that this thread can handle Ctrl-C."""
    with _interrupts(context.admission, log.close), ThreadPoolExecutor(1) as thread:
        try:
            for item in items:
                context.admission.wait()
                turn.begin()
                thread.submit(produce_inline, item, context).result()
        except BatchStopped:
            pass  # the rows of the remaining clips say why


def _prefect(batch: BatchRecord, items: list[WorkItem], context: BatchContext, log: BatchLog, turn: BatchTurn) -> None:
    """Make the clips as tasks of a Prefect flow run, some at once."""
    from prefect import flow, tags
    from prefect.futures import as_completed
    from prefect.runtime import flow_run
    from prefect.states import Cancelled, Completed, Failed
    from prefect.task_runners import ThreadPoolTaskRunner
    from prefect.tasks import exponential_backoff

    from stereotalker.tasks.clip import clip_task
    from stereotalker.tasks.flowrun import (
        FLOW,
        TAG,
        Artifacts,
        FlowRunControl,
        close_orphans,
        owner_tag,
        register_silence_automation,
    )

    try:
        register_silence_automation()
        close_orphans()
    except Exception as error:
        if is_network_fault(error):
            raise Unavailable(f"Prefect's server does not answer: {type(error).__name__}: {error}") from error
        raise
    in_progress = context.pool.workers + CLIPS_AHEAD
    name, has_ended = f"{batch.name} {batch.started.replace('T', ' ')}", False

    @flow(
        name=FLOW,
        flow_run_name=name,
        task_runner=ThreadPoolTaskRunner(max_workers=in_progress),  # type: ignore[arg-type]  # Prefect's is invariant
        persist_result=False,
    )
    def produce_batch(manifest: str, clips: int) -> object:
        nonlocal has_ended
        artifacts = Artifacts(batch.name, len(items))
        task = clip_task.with_options(retries=context.retries, retry_delay_seconds=exponential_backoff(RETRY_S))
        running: list = []

        def wait_for_one() -> None:
            running.remove(next(as_completed(running)))
            artifacts.clip()

        with _interrupts(context.admission, log.close), FlowRunControl(flow_run.id, context.admission):
            try:
                for item in items:
                    context.admission.wait()
                    turn.begin()
                    context.pool.prepare(len(items))
                    running.append(task.submit(item.name, item, context))
                    if len(running) >= in_progress:
                        wait_for_one()
            except BatchStopped:
                pass  # the rows of the remaining clips say why
            while running:
                wait_for_one()
        end = log.ended()
        artifacts.end(end, context.outputs)
        has_ended = True
        if end.stopped:
            return Cancelled(message=end.summary())
        return Failed(message=end.summary()) if end.status == 1 else Completed(message=end.summary())

    with tags(TAG, batch.name, owner_tag(identity())):
        state = produce_batch(batch.manifest, len(items), return_state=True)
    if not has_ended:  # a bug of ours or of Prefect
        raise RuntimeError(f"the flow run broke off: {state.message}")


@contextmanager
def _open_pool(
    executor: str, models: Models, workers: int, store: AnyStore, home: Home, admission: AdmissionControl
) -> Iterator[Pool]:
    """Yield the pool of workers. executor: "ray" or "inline", which has one worker; workers: 0 starts nothing."""
    cluster = None
    slots: Sequence[Slot]
    if not workers:
        slots = []
    elif executor == "inline":
        slots = [LocalSlot(models, store)]
    else:
        from stereotalker.tasks.cluster import Cluster

        cluster = Cluster(models, workers, str(store), home.store)
        slots = cluster.slots
    pool = Pool(slots, models.params.produce.worker, admission, store)
    try:
        yield pool
        pool.close()
    finally:
        if cluster:
            cluster.close()


@contextmanager
def _interrupts(admission: AdmissionControl, give_up: Callable[[], object]) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM.

    The first one stops the batch after the running segments. The second one calls `give_up` and ends the process. The
    store stays intact either way. Outside the main thread signals cannot be handled, and nothing is done.
    """
    received: list[int] = []

    def handle(number, frame) -> None:
        received.append(number)
        if len(received) > 1:
            try:
                give_up()
            finally:
                os._exit(128 + number)
        admission.stop("stopped by hand")
        _say("finishing the running segments; once more stops at once")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _batch_record(manifest: Manifest, models: Models) -> BatchRecord:
    """The versions of everything that the batch is made with. They are read once, at its start."""
    return BatchRecord(
        name=manifest.path.stem,
        manifest=str(manifest.path.absolute()),
        started=time.strftime("%Y-%m-%dT%H:%M:%S"),
        release=models.release,
        release_number=models.release_number,
        models=models.digests,
        code=code_version(),
        commit=checkout_commit(),
        params=digest(models.params.model_dump(mode="json")),
    )
