"""Who renders segments: this process (LocalPool), or Ray actors that hold the models (RayPool). The only file that knows Ray."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch

from stereotalker.clip import Progress, SegmentDone, SegmentJob, render_segment
from stereotalker.errors import ClipError
from stereotalker.models import Models
from stereotalker.params import Params
from stereotalker.store import Store

_OBJECT_STORE_BYTES = 200 * 1024**2  # nothing but small jobs travels
_START_S = 300


class Pool(Protocol):
    workers: int

    def run(self, job: SegmentJob) -> SegmentDone: ...

    def close(self) -> None: ...


def render_all(pool: Pool, jobs: list[SegmentJob], progress: Progress) -> list[SegmentDone]:
    """All segments of a clip, as many at once as the pool has workers, in the order of `jobs`."""
    ready = 0
    lock = threading.Lock()

    def one(job: SegmentJob) -> SegmentDone:
        nonlocal ready
        done = pool.run(job)
        with lock:
            ready += done.frames
            progress(job.clip.id, "render", ready, jobs[-1].window.stop)
        return done

    if pool.workers == 1:
        return [one(job) for job in jobs]
    with ThreadPoolExecutor(pool.workers) as threads:
        return list(threads.map(one, jobs))


class LocalPool:
    """Renders in this process, one segment at a time: for --executor inline, tests and debugging."""

    workers = 1

    def __init__(self, models: Models, store: Store):
        self._models, self._store, self._lock = models, store, threading.Lock()

    def run(self, job: SegmentJob) -> SegmentDone:
        with self._lock:
            torch.set_num_threads(self._models.params.produce.threads)
            return render_segment(job, lambda: self._models.renderer, self._store)

    def close(self) -> None:
        pass


class RayPool:
    """One actor per worker, one segment in flight each. A dead actor is replaced and its segment given to the next.

    RAY_ADDRESS names a running cluster; else Ray is started here.
    """

    def __init__(self, params: Params, weights: Path, store: Store):
        import ray

        self._ray, self._params, self._weights, self._store = ray, params, weights, store
        self.workers = params.produce.workers
        if not ray.is_initialized():
            local = {"num_cpus": self.workers * params.produce.threads, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
            ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level="ERROR", **({} if "RAY_ADDRESS" in os.environ else local))
        self._idle: queue.Queue = queue.Queue()
        for actor in [self._start() for _ in range(self.workers)]:
            self._idle.put(actor)

    def run(self, job: SegmentJob) -> SegmentDone:
        """Raises ClipError when the segment has taken `deaths` workers with it, or ran out of time."""
        errors = self._ray.exceptions
        lost = (errors.RayActorError, errors.ActorUnavailableError, errors.NodeDiedError, errors.WorkerCrashedError, errors.OutOfMemoryError)
        limits = self._params.produce
        for _ in range(limits.deaths):
            actor = self._idle.get()
            try:
                done = self._ray.get(actor.render.remote(job), timeout=limits.segment_timeout)
            except lost:
                self._replace(actor)
            except errors.GetTimeoutError:
                self._replace(actor)
                raise ClipError(f"frames {job.window.start}-{job.window.stop} took longer than {limits.segment_timeout:g} s; raise produce.segment_timeout") from None
            except errors.RayTaskError as error:
                self._idle.put(actor)
                raise error.cause from None
            except BaseException:
                self._idle.put(actor)
                raise
            else:
                self._idle.put(actor)
                return done
        raise ClipError(f"frames {job.window.start}-{job.window.stop}: {limits.deaths} workers died on them, one after the other; is there enough memory?")

    def processes(self) -> list[int]:
        """Process ids of the idle workers."""
        return [self._ray.get(actor.process.remote()) for actor in list(self._idle.queue)]

    def close(self) -> None:
        self._ray.shutdown()

    def _replace(self, actor) -> None:
        """Put a new actor in a lost one's place. If none can be started the old one goes back, so that nobody waits for ever."""
        self._ray.kill(actor)
        try:
            self._idle.put(self._start())
        except BaseException:
            self._idle.put(actor)
            raise

    def _start(self):
        """A ready actor: models load when its first segment comes."""
        threads = self._params.produce.threads
        options = {"num_cpus": threads, "max_restarts": 0, "max_task_retries": 0}
        actor = self._ray.remote(**options)(_Worker).remote(self._params.model_dump_json(), str(self._weights), str(self._store.root), threads)
        self._ray.get(actor.process.remote(), timeout=_START_S)
        return actor


class _Worker:
    """Lives in a Ray process: parameters and weights by path, models loaded once. Imports neither Prefect nor MLflow."""

    def __init__(self, params: str, weights: str, store: str, threads: int):
        self._models, self._threads = Models(Params.model_validate_json(params), Path(weights)), threads
        self._store = Store(Path(store))

    def process(self) -> int:
        return os.getpid()

    def render(self, job: SegmentJob) -> SegmentDone:
        torch.set_num_threads(self._threads)
        return render_segment(job, lambda: self._models.renderer, self._store)


def open_pool(executor: str, models: Models, store: Store) -> Pool:
    """executor: "ray" or "inline"."""
    openers: dict[str, Callable[[], Pool]] = {
        "inline": lambda: LocalPool(models, store),
        "ray": lambda: RayPool(models.params, models.folder, store),
    }
    return openers[executor]()
