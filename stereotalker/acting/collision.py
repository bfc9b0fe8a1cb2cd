"""Collision avoidance: moves hand targets out of the trunk, the face and each other before the arms are solved.

The trunk and the face are simple solids, in the axes of acting.arm_ik. Both hands are given as left hands. Lengths are
in m and those of the mean body; `girth` is how much farther the person's front reaches than the mean body's.
"""

from __future__ import annotations

import numpy as np

_PALM_M = 0.085  # from the wrist to the middle of the fingers
# The face as an ellipsoid: its center and its radii, m.
_FACE_CENTER = np.array([0.0, 0.875, 0.075])
_FACE_RADII = np.array([0.115, 0.165, 0.150])
_MIN_HAND_GAP_M = 0.050  # between points on the axes of the two hands


def keep_clear(hands: dict[str, np.ndarray], girth: float) -> None:
    """Move hand targets out of the trunk, the face and each other, in place.

    hands: "left" and "right" -> f64 [T, 16], laid out as by `arm_ik.HandTarget.vector`. girth in m: all targets are
    first moved to the front by it, so that they keep their distance from the person's own front.
    """
    for rows in hands.values():
        rows[:, 2] += girth
        for _ in range(2):  # leaving one solid may have moved a hand into the other
            for palms_from_wrist in (0.0, 0.6, 1.5):  # wrist, knuckles, finger tips
                _push_out_of_trunk(rows, palms_from_wrist, girth)
                _push_out_of_face(rows, palms_from_wrist)
    _push_hands_apart(hands)


def _points(rows: np.ndarray, palms_from_wrist: float) -> np.ndarray:
    """Points on the axes of the hands, `palms_from_wrist` times _PALM_M from the wrist. [T, 16] -> [T, 3] m."""
    fingers = rows[:, 3:6] / np.maximum(np.linalg.norm(rows[:, 3:6], axis=1, keepdims=True), 1e-6)
    return rows[:, :3] + palms_from_wrist * _PALM_M * fingers


def _trunk_front(x: np.ndarray, y: np.ndarray, girth: float) -> np.ndarray:
    """Smallest z in m at which a hand at x, y [T] m clears the clothed trunk, [T]; -1 where there is no trunk."""
    chest = 0.214 + girth * np.clip(1.2 - np.abs(y - 0.36) / 0.35, 0, 1)
    half_width = 0.215 + 0.5 * girth
    side = np.sqrt(np.clip(1 - (x / half_width) ** 2, 0, 1))
    height = np.clip((0.70 - y) / 0.10, 0, 1) * np.clip((y - 0.02) / 0.05, 0, 1)
    return np.where(side > 0, chest * side * height + (1 - height) * -1.0, -1.0)


def _push_out_of_trunk(rows: np.ndarray, palms_from_wrist: float, girth: float) -> None:
    p = _points(rows, palms_from_wrist)
    rows[:, 2] += np.clip(_trunk_front(p[:, 0], p[:, 1], girth) - p[:, 2], 0, 0.2)


def _push_out_of_face(rows: np.ndarray, palms_from_wrist: float) -> None:
    p = (_points(rows, palms_from_wrist) - _FACE_CENTER) / _FACE_RADII
    depth = np.linalg.norm(p, axis=1, keepdims=True)  # in radii: below 1 the point is inside
    rows[:, :3] += np.where(depth < 1, p / np.maximum(depth, 1e-3) * (1 - depth) * _FACE_RADII, 0)


def _push_hands_apart(hands: dict[str, np.ndarray]) -> None:
    """Where the hands come closer than _MIN_HAND_GAP_M, move the left one to the front by what is missing."""
    left, right = hands["left"], hands["right"]
    mirror = np.array([-1.0, 1.0, 1.0])
    for a in (0.0, 0.6, 1.3):
        for b in (0.0, 0.6, 1.3):
            gap = _points(left, a) - _points(right, b) * mirror
            distance = np.linalg.norm(gap, axis=1)
            missing = np.clip(_MIN_HAND_GAP_M - distance, 0, _MIN_HAND_GAP_M)
            left[:, 2] += missing
