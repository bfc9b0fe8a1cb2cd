"""A batch: manifest in, finished videos and a report out. With Prefect and Ray, or inline for tests and debugging."""

from __future__ import annotations

import subprocess
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from stereotalker.clip import ClipMaker
from stereotalker.home import Home
from stereotalker.manifest import Manifest, read_manifest
from stereotalker.models import Models
from stereotalker.params import ROOT, Params
from stereotalker.progress import Display
from stereotalker.report import BatchRecord, ClipResult
from stereotalker.store import Store, code_version, digest
from stereotalker.weights import FOLDER
from tasks.clip import Bench, clip_task, produce_clip
from tasks.pool import open_pool, render_all
from tasks.report import BatchLog
from tasks.tracking import Tracker

_AHEAD = 2  # clips in flight beyond the workers: their audio and motion are made while others render
OnResult = Callable[[ClipResult], None]


@dataclass(frozen=True)
class BatchDone:
    results: list[ClipResult]  # a row for every clip, in the manifest's order
    report: Path
    run: str  # MLflow run id
    wall_seconds: float

    @property
    def failed(self) -> int:
        return sum(not result.ok for result in self.results)


def produce(
    manifest_path: Path, out: Path, params: Params, home: Home, executor: str = "ray", weights: Path = FOLDER, stream=None
) -> BatchDone:
    """Make every clip of a manifest. Running it again finds what is finished in the store.

    Raises UserError for a faulty manifest or missing models; a clip's own fault is a row of the result.
    """
    started = time.monotonic()
    manifest = read_manifest(manifest_path)
    models, store = Models(params, weights), Store(home.store)
    torch.set_num_threads(params.produce.threads)
    store.sweep()
    tracker = Tracker(home, "batch")
    batch = _record(manifest, models, tracker)
    log = BatchLog(tracker, batch, len(manifest.clips), out)
    results: list[ClipResult] = []
    try:
        with ExitStack() as stack:
            pool = open_pool(executor, models, store)
            stack.callback(pool.close)
            with Display([clip.id for clip in manifest.clips], stream) as display:

                def on_result(result: ClipResult) -> None:
                    if not result.ok:
                        display(result.id, "failed", 0, 1, result.error)
                    results.append(result)
                    log.clip(result)

                bench = Bench(ClipMaker(models, store), pool, out, display)
                {"inline": _inline, "ray": _prefect}[executor](batch.name, manifest, bench, on_result)
    except BaseException:
        log.abort()
        raise
    results.sort(key=lambda result: result.row)
    wall = time.monotonic() - started
    return BatchDone(results, log.finish(results, wall), log.run, wall)


def _inline(name: str, manifest: Manifest, bench: Bench, on_result: OnResult) -> None:
    for row, clip in enumerate(manifest.clips, 1):
        on_result(produce_clip(row, clip, bench, lambda jobs, progress: render_all(bench.pool, jobs, progress)))


def _prefect(name: str, manifest: Manifest, bench: Bench, on_result: OnResult) -> None:
    from prefect import flow
    from prefect.futures import as_completed
    from prefect.task_runners import ThreadPoolTaskRunner

    threads = bench.pool.workers + _AHEAD

    @flow(name="produce", flow_run_name=name, task_runner=ThreadPoolTaskRunner(max_workers=threads), persist_result=False)
    def produce_batch(manifest_file: str, clips: int) -> None:
        waiting, running = deque(enumerate(manifest.clips, 1)), []
        while waiting or running:
            while waiting and len(running) < threads:
                row, clip = waiting.popleft()
                running.append(clip_task.submit(clip.id, row, clip, bench))
            done = next(as_completed(running))
            running.remove(done)
            on_result(done.result())

    produce_batch(str(manifest.path), len(manifest.clips))


def _record(manifest: Manifest, models: Models, tracker: Tracker) -> BatchRecord:
    """What the batch is made with, resolved once, so that nothing changes under it."""
    return BatchRecord(
        name=manifest.path.stem, manifest=str(manifest.path), started=time.strftime("%Y-%m-%dT%H:%M:%S"),
        models=models.digests, versions=tracker.versions(models.digests), code=code_version(), commit=_commit(),
        params=digest(models.params.model_dump(mode="json")),
    )  # fmt: skip


def _commit() -> str:
    """The commit of a checkout; empty for an installed package."""
    if not (ROOT / ".git").exists():
        return ""
    answer = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip()
