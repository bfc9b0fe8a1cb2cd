"""The way of one clip: audio -> motion -> segments -> video, every step looked up in the store before it is made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from stereotalker.audio.speech import from_file, from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.avatar.library import Library, read_avatar
from stereotalker.diffusion.windows import Window, windows
from stereotalker.errors import ClipError, OutOfMemory, is_out_of_memory
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media import audio_files
from stereotalker.media.content_credentials import C2paSigner
from stereotalker.media.video_files import frame_count, write_video
from stereotalker.models import Models
from stereotalker.motion.post_processing import with_arms
from stereotalker.production import quality
from stereotalker.production.avatars import avatar_record, background_digest, fit_notes, with_background
from stereotalker.production.manifest import Clip
from stereotalker.production.motion_controls import clip_motion_controls, clip_seed
from stereotalker.records import Avatar, Motion, Speech, load, save
from stereotalker.render.renderer import Renderer
from stereotalker.store.digests import code_version, digest, file_digest
from stereotalker.store.remote import AnyStore

Progress = Callable[[str, str, int, int], None]  # clip id, stage, done, of how many
Render = Callable[[list["SegmentJob"], Progress], list["SegmentDone"]]  # in the jobs' order
_MODEL_LOCK = threading.Lock()  # a batch's clips share the driver's models


@dataclass(frozen=True)
class SegmentJob:
    """All a worker needs to render some frames of a clip; small, so that it travels cheaply. Inputs are named by their store keys."""

    clip: Clip
    motion: str
    avatar: str
    window: Window
    camera: CameraPath
    seed: int
    common: str  # digest of everything but the frames
    batch: int  # frames of a run, which the network sees at once; runs lie on a grid over the clip
    order: int = 0  # lower goes first

    @property
    def key(self) -> str:
        return digest(self.common, self.window.start, self.window.stop)

    def halves(self) -> tuple[SegmentJob, SegmentJob] | None:
        """The same frames as two jobs, cut between two runs; None where there is one run alone, which is made at once whatever is asked of it."""
        start, stop = self.window.start, self.window.stop
        middle = round((start + stop) / 2 / self.batch) * self.batch
        if not start < middle < stop:
            return None
        return (
            replace(self, window=replace(self.window, stop=middle)),
            replace(self, window=replace(self.window, start=middle, overlap=0)),
        )


@dataclass(frozen=True)
class SegmentDone:
    """Where the frames window.start..window.stop-1 of a clip are: store keys, in the frames' order (several after halving)."""

    keys: tuple[str, ...]
    frames: int
    seconds: float = 0.0  # of rendering; 0 when it was in the store


@dataclass(frozen=True)
class Finished:
    """A clip that is made: its unsigned file in the store, and what the quality gate says."""

    file: Path
    key: str
    verdict: quality.Verdict
    poster: Path
    frames: int


class StaleEntry(OSError):
    """A store entry that was there is not, or not on this machine: a passing fault."""


class ChangedFile(OSError):
    """A file went away or changed while it was read, as network files may: a passing fault."""


@dataclass
class StageTimings:
    """What happened to a clip: seconds spent in each stage, and which stages were made rather than found."""

    seconds: dict[str, float] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    rendered: int = 0  # frames that were made, not found

    def note(self, stage: str, seconds: float, made: bool) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        if made:
            self.made.append(stage)


