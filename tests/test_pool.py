"""The pool when workers die, memory runs out or admission control stops the batch.

Segments are really rendered, in this process.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from batch_helpers import SMALL, SMALL_AVATAR, one_thread

from stereotalker.avatar.library import Library
from stereotalker.diffusion.windows import Window
from stereotalker.errors import BatchStopped, ClipError, WorkerLost, is_out_of_memory
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.video_files import frame_count
from stereotalker.models import Models
from stereotalker.motion.synthesize import Synthesizer
from stereotalker.production import clip_stages
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.clip import make_clip
from stereotalker.production.clip_stages import ClipMaker, StageTimings
from stereotalker.production.manifest import Clip, Retake
from stereotalker.production.segments import SegmentJob, assemble, read_segment, render_segment
from stereotalker.store.local import Store
from stereotalker.tasks.pool import LocalSlot, Pool

pytestmark = pytest.mark.integration


@pytest.fixture
def models(tiny_models) -> Models:
    return Models(one_thread(tiny_models.params), tiny_models.folder)


class CountingSlot(LocalSlot):
    """A slot that notes what it was asked for."""

    def __init__(self, models, store):
        super().__init__(models, store)
        self.calls = []

    def prepare(self):
        self.calls.append("prepare")

    def run(self, job):
        self.calls.append("run")
        return super().run(job)

    def rest(self):
        self.calls.append("rest")


class ClipJobs(NamedTuple):
    """What makes a clip, the jobs of its segments, and the store that the segments are kept in."""

    maker: ClipMaker
    jobs: list[SegmentJob]
    store: Store


def clip_of(script) -> Clip:
    return Clip(id="a", avatar=SMALL_AVATAR, script=script, **SMALL)


def motion_of(maker, script) -> tuple[str, int]:
    """Key and frames of the motion of a script."""
    clip, timings = clip_of(script), StageTimings()
    sound = maker.sound(clip, timings)
    [performer] = maker.performers(clip, [maker.avatar(clip)], sound, timings)
    return performer.motion_key, frame_count(sound.seconds, clip.fps)


def make_jobs(models, store, home, script) -> ClipJobs:
    maker = ClipMaker(models, store, library=Library(home.avatars))
    avatar_key, _ = maker.avatar(clip_of(script))
    return ClipJobs(maker, maker.segments(clip_of(script), avatar_key, *motion_of(maker, script)), store)


@pytest.fixture
def clip_jobs(models, tmp_path, home) -> ClipJobs:
    made = make_jobs(models, Store(tmp_path / "store"), home, "one two three")
    assert len(made.jobs) > 1
    return made


def test_clips_prepared_at_once_get_the_motion_that_each_gets_alone(models, tmp_path, home, monkeypatch):
    scripts = ("one two three", "four five six")
    alone = [make_jobs(models, Store(tmp_path / "alone"), home, script).jobs[0].motion for script in scripts]
    # Each motion waits until the other has begun, too.
    both, motion = threading.Barrier(2, timeout=60), Synthesizer.motion

    def motion_beside_another(*arguments):
        both.wait()
        return motion(*arguments)

    monkeypatch.setattr(clip_stages, "usable_cores", lambda: 2)
    monkeypatch.setattr(Synthesizer, "motion", motion_beside_another)
    maker = ClipMaker(models, Store(tmp_path / "together"), library=Library(home.avatars))
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda script: motion_of(maker, script)[0], scripts))
    assert together == alone
    for key in alone:
        files = [tmp_path / place / "motion" / key / "motion.safetensors" for place in ("alone", "together")]
        assert files[0].read_bytes() == files[1].read_bytes()


def pool_of(slots, models, store, admission=None, **rules):
    worker = models.params.produce.worker.model_copy(update=rules)
    return Pool(slots, worker, admission or AdmissionControl(), store)


def frames_of(done, store):
    return np.concatenate([read_segment(store.find("render", key)) for part in done for key in part.keys])


def no_progress(*_):
    pass


class LittleMemorySlot(LocalSlot):
    """A slot with memory for a few frames only. For more, the allocator itself raises its error."""

    most_frames = 2

    def run(self, job):
        def renderer():
            if job.window.stop - job.window.start > self.most_frames:
                torch.empty(2**60)
            return self._models.renderer

        return render_segment(job, renderer, self._store)


class DyingSlot(LocalSlot):
    """A slot that loses its worker in its first `deaths` jobs. asked: the frames of every job it was given."""

    def __init__(self, models, store, deaths, node_was_lost=False):
        super().__init__(models, store)
        self.deaths, self.node_was_lost, self.asked, self.rests = deaths, node_was_lost, [], 0

    def run(self, job):
        self.asked.append(job.window.stop - job.window.start)
        if len(self.asked) <= self.deaths:
            raise WorkerLost("killed", self.node_was_lost)
        return super().run(job)

    def rest(self):
        self.rests += 1


def test_out_of_memory_halves_the_segment_and_changes_no_byte(clip_jobs, models, tmp_path):
    _, jobs, store = clip_jobs
    halved = pool_of([LittleMemorySlot(models, store)], models, store).render(jobs, no_progress)
    assert len(halved[0].keys) == 4  # 8 frames in pieces of 2, which are whole network batches
    for key in (job.key for job in jobs[:1]):
        assert store.find("render", key) is None
    pieces = frames_of(halved, store)
    again = pool_of([LocalSlot(models, store)], models, store).render(jobs, no_progress)
    # A segment that was halved before is not rendered whole again.
    assert again[0].keys == halved[0].keys and again[0].seconds == 0
    for entry in [*store.root.glob("render/*"), *store.root.glob("cut/*")]:
        entry.rename(tmp_path / entry.name)
    whole = pool_of([LocalSlot(models, store)], models, store).render(jobs, no_progress)
    assert len(whole[0].keys) == 1 and np.array_equal(frames_of(whole, store), pieces)


def test_frames_that_do_not_fit_into_memory_fail_the_clip(clip_jobs, models):
    class NoMemorySlot(LittleMemorySlot):
        most_frames = 0

    with pytest.raises(ClipError, match="frames 0-2 do not fit into memory"):
        pool_of([NoMemorySlot(models, clip_jobs.store)], models, clip_jobs.store).render(clip_jobs.jobs, no_progress)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shape"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_errors_are_recognized(error, is_memory):
    assert is_out_of_memory(error) is is_memory


def test_a_segment_is_made_after_its_workers_died(clip_jobs, models):
    _, jobs, store = clip_jobs
    slot, admission = DyingSlot(models, store, 3), AdmissionControl()
    done = pool_of([slot], models, store, admission).render(jobs[:1], no_progress)
    assert done[0].frames == 8 and slot.asked[:4] == [8, 8, 4, 2]  # Twice the whole segment, then ever smaller pieces.
    assert admission.spent.lost > 0 and admission.spent.useful > 0


def test_a_segment_that_kills_every_worker_fails_the_clip(clip_jobs, models):
    slot = DyingSlot(models, clip_jobs.store, 99)
    with pytest.raises(ClipError, match="4 workers died on them"):
        pool_of([slot], models, clip_jobs.store).render(clip_jobs.jobs[:1], no_progress)
    assert len(slot.asked) == 4


def test_lost_nodes_are_retried_until_their_limit(clip_jobs, models):
    _, jobs, store = clip_jobs
    slot = DyingSlot(models, store, 6, node_was_lost=True)
    assert (
        pool_of([slot], models, store, backoff=0.01).render(jobs[:1], no_progress)[0].frames == 8
        and slot.asked == [8] * 7
    )
    with pytest.raises(WorkerLost, match="no worker stayed"):
        pool_of([DyingSlot(models, store, 99, True)], models, store, backoff=0.001, lost_nodes=3).render(
            jobs[1:], no_progress
        )


def test_slots_start_with_work_and_rest_when_idle(clip_jobs, models):
    _, jobs, store = clip_jobs
    slots = [DyingSlot(models, store, 0) for _ in range(3)]
    pool = pool_of(slots, models, store, idle=0.2)
    pool.render(jobs[:1], no_progress)
    assert [bool(slot.asked) for slot in slots] == [True, False, False]
    deadline = time.monotonic() + 10
    while not slots[0].rests and time.monotonic() < deadline:
        time.sleep(0.05)
    assert slots[0].rests == 1
    pool.close()


def test_segments_are_rendered_in_the_order_of_their_clips(clip_jobs, models):
    maker, jobs, store = clip_jobs
    order, start = [], threading.Event()

    class RecordingSlot(LocalSlot):
        def run(self, job):
            start.wait(10)
            order.append((job.order, job.window.index))
            return super().run(job)

    pool = pool_of([RecordingSlot(models, store)], models, store)
    clip = jobs[0].clip
    later = maker.segments(clip, jobs[0].avatar, jobs[0].motion, jobs[-1].window.stop, order=2)
    sooner = maker.segments(clip, jobs[0].avatar, jobs[0].motion, jobs[-1].window.stop, order=1)
    threads = [threading.Thread(target=pool.render, args=(part, no_progress)) for part in (later, sooner)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    start.set()
    for thread in threads:
        thread.join()
    # The first segment of all had been taken before the others came.
    assert order[1 : 1 + len(sooner)] == [(1, k) for k in range(len(sooner))]


def test_a_stopped_batch_renders_no_waiting_segments(clip_jobs, models):
    _, jobs, store = clip_jobs
    admission = AdmissionControl()

    class StoppingSlot(LocalSlot):
        def run(self, job):
            admission.stop("enough")
            return super().run(job)

    with pytest.raises(BatchStopped, match="enough"):
        pool_of([StoppingSlot(models, store)], models, store, admission).render(jobs, no_progress)
    # The running segment was finished.
    assert store.find("render", jobs[0].key) and not store.find("render", jobs[1].key)


def test_a_retake_changes_only_its_own_frames(clip_jobs, models, tmp_path):
    maker, jobs, store = clip_jobs
    pool = pool_of([LocalSlot(models, store)], models, store)
    clip = jobs[0].clip
    before = make_clip(clip, maker, pool.render, no_progress, StageTimings())
    timings = StageTimings()
    retake = clip.model_copy(update={"retakes": (Retake(start=0.4, end=0.8, seed=9, camera=CameraPath(azimuth=20)),)})
    after = make_clip(retake, maker, pool.render, no_progress, timings)
    assert timings.made == ["render", "video", "quality"]  # Speech, motion and the rest were in the store.

    def frames(clip):
        segments = maker.segments(clip, jobs[0].avatar, jobs[0].motion, before.frames)
        done = pool.render(segments, no_progress)
        return np.concatenate(
            list(
                assemble(
                    [(j.window, d.keys) for j, d in zip(segments, done, strict=True)],
                    before.frames,
                    lambda k: read_segment(store.find("render", k)),
                )
            )
        )

    differs = (frames(clip) != frames(retake)).any((1, 2, 3))
    assert differs[5:10].all() and not differs[:5].any() and not differs[10:].any() and before.frames == after.frames
    late = clip.model_copy(update={"retakes": (Retake(start=50, end=60, seed=1),)})
    with pytest.raises(ClipError, match="retake starts at 50 s"):
        make_clip(late, maker, pool.render, no_progress, StageTimings())


def test_later_parts_replace_earlier_ones():
    def read(key):
        first, count = map(int, key.split("+"))
        return np.arange(first, first + count)

    parts = [(Window(0, 0, 6, 0), ("0+4", "4+2")), (Window(1, 6, 9, 0), ("6+3",)), (Window(0, 2, 7, 0), ("102+5",))]
    assert np.concatenate(list(assemble(parts, 9, read))).tolist() == [0, 1, 102, 103, 104, 105, 106, 7, 8]


def test_halves_are_cut_at_whole_network_batches(clip_jobs):
    job = clip_jobs.jobs[0]
    first, second = job.halves()
    assert (first.window.start, first.window.stop, second.window.stop) == (
        0,
        4,
        8,
    ) and first.key != second.key != job.key
    assert [h.window.stop - h.window.start for h in first.halves()] == [2, 2] and first.halves()[0].halves() is None
    off_grid = replace(job, window=Window(0, 3, 8, 0)).halves()
    assert [(h.window.start, h.window.stop) for h in off_grid] == [(3, 6), (6, 8)]


class BrokenSlot(LocalSlot):
    """A slot whose worker, once broken, fails every job until it is ended, as after an error of CUDA.

    mends: whether a new worker works again.
    """

    def __init__(self, models, store, mends=True, error=RuntimeError("CUDA error: an illegal memory access")):
        super().__init__(models, store)
        self.mends, self.error, self.is_broken, self.jobs, self.rests = mends, error, True, 0, 0

    def run(self, job):
        self.jobs += 1
        if self.is_broken:
            raise self.error
        return super().run(job)

    def rest(self):
        self.rests += 1
        self.is_broken = self.is_broken and not self.mends


class TwoArguments(Exception):
    """An exception that cannot be made again from its text alone."""

    def __init__(self, code, text):
        super().__init__(code, text)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), TwoArguments(7, "lost"), TimeoutError("took too long")])
def test_a_broken_worker_is_ended_and_its_job_tried_once_more(clip_jobs, models, error):
    slot = BrokenSlot(models, clip_jobs.store, error=error)
    done = pool_of([slot], models, clip_jobs.store).render(clip_jobs.jobs, no_progress)
    assert len(done) == len(clip_jobs.jobs) and slot.rests >= 1 and slot.jobs == len(clip_jobs.jobs) + 1


@pytest.mark.parametrize(
    ("error", "raised"), [(RuntimeError("CUDA error"), RuntimeError), (TimeoutError("x"), ClipError)]
)
def test_a_job_that_fails_on_two_workers_fails_its_clip(clip_jobs, models, error, raised):
    slots = [BrokenSlot(models, clip_jobs.store, False, error) for _ in range(2)]
    pool = pool_of(slots, models, clip_jobs.store)
    with pytest.raises(raised, match=str(error)):
        pool.render(clip_jobs.jobs[:1], no_progress)
    assert [slot.jobs for slot in slots] in ([1, 1], [2, 0], [0, 2]) and pool._failures_elsewhere == [0, 0]


def test_a_slot_whose_jobs_succeed_elsewhere_is_left_out_and_told(models, tmp_path, home):
    messages, admission = [], AdmissionControl(say=lambda text: messages.append(text))
    script = "one two three four five six seven eight nine ten eleven"
    _, jobs, store = make_jobs(models, Store(tmp_path / "store"), home, script)
    assert len(jobs) >= 5
    broken = BrokenSlot(models, store, mends=False)

    class PatientSlot(LocalSlot):
        """It works only when the other slot has nothing more to do, or has given a job away."""

        def run(self, job):
            deadline = time.monotonic() + 30
            while broken.jobs < 3 and time.monotonic() < deadline:
                time.sleep(0.05)
            return super().run(job)

    pool = pool_of([broken, PatientSlot(models, store)], models, store, admission)
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(pool.render, jobs, no_progress).result(120)
    assert len(done) == len(jobs) and all(store.has("render", job.key) for job in jobs)
    assert pool._failures_elsewhere == [3, 0] and any("worker 1 gets no more work" in text for text in messages)
    assert any("another worker tries it once" in text for text in messages)


def test_the_last_slot_is_never_excluded(models, tmp_path):
    pool = pool_of([LocalSlot(models, None)] * 2, models, Store(tmp_path))
    for _ in range(5):
        for index in (0, 1):
            pool._count_failure(index)
    assert [pool._is_excluded(index) for index in (0, 1)] == [True, False]


def test_the_jobs_own_fault_ends_no_worker(clip_jobs, models):
    slot = BrokenSlot(models, clip_jobs.store, error=ClipError("its own fault"))
    with pytest.raises(ClipError, match="its own fault"):
        pool_of([slot], models, clip_jobs.store).render(clip_jobs.jobs[:1], no_progress)
    assert slot.jobs == 1 and slot.rests == 0


def test_workers_start_before_there_is_work_but_no_more_than_are_needed(models, clip_jobs):
    slots = [CountingSlot(models, clip_jobs.store) for _ in range(3)]
    pool = pool_of(slots, models, clip_jobs.store)
    pool.prepare(1)
    pool.prepare(1)
    pool.render(clip_jobs.jobs[:1], no_progress)
    pool.close()
    assert slots[0].calls == ["prepare", "run", "rest"]
    assert slots[1].calls == slots[2].calls == []


def test_a_worker_that_was_prepared_in_vain_ends_with_the_batch(models, clip_jobs):
    slots = [CountingSlot(models, clip_jobs.store) for _ in range(2)]
    pool = pool_of(slots, models, clip_jobs.store)
    pool.prepare(9)
    pool.close()
    assert [slot.calls for slot in slots] == [["prepare", "rest"]] * 2
