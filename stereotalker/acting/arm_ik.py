"""Hands in space -> SMPL-X joint angles: two-bone inverse kinematics with joint limits, and hand shapes.

A hand is placed by where its wrist is, where its fingers point and where its palm looks, in the rest pose's axes (x to the person's
left, y up, z front; m). Everything is written for the left arm; the right one is its mirror image. T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from stereotalker.smplx_layout import JOINT

SHOULDER = np.array(
    [0.183, 0.642, 0.028]
)  # of the mean body; shapes differ by a few cm, which the clearance allows for
UPPER, FORE = 0.281, 0.248
REACH = 0.97 * (UPPER + FORE)
WRIST_SWING, FOREARM_TWIST, ELBOW_BEND = 1.15, 1.5, 2.55  # rad, the most a joint turns

# Curl of index, middle, ring, pinky and thumb (1: into the palm), and how far the fingers spread.
SHAPES: dict[str, tuple[float, float, float, float, float, float]] = {
    "relaxed": (0.28, 0.36, 0.42, 0.46, 0.25, 0.15),
    "open": (0.05, 0.06, 0.08, 0.10, 0.02, 0.7),
    "flat": (0.05, 0.05, 0.06, 0.08, 0.25, 0.05),
    "fist": (1.0, 1.0, 1.0, 1.0, 0.9, 0.0),
    "point": (0.04, 0.92, 0.97, 1.0, 0.8, 0.0),
    "two": (0.03, 0.03, 0.95, 1.0, 0.9, 0.55),
    "three": (0.03, 0.03, 0.05, 1.0, 0.95, 0.5),
    "four": (0.03, 0.03, 0.04, 0.06, 1.0, 0.5),
    "pinch": (0.62, 0.35, 0.30, 0.28, 0.62, 0.2),
    "ring": (0.72, 0.30, 0.20, 0.16, 0.72, 0.45),
    "claw": (0.45, 0.45, 0.45, 0.48, 0.30, 0.55),
    "thumb-up": (0.97, 1.0, 1.0, 1.0, -0.35, 0.0),
    "clasped": (0.40, 0.44, 0.48, 0.52, 0.30, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class Hand:
    """Where a left hand is: wrist m, fingers' and palm's directions (any length), shape, and the elbow's swing outwards rad."""

    wrist: tuple[float, float, float]
    fingers: tuple[float, float, float]
    palm: tuple[float, float, float]
    shape: str = "relaxed"
    swivel: float = 0.35

    def vector(self) -> np.ndarray:
        """Everything in one row, which can be blended: [16]."""
        return np.concatenate([self.wrist, self.fingers, self.palm, SHAPES[self.shape], [self.swivel]])


def pose_arm(side: str, rows: np.ndarray, poses: np.ndarray) -> None:
    """Write one arm's joints into poses f32 [T, 55, 3] from blended hand vectors [T, 16]."""
    wrist, fingers, palm, shape, swivel = np.split(rows, [3, 6, 9, 15], axis=1)
    shoulder, elbow, hand = _solve(wrist, fingers, palm, swivel[:, 0])
    mirror = np.array([1, 1, 1]) if side == "left" else np.array([1, -1, -1])
    for joint, turn in (("shoulder", shoulder), ("elbow", elbow), ("wrist", hand)):
        poses[:, JOINT[f"{side}_{joint}"]] = turn * mirror
    curls, spread = shape[:, :5], shape[:, 5]
    for k, finger in enumerate(("index", "middle", "ring", "pinky")):
        for knuckle, bend in ((1, 1.25), (2, 1.65), (3, 1.0)):
            turn = np.zeros((len(rows), 3))
            turn[:, 2] = -curls[:, k] * bend
            if knuckle == 1:
                turn[:, 1] = -spread * (0.22, 0.04, -0.12, -0.28)[k] * (1 - np.clip(curls[:, k], 0, 1))
            poses[:, JOINT[f"{side}_{finger}{knuckle}"]] = turn * mirror
    for knuckle, bend in ((1, (0.25, 0.45, -0.40)), (2, (0.0, 0.65, -0.25)), (3, (0.0, 0.75, -0.15))):
        poses[:, JOINT[f"{side}_thumb{knuckle}"]] = curls[:, 4:] * np.array(bend) * mirror


def _solve(
    wrist: np.ndarray, fingers: np.ndarray, palm: np.ndarray, swivel: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axis-angles [T, 3] of shoulder, elbow and wrist of a left arm."""
    to = wrist - SHOULDER
    distance = np.linalg.norm(to, axis=1, keepdims=True)
    least = np.sqrt(UPPER**2 + FORE**2 + 2 * UPPER * FORE * np.cos(ELBOW_BEND))
    far = np.clip(distance, least, REACH)
    axis = to / np.maximum(distance, 1e-6)
    along = (UPPER**2 - FORE**2 + far**2) / (2 * far)
    aside = np.sqrt(np.maximum(UPPER**2 - along**2, 0))
    down = np.array([0.0, -1.0, 0.0]) - (axis @ np.array([0.0, -1.0, 0.0]))[:, None] * axis
    down /= np.maximum(np.linalg.norm(down, axis=1, keepdims=True), 1e-6)
    out = np.cross(axis, down)
    out *= np.sign((out @ np.array([1.0, 0.0, -0.6]))[:, None] + 1e-9)
    bow = np.cos(swivel)[:, None] * down + np.sin(swivel)[:, None] * out  # the elbow hangs, and swings out and back
    upper = (along * axis + aside * bow) / UPPER
    fore = (far * axis - UPPER * upper) / FORE
    front = fore - (fore * upper).sum(1, keepdims=True) * upper
    front /= np.maximum(np.linalg.norm(front, axis=1, keepdims=True), 1e-6)
    shoulder = Rotation.from_matrix(np.stack([upper, np.cross(front, upper), front], 2))
    bend = np.arccos(np.clip((upper * fore).sum(1), -1, 1))
    elbow = Rotation.from_rotvec(np.stack([0 * bend, -bend, 0 * bend], 1))
    x = fingers / np.maximum(np.linalg.norm(fingers, axis=1, keepdims=True), 1e-6)
    y = -(palm - (palm * x).sum(1, keepdims=True) * x)
    y /= np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-6)
    wanted = Rotation.from_matrix(np.stack([x, y, np.cross(x, y)], 2))
    local = (shoulder * elbow).inv() * wanted
    # Turning about the forearm's axis is the forearm's business, the rest the wrist's; each within its limit.
    q = local.as_quat()
    twist = 2 * np.arctan2(q[:, 0], q[:, 3])
    twist = np.clip((twist + np.pi) % (2 * np.pi) - np.pi, -FOREARM_TWIST, FOREARM_TWIST)

    def about(angle):
        return Rotation.from_rotvec(np.stack([angle, 0 * angle, 0 * angle], 1))

    swing = (about(twist).inv() * local).as_rotvec()
    size = np.linalg.norm(swing, axis=1, keepdims=True)
    swing *= np.minimum(1, WRIST_SWING / np.maximum(size, 1e-6))
    swing[:, 0] = np.clip(swing[:, 0], -0.4, 0.4)
    forearm = elbow * about(0.6 * twist)
    hand = about(0.4 * twist) * Rotation.from_rotvec(swing)
    return shoulder.as_rotvec(), forearm.as_rotvec(), hand.as_rotvec()
