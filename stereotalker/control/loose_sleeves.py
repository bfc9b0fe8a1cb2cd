"""Lets loose sleeves follow an arm that leaves the portrait's pose.

The clothed surface has the outline of the portrait. There a sleeve hangs from the arm or bunches at the elbow, and the
fit can only stretch the arm's own vertices to that outline. On an arm that is turned, such a stretched surface stands
off in a direction in which no cloth hangs. So an arm that leaves the portrait's pose gets a round sleeve instead: as
thick as the fitted one is on the average around the arm. V: vertices of the body, T: frames.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from stereotalker.body.model import Body
from stereotalker.control.layers import ARM, HAND, vertex_layers
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, SIDES

# Standard deviation of the smoothing of a sleeve's thickness along the arm, m.
_SMOOTHING_M = 0.03
# Skinning weight of the hand from which on a vertex of the arm belongs to the wrist, which keeps its surface.
_MIN_HAND_WEIGHT = 0.05
# Distances from the shoulder and from the wrist over which the fitted surface becomes the round one, m.
_SHOULDER_M, _WRIST_M = (0.04, 0.12), 0.04
# Rotation of shoulder or elbow away from the portrait's pose at which a sleeve begins to be round, and at which it is
# round altogether, rad.
_FIRST_TURN, _LAST_TURN = np.radians(6.0), np.radians(25.0)


def round_sleeves(avatar: Avatar, body: Body) -> np.ndarray:
    """The clothed surface with round sleeves, f16 [V, 3] m: offsets in the rest pose, as those of `Avatar.surface`."""
    surface = avatar.surface.astype(np.float64)
    joints, layer = body.joints(np.zeros(body.betas, np.float32)), vertex_layers(body)
    for k, side in enumerate(SIDES):
        rows = np.flatnonzero(layer == ARM + k)
        shoulder, elbow, wrist = (joints[JOINT[f"{side}_{name}"]] for name in ("shoulder", "elbow", "wrist"))
        upper, forearm = (_along(body.template[rows], *bone) for bone in ((shoulder, elbow), (elbow, wrist)))
        is_upper = forearm[0] < 0
        reach = np.where(is_upper, upper[0], np.linalg.norm(elbow - shoulder) + forearm[0])
        outward = np.where(is_upper[:, None], upper[1], forearm[1])
        thickness = (surface[rows] * outward).sum(1)
        near = np.exp(-(((reach[:, None] - reach) / _SMOOTHING_M) ** 2) / 2)
        is_round = np.clip((reach - _SHOULDER_M[0]) / np.ptp(_SHOULDER_M), 0, 1)
        of_hand = body.hand_weight(side)[rows] > _MIN_HAND_WEIGHT
        is_round *= np.clip((reach[of_hand].min(initial=reach.max()) - reach) / _WRIST_M, 0, 1)
        sleeve = (near @ thickness / near.sum(1))[:, None] * outward
        surface[rows] += is_round[:, None] * (sleeve - surface[rows])
    return surface.astype(np.float16)


def _along(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far along a bone points [M, 3] are, m [M], and their direction away from it, unit vectors [M, 3]."""
    bone = (end - start) / np.linalg.norm(end - start)
    distance = (points - start) @ bone
    away = points - start - distance[:, None] * bone
    return distance, away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)


def pose_clothed(avatar: Avatar, body: Body, rounded: np.ndarray, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of every frame, f32 [T, V, 3] m, whose sleeves become round as the arms leave the portrait's pose.

    rounded: see `round_sleeves`. Also returns how far every vertex of an arm or a hand has left it, f32 [T, V] in 0..1.
    """
    posed, layer = body.posed(motion, avatar.betas, avatar.surface), vertex_layers(body)
    vertices, departure = posed.vertices, np.zeros(posed.vertices.shape[:2], np.float32)
    for k, side in enumerate(SIDES):
        departure[:, (layer == ARM + k) | (layer == HAND + k)] = _departure(motion.poses, avatar.poses, side)[:, None]
    if departure.any():
        # Offsets are turned with their vertices. A body posed with the other surface would have other joints.
        is_arm = (layer >= ARM) & (layer < HAND)
        change = (rounded - avatar.surface.astype(np.float32))[is_arm]
        vertices[:, is_arm] += departure[:, is_arm, None] * np.einsum("tvij,vj->tvi", posed.turn[:, is_arm], change)
    return vertices, departure


def _departure(poses: np.ndarray, rest: np.ndarray, side: str) -> np.ndarray:
    """How far an arm has left its pose at rest, f32 [T] in 0..1. poses [T, 55, 3] and rest [55, 3]: axis-angle, rad."""
    turn = np.zeros(len(poses))
    for name in ("shoulder", "elbow"):
        joint = JOINT[f"{side}_{name}"]
        change = Rotation.from_rotvec(rest[joint]).inv() * Rotation.from_rotvec(poses[:, joint])
        turn = np.maximum(turn, change.magnitude())
    x = np.clip((turn - _FIRST_TURN) / (_LAST_TURN - _FIRST_TURN), 0, 1)
    return (x**2 * (3 - 2 * x)).astype(np.float32)
