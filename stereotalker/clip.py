"""The way of one clip: audio -> motion -> segments -> video, every step looked up in the store before it is made."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from stereotalker.audio import io
from stereotalker.audio.speak import Voice
from stereotalker.audio.speech import from_file, from_script
from stereotalker.avatar.library import SHIPPED, find_avatar, read_avatar
from stereotalker.body import camera
from stereotalker.diffusion.windows import Window, windows
from stereotalker.errors import ClipError
from stereotalker.manifest import Clip
from stereotalker.models import Models
from stereotalker.records import Avatar, Motion, Speech, load, save
from stereotalker.render.renderer import Renderer
from stereotalker.store import Store, code_version, digest, file_digest, write_atomic
from stereotalker.video import frame_count, write_video

Progress = Callable[[str, str, int, int], None]  # clip id, stage, done, of how many
_MODEL_LOCK = threading.Lock()  # a batch's clips share the driver's models


@dataclass(frozen=True)
class SegmentJob:
    """All a worker needs to render some frames of a clip; small, so that it travels cheaply."""

    clip: Clip
    motion: Path
    avatar: Path
    window: Window
    seed: int
    key: str


@dataclass(frozen=True)
class SegmentDone:
    folder: Path
    seconds: float  # of rendering; 0 when it was in the store
    frames: int


@dataclass
class Ledger:
    """What happened to a clip: seconds spent in each stage, and which stages were made rather than found."""

    seconds: dict[str, float] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    def note(self, stage: str, seconds: float, made: bool) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        if made:
            self.made.append(stage)


class ClipMaker:
    """The recipe of a clip, with models, parameters and store at hand. Used by many threads at once."""

    def __init__(self, models: Models, store: Store, avatars: Path = SHIPPED):
        self.models, self.params, self.store, self.avatars = models, models.params, store, avatars

    def speech(self, clip: Clip, ledger: Ledger) -> tuple[str, Path]:
        """Stage audio. Returns the entry's key and folder (speech.safetensors, sound.wav)."""
        loudness = self.params.audio.loudness
        voice = Voice(clip.language, clip.voice, clip.rate)
        if clip.script is not None:
            source = ["script", clip.script, clip.language, clip.voice, clip.rate]
        else:
            io.check_readable(clip.audio)
            source = ["file", file_digest(clip.audio)]
        key = digest("audio", code_version(), source, loudness)

        def write(folder: Path) -> None:
            made = from_script(clip.script, voice, loudness) if clip.script is not None else from_file(clip.audio, loudness)
            save(made[0], folder / "speech.safetensors")
            (folder / "sound.wav").write_bytes(io.wav_bytes(made[1]))

        return key, self._stage("audio", key, write, ledger)

    def motion(self, clip: Clip, avatar: Avatar, speech_key: str, speech: Speech, ledger: Ledger) -> tuple[str, Path]:
        """Stage motion. Returns the entry's key and folder (motion.safetensors)."""
        frames = frame_count(speech.seconds, clip.fps)
        seed = clip_seed(clip)
        models = [self.models.digests[name] for name in ("audio", "motion")]
        params = self.params.motion.model_dump(mode="json")
        key = digest("motion", code_version(), speech_key, avatar.style, clip.gesture, clip.fps, frames, seed, models, params, self.params.produce.threads)

        def write(folder: Path) -> None:
            with _MODEL_LOCK:
                torch.set_num_threads(self.params.produce.threads)  # the setting is each thread's own
                motion = self.models.synthesizer.motion(speech, avatar.style, clip.gesture, seed, frames, clip.fps)
            save(motion, folder / "motion.safetensors")

        return key, self._stage("motion", key, write, ledger)

    def segments(self, clip: Clip, avatar: Path, motion_key: str, motion: Path) -> list[SegmentJob]:
        """Stage render, cut into jobs."""
        frames = len(load(Motion, motion / "motion.safetensors").poses)
        models = [self.models.digests[name] for name in ("body", "masks", "render")]
        picture = clip.model_dump(mode="json", include={"camera", "width", "height", "fps"})
        params = [self.params.render.model_dump(mode="json"), self.params.body.reader, self.params.produce.threads]
        common = digest("render", code_version(), motion_key, file_digest(avatar), models, picture, params, clip_seed(clip))
        return [
            SegmentJob(clip, motion / "motion.safetensors", avatar, window, clip_seed(clip), digest(common, window.start, window.stop))
            for window in windows(frames, self.params.render.segment)
        ]

    def video(self, clip: Clip, speech: Path, done: list[SegmentDone], jobs: list[SegmentJob], out: Path, ledger: Ledger) -> Path:
        """Stage video: encode, then place the file at out/clips/<id>.mp4. Returns that path."""
        sound = speech / "sound.wav"
        key = digest("video", code_version(), [job.key for job in jobs], file_digest(sound), clip.fps, clip.id, self.params.video.model_dump(mode="json"))
        count = jobs[-1].window.stop

        def write(folder: Path) -> None:
            chunks = (read_segment(segment.folder) for segment in done)
            size = (clip.height, clip.width)
            write_video(folder / "clip.mp4", chunks, size, clip.fps, sound, count / clip.fps, self.params.video, clip.id)

        folder = self._stage("video", key, write, ledger)
        final = out / "clips" / f"{clip.id}.mp4"
        write_atomic(final, (folder / "clip.mp4").read_bytes())
        return final

    def avatar(self, clip: Clip) -> tuple[Path, Avatar]:
        path = find_avatar(clip.avatar, self.avatars)
        return path, read_avatar(path)

    def _stage(self, stage: str, key: str, write: Callable[[Path], None], ledger: Ledger) -> Path:
        started = time.monotonic()
        found = self.store.find(stage, key)
        folder = found or self.store.make(stage, key, write)
        ledger.note(stage, time.monotonic() - started, made=found is None)
        return folder


