"""From a manifest row to a finished clip: audio -> motion -> segments -> video -> verdict -> content credentials.

Every stage looks its result up in the store before it makes it (store/keys.py shows what a result depends on).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path

import torch

from stereotalker.avatar.background_plate import Background, with_background
from stereotalker.avatar.library import Library, read_avatar
from stereotalker.diffusion.windows import Window, windows
from stereotalker.errors import ClipError
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.burnt_captions import Caption, check_font, draw_captions
from stereotalker.media.content_credentials import C2paSigner
from stereotalker.media.video_files import frame_count, write_video
from stereotalker.models import Models
from stereotalker.production import quality
from stereotalker.production.avatars import avatar_record, fit_notes
from stereotalker.production.clip_cues import PlannedCue, plan_cues, timed_cues
from stereotalker.production.clip_judgement import judge_clip
from stereotalker.production.clip_speech import clip_captions, make_speech, speech_notes, speech_source, target_loudness
from stereotalker.production.manifest import Clip
from stereotalker.production.motion_controls import Speaker, clip_motion_controls, clip_seed
from stereotalker.production.segments import (
    Progress,
    Render,
    RenderedSegment,
    SegmentJob,
    StaleEntry,
    assemble,
    read_segment,
)
from stereotalker.records import Avatar, Motion, Speech, load, load_bytes, save
from stereotalker.runtime.device import arithmetic
from stereotalker.runtime.machine import usable_cores
from stereotalker.store import keys
from stereotalker.store.code import code_version
from stereotalker.store.digests import bytes_digest, file_digest
from stereotalker.store.remote import AnyStore


class ChangedFile(OSError):
    """A file went away or changed while it was read, as network files may. The clip can be tried again."""


@dataclass(frozen=True)
class FinishedClip:
    """A clip that is made: its unsigned video in the store, and the verdict on it."""

    file: Path
    verdict: quality.Verdict
    poster: Path
    frames: int
    keys: dict[str, str | list[str]]  # of its entries in the store, by stage
    recognized: str = ""  # what was heard in a recording without a transcript
    recognized_language: str = ""
    captions: tuple[Caption, ...] = ()
    notes: tuple[str, ...] = ()  # what the author of its row should know


@dataclass(frozen=True)
class MotionStage:
    """The motion of a clip."""

    key: str  # of its entry in the store
    frames: int
    cues: tuple[PlannedCue, ...]  # that the clip asks for


@dataclass
class StageTimings:
    """What a clip took: seconds spent in each stage, and the stages that were made rather than found in the store."""

    seconds: dict[str, float] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    rendered: int = 0  # frames that were rendered, not found

    def add(self, stage: str, seconds: float, made: bool) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        if made:
            self.made.append(stage)


class ClipMaker:
    """The stages of a clip, with the models, parameters and store that they need. Many threads use one at once."""

    def __init__(
        self, models: Models, store: AnyStore, signer: C2paSigner | None = None, library: Library | None = None
    ):
        """signer: None leaves videos unsigned; library: None knows the shipped avatars alone."""
        self.models, self.params, self.store = models, models.params, store
        self.signer, self.library = signer, library or Library()
        # The clips of a batch share the driver's models. Without a lock each of them would load them: from Python 3.12
        # on, cached_property has none.
        self._loading = threading.Lock()
        # There may be more clips than cores.
        turns = max(1, usable_cores() // self.params.produce.worker.threads)
        self._motion_turns = threading.BoundedSemaphore(turns)

    def avatar(self, clip: Clip) -> tuple[str, Avatar]:
        """Put the clip's avatar into the store, where every worker finds it. Returns its key and the record.

        Raises ClipError if the avatar is unknown or must not be used.
        """
        self.library.check_consent(clip.avatar, clip.consent, self.params.produce.require_consent, date.today())
        path = avatar_record(clip.avatar, self.library, self.models, self.store)
        # Both files are read once, because a user may replace them while the batch runs.
        record, background = path.read_bytes(), Background.read(clip.background)
        key = keys.avatar_key(bytes_digest(record), background.digest)

        def write(folder: Path) -> None:
            avatar = with_background(load_bytes(Avatar, record, path), background)
            save(avatar, folder / "avatar.safetensors")

        return key, read_avatar(self.store.make("avatar", key, write) / "avatar.safetensors")

    def notes(self, clip: Clip, speech: Speech) -> tuple[str, ...]:
        """What the author of a row should know of its portrait's fit, and of its words."""
        about_fit = fit_notes(clip.avatar, self.models, self.store)
        return (*about_fit, *speech_notes(clip, speech, self.models.recognizer))

    def speech(self, clip: Clip, timings: StageTimings) -> tuple[str, Speech]:
        """Stage audio. Returns the entry's key and the speech; the entry also holds sound.wav."""
        loudness = target_loudness(clip, self.params.audio.loudness)
        sha256 = file_digest(clip.audio) if clip.audio else ""
        with self._loading:
            recognizer = self.models.recognizer
        key = keys.speech_key(speech_source(clip, sha256, recognizer), loudness)

        def write(folder: Path) -> None:
            with _unchanged(clip.audio, sha256):
                speech = make_speech(clip, loudness, recognizer, folder / "sound.wav")
            save(speech, folder / "speech.safetensors")

        return key, load(Speech, self._entry("audio", key, write, timings) / "speech.safetensors")

    def motion(self, clip: Clip, avatar: Avatar, speech_key: str, speech: Speech, timings: StageTimings) -> MotionStage:
        """Stage motion. Raises ClipError for a cue that does not exist."""
        threads = self.params.produce.worker.threads
        torch.set_num_threads(threads)  # torch keeps this setting for each thread; the key depends on it, too
        with self._loading:
            body = self.models.body
        frames = frame_count(speech.seconds, clip.fps)
        controls = clip_motion_controls(clip, avatar.style, frames, Speaker(avatar, body))
        moves_arms = controls.retargeting is None or controls.retargeting.amount == 1
        cues = plan_cues(clip, speech, frames / clip.fps, moves_arms)
        controls = replace(controls, cues=timed_cues(cues))
        key = keys.motion_key(
            speech_key,
            controls.digest(),
            clip.fps,
            frames,
            [self.models.body_version, *(self.models.version(name) for name in ("audio", "motion"))],
            self.params.motion.model_dump(mode="json"),
            threads,
            arithmetic("cpu"),
        )

        def write(folder: Path) -> None:
            with self._loading:
                synthesizer = self.models.synthesizer
            with self._motion_turns:
                motion = synthesizer.motion(speech, controls, frames, clip.fps)
            save(motion, folder / "motion.safetensors")

        self._entry("motion", key, write, timings)
        return MotionStage(key, frames, cues)

    def segments(self, clip: Clip, avatar_key: str, motion_key: str, frames: int, order: int = 0) -> list[SegmentJob]:
        """Stage render, cut into jobs. Jobs of retakes come last, because their frames replace those of the clip."""
        models = [self.models.body_version, *(self.models.version(name) for name in ("masks", "render"))]
        params = [self.params.render.model_dump(mode="json"), self.params.produce.worker.threads]

        def jobs(camera: CameraPath, seed: int, start: int, stop: int) -> list[SegmentJob]:
            picture = [
                camera.model_dump(mode="json"),
                clip.width,
                clip.height,
                clip.fps,
                clip.has_alpha,
                clip.stereo and clip.stereo.model_dump(mode="json"),
            ]
            clip_render = keys.clip_render_key(
                motion_key, avatar_key, models, picture, params, seed, self.models.arithmetic
            )
            grid = windows(stop - start, self.params.render.segment)
            return [
                SegmentJob(
                    clip,
                    motion_key,
                    avatar_key,
                    replace(window, start=window.start + start, stop=window.stop + start),
                    camera,
                    seed,
                    clip_render,
                    self.params.render.batch,
                    order,
                )
                for window in grid
            ]

        retakes = [(retake, *retake.frames(clip.fps, frames)) for retake in clip.retakes]
        replaced = [(start, stop) for _, start, stop in retakes]
        result = [job for job in jobs(clip.camera, clip_seed(clip), 0, frames) if not _is_within(job.window, replaced)]
        for retake, start, stop in retakes:
            if stop > start:
                result += jobs(retake.camera or clip.camera, clip_seed(clip, retake.seed), start, stop)
        return result

    def video(
        self,
        clip: Clip,
        avatar_key: str,
        avatar: Avatar,
        speech_key: str,
        rendered: list[RenderedSegment],
        jobs: list[SegmentJob],
        motion: MotionStage,
        timings: StageTimings,
        anew: bool,
        render: Callable[[list[SegmentJob]], object],
    ) -> FinishedClip:
        """Stages video and quality: encode the frames with the sound, then judge the result.

        anew: see `make_clip`; render: renders segments that turn out to be damaged in the store.
        """
        motion_key, frames = motion.key, motion.frames
        sound = self._found("audio", speech_key) / "sound.wav"
        burnt = clip.captions if clip.captions and clip.captions.burn else None
        shown = clip_captions(clip, load(Speech, sound.with_name("speech.safetensors")), True) if burnt else ()
        if burnt:
            check_font("".join(caption.text for caption in shown), burnt)
        name = f"clip{Path(clip.file_name).suffix}"
        parts = [(job.window, segment.keys) for job, segment in zip(jobs, rendered, strict=True)]
        video_key = keys.video_key(
            [[window.start, window.stop, *segment_keys] for window, segment_keys in parts],
            speech_key,
            clip.fps,
            clip.file_name,
            clip.stereo.layout if clip.stereo else None,
            self.params.video.model_dump(mode="json"),
            [burnt.identity(), [[c.start, c.end, c.text] for c in shown]] if burnt else None,
        )

        def encode(folder: Path) -> None:
            for job, segment in zip(jobs, rendered, strict=True):
                # Until now only their markers were looked at. A damaged entry is removed when it is read.
                if any(self.store.find("render", key) is None for key in segment.keys):
                    render([replace(job, anew=False)])
            pictures = assemble(parts, frames, lambda key: read_segment(self._found("render", key)))
            write_video(
                folder / name,
                draw_captions(pictures, shown, burnt, clip.fps, clip.stereo) if burnt else pictures,
                clip.video_size,
                clip.fps,
                sound,
                frames / clip.fps,
                self.params.video,
                clip.id,
                clip.stereo,
            )

        if anew:
            self.store.discard("video", video_key)
        video = self._entry("video", video_key, encode, timings) / name
        loudness = target_loudness(clip, self.params.audio.loudness)
        cameras = [
            path.model_dump(mode="json") for path in (clip.camera, *(r.camera for r in clip.retakes if r.camera))
        ]
        key = keys.quality_key(
            video_key,
            motion_key,
            avatar_key,
            loudness,
            cameras,
            [asdict(cue) for cue in motion.cues],
            self.params.quality.model_dump(mode="json"),
        )

        def judge(folder: Path) -> None:
            made_from = (
                load(Speech, sound.with_name("speech.safetensors")),
                load(Motion, self._found("motion", motion_key) / "motion.safetensors"),
                avatar,
            )
            body, limits = self.models.body, self.params.quality
            result = judge_clip(video, sound, clip, made_from, body, loudness, motion.cues, limits)
            (folder / "verdict.json").write_text(result.verdict.to_json(), encoding="utf-8")
            (folder / "poster.jpg").write_bytes(result.poster)

        if anew:
            self.store.discard("quality", key)
        judged = self._entry("quality", key, judge, timings)
        verdict = quality.Verdict.from_json((judged / "verdict.json").read_text(encoding="utf-8"))
        entries: dict[str, str | list[str]] = {
            "audio": speech_key,
            "motion": motion_key,
            "avatar": avatar_key,
            "render": [key for segment in rendered for key in segment.keys],
            "video": video_key,
            "quality": key,
        }
        return FinishedClip(video, verdict, judged / "poster.jpg", frames, entries)

    def sign(self, clip: Clip, finished: FinishedClip, record: str, timings: StageTimings) -> Path:
        """Stage provenance: the video with content credentials, or the video itself when signing is off.

        record: digest of the clip's record, see clip_record.py.
        """
        signer = self.signer
        if signer is None:
            return finished.file
        consent = self.library.consent(clip.avatar, clip.consent)
        claims = {
            "clip": clip.id,
            "avatar": clip.avatar,
            "consent": consent.model_dump(mode="json") if consent else self.avatar(clip)[1].origin,
            "models": self.models.digests,
            "code": code_version(),
            "release": self.models.release,
            "record": record,
        }
        key = keys.provenance_key(file_digest(finished.file), signer.identity, claims)

        def write(folder: Path) -> None:
            signer.sign(finished.file, folder / finished.file.name, clip.id, claims)

        return self._entry("provenance", key, write, timings) / finished.file.name

    def _found(self, stage: str, key: str) -> Path:
        """The folder of an entry that was made or found a moment ago. Raises StaleEntry if it is gone."""
        folder = self.store.find(stage, key)
        if folder is None:
            raise StaleEntry(f"the {stage} entry {key} is gone from the store; it is made again at the next try")
        return folder

    def _entry(self, stage: str, key: str, write: Callable[[Path], None], timings: StageTimings) -> Path:
        """The folder of a stage's entry, found in the store or made by `write(folder)`."""
        started = time.monotonic()
        found = self.store.find(stage, key)
        folder = found or self.store.make(stage, key, write)
        timings.add(stage, time.monotonic() - started, made=found is None)
        return folder


