"""The pool of render workers: slots, each with room for one worker, that take segments from one queue.

Also decides what happens when a worker dies or runs out of memory.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import Empty, PriorityQueue
from typing import Protocol

import torch

from stereotalker.errors import BatchStopped, ClipError, OutOfMemory, UserError, WorkerLost, shared_fault
from stereotalker.models import Models
from stereotalker.params import WorkerParams
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.segments import Progress, RenderedSegment, SegmentJob, render_segment
from stereotalker.store.remote import AnyStore

_MAX_BACKOFF_S = 60.0  # seconds, before jitter
_MAX_FAILURES_ELSEWHERE = 3  # jobs that failed on a slot and succeeded elsewhere, after which it is excluded
_POLL_S = 0.2  # seconds that a slot waits before it looks again for a job that it may take


class Slot(Protocol):
    """Room for one worker. It is used by one thread."""

    def prepare(self) -> None:
        """Start the worker, if that takes time. Raises nothing."""

    def run(self, job: SegmentJob) -> RenderedSegment:
        """Render a job. Raises WorkerLost, OutOfMemory, or the error of the job itself."""

    def rest(self) -> None:
        """Release memory and other resources, because there is no work."""


class LocalSlot:
    """Renders in this process, for --executor inline, tests and debugging."""

    def __init__(self, models: Models, store: AnyStore):
        self._models, self._store = models, store

    def prepare(self) -> None:
        pass

    def run(self, job: SegmentJob) -> RenderedSegment:
        torch.set_num_threads(self._models.params.produce.worker.threads)
        return render_segment(job, lambda: self._models.renderer, self._store)

    def rest(self) -> None:
        pass


@dataclass(order=True)
class _Work:
    """A job in the queue. It is sorted by the order of its clip, then by when it came."""

    order: int
    sequence: int
    job: SegmentJob | None = field(compare=False)  # None wakes a thread that waits for work
    future: Future = field(compare=False, default_factory=Future)
    failed_slot: int | None = field(compare=False, default=None)  # where the first try met an unexpected error


class _TryElsewhere(Exception):
    """A job met an unexpected error, or took too long. Another worker should try it once."""


class Pool:
    """One thread for each slot, started when there is work for it.

    Jobs wait in this queue, in the order of their clips, and not in Ray's.
    """

    def __init__(self, slots: Sequence[Slot], rules: WorkerParams, admission: AdmissionControl, store: AnyStore):
        self._slots, self._rules, self._admission, self._store = list(slots), rules, admission, store
        self.workers = len(slots)
        self._queue: PriorityQueue[_Work] = PriorityQueue()
        self._sequence, self._lock = count(), threading.Lock()
        self._idle, self._closing = 0, False  # _idle: threads that wait for a job
        self._threads: list[threading.Thread] = []
        self._failures_elsewhere = [0] * len(slots)  # by slot: jobs that failed there and succeeded elsewhere

    def prepare(self, count: int) -> None:
        """Start workers until there are `count`, or all, while the audio and motion of the first clips are made."""
        with self._lock:
            while len(self._threads) < min(count, len(self._slots)):
                self._start_thread()

    def render(self, jobs: list[SegmentJob], progress: Progress) -> list[RenderedSegment]:
        """Render all segments of a clip, and return them in the order of `jobs`.

        If one of them fails, those that still wait are cancelled, and its error is raised.
        """
        ready, lock = 0, threading.Lock()  # ready: frames
        total = sum(job.window.stop - job.window.start for job in jobs)

        def report(future: Future) -> None:
            nonlocal ready
            if not future.cancelled() and future.exception() is None:
                with lock:
                    ready += future.result().frames
                    progress(jobs[0].clip.id, "render", ready, total)

        futures = [self._submit(job, report) for job in jobs]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Begin no more jobs, and wait for those that run."""
        self._closing = True
        for _ in self._threads:
            self._queue.put(_Work(sys.maxsize, next(self._sequence), None))
        for thread in self._threads:
            thread.join()

    def _submit(self, job: SegmentJob, report: Callable[[Future], None]) -> Future:
        """Queue a job, and start another thread if none waits for it and a slot has no thread yet."""
        work = _Work(job.order, next(self._sequence), job)
        work.future.add_done_callback(report)
        self._enqueue(work)
        return work.future

    def _enqueue(self, work: _Work) -> None:
        self._queue.put(work)
        with self._lock:
            if self._queue.qsize() > self._idle and len(self._threads) < len(self._slots):
                self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, args=(len(self._threads),), daemon=True)
        self._threads.append(thread)
        self._idle += 1  # so that no other thread is started for the job that this one will take
        thread.start()

    def _serve(self, index: int) -> None:
        """Loop of a slot's thread: start the worker, then take the next job, wait until it may begin, render it.

        If no job comes for `idle` seconds, the slot releases its worker. A slot on which jobs failed that succeeded
        elsewhere takes no more jobs.
        """
        slot, is_resting = self._slots[index], False
        slot.prepare()
        with self._lock:
            self._idle -= 1
        while not self._closing and not self._is_excluded(index):
            with self._lock:
                self._idle += 1
            try:
                work = self._next(index, min(self._rules.idle, 1.0) if is_resting else self._rules.idle)
            except Empty:
                if not is_resting:
                    slot.rest()
                is_resting = True
                continue
            finally:
                with self._lock:
                    self._idle -= 1
            if work is None or work.job is None or work.future.done():
                continue
            is_resting = False
            self._work_on(work, work.job, index)
        slot.rest()

    def _next(self, index: int, timeout: float) -> _Work | None:
        """The next work for a slot. A job that failed there is left to another slot; then None, if it is all there is.

        Raises queue.Empty after `timeout` seconds without work.
        """
        found: _Work | None = self._queue.get(timeout=timeout)
        left: list[_Work] = []
        while found is not None and found.failed_slot == index and self._has_other_slots(index):
            left.append(found)
            try:
                found = self._queue.get_nowait()
            except Empty:
                found = None
        for work in left:
            self._enqueue(work)
        if found is None:
            time.sleep(_POLL_S)
        return found

    def _work_on(self, work: _Work, job: SegmentJob, index: int) -> None:
        """Render a job on a slot, and give its future the result or the error, or queue it for another slot."""
        if not work.future.running() and not work.future.set_running_or_notify_cancel():
            return
        try:
            self._admission.wait()
            done = self._attempt(job, self._slots[index], may_try_elsewhere=work.failed_slot is None)
        except _TryElsewhere as error:
            work.failed_slot = index
            self._admission.say(f"{job.clip.id}: {error}; another worker tries it once")
            self._enqueue(work)
        except BaseException as error:
            work.future.set_exception(error)
        else:
            if work.failed_slot not in (None, index):
                self._count_failure(work.failed_slot)
            work.future.set_result(done)

    def _is_excluded(self, index: int) -> bool:
        return self._failures_elsewhere[index] >= _MAX_FAILURES_ELSEWHERE

    def _has_other_slots(self, index: int) -> bool:
        return any(not self._is_excluded(other) for other in range(len(self._slots)) if other != index)

    def _count_failure(self, index: int) -> None:
        """Count a job that failed on a slot and succeeded elsewhere. The last slot is never excluded."""
        with self._lock:
            if self._is_excluded(index) or not self._has_other_slots(index):
                return
            self._failures_elsewhere[index] += 1
            is_excluded = self._is_excluded(index)
        if is_excluded:
            self._admission.say(
                f"worker {index + 1} gets no more work: {_MAX_FAILURES_ELSEWHERE} segments failed there and succeeded "
                "elsewhere"
            )

    def _attempt(self, job: SegmentJob, slot: Slot, may_try_elsewhere: bool) -> RenderedSegment:
        """Render one segment. It is tried again after a lost worker, and in halves if it may need too much memory.

        Memory is the suspected cause if it ran out, or if two workers died. After an error that nobody expects, such as
        a broken GPU's, the worker is ended, because it may fail from then on. Raises _TryElsewhere in that case, and
        after a time-out, if allowed; else the error. Raises ClipError or WorkerLost if the limits in `produce.worker`
        are reached.
        """
        deaths = losses = 0
        todo, done = [job], []
        while todo:
            part = todo.pop(0)
            halves, where = part.halves(), f"frames {part.window.start}-{part.window.stop}"
            if halves and self._store.has("cut", part.key) and not self._store.has("render", part.key):
                todo[:0] = halves  # an earlier run had to render it in halves
                continue
            try:
                done.append(self._timed(part, slot))
            except OutOfMemory as error:
                if not halves:
                    raise ClipError(
                        f"{where} do not fit into memory ({error}); render fewer pixels, or with fewer workers"
                    ) from None
                todo[:0] = self._cut(part, halves)
            except WorkerLost as error:
                deaths, losses = deaths + (not error.node_was_lost), losses + error.node_was_lost
                if deaths >= self._rules.deaths:
                    raise ClipError(
                        f"{where}: {deaths} workers died on them, one after the other ({error}); "
                        "is there enough memory?"
                    ) from None
                if losses > self._rules.lost_nodes:
                    raise WorkerLost(
                        f"{where}: no worker stayed long enough, {losses} times ({error})", node_was_lost=True
                    ) from None
                self._back_off(deaths + losses)
                may_be_memory = deaths >= 2 and not error.node_was_lost
                todo[:0] = self._cut(part, halves) if halves and may_be_memory else (part,)
            except TimeoutError as error:
                slot.rest()
                raise (_TryElsewhere(str(error)) if may_try_elsewhere else ClipError(str(error))) from error
            except Exception as error:
                if isinstance(error, UserError | OSError | BatchStopped) or shared_fault(error):
                    raise  # the job's own fault, or that of a disk: another worker would meet it, too
                slot.rest()
                if may_try_elsewhere:
                    raise _TryElsewhere(f"{type(error).__name__} on {where}: {error}") from error
                raise
        return RenderedSegment(
            tuple(key for part in done for key in part.keys),
            sum(part.frames for part in done),
            sum(part.seconds for part in done),
        )

    def _timed(self, job: SegmentJob, slot: Slot) -> RenderedSegment:
        """Render a job, and add the worker's time to the budget as useful or lost."""
        started, done = time.monotonic(), None
        try:
            done = slot.run(job)
            return done
        finally:
            self._admission.spend(time.monotonic() - started, lost=done is None)

    def _cut(self, job: SegmentJob, halves: tuple[SegmentJob, SegmentJob]) -> tuple[SegmentJob, SegmentJob]:
        """Record in the store that this segment is rendered in halves, so that the next run does not try it whole."""

        def write(folder: Path) -> None:
            (folder / "cut.txt").write_text(str(halves[1].window.start), encoding="utf-8")

        self._store.make("cut", job.key, write)
        return halves

    def _back_off(self, tries: int) -> None:
        """Wait before the next try, longer after each, with jitter. Raise BatchStopped if the batch stops meanwhile."""
        pause = min(self._rules.backoff * 2 ** (tries - 1), _MAX_BACKOFF_S) * random.uniform(0.5, 1.0)
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0:
            if self._closing or self._admission.stopped:
                raise BatchStopped(self._admission.stopped or "the batch ends")
            time.sleep(min(left, 0.2))
