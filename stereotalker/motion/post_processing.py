"""What is laid over a finished motion: blinks, and what a director asks: emotion by key frames, eyes on the camera, a body that keeps still. T frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from stereotalker.acting.face import blink
from stereotalker.motion.features import BODY_JOINTS
from stereotalker.records import Motion
from stereotalker.smplx_layout import ACTION, JOINT, JOINTS, PARENTS

# What an emotion adds to the 52 actions, and by what it multiplies the smile that is there.
_FACES: dict[str, tuple[dict[str, float], float]] = {
    "neutral": ({}, 1.0),
    "happy": ({"mouthSmileL/R": 0.42, "cheekSquintL/R": 0.35, "eyeSquintL/R": 0.12, "browOuterUpL/R": 0.08, "mouthDimpleL/R": 0.10}, 1.0),
    "serious": ({"browDownL/R": 0.45, "eyeSquintL/R": 0.10, "mouthFrownL/R": 0.10, "mouthShrugLower": 0.06}, 0.1),
}  # fmt: skip
_CHANGE_S = 0.5  # that a face takes from one emotion to the next
_EYES = np.array([0.35, 0.50])  # rad, the most that eyes turn down or up, and aside
_HEAD_SHARE = 0.35  # of the way to the camera that the head takes; the eyes do the rest
_ARMS = [
    k
    for k, name in enumerate(JOINTS)
    if name.startswith(("left_", "right_"))
    and name.split("_")[1][:-1] in ("index", "middle", "pinky", "ring", "thumb")
    or name.endswith(("collar", "shoulder", "elbow", "wrist"))
]
_ALIVE = 0.02  # rad of the eyes' own unrest that is left on the camera


@dataclass(frozen=True)
class Emotion:
    """From `time` s on the face is `name`, as strongly as `amount` 0..1 says."""

    time: float
    name: str
    amount: float = 1.0


def with_emotion(motion: Motion, keys: tuple[Emotion, ...]) -> Motion:
    """The emotions of `keys` (rising times; neutral before the first) over the expression. Lips that are closed stay closed."""
    if not keys:
        return motion
    time = (np.arange(len(motion.expression)) + 0.5) / motion.fps
    added, smiles, previous = (
        np.zeros_like(motion.expression),
        np.ones(len(time)),
        (np.zeros(motion.expression.shape[1]), 1.0),
    )
    for index, key in enumerate(keys):
        face, smile = _face(key)
        share = np.clip((time - key.time) / _CHANGE_S + (key.time <= 0 and index == 0), 0, 1)
        share = share**3 * (10 - 15 * share + 6 * share**2)
        added += share[:, None] * (face - previous[0])
        smiles += share * (smile - previous[1])
        previous = face, smile
    expression = motion.expression.copy()
    for side in ("Left", "Right"):
        expression[:, ACTION[f"mouthSmile{side}"]] *= smiles
    return replace(motion, expression=np.clip(expression + added, 0, 1).astype(np.float32))


def _face(key: Emotion) -> tuple[np.ndarray, float]:
    actions, smile = _FACES[key.name]
    face = np.zeros(len(ACTION))
    for action, value in actions.items():
        for side in ("Left", "Right") if action.endswith("L/R") else ("",):
            face[ACTION[action.removesuffix("L/R") + side]] = key.amount * value
    return face, 1 + key.amount * (smile - 1)


def with_gaze(
    motion: Motion, azimuth: np.ndarray, elevation: np.ndarray, from_start: bool = False, to_end: bool = False
) -> Motion:
    """Eyes, and a little of the head, towards a camera that stands at these degrees around the speaker, each f32 [T].

    from_start, to_end: the first and the last pose are given, and gaze comes and goes beside them within half a second.
    """
    poses, time = motion.poses.copy(), np.arange(len(motion.poses)) / motion.fps
    share = np.ones(len(time))
    for given, away in ((from_start, time), (to_end, time[::-1])):
        share *= np.clip(away / _CHANGE_S, 0, 1) if given else 1
    a, e = np.radians(azimuth), np.radians(elevation)
    to = np.stack([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)], 1)
    turn = _angles(_turned(poses, PARENTS[JOINT["head"]]).inv().apply(to)) - _angles(
        Rotation.from_rotvec(poses[:, JOINT["head"]]).apply([0.0, 0.0, 1.0])
    )
    poses[:, JOINT["head"], :2] += (_HEAD_SHARE * share[:, None] * turn).astype(np.float32)
    wanted = _angles(_turned(poses, JOINT["head"]).inv().apply(to))
    for eye in ("left_eye", "right_eye"):
        own = np.clip(poses[:, JOINT[eye], :2], -_ALIVE, _ALIVE)
        poses[:, JOINT[eye], :2] += share[:, None] * (np.clip(wanted + own, -_EYES, _EYES) - poses[:, JOINT[eye], :2])
        poses[:, JOINT[eye], 2] *= 1 - share
    return replace(motion, poses=poses)


def _turned(poses: np.ndarray, joint: int) -> Rotation:
    """How a joint has turned in the world, from rotations alone."""
    turn = Rotation.from_rotvec(poses[:, joint])
    while (joint := PARENTS[joint]) >= 0:
        turn = Rotation.from_rotvec(poses[:, joint]) * turn
    return turn


def _angles(direction: np.ndarray) -> np.ndarray:
    """Down and left, rad, of directions [T, 3]. [T, 2]."""
    return np.stack([-np.arcsin(np.clip(direction[:, 1], -1, 1)), np.arctan2(direction[:, 0], direction[:, 2])], 1)


def with_blinks(motion: Motion, seed: int) -> Motion:
    """Lids that close every 2 to 5 s, as the acting's do: a thing of chance that the sampler forgets."""
    expression = motion.expression.copy()
    blink(expression, np.zeros(0), np.random.default_rng([seed, 61]), len(expression), motion.fps)
    return replace(motion, expression=expression)


def with_still_body(motion: Motion) -> Motion:
    """Only head, neck and face move; the rest keeps the pose it begins in."""
    poses = motion.poses.copy()
    still = [JOINT[name] for name in BODY_JOINTS if name not in ("head", "neck")]
    poses[:, still] = poses[:1, still]
    return replace(motion, poses=poses, trans=np.repeat(motion.trans[:1], len(motion.trans), 0))


def with_arms(motion: Motion, poses: np.ndarray) -> Motion:
    """Arms and hands held as in one pose f32 [55, 3]."""
    held = motion.poses.copy()
    held[:, _ARMS] = poses[_ARMS]
    return replace(motion, poses=held)
