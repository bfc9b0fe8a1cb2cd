"""Pre-flight check: it finds what would go wrong before any compute is spent, and estimates time, disk and memory.

A fault of the environment (models, encoder, outputs, store, signing) ends the batch. A fault of one clip becomes the
row of that clip in the report, and the other clips are made.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import torch

from stereotalker.audio.marks import passages, without_marks
from stereotalker.audio.natural_voices import OWN, NaturalVoice, is_available
from stereotalker.audio.speech import check_alignable, check_script
from stereotalker.audio.text_to_speech import NO_SPACES, check_language
from stereotalker.audio.voices import find_voice
from stereotalker.avatar.fit_portrait import MIN_SIDE_PX
from stereotalker.avatar.library import Library
from stereotalker.avatar.mediapipe_detector import check_usable
from stereotalker.errors import ClipError, Unavailable, UserError
from stereotalker.media import audio_files
from stereotalker.media.burnt_captions import check_font
from stereotalker.media.content_credentials import needs_local_signer, open_signer
from stereotalker.media.photos import check_photo, is_picture
from stereotalker.media.video_files import frame_count, write_video
from stereotalker.models import Models
from stereotalker.params import Params, VideoParams, WorkerParams
from stereotalker.production.admission import next_window
from stereotalker.production.avatars import detector_folder
from stereotalker.production.clip_cues import check_cues
from stereotalker.production.clip_speech import clip_part, clip_voice
from stereotalker.production.conversation import Turn, start_times, turns_of
from stereotalker.production.manifest import WORKER_BYTES, WORKER_BYTES_PER_PIXEL, Clip, Manifest, due
from stereotalker.production.motion_controls import clip_motion_controls
from stereotalker.production.outputs import Outputs, existing_part
from stereotalker.production.pace_history import History
from stereotalker.production.report import duration
from stereotalker.runtime.home import Home
from stereotalker.runtime.machine import usable_cores, usable_memory
from stereotalker.store.urls import is_url

# Disk that a pixel of a frame takes in a stored segment if the camera rests and if it moves, and in the three copies
# of the video. Measured on two shipped avatars: 0.44 to 0.64, 1.14 to 1.38, and 0.05 a copy.
SEGMENT_BYTES_PER_PIXEL, MOVING_SEGMENT_BYTES_PER_PIXEL, VIDEO_BYTES_PER_PIXEL = 0.7, 1.5, 0.17

# A driver that also renders peaks at 1.9 GB. One that does not render needs less, so this is an upper bound.
# For each second of the recordings that it reads at once, it takes 0.15 MB for the sound and 0.08 MB for the motion.
_DRIVER_BYTES, _DRIVER_BYTES_PER_S = 1.9e9, 0.23e6
# What speech models take, from peaks measured apart: Whisper tiny.en 265 MB and base 333 MB, heart 225 MB, kumo 548 MB.
_RECOGNIZER_BYTES = 0.7e9
_HEART_BYTES, _KOKORO_BYTES = 0.2e9, 0.6e9

# Share of the memory that the chosen number of workers may fill. Ray kills workers at 95 %.
_MEMORY_SHARE = 0.9

# Clips in progress beyond the number of workers. Their audio and motion are made while other clips are rendered.
CLIPS_AHEAD = 2

_READER_THREADS = 8  # input files that are read at once


@dataclass(frozen=True)
class ClipPlan:
    """What is known about one clip before it is made."""

    row: int  # in the manifest, from 1
    clip: Clip
    frames: int  # estimated for a script; 0 if the clip has a fault
    worker_seconds: float | None  # None: no earlier clips to estimate from
    fault: str = ""  # why the clip cannot be made; empty if it can
    spelled_out: str = ""  # the script as it is spoken, if its voice spells numbers and signs out

    def text(self) -> str:
        """Length, size and estimated time, or the fault."""
        if self.fault:
            return f"FAULT {self.fault}"
        clip = self.clip
        line = f"{self.frames / clip.fps:7.1f} s {clip.width} x {clip.height}, {_duration_text(self.worker_seconds)}"
        return f"{line}\n      speaks: {self.spelled_out}" if self.spelled_out else line


@dataclass(frozen=True)
class Plan:
    """The plan of a batch: its clips in the order in which they will be made, and estimates."""

    clips: tuple[ClipPlan, ...]
    begins: datetime  # local time, when the time window is open
    workers: int
    threads: int  # of every worker
    disk_bytes: float
    memory_bytes: float
    local: bool  # whether the workers are on this machine
    free_bytes: float = math.inf  # on the disk of the store

    @property
    def faults(self) -> list[ClipPlan]:
        """The clips that cannot be made."""
        return [planned for planned in self.clips if planned.fault]

    @property
    def wall_seconds(self) -> float | None:
        """Estimated duration of the batch; None if there is nothing to estimate from."""
        planned = [clip for clip in self.clips if not clip.fault]
        seconds = [clip.worker_seconds for clip in planned if clip.worker_seconds is not None]
        return sum(seconds) / self.workers if len(seconds) == len(planned) else None

    @property
    def warnings(self) -> list[str]:
        """Problems that may occur but do not keep the batch from beginning."""
        warnings, elapsed = [], 0.0
        for planned in self.clips:
            elapsed += (planned.worker_seconds or 0.0) / self.workers
            deadline = due(planned.clip, self.begins)
            if deadline and self.begins + timedelta(seconds=elapsed) > deadline:
                warnings.append(f"{planned.clip.id} will miss its deadline {deadline:%Y-%m-%d %H:%M} by the estimate")
        if self.disk_bytes > self.free_bytes:
            warnings.append(
                f"the whole batch needs about {self.disk_bytes / 1e6:.0f} MB, {self.free_bytes / 1e6:.0f} MB are free: "
                "it will stop when the disk is full; make room, or set produce.store"
            )
        total = usable_memory()
        if self.local and self.memory_bytes > total:
            warnings.append(
                f"the batch needs about {self.memory_bytes / 1e9:.1f} GB of memory with {self._workers_text}, "
                f"the machine has {total / 1e9:.1f}; segments may have to be halved"
            )
        return warnings

    @property
    def _workers_text(self) -> str:
        workers, threads = (
            f"{count} {unit}{'s' if count > 1 else ''}"
            for count, unit in ((self.workers, "worker"), (self.threads, "thread"))
        )
        return f"{workers} of {threads}"

    def text(self) -> str:
        """The plan as text for a person: a line for each clip, and a summary."""
        width = max(len(planned.clip.id) for planned in self.clips)
        lines = [f"{planned.row:5} {planned.clip.id:{width}} {planned.text()}" for planned in self.clips]
        feasible = [planned for planned in self.clips if not planned.fault]
        seconds = sum(planned.frames / planned.clip.fps for planned in feasible)
        lines.append(
            f"{len(feasible)} of {len(self.clips)} clips can be made: {seconds / 60:.1f} min of video, "
            f"about {self.disk_bytes / 1e9:.2f} GB of disk, {self.memory_bytes / 1e9:.1f} GB of memory"
        )
        unknown = "" if self.wall_seconds is not None else ", because no clip was made here yet"
        estimate = f"{_duration_text(self.wall_seconds)} with {self._workers_text}{unknown}"
        lines.append(f"begins {self.begins:%Y-%m-%d %H:%M}, takes {estimate}")
        return "\n".join(lines + [f"note: {warning}" for warning in self.warnings])


def prepare(
    manifest: Manifest, outputs: Outputs, models: Models, home: Home, executor: str = "ray", dry_run: bool = False
) -> Plan:
    """Run the whole pre-flight check. Raises Unavailable, with every fault, if the batch cannot start.

    executor: see `produce`; dry_run: nothing is made, not even the local certificate.
    """
    params = models.params
    store = params.produce.store or str(home.store)
    can_make_signer = not dry_run or not needs_local_signer(params.provenance)
    checks = (
        lambda: models.digests,
        lambda: _load_speech_models(manifest, models),
        lambda: _encode(params.video),
        lambda: outputs.check("--out"),
        lambda: Outputs(store).check("produce.store"),
        lambda: open_signer(params.provenance, home.credentials) if can_make_signer else None,
    )
    faults: list[str] = []
    for check in checks:
        try:
            check()
        except (UserError, OSError) as error:
            faults.append(str(error))
    if faults:
        raise Unavailable("\n".join(faults))
    result = plan(manifest, params, Library(home.avatars), History(home.history), datetime.now(), executor)
    return result if is_url(store) else replace(result, free_bytes=shutil.disk_usage(existing_part(Path(store))).free)


def _load_speech_models(manifest: Manifest, models: Models) -> None:
    """Load what recognizes recordings and speaks scripts. Raises UserError if a model is damaged or unknown."""
    if models.recognizer and _recognizes(manifest.clips):
        models.recognizer.check()
    for name in _natural_voices(manifest.clips):
        NaturalVoice(name).load()


def _recognizes(clips: Iterable[Clip]) -> bool:
    """Whether the words of some recording are to be recognized."""
    return any(alone.is_recognized for clip in clips for alone in clip.people)


def _natural_voices(clips: Iterable[Clip]) -> set[str]:
    """Names of the natural voices that are installed and speak a clip."""
    names = set()
    for alone in (alone for clip in clips for alone in clip.people):
        try:
            voice = find_voice(alone.voice, alone.language, alone.rate) if alone.script is not None else None
        except ClipError:  # the row of the clip says so
            continue
        if isinstance(voice, NaturalVoice) and is_available(voice.name):
            names.add("kumo" if voice.name.startswith(OWN) else voice.name)  # own voices need the same network
    return names


def plan(
    manifest: Manifest, params: Params, library: Library, history: History, now: datetime, executor: str = "ray"
) -> Plan:
    """Check every clip (files, avatar, background, poses) and estimate it. Only headers of files are read.

    now: local time; executor: see `produce`.
    """
    begins, _ = next_window(now, params.produce.window)
    threads = params.produce.worker.threads
    speed = history.speed(threads)

    def check(item: tuple[int, Clip]) -> ClipPlan:
        row, clip = item
        try:
            turns = turns_of(clip)
            for k, alone in enumerate(clip.people):
                with _of_person(clip, k):
                    _check_avatar(alone, library, params, now)
                    clip_motion_controls(alone, 0, 1)
                    check_cues(alone)
            _check_background(clip.background)
            frames = frame_count(_seconds(clip, turns), clip.fps)
            if clip.captions and clip.captions.burn:
                texts = [turn.clip.script or turn.clip.given_transcript or "" for turn in turns]
                check_font("".join(map(without_marks, texts)), clip.captions)
        except ClipError as error:
            return ClipPlan(row, clip, 0, None, str(error))
        seconds = speed.worker_seconds(clip.rendered_pixels, frames) if speed else None
        return ClipPlan(row, clip, frames, seconds, spelled_out=_spelled_out(turns))

    with ThreadPoolExecutor(_READER_THREADS) as readers:
        clips = tuple(readers.map(check, manifest.in_order(now)))
    feasible = [planned for planned in clips if not planned.fault]
    disk = sum(planned.frames * _bytes_per_frame(planned.clip) for planned in feasible)
    largest = max((alone.pixels for planned in feasible for alone in planned.clip.people), default=0)
    # Clips are prepared ahead of their rendering, at worst the longest ones at once.
    lengths = sorted((planned.frames / planned.clip.fps for planned in feasible), reverse=True)
    worker_memory = WORKER_BYTES + WORKER_BYTES_PER_PIXEL * largest
    rules = params.produce.worker
    workers = 1 if executor == "inline" else params.produce.workers or _workers_of_machine(rules, worker_memory)
    audio_seconds = sum(lengths[: workers + CLIPS_AHEAD])
    voices = _natural_voices(manifest.clips)
    driver = _DRIVER_BYTES + _HEART_BYTES * ("heart" in voices) + _KOKORO_BYTES * bool(voices - {"heart"})
    driver += _RECOGNIZER_BYTES * _recognizes(manifest.clips)
    # While a scene is put together, a segment of each person is in memory.
    scenes = [sum(alone.pixels for alone in planned.clip.people) for planned in feasible if planned.clip.scene]
    driver += CLIPS_AHEAD * max(scenes, default=0) * 4 * params.render.segment
    memory = driver + _DRIVER_BYTES_PER_S * audio_seconds + workers * worker_memory
    return Plan(clips, begins, workers, threads, disk, memory, local=rules.cluster is None)


def _workers_of_machine(rules: WorkerParams, worker_memory: float) -> int:
    """The number of workers that this machine has room for, at least one.

    worker_memory: bytes that each of them needs. Raises Unavailable if workers run on a cluster.
    """
    if rules.cluster:
        raise Unavailable(
            f"produce.workers is null; expected a number, because the workers run on the Ray cluster at {rules.cluster}"
        )
    room = [usable_cores() // rules.threads, (_MEMORY_SHARE * usable_memory() - _DRIVER_BYTES) // worker_memory]
    if rules.gpus:
        # Ray places a worker's share of a GPU on one GPU.
        gpus = torch.cuda.device_count()
        room.append(gpus * int(1 / rules.gpus) if rules.gpus <= 1 else gpus // rules.gpus)
    return max(1, int(min(room)))


def _bytes_per_frame(clip: Clip) -> float:
    """Disk that a frame takes in the store and the results."""
    cameras = [clip.camera, *(retake.camera for retake in clip.retakes if retake.camera)]
    moves = any(camera.kind != "fixed" for camera in cameras)
    segment = MOVING_SEGMENT_BYTES_PER_PIXEL if moves else SEGMENT_BYTES_PER_PIXEL
    rendered = sum(alone.pixels * (4 / 3 if alone.has_alpha else 1) for alone in clip.people)
    return clip.pixels * VIDEO_BYTES_PER_PIXEL + segment * rendered


@contextmanager
def _of_person(clip: Clip, person: int) -> Iterator[None]:
    """In a scene, name the person in the ClipErrors of the block."""
    try:
        yield
    except ClipError as error:
        raise ClipError(f"{clip.scene[person].label}: {error}" if clip.scene else str(error)) from None


def _check_avatar(clip: Clip, library: Library, params: Params, now: datetime) -> None:
    """Raise ClipError if the clip's avatar cannot be used.

    Its consent is checked. A portrait's file must be readable and large enough, and the detector must be installed.
    """
    library.check_consent(clip.avatar, clip.consent, params.produce.require_consent, now.date())
    if is_picture(clip.avatar):
        try:
            check_photo(Path(clip.avatar), MIN_SIDE_PX)
            check_usable(detector_folder(params))
        except UserError as error:
            raise ClipError(str(error)) from None


def _check_background(background: str) -> None:
    """Raise ClipError if the background is a picture's file that cannot be opened."""
    if is_picture(background):
        try:
            check_photo(Path(background))
        except UserError as error:
            raise ClipError(f"background {error}") from None


