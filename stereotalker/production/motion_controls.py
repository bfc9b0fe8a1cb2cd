"""What a row of the manifest says of how its speaker moves; and a clip's motion alone, without a picture of anybody."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from stereotalker.acting.reference_acting import STYLE_INDEX, STYLES, resting_pose
from stereotalker.audio.speech import from_file, from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.errors import UserError
from stereotalker.geometry import camera
from stereotalker.media.audio_files import wav_bytes
from stereotalker.media.video_files import frame_count
from stereotalker.models import Models
from stereotalker.motion.export import WRITERS, export, read_npz
from stereotalker.motion.post_processing import Emotion
from stereotalker.motion.preview import write_preview
from stereotalker.motion.synthesize import MotionControls
from stereotalker.production.manifest import REST_POSE, Clip
from stereotalker.records import Motion, Speech

FORMATS: tuple[str, ...] = (*WRITERS, "mp4")


def clip_motion_controls(clip: Clip, style: int, frames: int) -> MotionControls:
    """style: the speaker's own, where the clip names none. Raises ClipError for a pose file that is none."""
    style = style if clip.style is None else STYLE_INDEX[clip.style]
    gaze = None
    if clip.gaze == "camera":
        view = camera.angles_along(clip.camera, frames, clip.fps)
        gaze = np.stack([view.azimuth, view.elevation])
    start, end = (_pose(path, style, at) for path, at in ((clip.start_pose, -1), (clip.end_pose, 0)))
    emotions = tuple(Emotion(key.time, key.name, key.amount) for key in clip.emotion)
    return MotionControls(style, clip.gesture, clip_seed(clip), start, end, clip.body == "still", emotions, gaze)


def clip_seed(clip: Clip, seed: int | None = None) -> int:
    """The clip's own seed, from the manifest's seed (or a retake's) and the clip's id."""
    return int.from_bytes(
        hashlib.sha256(f"{clip.seed if seed is None else seed}/{clip.id}".encode()).digest()[:4], "big"
    )


def _pose(path: Path | None, style: int, at: int) -> Motion | None:
    """One frame: the style's rest, or frame `at` of a motion file."""
    if path is None:
        return None
    if path == REST_POSE:
        return resting_pose(STYLES[style])
    motion = read_npz(path)
    at %= len(motion.poses)
    return motion.frames(at, at + 1)


def make_motion(clip: Clip, models: Models, out: Path, formats: list[str]) -> tuple[Speech, list[Path]]:
    """A clip's motion in files `out`/ID.npz, .csv, .bvh, .mp4. Raises UserError and ClipError."""
    if strange := set(formats) - set(FORMATS):
        raise UserError(f"format {', '.join(sorted(strange))}; expected some of {', '.join(FORMATS)}")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; expected a folder, new or old")
    loudness = models.params.audio.loudness
    if clip.script is not None:
        speech, sound = from_script(clip.script, Voice(clip.language, clip.voice, clip.rate), loudness)
    else:
        speech, sound = from_file(clip.audio, loudness, clip.transcript, clip.language)
    frames = frame_count(speech.seconds, clip.fps)
    motion = models.synthesizer.motion(speech, clip_motion_controls(clip, 0, frames), frames, clip.fps)
    paths = export(motion, models.body, out / clip.id, [name for name in formats if name in WRITERS])
    if "mp4" in formats:
        paths.append(out / f"{clip.id}.mp4")
        write_preview(paths[-1], motion, models.body, wav_bytes(sound), models.params.video, clip.id)
    return speech, paths
