"""The motion controls of a clip, taken from its row in the manifest, and the export of a clip's motion to files."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stereotalker.acting.reference_acting import STYLE_INDEX, STYLES, resting_pose
from stereotalker.body.model import Body
from stereotalker.errors import UserError
from stereotalker.geometry import camera
from stereotalker.media.video_files import frame_count
from stereotalker.models import Models
from stereotalker.motion.cues import done_cues
from stereotalker.motion.export import WRITERS, export, read_npz
from stereotalker.motion.post_processing import Emotion
from stereotalker.motion.preview import write_preview
from stereotalker.motion.retargeting import Retargeting
from stereotalker.motion.synthesize import MotionControls
from stereotalker.production.clip_cues import CueOutcome, outcomes, plan_cues, timed_cues
from stereotalker.production.clip_speech import make_speech
from stereotalker.production.manifest import REST_POSE, Clip
from stereotalker.records import Avatar, Motion, Speech

FORMATS: tuple[str, ...] = (*WRITERS, "mp4")


class Speaker(NamedTuple):
    """Whose body a clip moves."""

    avatar: Avatar
    body: Body


def clip_motion_controls(clip: Clip, style: int, frames: int, speaker: Speaker | None = None) -> MotionControls:
    """What the clip asks of the motion model, apart from its cues, which need its words: see clip_cues.py.

    style: index of the speaker's style, used if the clip names none; frames: number of frames of the clip; speaker:
    whom the motion is retargeted to, None for the mean body. Raises ClipError if a pose file cannot be read.
    """
    style = clip_style(clip, style)
    retargeting = speaker and Retargeting.of_speaker(*speaker, style, clip.rest, clip.arms == "invent")
    gaze = None
    if clip.gaze == "camera":
        view = camera.angles_along(clip.camera, frames, clip.fps)
        gaze = np.stack([view.azimuth, view.elevation])
    start, end = (
        # A retargeted motion begins and ends in the speaker's rest pose anyway.
        None if path == REST_POSE and retargeting else _pose(path, style, index)
        for path, index in ((clip.start_pose, -1), (clip.end_pose, 0))
    )
    emotions = tuple(Emotion(key.time, key.name, key.amount) for key in clip.emotion)
    return MotionControls(
        style,
        clip.gesture,
        clip_seed(clip),
        start,
        end,
        clip.body == "still",
        emotions,
        gaze,
        retargeting,
    )


def clip_style(clip: Clip, style: int) -> int:
    """Index of the style that a clip is acted in. style: that of its speaker."""
    return style if clip.style is None else STYLE_INDEX[clip.style]


def clip_seed(clip: Clip, seed: int | None = None) -> int:
    """The seed of a clip's random numbers. It depends on the clip's id, and on its seed in the manifest or `seed`.

    seed: that of a retake; None: that of the clip.
    """
    text = f"{clip.seed if seed is None else seed}/{clip.id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _pose(path: Path | None, style: int, index: int) -> Motion | None:
    """A motion of one frame: the resting pose of the style, or frame `index` of a motion file; None without a path."""
    if path is None:
        return None
    if path == REST_POSE:
        return resting_pose(STYLES[style])
    motion = read_npz(path)
    index %= len(motion.poses)
    return motion.frames(index, index + 1)


def make_motion(
    clip: Clip, models: Models, out: Path, formats: list[str]
) -> tuple[Speech, list[Path], tuple[CueOutcome, ...]]:
    """Synthesize a clip's motion and write it to files `out`/ID.npz, .csv, .bvh and .mp4, as `formats` says.

    Returns the speech, the paths of the files, and what became of the cues. Raises UserError, or ClipError if the
    speech cannot be used.
    """
    if unknown := set(formats) - set(FORMATS):
        raise UserError(f"format {', '.join(sorted(unknown))}; expected some of {', '.join(FORMATS)}")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; expected a folder, new or old")
    loudness = models.params.audio.loudness
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.wav"
        speech = make_speech(clip, loudness, models.recognizer, sound)
        frames = frame_count(speech.seconds, clip.fps)
        cues = plan_cues(clip, speech, frames / clip.fps)
        controls = replace(clip_motion_controls(clip, 0, frames), cues=timed_cues(cues))
        motion = models.synthesizer.motion(speech, controls, frames, clip.fps)
        paths = export(motion, models.body, out / clip.id, [name for name in formats if name in WRITERS])
        if "mp4" in formats:
            paths.append(out / f"{clip.id}.mp4")
            write_preview(paths[-1], motion, models.body, sound, models.params.video, clip.id)
    joints = models.body.rest_joints(np.zeros(models.body.betas, np.float32))
    done = done_cues(motion, controls.cues, controls.style, controls.seed, joints)
    return speech, paths, outcomes(cues, done, [True] * len(done), clip.fps)