def _seconds(clip: Clip, turns: Sequence[Turn]) -> float:
    """Length of a clip. Raises ClipError if a recording or a script cannot be used."""
    seconds = []
    for turn in turns:
        with _of_person(clip, turn.person):
            seconds.append(_turn_seconds(turn.clip))
    whole = max(start + length for start, length in zip(start_times(turns, seconds), seconds, strict=True))
    if whole > audio_files.MAX_SECONDS:
        raise ClipError(f"it would last {whole / 3600:.1f} h; expected at most {audio_files.MAX_SECONDS / 3600:.0f} h")
    return whole


def _turn_seconds(clip: Clip) -> float:
    """Length of what one person says, s: that of the recording, or the words of the script over its rate.

    Raises ClipError if the recording or the script cannot be used.
    """
    if clip.script is not None:
        check_script(clip.script, clip_voice(clip))
        spoken = passages(clip.script)
        words = sum(_word_count(passage.text) for passage in spoken)
        return max(words * 60 / clip.rate + sum(passage.pause for passage in spoken), audio_files.MIN_SECONDS)
    seconds = audio_files.media_seconds(clip.recording, clip_part(clip))
    if clip.language:
        check_language(clip.language)
    if clip.given_transcript is not None:
        check_alignable(clip.recording, seconds)
    return seconds


def _word_count(text: str) -> float:
    """Words of a text; in scripts without spaces between words, two letters take about as long as a word."""
    return len(NO_SPACES.sub(" ", text).split()) + len(NO_SPACES.findall(text)) / 2


def _spelled_out(turns: Sequence[Turn]) -> str:
    """Scripts as their voices spell them out; empty if that is what is written."""
    found = []
    for script, clip in ((turn.clip.script, turn.clip) for turn in turns):
        if script is not None:
            text = clip_voice(clip).spelled_out(script)
            found += [text] if text != " ".join(without_marks(script).split()) else []
    return " / ".join(found)


def _encode(params: VideoParams) -> None:
    """Encode one frame and 0.1 s of silence, to test the encoder. Raises UserError or OSError if that fails."""
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


def _duration_text(seconds: float | None) -> str:
    return "time unknown" if seconds is None else duration(seconds)
