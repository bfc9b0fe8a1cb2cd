"""The picture of an avatar card, by which a user can judge an avatar before a batch is rendered with it.

It shows the portrait, the fit, the region labels, the background, three views and an open mouth.
"""

from __future__ import annotations

import cv2
import numpy as np

from stereotalker.body.model import Body
from stereotalker.control.reference_warp import control, reference
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, JOINTS, PARENTS, REGION_COLORS

# Length of a tile's longer side, px.
TILE = 320
# Azimuth of each view, degrees.
VIEWS = (-25.0, 0.0, 25.0)
# Rotation of the jaw that opens the mouth, rad.
_JAW_OPEN_RAD = 0.18
# Joints of the upper body, which the fit's tile shows.
_DRAWN_JOINTS = [
    j for j, name in enumerate(JOINTS) if not name.endswith(("eye", "jaw", "hip", "knee", "ankle", "foot"))
]


def draw_card(avatar: Avatar, body: Body) -> np.ndarray:
    """Draw two rows of four tiles, u8 [H, W, 3] sRGB."""
    H, W = avatar.regions.shape
    size = (round(H * TILE / max(H, W)), round(W * TILE / max(H, W)))

    def shrink(image):
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)

    open_mouth = avatar.poses.copy()
    open_mouth[JOINT["jaw"], 0] = _JAW_OPEN_RAD
    ref = reference(avatar, body)

    def view(azimuth: float, poses: np.ndarray) -> np.ndarray:
        still = Motion.still(poses, avatar.expression)
        return control(ref, body, still, camera.avatar_camera(avatar, CameraPath(azimuth=azimuth), 1, 25.0, size)).warp[
            0
        ]

    regions = cv2.resize(avatar.regions, size[::-1], interpolation=cv2.INTER_NEAREST)
    upper = [
        shrink(avatar.portrait),
        _draw_fit(avatar, body, size),
        np.array(REGION_COLORS, np.uint8)[regions],
        shrink(avatar.background),
    ]
    lower = [view(azimuth, avatar.poses) for azimuth in VIEWS] + [view(0.0, open_mouth)]
    return np.concatenate([np.concatenate(row, 1) for row in (upper, lower)], 0)


def _draw_fit(avatar: Avatar, body: Body, size: tuple[int, int]) -> np.ndarray:
    """Draw the clothed body's outline and its joints over the portrait. u8 [H, W, 3] for size (height, width) px."""
    still = Motion.still(avatar.poses, avatar.expression)
    H, W = avatar.regions.shape
    K = avatar.intrinsics * np.array([[size[1] / W], [size[0] / H], [1]], np.float32)
    vertices = body.pose(still, avatar.betas, avatar.surface)[0]
    image = cv2.resize(avatar.portrait, size[::-1], interpolation=cv2.INTER_AREA) // 2 + 60
    covered = (rasterize(camera.project(vertices, K, avatar.extrinsics), body.faces, size).face >= 0).astype(np.uint8)
    outlines, _ = cv2.findContours(covered, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outlines, -1, (255, 80, 60), 1, cv2.LINE_AA)
    joints = body.posed_joints(still, avatar.betas, avatar.surface)[0][0]
    points = camera.project(joints, K, avatar.extrinsics)[:, :2].astype(int)
    for joint in _DRAWN_JOINTS:
        if PARENTS[joint] in _DRAWN_JOINTS:
            start, end = (tuple(map(int, points[j])) for j in (PARENTS[joint], joint))
            cv2.line(image, start, end, (90, 230, 255), 1, cv2.LINE_AA)
    return image