def make_clip(
    clip: Clip,
    maker: ClipMaker,
    render: Render,
    progress: Progress,
    timings: StageTimings,
    order: int = 0,
    anew: bool = False,
) -> FinishedClip:
    """Make one clip: from a manifest row to a judged video in the store.

    render: renders jobs, wherever; order: clips with a lower number are rendered first; anew: frames that an earlier
    run rendered are not taken from the store. Raises ClipError for a fault that only this clip has.
    """
    avatar_key, avatar = maker.avatar(clip)
    progress(clip.id, "audio", 0, 1)
    speech_key, speech = maker.speech(clip, timings)
    progress(clip.id, "motion", 0, 1)
    motion = maker.motion(clip, avatar, speech_key, speech, timings)
    frames = motion.frames
    for retake in clip.retakes:
        if retake.start * clip.fps >= frames:
            raise ClipError(f"a retake starts at {retake.start:g} s, but the clip lasts {frames / clip.fps:.2f} s")
    jobs = maker.segments(clip, avatar_key, motion.key, frames, order)
    if anew:
        jobs = [replace(job, anew=True) for job in jobs]
    progress(clip.id, "render", 0, sum(job.frames for job in jobs))

    def render_and_note(jobs: list[SegmentJob]) -> list[RenderedSegment]:
        rendered = render(jobs, progress)
        for segment in rendered:
            is_new = segment.seconds > 0
            timings.add("render", segment.seconds, made=is_new)
            timings.rendered += segment.frames if is_new else 0
        return rendered

    rendered = render_and_note(jobs)
    progress(clip.id, "video", 0, 1)
    finished = maker.video(clip, avatar_key, avatar, speech_key, rendered, jobs, motion, timings, anew, render_and_note)
    return replace(
        finished,
        recognized=speech.recognized,
        recognized_language=speech.recognized_language,
        captions=clip_captions(clip, speech),
        notes=maker.notes(clip, speech),
    )


def preview(clip: Clip, side: int) -> Clip:
    """The clip at a smaller size: its smaller side has `side` px. Speech and motion are those of the full clip."""
    scale = side / min(clip.width, clip.height)
    if scale >= 1:
        return clip
    small = {name: max(32, round(getattr(clip, name) * scale / 2) * 2) for name in ("width", "height")}
    return clip.model_copy(update=small)


@contextmanager
def _unchanged(path: Path | None, expected_digest: str) -> Iterator[None]:
    """Raise ChangedFile if the file is another one after the block, whatever else went wrong inside the block."""
    try:
        yield
    finally:
        try:
            is_same = path is None or file_digest(path) == expected_digest
        except OSError:
            is_same = False
        if not is_same:
            raise ChangedFile(f"{path} went away or changed while it was read")


def _is_within(window: Window, spans: list[tuple[int, int]]) -> bool:
    return any(start <= window.start and window.stop <= stop for start, stop in spans)