class ClipMaker:
    """The recipe of a clip, with models, parameters and store at hand. Used by many threads at once."""

    def __init__(self, models: Models, store: AnyStore, seal: C2paSigner | None = None, library: Library | None = None):
        self.models, self.params, self.store, self.seal, self.library = (
            models,
            models.params,
            store,
            seal,
            library or Library(),
        )

    def speech(self, clip: Clip, ledger: StageTimings) -> tuple[str, Speech]:
        """Stage audio. Returns the entry's key and the speech (the entry also holds sound.wav)."""
        loudness = self.params.audio.loudness
        voice = Voice(clip.language, clip.voice, clip.rate)
        if clip.script is not None:
            source = ["script", clip.script, clip.language, clip.voice, clip.rate]
        else:
            source = ["file", file_digest(clip.audio), clip.transcript, clip.transcript and clip.language]
        key = digest("audio", code_version(), source, loudness)

        def write(folder: Path) -> None:
            if clip.script is not None:
                made = from_script(clip.script, voice, loudness)
            else:
                with _unchanged(clip.audio, source[1]):
                    made = from_file(clip.audio, loudness, clip.transcript, clip.language)
            save(made[0], folder / "speech.safetensors")
            (folder / "sound.wav").write_bytes(audio_files.wav_bytes(made[1]))

        return key, load(Speech, self._stage("audio", key, write, ledger) / "speech.safetensors")

    def motion(
        self, clip: Clip, avatar: Avatar, speech_key: str, speech: Speech, ledger: StageTimings
    ) -> tuple[str, int]:
        """Stage motion. Returns the entry's key and the number of frames."""
        frames = frame_count(speech.seconds, clip.fps)
        controls = clip_motion_controls(clip, avatar.style, frames)
        held = None if avatar.arms or clip.arms == "invent" else avatar.poses
        models = [self.models.digests[name] for name in ("audio", "motion")]
        params = self.params.motion.model_dump(mode="json")
        key = digest(
            "motion",
            code_version(),
            speech_key,
            controls.digest(),
            held,
            clip.fps,
            frames,
            models,
            params,
            self.params.produce.worker.threads,
        )

        def write(folder: Path) -> None:
            with _MODEL_LOCK:
                torch.set_num_threads(self.params.produce.worker.threads)  # the setting is each thread's own
                motion = self.models.synthesizer.motion(speech, controls, frames, clip.fps)
            motion = motion if held is None else with_arms(motion, held)
            save(motion, folder / "motion.safetensors")

        self._stage("motion", key, write, ledger)
        return key, frames

    def segments(self, clip: Clip, avatar_key: str, motion_key: str, frames: int, order: int = 0) -> list[SegmentJob]:
        """Stage render, cut into jobs; a retake's jobs follow those of the clip, and their frames replace the clip's."""
        models = [self.models.digests[name] for name in ("body", "masks", "render")]
        params = [
            self.params.render.model_dump(mode="json"),
            self.params.body.reader,
            self.params.produce.worker.threads,
        ]

        def jobs(camera: CameraPath, seed: int, start: int, stop: int) -> list[SegmentJob]:
            picture = [
                camera.model_dump(mode="json"),
                clip.width,
                clip.height,
                clip.fps,
                _has_alpha(clip),
                clip.stereo and clip.stereo.model_dump(mode="json"),
            ]
            common = digest("render", code_version(), motion_key, avatar_key, models, picture, params, seed)
            grid = [
                replace(w, start=w.start + start, stop=w.stop + start)
                for w in windows(stop - start, self.params.render.segment)
            ]
            return [
                SegmentJob(clip, motion_key, avatar_key, w, camera, seed, common, self.params.render.batch, order)
                for w in grid
            ]

        retakes = [(take, *take.frames(clip.fps, frames)) for take in clip.retakes]
        retaken = [(start, stop) for _, start, stop in retakes]
        plain = [job for job in jobs(clip.camera, clip_seed(clip), 0, frames) if not _within(job.window, retaken)]
        return plain + [
            job
            for take, start, stop in retakes if stop > start
            for job in jobs(take.camera or clip.camera, clip_seed(clip) if take.seed is None else clip_seed(clip, take.seed), start, stop)
        ]  # fmt: skip

    def video(
        self,
        clip: Clip,
        speech_key: str,
        motion_key: str,
        done: list[SegmentDone],
        jobs: list[SegmentJob],
        frames: int,
        ledger: StageTimings,
    ) -> Finished:
        """Stages video and quality: encode, then look at the result."""
        sound, name = self._folder("audio", speech_key) / "sound.wav", f"clip{Path(clip.file_name).suffix}"
        parts = [(job.window, part.keys) for job, part in zip(jobs, done, strict=True)]
        named = [[window.start, window.stop, *keys] for window, keys in parts]
        key = digest(
            "video",
            code_version(),
            named,
            speech_key,
            clip.fps,
            clip.file_name,
            clip.stereo and clip.stereo.layout,
            self.params.video.model_dump(mode="json"),
        )

        def write(folder: Path) -> None:
            chunks = assemble(parts, frames, lambda key: read_segment(self._folder("render", key)))
            write_video(
                folder / name,
                chunks,
                clip.video_size,
                clip.fps,
                sound,
                frames / clip.fps,
                self.params.video,
                clip.id,
                clip.stereo,
            )

        video = self._stage("video", key, write, ledger)
        gate = self.params.quality
        judged = digest(
            "quality", code_version(), key, motion_key, self.params.audio.loudness, gate.model_dump(mode="json")
        )

        def judge(folder: Path) -> None:
            motion = load(Motion, self._folder("motion", motion_key) / "motion.safetensors")
            misread = clip.transcript is not None and not load(Speech, sound.with_name("speech.safetensors")).words
            looked = quality.examine(
                video / name,
                sound,
                self.models.body.lip_aperture(motion),
                clip,
                self.params.audio.loudness,
                gate,
                misread,
            )
            (folder / "verdict.json").write_text(looked.verdict.to_json())
            (folder / "poster.jpg").write_bytes(looked.poster)

        looked = self._stage("quality", judged, judge, ledger)
        verdict = quality.Verdict.from_json((looked / "verdict.json").read_text())
        return Finished(video / name, key, verdict, looked / "poster.jpg", frames)

    def sign(self, clip: Clip, finished: Finished, ledger: StageTimings) -> Path:
        """Stage provenance: the finished file with content credentials; the file itself when signing is off."""
        if self.seal is None:
            return finished.file
        consent = self.library.consent(clip.avatar, clip.consent)
        leave = consent.model_dump(mode="json") if consent else self.avatar(clip)[1].origin
        claims = {
            "clip": clip.id,
            "avatar": clip.avatar,
            "consent": leave,
            "models": self.models.digests,
            "code": code_version(),
        }
        key = digest("provenance", code_version(), finished.key, self.seal.identity, claims)
        folder = self._stage(
            "provenance",
            key,
            lambda folder: self.seal.sign(finished.file, folder / finished.file.name, clip.id, claims),
            ledger,
        )
        return folder / finished.file.name

    def avatar(self, clip: Clip) -> tuple[str, Avatar]:
        """The clip's avatar, put into the store so that every worker reaches it. Returns its key."""
        self.library.check_consent(clip.avatar, clip.consent, self.params.produce.require_consent, date.today())
        record = avatar_record(clip.avatar, self.library, self.models, self.store)
        key = digest("avatar", file_digest(record), background_digest(clip.background))
        folder = self.store.make(
            "avatar", key, lambda folder: save(with_background(record, clip.background), folder / "avatar.safetensors")
        )
        return key, read_avatar(folder / "avatar.safetensors")

    def notes(self, clip: Clip) -> tuple[str, ...]:
        """What whoever gave a portrait's file should know of its fit."""
        return fit_notes(clip.avatar, self.models, self.store)

    def _folder(self, stage: str, key: str) -> Path:
        """An entry that was made or found a moment ago."""
        folder = self.store.find(stage, key)
        if folder is None:
            raise StaleEntry(f"the {stage} entry {key} is gone from the store; it is made again at the next try")
        return folder

    def _stage(self, stage: str, key: str, write: Callable[[Path], None], ledger: StageTimings) -> Path:
        started = time.monotonic()
        found = self.store.find(stage, key)
        folder = found or self.store.make(stage, key, write)
        ledger.note(stage, time.monotonic() - started, made=found is None)
        return folder


