"""Edits a synthesized motion: adds blinks and emotions, turns the eyes to the camera, keeps the body or the arms still.

T frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from stereotalker.acting.face import add_blinks
from stereotalker.geometry.easing import minimum_jerk
from stereotalker.motion.features import BODY_JOINTS
from stereotalker.records import Motion
from stereotalker.smplx_layout import ACTION, JOINT, PARENTS

# For every emotion: the values that it adds to the 52 facial actions, and the factor on the smile that the motion
# already has.
_FACES: dict[str, tuple[dict[str, float], float]] = {
    "neutral": ({}, 1.0),
    "happy": (
        {
            "mouthSmileL/R": 0.42,
            "cheekSquintL/R": 0.35,
            "eyeSquintL/R": 0.12,
            "browOuterUpL/R": 0.08,
            "mouthDimpleL/R": 0.10,
        },
        1.0,
    ),
    "serious": ({"browDownL/R": 0.45, "eyeSquintL/R": 0.10, "mouthFrownL/R": 0.10, "mouthShrugLower": 0.06}, 0.1),
}
_CHANGE_S = 0.5  # seconds in which the face changes from one emotion to the next, and in which gaze comes or goes
_MAX_EYE_ANGLES = np.array([0.35, 0.50])  # rad: largest rotation of the eyes down or up, and sideways
_HEAD_SHARE = 0.35  # share of the turn to the camera that the head makes; the eyes make the rest
# rad: the eyes' own movement that is kept while they look at the camera, so that they do not freeze.
_MAX_EYE_JITTER = 0.02


@dataclass(frozen=True)
class Emotion:
    """A key frame of emotion: from `time` on the face shows the emotion `name`."""

    time: float  # s
    name: str  # key of _FACES
    amount: float = 1.0  # in 0..1


def with_emotion(motion: Motion, keys: tuple[Emotion, ...]) -> Motion:
    """Add the emotions of `keys` to the expression. Lips that are closed stay closed.

    The times of the keys rise; before the first one the face is neutral, unless its time is 0 or less.
    """
    if not keys:
        return motion
    time = (np.arange(len(motion.expression)) + 0.5) / motion.fps
    added, smile_factors, previous = (
        np.zeros_like(motion.expression),
        np.ones(len(time)),
        (np.zeros(motion.expression.shape[1]), 1.0),
    )
    for index, key in enumerate(keys):
        face, smile_factor = _face(key)
        weight = minimum_jerk((time - key.time) / _CHANGE_S + (key.time <= 0 and index == 0))
        added += weight[:, None] * (face - previous[0])
        smile_factors += weight * (smile_factor - previous[1])
        previous = face, smile_factor
    expression = motion.expression.copy()
    for side in ("Left", "Right"):
        expression[:, ACTION[f"mouthSmile{side}"]] *= smile_factors
    return replace(motion, expression=np.clip(expression + added, 0, 1).astype(np.float32))


def _face(key: Emotion) -> tuple[np.ndarray, float]:
    """The actions [52] that a key frame adds, and its factor on the motion's own smile."""
    actions, smile_factor = _FACES[key.name]
    face = np.zeros(len(ACTION))
    for action, value in actions.items():
        for side in ("Left", "Right") if action.endswith("L/R") else ("",):
            face[ACTION[action.removesuffix("L/R") + side]] = key.amount * value
    return face, 1 + key.amount * (smile_factor - 1)


def with_gaze(
    motion: Motion, azimuth: np.ndarray, elevation: np.ndarray, from_start: bool = False, to_end: bool = False
) -> Motion:
    """Turn the eyes, and the head a little, to a camera that moves around the speaker.

    `azimuth` and `elevation`: the camera's angles, each f32 [T] degrees.
    If `from_start` or `to_end` is True, the first or the last pose is prescribed: there the gaze is unchanged, and it
    moves to or from the camera within _CHANGE_S beside it.
    """
    weight = away_from_prescribed(motion, from_start, to_end)
    return turned_to(motion, azimuth, elevation, weight, _HEAD_SHARE)


def away_from_prescribed(motion: Motion, from_start: bool, to_end: bool) -> np.ndarray:
    """0 in the first pose, or in the last one, if it is prescribed, and 1 from _CHANGE_S away from it; [T]."""
    time = np.arange(len(motion.poses)) / motion.fps
    weight = np.ones(len(time))
    for is_prescribed, distance in ((from_start, time), (to_end, time[::-1])):
        weight *= np.clip(distance / _CHANGE_S, 0, 1) if is_prescribed else 1
    return weight


def turned_to(
    motion: Motion, azimuth: np.ndarray, elevation: np.ndarray, weight: np.ndarray, head_share: float
) -> Motion:
    """Turn eyes and head to a direction, [T] degrees each.

    weight: [T] in 0..1, how far; head_share: of the turn that the head makes; the eyes make the rest, if they can.
    """
    poses = motion.poses.copy()
    a, e = np.radians(azimuth), np.radians(elevation)
    direction = np.stack([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)], 1)
    turn = _angles(_world_rotation(poses, PARENTS[JOINT["head"]]).inv().apply(direction)) - _angles(
        Rotation.from_rotvec(poses[:, JOINT["head"]]).apply([0.0, 0.0, 1.0])
    )
    poses[:, JOINT["head"], :2] += (head_share * weight[:, None] * turn).astype(np.float32)
    eye_angles = _angles(_world_rotation(poses, JOINT["head"]).inv().apply(direction))
    for eye in ("left_eye", "right_eye"):
        jitter = np.clip(poses[:, JOINT[eye], :2], -_MAX_EYE_JITTER, _MAX_EYE_JITTER)
        target = np.clip(eye_angles + jitter, -_MAX_EYE_ANGLES, _MAX_EYE_ANGLES)
        poses[:, JOINT[eye], :2] += weight[:, None] * (target - poses[:, JOINT[eye], :2])
        poses[:, JOINT[eye], 2] *= 1 - weight
    return replace(motion, poses=poses)


def _world_rotation(poses: np.ndarray, joint: int) -> Rotation:
    """Rotations [T] of a joint in world axes, chained from the root."""
    rotation = Rotation.from_rotvec(poses[:, joint])
    while (joint := PARENTS[joint]) >= 0:
        rotation = Rotation.from_rotvec(poses[:, joint]) * rotation
    return rotation


def _angles(direction: np.ndarray) -> np.ndarray:
    """Angles down and left [T, 2], rad, of directions [T, 3]."""
    return np.stack([-np.arcsin(np.clip(direction[:, 1], -1, 1)), np.arctan2(direction[:, 0], direction[:, 2])], 1)


def with_blinks(motion: Motion, seed: int) -> Motion:
    """Close the eyelids every 2 to 5 s, as the reference acting does.

    The times of blinks are random and the sampled motion loses them, so they are drawn again here. Equal seeds give
    equal blinks.
    """
    expression = motion.expression.copy()
    add_blinks(expression, np.zeros(0), np.random.default_rng([seed, 61]), len(expression), motion.fps)
    return replace(motion, expression=expression)


def with_still_body(motion: Motion) -> Motion:
    """Keep every joint but head, neck and face, and the translation, as in the first frame."""
    poses = motion.poses.copy()
    still = [JOINT[name] for name in BODY_JOINTS if name not in ("head", "neck")]
    poses[:, still] = poses[:1, still]
    return replace(motion, poses=poses, trans=np.repeat(motion.trans[:1], len(motion.trans), 0))
