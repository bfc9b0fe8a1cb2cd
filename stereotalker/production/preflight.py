"""Pre-flight: everything that can be known before any compute. The room's own faults end the batch, a clip's own are its row."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import psutil

from stereotalker.audio.speech import LETTERLESS, check_alignable
from stereotalker.avatar.fit_portrait import SMALLEST_PX
from stereotalker.avatar.library import Library
from stereotalker.avatar.mediapipe_detector import check_usable
from stereotalker.errors import ClipError, UserError
from stereotalker.media import audio_files
from stereotalker.media.content_credentials import open_signer
from stereotalker.media.photos import check_photo, is_picture
from stereotalker.media.video_files import frame_count, write_video
from stereotalker.models import Models
from stereotalker.params import Params, VideoParams
from stereotalker.production.admission import next_window
from stereotalker.production.avatars import detector_folder
from stereotalker.production.manifest import Clip, Manifest, due
from stereotalker.production.motion_controls import clip_motion_controls
from stereotalker.production.outputs import Outputs
from stereotalker.production.pace_history import History
from stereotalker.production.report import duration
from stereotalker.runtime.home import Home
from stereotalker.store.urls import is_url

# Measured on the shipped models: 1.53 bytes of stored segment and 0.05 of video (kept three times) for a pixel of a frame; a worker's
# peak is 1.03 GB at 256 x 256 and 1.44 GB at 512 x 512; a driver that also renders peaks at 1.9 GB, so one that does not stays below.
_DISK_PER_PIXEL = 1.7
_WORKER_BYTES, _WORKER_BYTES_PER_PIXEL = 0.9e9, 2100
_DRIVER_BYTES = 1.9e9
_READERS = 8


@dataclass(frozen=True)
class ClipPlan:
    row: int
    clip: Clip
    frames: int  # estimated for a script; 0 with a fault
    worker_seconds: float | None  # None: nothing to estimate from
    fault: str = ""  # why it cannot be made, in the words of its row


@dataclass(frozen=True)
class Plan:
    """What a batch is about to do, clips in the order they will be made."""

    clips: tuple[ClipPlan, ...]
    begins: datetime
    workers: int
    threads: int  # of every worker
    disk_bytes: float
    memory_bytes: float
    local: bool  # workers are on this machine
    free_bytes: float = math.inf  # where the store lies

    @property
    def faults(self) -> list[ClipPlan]:
        return [planned for planned in self.clips if planned.fault]

    @property
    def wall_seconds(self) -> float | None:
        known = [planned.worker_seconds for planned in self.clips if not planned.fault]
        return None if None in known else sum(known) / self.workers

    @property
    def warnings(self) -> list[str]:
        """What may go wrong and is no reason not to begin."""
        found, elapsed = [], 0.0
        for planned in self.clips:
            elapsed += (planned.worker_seconds or 0.0) / self.workers
            deadline = due(planned.clip, self.begins)
            if deadline and self.begins + timedelta(seconds=elapsed) > deadline:
                found.append(f"{planned.clip.id} will miss its deadline {deadline:%Y-%m-%d %H:%M} by the estimate")
        if self.disk_bytes > self.free_bytes:
            found.append(
                f"the whole batch needs about {self.disk_bytes / 1e6:.0f} MB, {self.free_bytes / 1e6:.0f} MB are free: it will stop when the disk is full; make room, or set produce.store"
            )
        total = psutil.virtual_memory().total
        if self.local and self.memory_bytes > total:
            found.append(
                f"{self.workers} workers need about {self.memory_bytes / 1e9:.1f} GB of memory, the machine has {total / 1e9:.1f}; segments may have to be halved"
            )
        return found

    def text(self) -> str:
        """For a person, a line a clip and a summary."""
        width = max(len(planned.clip.id) for planned in self.clips)
        lines = [
            f"{planned.row:5} {planned.clip.id:{width}} "
            + (
                f"FAULT {planned.fault}"
                if planned.fault
                else f"{planned.frames / planned.clip.fps:7.1f} s {planned.clip.width} x {planned.clip.height}, {_hours(planned.worker_seconds)}"
            )
            for planned in self.clips
        ]
        good = [planned for planned in self.clips if not planned.fault]
        seconds = sum(planned.frames / planned.clip.fps for planned in good)
        lines.append(
            f"{len(good)} of {len(self.clips)} clips can be made: {seconds / 60:.1f} min of video, about {self.disk_bytes / 1e9:.2f} GB of disk, {self.memory_bytes / 1e9:.1f} GB of memory"
        )
        took = _hours(self.wall_seconds) + (
            f" with {self.workers} workers of {self.threads} threads"
            if self.wall_seconds is not None
            else ": no clip was made here yet"
        )
        lines.append(f"begins {self.begins:%Y-%m-%d %H:%M}, takes {took}")
        return "\n".join(lines + [f"note: {warning}" for warning in self.warnings])


def prepare(manifest: Manifest, outputs: Outputs, models: Models, home: Home) -> Plan:
    """The whole pre-flight. Raises UserError, with every fault, when the batch cannot start."""
    params = models.params
    store = params.produce.store or str(home.store)
    looks = (
        lambda: models.digests, lambda: _encode(params.video), lambda: outputs.check("--out"), lambda: Outputs(store).check("produce.store"),
        lambda: open_signer(params.provenance, home.credentials),
    )  # fmt: skip
    faults: list[str] = []
    for look in looks:
        try:
            look()
        except (UserError, OSError) as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    made = plan(manifest, params, Library(home.avatars), History(home.history), datetime.now())
    return made if is_url(store) else replace(made, free_bytes=shutil.disk_usage(store).free)


def plan(manifest: Manifest, params: Params, library: Library, history: History, now: datetime) -> Plan:
    """Look at every clip: files readable, durations, avatars, estimates. Reads headers only, several files at once."""
    begins, _ = next_window(now, params.produce.window)
    threads = params.produce.worker.threads
    speed = history.speed(threads)

    def look(item: tuple[int, Clip]) -> ClipPlan:
        row, clip = item
        try:
            _check_avatar(clip, library, params, now)
            _check_background(clip.background)
            frames = frame_count(_seconds(clip), clip.fps)
            clip_motion_controls(clip, 0, 1)
        except ClipError as error:
            return ClipPlan(row, clip, 0, None, str(error))
        return ClipPlan(row, clip, frames, speed.worker_seconds(clip.pixels, frames) if speed else None)

    with ThreadPoolExecutor(_READERS) as readers:
        clips = tuple(readers.map(look, manifest.in_order(now)))
    good = [planned for planned in clips if not planned.fault]
    disk = sum(planned.clip.pixels * planned.frames for planned in good) * _DISK_PER_PIXEL
    largest = max((planned.clip.pixels for planned in good), default=0)
    memory = _DRIVER_BYTES + params.produce.workers * (_WORKER_BYTES + _WORKER_BYTES_PER_PIXEL * largest)
    return Plan(
        clips,
        begins,
        params.produce.workers,
        threads,
        disk,
        memory,
        local=not (params.produce.worker.address or "RAY_ADDRESS" in os.environ),
    )


def _check_avatar(clip: Clip, library: Library, params: Params, now: datetime) -> None:
    """That its avatar is there, or its portrait can be opened and there is what fits it; and that it may be used. Raises ClipError."""
    library.check_consent(clip.avatar, clip.consent, params.produce.require_consent, now.date())
    if is_picture(clip.avatar):
        try:
            check_photo(Path(clip.avatar), SMALLEST_PX)
            check_usable(detector_folder(params))
        except UserError as error:
            raise ClipError(str(error)) from None


def _check_background(background: str) -> None:
    """That a background's picture can be opened. Raises ClipError."""
    if is_picture(background):
        try:
            check_photo(Path(background))
        except UserError as error:
            raise ClipError(f"background {error}") from None


def _seconds(clip: Clip) -> float:
    """How long a clip will be: a recording's header, or words over rate for a script. Raises ClipError."""
    if clip.script is not None:
        if not any(c.isalnum() for c in clip.script):
            raise ClipError(LETTERLESS)
        return max(len(clip.script.split()) * 60 / clip.rate, audio_files.MIN_SECONDS)
    seconds = audio_files.media_seconds(clip.audio)
    if clip.transcript is not None:
        check_alignable(clip.audio, seconds)
    return seconds


def _encode(params: VideoParams) -> None:
    """One frame and a little silence through the real encoder."""
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "silence.wav"
        sound.write_bytes(audio_files.wav_bytes(np.zeros((2, audio_files.OUTPUT_RATE // 10), np.float32)))
        write_video(
            Path(folder) / "probe.mp4",
            [np.zeros((1, 64, 64, 3), np.uint8)],
            (64, 64),
            10.0,
            sound,
            0.1,
            params,
            "probe",
        )


def _hours(seconds: float | None) -> str:
    return "time unknown" if seconds is None else duration(seconds)
