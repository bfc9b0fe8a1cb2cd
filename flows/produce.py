"""A batch: manifest in, finished videos and a report out. With Prefect and Ray, or inline for tests and debugging."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from stereotalker.avatar.library import Library
from stereotalker.errors import Stopped, UserError
from stereotalker.media.content_credentials import open_signer
from stereotalker.models import Models
from stereotalker.params import ROOT, Params
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.clip import ClipMaker, preview
from stereotalker.production.manifest import Manifest, read_manifest
from stereotalker.production.outputs import Outputs
from stereotalker.production.preflight import Plan, prepare
from stereotalker.production.progress import Display
from stereotalker.production.report import BatchEnd, BatchRecord, ClipResult, rows_before
from stereotalker.runtime.environment import set_library_defaults
from stereotalker.runtime.home import Home
from stereotalker.runtime.process_identity import identity
from stereotalker.store.digests import code_version, digest
from stereotalker.store.remote import AnyStore, open_store
from stereotalker.tasks.clip import RETRY_S, BatchContext, WorkItem, produce_inline
from stereotalker.tasks.notify import notify
from stereotalker.tasks.pool import LocalSlot, Pool
from stereotalker.tasks.report import BatchLog
from stereotalker.tasks.tracking import Tracker, TrackingError
from stereotalker.weights import FOLDER

_AHEAD = 2  # clips in flight beyond the workers: their audio and motion are made while others render


@dataclass(frozen=True)
class BatchDone:
    end: BatchEnd
    report: str  # path or URL
    run: str  # MLflow run id

    @property
    def results(self) -> list[ClipResult]:
        return self.end.results

    @property
    def failed(self) -> int:
        return sum(not result.ok for result in self.results)


def produce(
    manifest_path: Path,
    out: str | Path,
    params: Params,
    home: Home,
    executor: str = "ray",
    weights: Path = FOLDER,
    stream=None,
    only_failed: bool = False,
) -> BatchDone:
    """Make every clip of a manifest, or those that failed the last time. Running it again finds what is finished in the store.

    Raises UserError for a faulty manifest, missing models or no place for results; a clip's own fault is a row of the result.
    """
    set_library_defaults()
    manifest, outputs, rules = read_manifest(manifest_path), Outputs(out), params.produce
    before = {name: row for name, row in rows_before(outputs).items() if row.ok} if only_failed else {}
    models = Models(params, weights)
    plan = prepare(manifest, outputs, models, home)
    for note in (*manifest.notes, *plan.warnings):
        _say(note)

    store = open_store(rules.store or str(home.store), home.store)
    store.sweep()
    torch.set_num_threads(rules.worker.threads)
    tracker = _open_tracker(home)
    admission = AdmissionControl(rules.window, rules.budget_hours, rules.breaker, say=_say)
    batch = _record(manifest, models, tracker)
    log = BatchLog(tracker, batch, manifest, outputs, home, admission, before)
    maker = ClipMaker(models, store, open_signer(params.provenance, home.credentials), Library(home.avatars))

    try:
        with ExitStack() as stack:
            pool = stack.enter_context(_open_pool(executor, models, store, home, admission))
            display = stack.enter_context(
                Display([clip.id for clip in manifest.clips if clip.id not in before], stream)
            )

            def on_result(result: ClipResult, is_preview: bool = False) -> None:
                row = log.take(result, rules.worker.threads, is_preview)
                if not is_preview:
                    display(row.id, row.shown, 0, 1, row.error or "; ".join(row.reasons))

            for faulty in plan.faults:
                if faulty.clip.id not in before:
                    on_result(ClipResult(faulty.clip.id, faulty.row, "failed", faulty.fault))
            items = _work_items(plan, set(before), rules.previews)
            context = BatchContext(maker, pool, outputs, display, admission, rules.retries, on_result)
            if executor == "inline":
                _inline(items, context, log)
            else:
                _prefect(batch, items, context, log)
    except BaseException as error:  # our own bug: the rows made so far are not lost
        admission.stop(f"the driver failed: {type(error).__name__}: {error}")
        log.close()
        raise
    end, page = log.close()
    if rules.notify:
        notify(rules.notify, f"{batch.name}: {end.summary()}", page)
    return BatchDone(end, page, log.run)


def _work_items(plan: Plan, finished: set[str], side: int | None) -> list[WorkItem]:
    """Previews of the whole batch first, if asked for, then the clips."""
    good = [planned for planned in plan.clips if not planned.fault and planned.clip.id not in finished]
    small = [WorkItem(p.row, place, preview(p.clip, side), True) for place, p in enumerate(good)] if side else []
    return small + [WorkItem(p.row, len(good) + place, p.clip) for place, p in enumerate(good)]


def _inline(items: list[WorkItem], context: BatchContext, log: BatchLog) -> None:
    """One clip after the other, in a thread of its own, so that this one hears Ctrl-C."""
    with _interrupts(context.admission, log.close), ThreadPoolExecutor(1) as thread:
        try:
            for item in items:
                context.admission.wait()
                thread.submit(produce_inline, item, context).result()
        except Stopped:
            pass  # the rows say so


def _prefect(batch: BatchRecord, items: list[WorkItem], context: BatchContext, log: BatchLog) -> None:
    from prefect import flow, tags
    from prefect.futures import as_completed
    from prefect.runtime import flow_run
    from prefect.states import Cancelled, Completed, Failed
    from prefect.task_runners import ThreadPoolTaskRunner
    from prefect.tasks import exponential_backoff

    from stereotalker.tasks.clip import clip_task
    from stereotalker.tasks.flowrun import FLOW, Artifacts, Buttons, close_orphans, mark_silence, owner_tag

    mark_silence()
    close_orphans()
    window = context.pool.workers + _AHEAD
    name, ended = f"{batch.name} {batch.started.replace('T', ' ')}", False

    @flow(name=FLOW, flow_run_name=name, task_runner=ThreadPoolTaskRunner(max_workers=window), persist_result=False)
    def produce_batch(manifest: str, clips: int):
        nonlocal ended
        artifacts = Artifacts(batch.name, len(items))
        task = clip_task.with_options(retries=context.retries, retry_delay_seconds=exponential_backoff(RETRY_S))
        running: list = []

        def wait_for_one() -> None:
            running.remove(next(as_completed(running)))
            artifacts.clip()

        with _interrupts(context.admission, log.close), Buttons(flow_run.id, context.admission):
            try:
                for item in items:
                    context.admission.wait()
                    running.append(task.submit(item.name, item, context))
                    if len(running) >= window:
                        wait_for_one()
            except Stopped:
                pass  # the rows say so
            while running:
                wait_for_one()
        end = log.ended()
        artifacts.end(end, context.outputs)
        ended = True
        if end.stopped:
            return Cancelled(message=end.summary())
        return Failed(message=end.summary()) if end.status == 1 else Completed(message=end.summary())

    with tags(batch.name, owner_tag(identity())):
        state = produce_batch(batch.manifest, len(items), return_state=True)
    if not ended:  # our own bug, or Prefect's
        context.admission.stop(f"the flow run broke off: {state.message}")


@contextmanager
def _open_pool(
    executor: str, models: Models, store: AnyStore, home: Home, admission: AdmissionControl
) -> Iterator[Pool]:
    """executor: "ray" or "inline"."""
    cluster = None
    if executor == "inline":
        slots = [LocalSlot(models, store)]
    else:
        from stereotalker.tasks.cluster import Cluster

        cluster = Cluster(models.params, models.folder, str(store), home.store)
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
    """The first Ctrl-C or SIGTERM finishes what runs and stops; the second ends the process at once. The store is whole either way."""
    heard: list[int] = []

    def handle(number, frame) -> None:
        heard.append(number)
        if len(heard) > 1:
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


def _open_tracker(home: Home) -> Tracker:
    try:
        return Tracker(home, "batch")
    except TrackingError as error:
        raise UserError(f"MLflow at {home.tracking_uri} does not answer: {str(error).splitlines()[0][:200]}") from None


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _record(manifest: Manifest, models: Models, tracker: Tracker) -> BatchRecord:
    """What the batch is made with, resolved once, so that nothing changes under it."""
    return BatchRecord(
        name=manifest.path.stem, manifest=str(manifest.path), started=time.strftime("%Y-%m-%dT%H:%M:%S"),
        models=models.digests, versions=tracker.versions(models.digests), data=_data_versions(), code=code_version(), commit=_commit(),
        params=digest(models.params.model_dump(mode="json")),
    )  # fmt: skip


def _data_versions() -> dict[str, str]:
    """Digests of the training data, as dvc.lock has them; empty for an installed package."""
    lock = ROOT / "dvc.lock"
    stages = yaml.safe_load(lock.read_text())["stages"] if lock.is_file() else {}
    return {
        out["path"]: out["md5"]
        for stage in stages.values()
        for out in stage.get("outs", ())
        if out["path"].startswith("data/")
    }


def _commit() -> str:
    """The commit of a checkout; empty for an installed package."""
    if not (ROOT / ".git").exists():
        return ""
    answer = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip()