def render_segment(job: SegmentJob, renderer: Callable[[], Renderer], store: AnyStore) -> SegmentDone:
    """What a worker does with a job; the renderer is asked for only when the store has no answer. Raises OutOfMemory."""
    count = job.window.stop - job.window.start
    if store.find("render", job.key):
        return SegmentDone((job.key,), count)
    started, clip = time.monotonic(), job.clip
    sources = {stage: store.find(stage, key) for stage, key in (("motion", job.motion), ("avatar", job.avatar))}
    if missing := [stage for stage, folder in sources.items() if folder is None]:
        raise StaleEntry(
            f"the worker does not find the clip's {' and '.join(missing)} in {store}; do all machines reach produce.store?"
        )
    motion, avatar = (
        load(Motion, sources["motion"] / "motion.safetensors"),
        read_avatar(sources["avatar"] / "avatar.safetensors"),
    )
    view = camera.around(avatar, job.camera, len(motion.poses), clip.fps, (clip.height, clip.width))

    def write(folder: Path) -> None:
        views = camera.stereo_pair(view, clip.stereo.ipd_mm, avatar.target) if clip.stereo else (view,)
        eyes = [renderer().segment(avatar, motion, eye, job.window, job.seed, _has_alpha(clip)) for eye in views]
        frames = np.concatenate(eyes, 1 if clip.stereo and clip.stereo.layout == "over-under" else 2)
        np.savez_compressed(folder / "frames.npz", frames=frames)

    try:
        store.make("render", job.key, write)
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"frames {job.window.start}-{job.window.stop}: {error}") from None
        raise
    return SegmentDone((job.key,), count, time.monotonic() - started)


