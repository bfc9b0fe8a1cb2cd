"""The picture of an avatar card: portrait, fit, regions, background, three novel views and an open mouth, to be looked at before a night is spent."""

from __future__ import annotations

import cv2
import numpy as np

from stereotalker.body.model import Body
from stereotalker.control.reference_warp import control, reference
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, JOINTS, PARENTS

TILE = 320  # px of a tile's longer side
VIEWS = (-25.0, 0.0, 25.0)  # degrees of azimuth
_OPEN_RAD = 0.18  # of the jaw
# One colour a region, in layout.REGIONS' order.
_COLOURS = np.array(
    [
        (30, 30, 30),
        (130, 80, 40),
        (250, 200, 160),
        (220, 40, 90),
        (70, 120, 230),
        (80, 200, 120),
        (240, 220, 80),
        (150, 100, 190),
    ],
    np.uint8,
)
_DRAWN = [j for j, name in enumerate(JOINTS) if not name.endswith(("eye", "jaw", "hip", "knee", "ankle", "foot"))]


def draw_card(avatar: Avatar, body: Body) -> np.ndarray:
    """u8 [H, W, 3]: two rows of four tiles."""
    H, W = avatar.regions.shape
    size = (round(H * TILE / max(H, W)), round(W * TILE / max(H, W)))

    def shrink(image):
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)

    opened = avatar.poses.copy()
    opened[JOINT["jaw"], 0] = _OPEN_RAD
    ref = reference(avatar, body)

    def view(azimuth: float, poses: np.ndarray) -> np.ndarray:
        still = Motion.still(poses, avatar.expression)
        return control(ref, body, still, camera.around(avatar, CameraPath(azimuth=azimuth), 1, 25.0, size)).warp[0]

    regions = cv2.resize(avatar.regions, size[::-1], interpolation=cv2.INTER_NEAREST)
    upper = [shrink(avatar.portrait), _fit(avatar, body, size), _COLOURS[regions], shrink(avatar.background)]
    lower = [view(azimuth, avatar.poses) for azimuth in VIEWS] + [view(0.0, opened)]
    return np.concatenate([np.concatenate(row, 1) for row in (upper, lower)], 0)


def _fit(avatar: Avatar, body: Body, size: tuple[int, int]) -> np.ndarray:
    """The portrait, the clothed body's outline and its joints."""
    still = Motion.still(avatar.poses, avatar.expression)
    K = avatar.intrinsics * np.array(
        [[size[1] / avatar.regions.shape[1]], [size[0] / avatar.regions.shape[0]], [1]], np.float32
    )
    vertices = body.pose(still, avatar.betas, avatar.surface)[0]
    image = cv2.resize(avatar.portrait, size[::-1], interpolation=cv2.INTER_AREA) // 2 + 60
    covered = (rasterize(camera.project(vertices, K, avatar.extrinsics), body.faces, size).face >= 0).astype(np.uint8)
    outlines, _ = cv2.findContours(covered, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, outlines, -1, (255, 80, 60), 1, cv2.LINE_AA)
    joints = camera.project(body.posed_joints(still, avatar.betas, avatar.surface)[0][0], K, avatar.extrinsics)[
        :, :2
    ].astype(int)
    for joint in _DRAWN:
        if PARENTS[joint] in _DRAWN:
            cv2.line(
                image,
                tuple(map(int, joints[PARENTS[joint]])),
                tuple(map(int, joints[joint])),
                (90, 230, 255),
                1,
                cv2.LINE_AA,
            )
    return image
