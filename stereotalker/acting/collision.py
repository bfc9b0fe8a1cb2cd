"""Keeps hands out of the trunk, the face and each other: targets are pushed out of simple solids before the arms are solved.

Axes as in people.arms: both hands are given as left hands. Lengths in m, of the mean body; `girth` widens the trunk.
"""

from __future__ import annotations

import numpy as np

_PALM = 0.085  # from the wrist to the middle of the fingers
_FACE = np.array([0.0, 0.875, 0.075])
_FACE_RADII = np.array([0.115, 0.165, 0.150])
_BETWEEN = 0.050  # of two hands


def keep_clear(hands: dict[str, np.ndarray], girth: float) -> None:
    """Move hand vectors [T, 16] (left, right), in place: as much farther off as the front reaches, then out of the solids."""
    for rows in hands.values():
        rows[:, 2] += girth
        for _ in range(2):
            for share in (0.0, 0.6, 1.5):  # wrist, knuckles, finger tips
                _out_of_trunk(rows, share, girth)
                _out_of_face(rows, share)
    _apart(hands)


def _points(rows: np.ndarray, share: float) -> np.ndarray:
    """Points of the hand `share` palms from the wrist, [T, 3]."""
    fingers = rows[:, 3:6] / np.maximum(np.linalg.norm(rows[:, 3:6], axis=1, keepdims=True), 1e-6)
    return rows[:, :3] + share * _PALM * fingers


def front(x: np.ndarray, y: np.ndarray, girth: float) -> np.ndarray:
    """How far forward (z, m) a hand's middle must stay at x, y so that it clears the clothed trunk."""
    chest = 0.214 + girth * np.clip(1.2 - np.abs(y - 0.36) / 0.35, 0, 1)
    wide = 0.215 + 0.5 * girth
    side = np.sqrt(np.clip(1 - (x / wide) ** 2, 0, 1))
    height = np.clip((0.70 - y) / 0.10, 0, 1) * np.clip((y - 0.02) / 0.05, 0, 1)
    return np.where(side > 0, chest * side * height + (1 - height) * -1.0, -1.0)


def _out_of_trunk(rows: np.ndarray, share: float, girth: float) -> None:
    p = _points(rows, share)
    rows[:, 2] += np.clip(front(p[:, 0], p[:, 1], girth) - p[:, 2], 0, 0.2)


def _out_of_face(rows: np.ndarray, share: float) -> None:
    p = (_points(rows, share) - _FACE) / _FACE_RADII
    depth = np.linalg.norm(p, axis=1, keepdims=True)
    rows[:, :3] += np.where(depth < 1, p / np.maximum(depth, 1e-3) * (1 - depth) * _FACE_RADII, 0)


def _apart(hands: dict[str, np.ndarray]) -> None:
    """Where two hands would meet, the one in front goes further to the front."""
    left, right = hands["left"], hands["right"]
    mirror = np.array([-1.0, 1.0, 1.0])
    for a in (0.0, 0.6, 1.3):
        for b in (0.0, 0.6, 1.3):
            gap = _points(left, a) - _points(right, b) * mirror
            near = np.linalg.norm(gap, axis=1)
            missing = np.clip(_BETWEEN - near, 0, _BETWEEN)
            left[:, 2] += missing