def render_segment(job: SegmentJob, renderer: Callable[[], Renderer], store: Store) -> SegmentDone:
    """What a worker does with a job; the renderer is asked for only when the store has no answer."""
    count = job.window.stop - job.window.start
    if found := store.find("render", job.key):
        return SegmentDone(found, 0.0, count)
    started = time.monotonic()
    motion, avatar, clip = load(Motion, job.motion), read_avatar(job.avatar), job.clip
    view = camera.path(clip.camera, len(motion.poses), clip.fps, avatar.target, (clip.height, clip.width))

    def write(folder: Path) -> None:
        frames = renderer().segment(avatar, motion, view, job.window, job.seed)
        np.savez_compressed(folder / "frames.npz", frames=frames)

    folder = store.make("render", job.key, write)
    return SegmentDone(folder, time.monotonic() - started, count)


def read_segment(folder: Path) -> np.ndarray:
    """Frames of a rendered segment, u8 [T, H, W, 3]."""
    with np.load(folder / "frames.npz", allow_pickle=False) as file:
        return file["frames"]


def clip_seed(clip: Clip) -> int:
    """The clip's own seed, from the manifest's seed and the clip's id."""
    return int.from_bytes(hashlib.sha256(f"{clip.seed}/{clip.id}".encode()).digest()[:4], "big")


def make_clip(
    clip: Clip, maker: ClipMaker, render: Callable[[list[SegmentJob], Progress], list[SegmentDone]], out: Path, progress: Progress, ledger: Ledger
) -> Path:
    """One clip from manifest row to finished file. Raises ClipError for what only this clip suffers from."""
    avatar_path, avatar = maker.avatar(clip)
    progress(clip.id, "audio", 0, 1)
    speech_key, speech_folder = maker.speech(clip, ledger)
    speech = load(Speech, speech_folder / "speech.safetensors")
    progress(clip.id, "motion", 0, 1)
    motion_key, motion_folder = maker.motion(clip, avatar, speech_key, speech, ledger)
    jobs = maker.segments(clip, avatar_path, motion_key, motion_folder)
    progress(clip.id, "render", 0, jobs[-1].window.stop)
    done = render(jobs, progress)
    if len(done) != len(jobs):
        raise ClipError(f"{len(jobs) - len(done)} of {len(jobs)} segments were not rendered")
    for segment in done:
        ledger.note("render", segment.seconds, made=segment.seconds > 0)
    progress(clip.id, "video", 0, 1)
    path = maker.video(clip, speech_folder, done, jobs, out, ledger)
    progress(clip.id, "done", 1, 1)
    return path
