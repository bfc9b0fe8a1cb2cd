"""The stages of a clip: audio -> motion -> segments -> video -> verdict -> content credentials.

Every stage looks its result up in the store before it makes it (store/keys.py shows what a result depends on).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import torch

from stereotalker.avatar.background_plate import Background, with_background
from stereotalker.avatar.library import Library, read_avatar
from stereotalker.diffusion.windows import Window, windows
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.media.audio_files import write_mixed
from stereotalker.media.content_credentials import C2paSigner
from stereotalker.media.video_files import frame_count
from stereotalker.models import Models
from stereotalker.motion.listening import Listening
from stereotalker.production.avatars import avatar_record, fit_notes
from stereotalker.production.clip_cues import PlannedCue, plan_cues, timed_cues
from stereotalker.production.clip_speech import caption_notes, make_speech, speech_notes, speech_source, target_loudness
from stereotalker.production.conversation import (
    SpokenTurn,
    conversation_captions,
    listening_of,
    speech_of,
    start_times,
    turns_of,
)
from stereotalker.production.manifest import Clip
from stereotalker.production.motion_controls import Speaker, clip_motion_controls, clip_seed
from stereotalker.production.scene import Box, layout
from stereotalker.production.segments import (
    SegmentJob,
    StaleEntry,
)
from stereotalker.records import Avatar, Speech, load, load_bytes, save
from stereotalker.runtime.device import arithmetic
from stereotalker.runtime.machine import usable_cores
from stereotalker.store import keys
from stereotalker.store.code import code_version
from stereotalker.store.digests import bytes_digest, digest, file_digest
from stereotalker.store.remote import AnyStore


class ChangedFile(OSError):
    """A file went away or changed while it was read, as network files may. The clip can be tried again."""


@dataclass(frozen=True)
class SoundStage:
    """The sound of a clip, and the speech of everybody in it."""

    key: str  # of the entry that holds sound.wav
    seconds: float
    turns: tuple[SpokenTurn, ...]
    speeches: tuple[Speech, ...]  # of each person, over the whole clip


@dataclass(frozen=True)
class Performer:
    """A person of a clip whose motion is made."""

    clip: Clip  # of this person alone
    avatar_key: str
    avatar: Avatar
    speech: Speech
    motion_key: str
    cues: tuple[PlannedCue, ...]
    listening: Listening
    box: Box | None = None  # where the person's pictures lie in a scene; None: they are the clip's


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

    def notes(self, clip: Clip, sound: SoundStage) -> tuple[str, ...]:
        """What the author of a row should know of its portraits' fits, and of its words."""
        notes = []
        for k, alone in enumerate(clip.people):
            own = [(turn.turn.clip, turn.speech) for turn in sound.turns if turn.turn.person == k]
            about = [*fit_notes(alone.avatar, self.models, self.store)]
            about += [note for spoken in own for note in speech_notes(*spoken, self.models.recognizer)]
            notes += [f"{clip.scene[k].label}: {note}" if clip.scene else note for note in dict.fromkeys(about)]
        if clip.scene and clip.captions:
            notes += caption_notes(conversation_captions(clip, sound.turns, sound.seconds), sound.seconds)
        return tuple(notes)

    def sound(self, clip: Clip, timings: StageTimings) -> SoundStage:
        """Stage audio of everybody in a clip, and their sound together."""
        turns = turns_of(clip)
        spoken = [self.speech(turn.clip, timings) for turn in turns]
        if not clip.scene:
            (key, speech), turn = spoken[0], turns[0]
            return SoundStage(key, speech.seconds, (SpokenTurn(turn, 0.0, key, speech),), (speech,))
        starts = start_times(turns, [speech.seconds for _, speech in spoken])
        placed = tuple(
            SpokenTurn(turn, start, key, speech)
            for turn, start, (key, speech) in zip(turns, starts, spoken, strict=True)
        )
        loudness = target_loudness(clip, self.params.audio.loudness)
        key = keys.scene_sound_key([[turn.start, turn.key] for turn in placed], loudness)

        def write(folder: Path) -> None:
            tracks = [
                [(self.found("audio", turn.key) / "sound.wav", turn.start) for turn in placed if turn.turn.person == k]
                for k in sorted({turn.turn.person for turn in placed})
            ]
            write_mixed(tracks, loudness, folder / "sound.wav")

        self.entry("audio", key, write, timings)
        seconds = max(turn.end for turn in placed)
        speeches = tuple(speech_of(person, placed, seconds) for person in range(len(clip.scene)))
        return SoundStage(key, seconds, placed, speeches)

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

        return key, load(Speech, self.entry("audio", key, write, timings) / "speech.safetensors")

    def performers(
        self, clip: Clip, avatars: Sequence[tuple[str, Avatar]], sound: SoundStage, timings: StageTimings
    ) -> list[Performer]:
        """Stage motion of everybody in a clip. Raises ClipError for a cue that does not exist."""
        boxes = layout(clip.scene, (clip.height, clip.width))
        centers = [box.left + box.width / 2 for box in boxes]
        performers = []
        for k, (alone, (avatar_key, avatar)) in enumerate(zip(clip.people, avatars, strict=True)):
            speech, spoken, listening = sound.speeches[k], sound.key, Listening()
            own = [turn for turn in sound.turns if turn.turn.person == k]
            if clip.scene:
                spoken = digest("turns", [[turn.start, turn.key] for turn in own], sound.seconds)
                listening = listening_of(k, centers, sound.turns, sound.seconds, clip_seed(alone))
            key, cues = self._motion(alone, avatar, spoken, speech, own, listening, timings)
            box = boxes[k] if clip.scene else None
            performers.append(Performer(alone, avatar_key, avatar, speech, key, cues, listening, box))
        return performers

    def _motion(
        self,
        clip: Clip,
        avatar: Avatar,
        speech_key: str,
        speech: Speech,
        turns: Sequence[SpokenTurn],
        listening: Listening,
        timings: StageTimings,
    ) -> tuple[str, tuple[PlannedCue, ...]]:
        """Stage motion of a person. Returns the entry's key, and the cues that are asked for."""
        threads = self.params.produce.worker.threads
        torch.set_num_threads(threads)  # torch keeps this setting for each thread; the key depends on it, too
        with self._loading:
            body = self.models.body
        frames = frame_count(speech.seconds, clip.fps)
        controls = clip_motion_controls(clip, avatar.style, frames, Speaker(avatar, body))
        moves_arms = controls.retargeting is None or controls.retargeting.amount == 1
        cues = plan_cues(clip, speech, frames / clip.fps, moves_arms, turns)
        controls = replace(controls, cues=timed_cues(cues), listening=listening.beside(timed_cues(cues)))
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

        self.entry("motion", key, write, timings)
        return key, cues

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

    def sign(self, clip: Clip, video: Path, record: str, timings: StageTimings) -> Path:
        """Stage provenance: the video with content credentials, or the video itself when signing is off.

        record: digest of the clip's record, see clip_record.py.
        """
        signer = self.signer
        if signer is None:
            return video
        claims = {
            "clip": clip.id,
            **self._person_claims(clip),
            "models": self.models.digests,
            "code": code_version(),
            "release": self.models.release,
            "record": record,
        }
        key = keys.provenance_key(file_digest(video), signer.identity, claims)

        def write(folder: Path) -> None:
            signer.sign(video, folder / video.name, clip.id, claims)

        return self.entry("provenance", key, write, timings) / video.name

    def _person_claims(self, clip: Clip) -> dict:
        """Who is shown, and who consented to it. A scene has a list of that."""
        claims = []
        for alone in clip.people:
            consent = self.library.consent(alone.avatar, alone.consent)
            said = consent.model_dump(mode="json") if consent else self.avatar(alone)[1].origin
            claims.append({"avatar": alone.avatar, "consent": said})
        return {"people": claims} if clip.scene else claims[0]

    def found(self, stage: str, key: str) -> Path:
        """The folder of an entry that was made or found a moment ago. Raises StaleEntry if it is gone."""
        folder = self.store.find(stage, key)
        if folder is None:
            raise StaleEntry(f"the {stage} entry {key} is gone from the store; it is made again at the next try")
        return folder

    def entry(self, stage: str, key: str, write: Callable[[Path], None], timings: StageTimings) -> Path:
        """The folder of a stage's entry, found in the store or made by `write(folder)`."""
        started = time.monotonic()
        found = self.store.find(stage, key)
        folder = found or self.store.make(stage, key, write)
        timings.add(stage, time.monotonic() - started, made=found is None)
        return folder


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