def assemble(
    parts: list[tuple[Window, tuple[str, ...]]], frames: int, read: Callable[[str], np.ndarray]
) -> Iterator[np.ndarray]:
    """Frames 0..frames-1 of a clip, chunk by chunk, u8 [T, H, W, 3 or 4]. Of parts that share frames the later one counts."""
    owner = np.full(frames, -1)
    for index, (window, _) in enumerate(parts):
        owner[window.start : window.stop] = index
    borders = [0, *(np.flatnonzero(np.diff(owner)) + 1), frames]
    for start, stop in pairwise(borders):
        window, keys = parts[owner[start]]
        at = window.start
        for key in keys:
            chunk = read(key)
            low, high = max(start - at, 0), min(stop - at, len(chunk))
            if low < high:
                yield chunk[low:high]
            at += len(chunk)


def _has_alpha(clip: Clip) -> bool:
    return clip.background == "transparent"


def read_segment(folder: Path) -> np.ndarray:
    """Frames of a rendered segment, u8 [T, H, W, 3 or 4]."""
    with np.load(folder / "frames.npz", allow_pickle=False) as file:
        return file["frames"]


def make_clip(
    clip: Clip, maker: ClipMaker, render: Render, progress: Progress, ledger: StageTimings, order: int = 0
) -> Finished:
    """One clip from manifest row to finished, examined file in the store. Raises ClipError for what only this clip suffers from."""
    avatar_key, avatar = maker.avatar(clip)
    progress(clip.id, "audio", 0, 1)
    speech_key, speech = maker.speech(clip, ledger)
    progress(clip.id, "motion", 0, 1)
    motion_key, frames = maker.motion(clip, avatar, speech_key, speech, ledger)
    if late := [take for take in clip.retakes if take.start * clip.fps >= frames]:
        raise ClipError(f"a retake starts at {late[0].start:g} s, but the clip lasts {frames / clip.fps:.2f} s")
    jobs = maker.segments(clip, avatar_key, motion_key, frames, order)
    progress(clip.id, "render", 0, sum(job.window.stop - job.window.start for job in jobs))
    done = render(jobs, progress)
    for segment in done:
        ledger.note("render", segment.seconds, made=segment.seconds > 0)
        ledger.rendered += segment.frames if segment.seconds > 0 else 0
    progress(clip.id, "video", 0, 1)
    return maker.video(clip, speech_key, motion_key, done, jobs, frames, ledger)


def preview(clip: Clip, side: int) -> Clip:
    """The clip at a smaller size: the smaller side has `side` px. Speech and motion are the full clip's."""
    scale = side / min(clip.width, clip.height)
    if scale >= 1:
        return clip
    return clip.model_copy(
        update={name: max(32, round(getattr(clip, name) * scale / 2) * 2) for name in ("width", "height")}
    )


@contextmanager
def _unchanged(path: Path, before: str) -> Iterator[None]:
    """Whatever happens inside, a file that is not what it was is the reason. Raises ChangedFile."""
    try:
        yield
    finally:
        try:
            same = file_digest(path) == before
        except OSError:
            same = False
        if not same:
            raise ChangedFile(f"{path} went away or changed while it was read")


def _within(window: Window, spans: list[tuple[int, int]]) -> bool:
    return any(start <= window.start and window.stop <= stop for start, stop in spans)
