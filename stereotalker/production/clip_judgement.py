"""Judges a finished clip: its file by the quality gate, and its motion by the cues that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stereotalker.body.model import Body
from stereotalker.geometry.camera import avatar_camera, project
from stereotalker.motion.coverage import Coverage
from stereotalker.motion.cues import DoneCue, done_cues
from stereotalker.params import QualityParams
from stereotalker.production import quality
from stereotalker.production.clip_cues import CueOutcome, PlannedCue, outcomes, timed_cues
from stereotalker.production.manifest import Clip
from stereotalker.production.motion_controls import clip_seed, clip_style
from stereotalker.records import Avatar, Camera, Motion, Speech
from stereotalker.smplx_layout import JOINT


def judge_clip(
    video: Path,
    sound: Path,
    clip: Clip,
    made_from: tuple[Speech, Motion, Avatar],
    body: Body,
    loudness: float,
    cues: Sequence[PlannedCue],
    limits: QualityParams,
) -> quality.Examination:
    """Measure a clip's file and judge it.

    sound: the WAV file that drove the motion; loudness: that was asked for, LUFS; cues: see `plan_cues`.
    """
    speech, motion, avatar = made_from
    view = clip_camera(clip, avatar, len(motion.poses))
    inputs = quality.ClipInputs(
        aperture=body.lip_aperture(motion),
        unseen=Coverage(avatar, body).unseen(motion, view),
        loudness=loudness,
        is_misread=clip.given_transcript is not None and not speech.words,
        cues=_cue_outcomes(clip, motion, avatar, body, view, cues),
    )
    return quality.examine(video, sound, inputs, clip, limits)


def _cue_outcomes(
    clip: Clip, motion: Motion, avatar: Avatar, body: Body, view: Camera, cues: Sequence[PlannedCue]
) -> tuple[CueOutcome, ...]:
    joints = body.rest_joints(avatar.betas, avatar.surface)
    done = done_cues(motion, timed_cues(cues), clip_style(clip, avatar.style), clip_seed(clip), joints)
    return outcomes(cues, done, [_shows_hands(cue, motion, avatar, body, view) for cue in done], clip.fps)


def _shows_hands(cue: DoneCue, motion: Motion, avatar: Avatar, body: Body, view: Camera) -> bool:
    """Whether the hands that make a cue are in the picture at its moment."""
    if cue.frame is None or not cue.hands:
        return True
    t = min(max(cue.frame, 0), len(motion.poses) - 1)
    posed = body.posed_joints(motion.frames(t, t + 1), avatar.betas, avatar.surface)[0][0]
    knuckles = posed[[JOINT[f"{side}_middle1"] for side in cue.hands]]
    pixels = project(knuckles, view.intrinsics[t], view.extrinsics[t])
    height, width = view.size
    x, y = pixels[:, 0], pixels[:, 1]
    return bool(np.all((x >= 0) & (x < width) & (y >= 0) & (y < height)))


def clip_camera(clip: Clip, avatar: Avatar, frames: int) -> Camera:
    """The camera of every frame of a clip, with those of its retakes in their places."""
    size = clip.height, clip.width
    view = avatar_camera(avatar, clip.camera, frames, clip.fps, size)
    for retake in clip.retakes:
        if retake.camera is not None:
            span = slice(*retake.frames(clip.fps, frames))
            other = avatar_camera(avatar, retake.camera, frames, clip.fps, size)
            for name in ("intrinsics", "extrinsics", "azimuth", "elevation"):
                getattr(view, name)[span] = getattr(other, name)[span]
    return view
