"""Two-bone inverse kinematics for the arms: where the hands are in space -> SMPL-X joint angles, within joint limits.

A hand is placed by the position of its wrist, the direction in which its fingers point and the direction that its palm
faces. Axes are those of the rest pose: x to the person's left, y up, z to the front; lengths in m. All targets are
written for the left arm. The right arm is its mirror image. T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from stereotalker.smplx_layout import JOINT

# Position of the left shoulder joint of the mean body, m. Other shapes differ by a few cm; the clearances in
# acting.collision allow for that.
LEFT_SHOULDER_M = np.array([0.183, 0.642, 0.028])
UPPER_ARM_M, FOREARM_M = 0.281, 0.248  # bone lengths of the mean body
# Largest distance from shoulder to wrist, m. It stays below the full length, so that the elbow is never quite straight.
MAX_REACH_M = 0.97 * (UPPER_ARM_M + FOREARM_M)
# Largest rotation of a joint, rad: the wrist away from the forearm, the forearm about its own axis, the elbow's bend.
MAX_WRIST_SWING_RAD, MAX_FOREARM_TWIST_RAD, MAX_ELBOW_BEND_RAD = 1.15, 1.5, 2.55

# Hand shapes: curl of index, middle, ring, pinky and thumb (0 is straight, 1 is into the palm), then how far the
# fingers spread.
HAND_SHAPES: dict[str, tuple[float, float, float, float, float, float]] = {
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
class HandTarget:
    """Where a left hand shall be.

    `wrist` is a position in m. `fingers` and `palm` are directions of any length. `shape` is a key of HAND_SHAPES.
    `swivel` is how far the elbow swings outwards, about the line from shoulder to wrist, in rad.
    """

    wrist: tuple[float, float, float]
    fingers: tuple[float, float, float]
    palm: tuple[float, float, float]
    shape: str = "relaxed"
    swivel: float = 0.35

    def vector(self) -> np.ndarray:
        """The target as one row f64 [16], which can be blended with other rows.

        Columns: wrist 0-2, fingers 3-5, palm 6-8, curl of the five fingers 9-13, spread 14, swivel 15.
        """
        return np.concatenate([self.wrist, self.fingers, self.palm, HAND_SHAPES[self.shape], [self.swivel]])


def pose_arm(side: str, rows: np.ndarray, poses: np.ndarray) -> None:
    """Write the joint angles of one arm and hand into `poses`, in place.

    side: "left" or "right". rows f64 [T, 16]: hand targets as `HandTarget.vector` lays them out.
    poses f32 [T, 55, 3]: axis-angle in rad, SMPL-X joint order.
    """
    wrist, fingers, palm, shape, swivel = np.split(rows, [3, 6, 9, 15], axis=1)
    shoulder, elbow, hand = _solve(wrist, fingers, palm, swivel[:, 0])
    mirror = np.array([1, 1, 1]) if side == "left" else np.array([1, -1, -1])
    for joint, rotation in (("shoulder", shoulder), ("elbow", elbow), ("wrist", hand)):
        poses[:, JOINT[f"{side}_{joint}"]] = rotation * mirror
    curls, spread = shape[:, :5], shape[:, 5]
    for k, finger in enumerate(("index", "middle", "ring", "pinky")):
        for knuckle, bend in ((1, 1.25), (2, 1.65), (3, 1.0)):  # rad of each knuckle in a fully curled finger
            rotation = np.zeros((len(rows), 3))
            rotation[:, 2] = -curls[:, k] * bend
            if knuckle == 1:  # fingers spread at the first knuckle, and less when they are curled
                rotation[:, 1] = -spread * (0.22, 0.04, -0.12, -0.28)[k] * (1 - np.clip(curls[:, k], 0, 1))
            poses[:, JOINT[f"{side}_{finger}{knuckle}"]] = rotation * mirror
    for knuckle, bends in ((1, (0.25, 0.45, -0.40)), (2, (0.0, 0.65, -0.25)), (3, (0.0, 0.75, -0.15))):
        poses[:, JOINT[f"{side}_thumb{knuckle}"]] = curls[:, 4:] * np.array(bends) * mirror


def _solve(
    wrist: np.ndarray, fingers: np.ndarray, palm: np.ndarray, swivel: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve a left arm. wrist [T, 3] m, fingers and palm [T, 3] directions, swivel [T] rad.

    Returns the axis-angles [T, 3] in rad of shoulder, elbow and wrist. A target that is too near or too far is replaced
    by the nearest one at the same direction from the shoulder that the arm can reach.
    """
    to_wrist = wrist - LEFT_SHOULDER_M
    distance = np.linalg.norm(to_wrist, axis=1, keepdims=True)
    # Law of cosines: the distance from shoulder to wrist when the elbow bends as far as it may.
    min_reach = np.sqrt(UPPER_ARM_M**2 + FOREARM_M**2 + 2 * UPPER_ARM_M * FOREARM_M * np.cos(MAX_ELBOW_BEND_RAD))
    reach = np.clip(distance, min_reach, MAX_REACH_M)
    axis = to_wrist / np.maximum(distance, 1e-6)
    # The elbow lies on a circle about the axis: `along` from the shoulder, with the radius `radius`.
    along = (UPPER_ARM_M**2 - FOREARM_M**2 + reach**2) / (2 * reach)
    radius = np.sqrt(np.maximum(UPPER_ARM_M**2 - along**2, 0))
    down = np.array([0.0, -1.0, 0.0]) - (axis @ np.array([0.0, -1.0, 0.0]))[:, None] * axis
    down /= np.maximum(np.linalg.norm(down, axis=1, keepdims=True), 1e-6)
    outward = np.cross(axis, down)
    outward *= np.sign((outward @ np.array([1.0, 0.0, -0.6]))[:, None] + 1e-9)
    # The elbow points down, and the swivel turns it outwards and to the back.
    elbow_direction = np.cos(swivel)[:, None] * down + np.sin(swivel)[:, None] * outward
    upper_arm = (along * axis + radius * elbow_direction) / UPPER_ARM_M
    forearm = (reach * axis - UPPER_ARM_M * upper_arm) / FOREARM_M
    # The upper arm's own axes: x along the bone, z the part of the forearm's direction that is at right angles to it.
    front = forearm - (forearm * upper_arm).sum(1, keepdims=True) * upper_arm
    front /= np.maximum(np.linalg.norm(front, axis=1, keepdims=True), 1e-6)
    shoulder = Rotation.from_matrix(np.stack([upper_arm, np.cross(front, upper_arm), front], 2))
    bend = np.arccos(np.clip((upper_arm * forearm).sum(1), -1, 1))
    elbow = Rotation.from_rotvec(np.stack([0 * bend, -bend, 0 * bend], 1))
    # The hand's axes in the rest pose: x along the fingers, y out of the back of the hand.
    x = fingers / np.maximum(np.linalg.norm(fingers, axis=1, keepdims=True), 1e-6)
    y = -(palm - (palm * x).sum(1, keepdims=True) * x)
    y /= np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-6)
    target = Rotation.from_matrix(np.stack([x, y, np.cross(x, y)], 2))
    local = (shoulder * elbow).inv() * target
    # The hand's rotation against the forearm is split into a twist about the forearm's axis, which the forearm makes,
    # and a swing, which the wrist makes. Each is held within its limit.
    q = local.as_quat()
    twist = 2 * np.arctan2(q[:, 0], q[:, 3])
    twist = np.clip((twist + np.pi) % (2 * np.pi) - np.pi, -MAX_FOREARM_TWIST_RAD, MAX_FOREARM_TWIST_RAD)

    def rotation_about_forearm(angle):
        return Rotation.from_rotvec(np.stack([angle, 0 * angle, 0 * angle], 1))

    swing = (rotation_about_forearm(twist).inv() * local).as_rotvec()
    swing_angle = np.linalg.norm(swing, axis=1, keepdims=True)
    swing *= np.minimum(1, MAX_WRIST_SWING_RAD / np.maximum(swing_angle, 1e-6))
    swing[:, 0] = np.clip(swing[:, 0], -0.4, 0.4)
    # The elbow joint takes 60 % of the twist and the wrist joint the rest.
    elbow_and_twist = elbow * rotation_about_forearm(0.6 * twist)
    hand = rotation_about_forearm(0.4 * twist) * Rotation.from_rotvec(swing)
    return shoulder.as_rotvec(), elbow_and_twist.as_rotvec(), hand.as_rotvec()
