"""Judges a finished clip: its file by the quality gate, and its motion by the cues that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stereotalker.body.model import Body
from stereotalker.geometry.camera import avatar_camera, project
from stereotalker.motion.coverage import Coverage
from stereotalker.motion.cues import DoneCue, done_cues
from stereotalker.motion.listening import LIPS_S
from stereotalker.params import QualityParams
from stereotalker.production import quality
from stereotalker.production.clip_cues import CueOutcome, PlannedCue, outcomes, timed_cues
from stereotalker.production.manifest import Clip
from stereotalker.production.motion_controls import clip_seed, clip_style
from stereotalker.production.scene import SHOULDERS, Box, drawing_order
from stereotalker.records import Avatar, Camera, Motion, Speech
from stereotalker.smplx_layout import JOINT

# Where the head is in the picture of a person, in its heights: half of its width, and how far down it reaches.
_HALF_HEAD, _HEAD = 0.12, 0.3


class Judged(NamedTuple):
    """A person of a clip, and what drove and should show this person."""

    label: str  # in a scene; else empty
    clip: Clip  # of this person alone
    speech: Speech
    motion: Motion
    avatar: Avatar
    cues: Sequence[PlannedCue]  # see `plan_cues`
    listens: Sequence[tuple[float, float]]  # start and end, s, of the time in which others speak
    box: Box | None  # where the person's pictures lie in a scene


def judge_clip(
    video: Path, sound: Path, clip: Clip, people: Sequence[Judged], body: Body, loudness: float, limits: QualityParams
) -> quality.Examination:
    """Measure a clip's file and judge it. sound: the WAV file of the clip; loudness: that was asked for, LUFS."""
    examined: dict[str, quality.Examination] = {}
    outcomes_of_all: list[CueOutcome] = []
    size = clip.height, clip.width
    boxes = [person.box for person in people if person.box]
    for k, person in enumerate(people):
        motion, avatar, alone = person.motion, person.avatar, person.clip
        view = clip_camera(alone, avatar, len(motion.poses))
        aperture = body.lip_aperture(motion)
        shown = _within_scene(view, person.box, size) if person.box else view
        cues = _cue_outcomes(alone, motion, avatar, body, shown, person.cues)
        if person.box:
            cues = tuple(replace(cue, place=f"{person.label}, {cue.place}") for cue in cues)
        outcomes_of_all += cues
        inputs = quality.ClipInputs(
            aperture=aperture,
            unseen=Coverage(avatar, body).unseen(motion, view),
            loudness=loudness,
            is_misread=alone.given_transcript is not None and not person.speech.words,
            cues=() if clip.scene else cues,
            listening_mm=_listening_aperture(aperture, person.listens, clip.fps),
            area=person.box and _area_of(person.box, size),
            speaks_s=_spoken_seconds(person.speech) if clip.scene else np.inf,
            shows_face=person.box is None or _shows_face(k, boxes, drawing_order(clip.scene), size),
        )
        examined[person.label] = quality.examine(video, sound, inputs, clip, limits)
    return quality.together(examined, outcomes_of_all) if clip.scene else examined[""]


def _within_scene(view: Camera, box: Box, size: tuple[int, int]) -> Camera:
    """The camera of a person's own picture as one of the whole scene of (height, width) px."""
    intrinsics = view.intrinsics.copy()
    intrinsics[:, :2, 2] += np.array([box.left, box.top], np.float32)
    return replace(view, intrinsics=intrinsics, size=size)


def _shows_face(person: int, boxes: Sequence[Box], order: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether the face of a person of a scene is in the picture, and nobody in front covers it.

    order: see `drawing_order`; size: (height, width) px of the scene.
    """
    own = boxes[person]
    middle, reach = own.left + own.width / 2, _HALF_HEAD * own.height
    if middle < reach or middle > size[1] - reach:
        return False
    for other in (boxes[k] for k in order[order.index(person) + 1 :]):
        is_near = abs(other.left + other.width / 2 - middle) < SHOULDERS / 2 * other.height
        if is_near and other.top < own.top + _HEAD * own.height:
            return False
    return True


def _area_of(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Rows and columns (first, behind the last, each) of a scene in which a person's head and shoulders are."""
    height, width = size
    middle, half = box.left + box.width // 2, round(SHOULDERS * box.height / 2)
    return max(box.top, 0), height, max(middle - half, 0), min(middle + half, width)


def _listening_aperture(aperture: np.ndarray, spans: Sequence[tuple[float, float]], fps: float) -> float | None:
    """How far the lips part, at most, while the person listens, mm; None if the person never does.

    spans: start and end, s, of the time in which others speak. The lips come together at the beginning of such a time
    and part at its end, so these moments do not count.
    """
    time = (np.arange(len(aperture)) + 0.5) / fps
    ends = [(start + LIPS_S * (start > 0), end - LIPS_S * (end < time[-1])) for start, end in spans]
    listens = np.any([(time >= start) & (time <= end) for start, end in ends], axis=0) if ends else np.zeros(1, bool)
    return float(aperture[listens].max()) if listens.any() else None


def _spoken_seconds(speech: Speech) -> float:
    """How long somebody speaks, s: infinite if the words of a sound are not known."""
    if speech.words:
        return sum(word.end - word.start for word in speech.words)
    return np.inf if speech.samples.any() else 0.0


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
