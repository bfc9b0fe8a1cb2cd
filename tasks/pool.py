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
from itertools import count
from pathlib import Path
from queue import Empty, PriorityQueue
from typing import Protocol

import torch

from stereotalker.errors import BatchStopped, ClipError, OutOfMemory, WorkerLost
from stereotalker.models import Models
from stereotalker.params import WorkerParams
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.segments import Progress, RenderedSegment, SegmentJob, render_segment
from stereotalker.store.remote import AnyStore

_MAX_BACKOFF_S = 60.0  # seconds, before jitter


class Slot(Protocol):
    """Room for one worker. It is used by one thread."""

    def run(self, job: SegmentJob) -> RenderedSegment:
        """Render a job. Raises WorkerLost, OutOfMemory, or the error of the job itself."""

    def rest(self) -> None:
        """Release memory and other resources, because there is no work."""


class LocalSlot:
    """Renders in this process, for --executor inline, tests and debugging."""

    def __init__(self, models: Models, store: AnyStore):
        self._models, self._store = models, store

    def run(self, job: SegmentJob) -> RenderedSegment:
        torch.set_num_threads(self._models.params.produce.worker.threads)
        return render_segment(job, lambda: self._models.renderer, self._store)

    def rest(self) -> None:
        pass


class Pool:
    """One thread for each slot, started when there is work for it.

    Jobs wait in this queue, in the order of their clips, and not in Ray's.
    """

    def __init__(self, slots: Sequence[Slot], rules: WorkerParams, admission: AdmissionControl, store: AnyStore):
        self._slots, self._rules, self._admission, self._store = list(slots), rules, admission, store
        self.workers = len(slots)
        self._queue: PriorityQueue[tuple[int, int, SegmentJob | None, Future]] = PriorityQueue()
        self._sequence, self._lock = count(), threading.Lock()
        self._idle, self._closing = 0, False  # _idle: threads that wait for a job
        self._threads: list[threading.Thread] = []

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
            self._queue.put((sys.maxsize, next(self._sequence), None, Future()))  # wakes a thread that waits for work
        for thread in self._threads:
            thread.join()

    def _submit(self, job: SegmentJob, report: Callable[[Future], None]) -> Future:
        """Queue a job, and start another thread if none waits for it and a slot has no thread yet."""
        future: Future = Future()
        future.add_done_callback(report)
        self._queue.put((job.order, next(self._sequence), job, future))
        with self._lock:
            if self._queue.qsize() > self._idle and len(self._threads) < len(self._slots):
                thread = threading.Thread(target=self._serve, args=(self._slots[len(self._threads)],), daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def _serve(self, slot: Slot) -> None:
        """Loop of a slot's thread: take the next job, wait until it may begin, render it.

        If no job comes for `idle` seconds, the slot releases its worker.
        """
        is_resting = False
        while not self._closing:
            with self._lock:
                self._idle += 1
            try:
                timeout = min(self._rules.idle, 1.0) if is_resting else self._rules.idle
                _, _, job, future = self._queue.get(timeout=timeout)
            except Empty:
                if not is_resting:
                    slot.rest()
                is_resting = True
                continue
            finally:
                with self._lock:
                    self._idle -= 1
            is_resting = False
            if job is None or not future.set_running_or_notify_cancel():
                continue
            try:
                self._admission.wait()
                future.set_result(self._attempt(job, slot))
            except BaseException as error:
                future.set_exception(error)
        slot.rest()

    def _attempt(self, job: SegmentJob, slot: Slot) -> RenderedSegment:
        """Render one segment. It is tried again after a lost worker, and in halves if it may need too much memory.

        Memory is the suspected cause if it ran out, or if two workers died. Raises ClipError or WorkerLost if the
        limits in `produce.worker` are reached.
        """
        deaths = losses = 0
        todo, done = [job], []
        while todo:
            part = todo.pop(0)
            halves, where = part.halves(), f"frames {part.window.start}-{part.window.stop}"
            if halves and self._store.find("cut", part.key) and self._store.find("render", part.key) is None:
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
            (folder / "cut.txt").write_text(str(halves[1].window.start))

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
