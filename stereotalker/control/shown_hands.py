"""The hands that a portrait shows well enough to be drawn as pieces of it, and the poses in which they may be.

K: wrists and finger joints of the hands of one piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt

from stereotalker.body.model import Body
from stereotalker.control.layers import ARM, HAND, triangle_layers, vertex_layers
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.media.morphology import disk_kernel
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import FINGERS, JOINT, REGION, SIDES

# The portrait must show at least this share of the pixels of the fitted hand; of two that touch, the one hides much of
# the other.
_MIN_SHOWN = {1: 0.6, 2: 0.4}
# At most this share of a hand's extent may lie on the border of the picture.
_MAX_CUT = 0.3
# Pieces of a hand that are smaller than this share of the largest one are left out.
_MIN_PIECE = 0.05
# Gaps between the fingers of hands that touch are closed up to twice this, as a share of the longer side.
_CLASPED_GAP = 0.004
# A hand is drawn wholly as the portrait shows it up to the first angle between the sides from which camera and portrait
# see it, rad, and to the first distance that a joint has moved in the frame of the wrist, m; beyond the second ones, it
# is not.
_TILT, _JOINT_MOVE_M = (np.radians(40.0), np.radians(50.0)), (0.03, 0.045)


@dataclass(frozen=True)
class ShownHand:
    """One hand of a portrait, or two that touch."""

    sides: tuple[str, ...]
    is_shown: np.ndarray  # bool [H, W] pixels of the portrait
    joints: np.ndarray  # f64 [K, 3] m: wrists and fingers in the frame of the first wrist
    to_camera: np.ndarray  # f64 [3] unit vector to the portrait's camera in the frame of the first wrist

    def weight(self, positions: np.ndarray, rotations: np.ndarray, extrinsics: np.ndarray) -> float:
        """How far a frame may show the hand as the portrait does, 0 to 1.

        positions [55, 3] m and rotations [55, 3, 3] of the joints, to the world; extrinsics [4, 4] of the camera.
        """
        rows = hand_joints(self.sides)
        wrist = rotations[rows[0]]
        moved = np.linalg.norm((positions[rows] - positions[rows[0]]) @ wrist - self.joints, axis=1).max()
        tilt = np.arccos(np.clip(_to_camera(positions[rows], wrist, extrinsics) @ self.to_camera, -1, 1))
        return min(_fade(tilt, *_TILT), _fade(moved, *_JOINT_MOVE_M))


def _fade(value: float, first: float, last: float) -> float:
    """1 up to the first value, 0 from the last one on."""
    return float(np.clip((last - value) / (last - first), 0, 1))


def hand_joints(sides: tuple[str, ...]) -> list[int]:
    """Rows of the wrists, and then of the finger joints of hands."""
    return [*(JOINT[f"{side}_wrist"] for side in sides), *(row for side in sides for row in FINGERS[side])]


def find_hands(avatar: Avatar, body: Body, pixels: np.ndarray) -> tuple[ShownHand, ...]:
    """The hands that the portrait shows well enough; both are one piece where they touch.

    pixels f32 [V, 3]: the body in the portrait, x px, y px, depth m.
    """
    hands = _hand_masks(avatar, body, pixels)
    near = [cv2.dilate(hand.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for hand in hands.values()]
    groups = [SIDES] if (near[0] & near[1]).any() else [(side,) for side in SIDES]
    still = Motion.still(avatar.poses, avatar.expression)
    positions, rotations = (a[0].astype(np.float64) for a in body.posed_joints(still, avatar.betas, avatar.surface))
    found = []
    for sides in groups:
        is_shown = np.any([hands[side] for side in sides], 0)
        if len(sides) > 1:  # between the fingers of clasped hands there is hardly ever a hole
            is_shown = _filled(is_shown, max(2, round(_CLASPED_GAP * max(is_shown.shape))))
        is_drawn = np.isfinite(rasterize(pixels, body.faces[hand_triangles(body, sides)], is_shown.shape).depth)
        if _is_whole(is_shown, is_drawn, _MIN_SHOWN[len(sides)]):
            place, wrist = positions[hand_joints(sides)], rotations[JOINT[f"{sides[0]}_wrist"]]
            to_camera = _to_camera(place, wrist, avatar.extrinsics)
            found.append(ShownHand(sides, is_shown, (place - place[0]) @ wrist, to_camera))
    return tuple(found)


def hand_triangles(body: Body, sides: tuple[str, ...]) -> np.ndarray:
    """Which triangles of the body belong to the hands of these sides, bool [F]."""
    return np.isin(triangle_layers(vertex_layers(body), body.faces), [HAND + SIDES.index(side) for side in sides])


def _to_camera(positions: np.ndarray, wrist: np.ndarray, extrinsics: np.ndarray) -> np.ndarray:
    """The direction from joints [K, 3] m to the camera in the frame of a wrist [3, 3], unit vector [3]."""
    direction = (-extrinsics[:3, :3].T @ extrinsics[:3, 3] - positions.mean(0)) @ wrist
    return direction / np.linalg.norm(direction)


def _hand_masks(avatar: Avatar, body: Body, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The pixels of either hand, bool [H, W]: those with the label of hands, divided by which fitted hand is nearer."""
    is_hand = avatar.regions == REGION["hands"]
    faces = body.faces[hand_triangles(body, SIDES)]
    drawn = rasterize(pixels, faces, is_hand.shape).vertices(faces)
    if not (drawn >= 0).any():
        return {side: np.zeros_like(is_hand) for side in SIDES}
    rows, columns = distance_transform_edt(drawn < 0, return_distances=False, return_indices=True)
    layer = vertex_layers(body)[drawn[rows, columns]]
    # A triangle between hand and arm has vertices of both.
    return {side: _large_pieces(is_hand & np.isin(layer, (ARM + k, HAND + k))) for k, side in enumerate(SIDES)}


def _is_whole(is_shown: np.ndarray, is_drawn: np.ndarray, least: float) -> bool:
    """Whether pixels bool [H, W] show this share of a hand whose fit is drawn at others, not cut off by the picture."""
    if not is_drawn.any() or (is_shown & is_drawn).sum() < least * is_drawn.sum():
        return False
    cut = is_shown[[0, -1]].sum() + is_shown[:, [0, -1]].sum()
    return bool(cut <= _MAX_CUT * max(np.ptp(places) + 1 for places in np.nonzero(is_shown)))


def _large_pieces(mask: np.ndarray) -> np.ndarray:
    """The connected pieces of a mask bool [H, W] that are not much smaller than the largest one."""
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    area = stats[:, cv2.CC_STAT_AREA] * (np.arange(len(stats)) > 0)
    return (area >= max(_MIN_PIECE * area.max(), 1))[pieces]


def _filled(mask: np.ndarray, radius: int) -> np.ndarray:
    """A mask bool [H, W] without gaps up to twice the radius, px, and without holes."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disk_kernel(radius))
    return binary_fill_holes(closed)
