"""Segments: the pieces of a clip that workers render, and how they are put together again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from stereotalker.avatar.library import read_avatar
from stereotalker.diffusion.windows import Window
from stereotalker.errors import OutOfMemory, is_out_of_memory
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.frame_files import load_frames, save_frames
from stereotalker.production.manifest import Clip
from stereotalker.records import Motion, load
from stereotalker.render.renderer import Renderer
from stereotalker.store.keys import segment_key
from stereotalker.store.remote import AnyStore

Progress = Callable[[str, str, int, int], None]  # clip id, stage, units done, units in all
Render = Callable[[list["SegmentJob"], Progress], list["RenderedSegment"]]  # results in the order of the jobs

_FRAMES = "frames.npy.zst"  # the file of a segment in the store


class StaleEntry(OSError):
    """A store entry that was there is gone, or is not on this machine. The clip can be tried again."""


@dataclass(frozen=True)
class SegmentJob:
    """Everything a worker needs to render some frames of a clip.

    It is small because it is sent over the network: motion and avatar are named by their store keys.
    """

    clip: Clip
    motion: str  # store key
    avatar: str  # store key
    window: Window
    camera: CameraPath
    seed: int
    clip_render: str  # see store.keys.clip_render_key
    batch: int  # frames that the network sees at once; such runs lie on a fixed grid over the clip
    order: int = 0  # jobs with a lower number are rendered first
    anew: bool = False  # whether frames that an earlier run rendered are rendered again

    @property
    def key(self) -> str:
        return segment_key(self.clip_render, self.window.start, self.window.stop)

    @property
    def frames(self) -> int:
        return self.window.stop - self.window.start

    def halves(self) -> tuple[SegmentJob, SegmentJob] | None:
        """The same frames as two jobs, cut between two runs of `batch` frames. None if there is only one run."""
        start, stop = self.window.start, self.window.stop
        middle = round((start + stop) / 2 / self.batch) * self.batch
        if not start < middle < stop:
            return None
        return (
            replace(self, window=replace(self.window, stop=middle)),
            replace(self, window=replace(self.window, start=middle, overlap=0)),
        )


@dataclass(frozen=True)
class RenderedSegment:
    """Where the frames of a job are: store keys in the order of frames (several if the job was halved)."""

    keys: tuple[str, ...]
    frames: int
    seconds: float = 0.0  # of rendering; 0 if the frames were in the store


def stored_keys(job: SegmentJob, store: AnyStore) -> tuple[str, ...]:
    """Store keys of a job's frames in their order: its own, or those of its halves if it had to be cut."""
    halves = job.halves()
    if halves and store.has("cut", job.key) and not store.has("render", job.key):
        return tuple(key for half in halves for key in stored_keys(half, store))
    return (job.key,)


def render_segment(job: SegmentJob, renderer: Callable[[], Renderer], store: AnyStore) -> RenderedSegment:
    """Render a job's frames into the store, or find them there. This is what a worker does.

    `renderer` is a function because loading the models is only needed when the store has no answer. Raises OutOfMemory
    if the frames do not fit, StaleEntry if motion or avatar are not in the store.
    """
    if job.anew:
        store.discard("render", job.key)
    elif store.has("render", job.key):
        return RenderedSegment((job.key,), job.frames)
    started, clip = time.monotonic(), job.clip
    motion_entry, avatar_entry = store.find("motion", job.motion), store.find("avatar", job.avatar)
    if motion_entry is None or avatar_entry is None:
        missing = [stage for stage, entry in (("motion", motion_entry), ("avatar", avatar_entry)) if entry is None]
        raise StaleEntry(
            f"the worker does not find the clip's {' and '.join(missing)} in {store}; "
            "do all machines reach produce.store?"
        )
    motion = load(Motion, motion_entry / "motion.safetensors")
    avatar = read_avatar(avatar_entry / "avatar.safetensors")
    view = camera.avatar_camera(avatar, job.camera, len(motion.poses), clip.fps, (clip.height, clip.width))

    def write(folder: Path) -> None:
        views = camera.stereo_pair(view, clip.stereo.ipd_mm, avatar.target) if clip.stereo else (view,)
        eyes = [renderer().segment(avatar, motion, eye, job.window, job.seed, clip.has_alpha) for eye in views]
        frames = np.concatenate(eyes, 1 if clip.stereo and clip.stereo.layout == "over-under" else 2)
        save_frames(folder / _FRAMES, frames)

    try:
        store.make("render", job.key, write)
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"frames {job.window.start}-{job.window.stop}: {error}") from None
        raise
    return RenderedSegment((job.key,), job.frames, time.monotonic() - started)


def read_segment(folder: Path) -> np.ndarray:
    """Frames of a rendered segment, u8 [T, H, W, 3 or 4]."""
    return load_frames(folder / _FRAMES)


def assemble(
    parts: list[tuple[Window, tuple[str, ...]]], frames: int, read: Callable[[str], np.ndarray]
) -> Iterator[np.ndarray]:
    """Yield frames 0..frames-1 of a clip, chunk by chunk, u8 [T, H, W, 3 or 4].

    parts: a window of frames and the store keys that hold it. Where parts share frames, the later part wins: in
    this way a retake replaces frames of the clip.
    """
    owner = np.full(frames, -1)
    for index, (window, _) in enumerate(parts):
        owner[window.start : window.stop] = index
    borders = [0, *(np.flatnonzero(np.diff(owner)) + 1), frames]
    for start, stop in pairwise(borders):
        window, keys = parts[owner[start]]
        first = window.start  # frame number of the chunk's first frame
        for key in keys:
            chunk = read(key)
            low, high = max(start - first, 0), min(stop - first, len(chunk))
            if low < high:
                yield chunk[low:high]
            first += len(chunk)
