"""Draws hair that hangs beside the head and neck, where the body mesh has no surface.

The hair is the portrait's own pixels on a plane. The plane passes through the head, faces the portrait's camera, and is
rigidly attached to the head joint, so that it turns with the head and is seen in perspective by other cameras.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from stereotalker.body.model import Body
from stereotalker.control.mipmaps import MipPair
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, REGION

# How much nearer to the camera the plane is than the head joint, m. Of the distances from -0.04 to 0.10 m this one gave
# the best warps of five training people at 20 degrees of azimuth.
_PLANE_OFFSET_M = 0.05
_HEAD, _HAIR = JOINT["head"], REGION["hair"]


@dataclass(frozen=True)
class HairPlane:
    """The plane of an avatar's hair, and the pose of the head for which it was made.

    place: f64 [3, 3], maps a homogeneous pixel (x px, y px, 1) of the portrait to its point on the plane, world axes,
    m. head_position: f64 [3] m and head_rotation: f64 [3, 3] are the head joint's in the portrait, see `heads`.
    """

    place: np.ndarray
    head_position: np.ndarray
    head_rotation: np.ndarray

    def normal(self, head_rotation: np.ndarray) -> np.ndarray:
        """Unit normal of the plane in world axes, f64 [3], for a head rotation f64 [3, 3].

        For the portrait's own head rotation it points towards the portrait's camera.
        """
        towards_camera = -np.cross(self.place[:, 0], self.place[:, 1])
        return head_rotation @ self.head_rotation.T @ (towards_camera / np.linalg.norm(towards_camera))

    def from_pixels(
        self, head_position: np.ndarray, head_rotation: np.ndarray, intrinsics: np.ndarray, extrinsics: np.ndarray
    ) -> np.ndarray:
        """Homography f64 [3, 3] from a camera's pixels to the portrait's pixels, through the plane.

        It maps (x px, y px, 1) of the camera to (x px, y px, 1) of the portrait divided by the plane's depth in m, so
        the third component is the inverse depth. head_position f64 [3] m, head_rotation f64 [3, 3]: the head in this
        frame, see `heads`; intrinsics [3, 3] px, extrinsics [3 or 4, 4] world -> camera, m.
        """
        R, translation = extrinsics[:3, :3].astype(np.float64), extrinsics[:3, 3]
        head_change = head_rotation @ self.head_rotation.T
        plane_origin = R @ (head_position - head_change @ self.head_position) + translation
        portrait_to_camera = R @ head_change @ self.place + np.outer(plane_origin, (0, 0, 1))
        return np.linalg.inv(intrinsics @ portrait_to_camera)


class HairSource(NamedTuple):
    """The hair plane of a frame, in a form that numba takes."""

    is_there: bool
    from_pixels: np.ndarray  # f64 [3, 3]: see `HairPlane.from_pixels`
    gain: float  # factor of the portrait's colors
    levels: MipPair  # of the portrait, L = 1


def make_hair_plane(avatar: Avatar, body: Body) -> HairPlane | None:
    """Make the hair plane of an avatar; None where its portrait shows no hair."""
    if not (avatar.regions == _HAIR).any():
        return None
    positions, rotations = heads(avatar, body, Motion.still(avatar.poses, avatar.expression))
    R, translation = avatar.extrinsics[:3, :3].astype(np.float64), avatar.extrinsics[:3, 3]
    depth = (R @ positions[0] + translation)[2] - _PLANE_OFFSET_M
    pixel_to_ray = np.linalg.inv(avatar.intrinsics.astype(np.float64))
    pixel_to_plane = R.T @ (depth * pixel_to_ray - np.outer(translation, (0, 0, 1)))
    return HairPlane(pixel_to_plane, positions[0], rotations[0])


def heads(avatar: Avatar, body: Body, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Position of the head joint in every frame, f64 [T, 3] m, and its rotation from the rest pose, f64 [T, 3, 3]."""
    joints, rotations = body.posed_joints(motion, avatar.betas, avatar.surface)
    return joints[:, _HEAD].astype(np.float64), rotations[:, _HEAD].astype(np.float64)


@numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def hair_place(
    from_pixels: np.ndarray, regions: np.ndarray, row: int, column: int, depth: float
) -> tuple[bool, float, float]:
    """Whether a sample of a frame shows hair of the plane, and where it is in the portrait, x px and y px.

    It does where the plane is nearer to the camera than the body. from_pixels: of a HairSource; regions u8 [PH, PW] of
    the portrait; depth m of the body there, infinite where there is none.
    """
    PH, PW = regions.shape
    x, y = column + 0.5, row + 0.5
    u = from_pixels[0, 0] * x + from_pixels[0, 1] * y + from_pixels[0, 2]
    v = from_pixels[1, 0] * x + from_pixels[1, 1] * y + from_pixels[1, 2]
    inverse_depth = from_pixels[2, 0] * x + from_pixels[2, 1] * y + from_pixels[2, 2]
    is_hair = False
    # False for NaN, too, which is what 0 times infinity gives.
    if inverse_depth * depth > 1.0:
        u, v = u / inverse_depth, v / inverse_depth
        if 0 <= u < PW and 0 <= v < PH:
            is_hair = regions[np.uint64(v), np.uint64(u)] == _HAIR
    return is_hair, u, v
