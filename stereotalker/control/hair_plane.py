"""Draws hair that hangs beside the head and neck, where the body mesh has no surface.

The hair is the portrait's own pixels on a plane. The plane passes through the head, faces the portrait's camera, and is
rigidly attached to the head joint, so that it turns with the head and is seen in perspective by other cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from stereotalker.body.model import Body
from stereotalker.control.frame_maps import FrameMaps
from stereotalker.control.mipmaps import MipPair, mixed_sample
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, REGION

# How much nearer to the camera the plane is than the head joint, m. Of the distances from -0.04 to 0.10 m this one gave
# the best warps of five training people at 20 degrees of azimuth.
_PLANE_OFFSET_M = 0.05
# The normal that is drawn for hair, as u8: a surface that looks straight into the camera.
_CAMERA_FACING_NORMAL = 127, 127, 0
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


@numba.njit(cache=True)
def draw(
    from_pixels: np.ndarray,
    depth: np.ndarray,
    regions: np.ndarray,
    portrait: MipPair,
    gain: float,
    beside: int,
    seen: int,
    maps: FrameMaps,
) -> None:
    """Draw the portrait's hair into a frame's maps, where the plane is nearer to the camera than the body.

    Pixels whose visibility is `seen` stay as they are: there the portrait shows the body itself. Every pixel that is
    drawn gets the visibility `beside`, the label of hair, and the normal of a surface that faces the camera.

    from_pixels f64 [3, 3]: see `HairPlane.from_pixels`; depth f32 [H, W] m of the body, infinite where there is none;
    regions u8 [PH, PW] of the portrait; portrait: the two levels of its mip map to sample; gain: factor of the colors;
    maps: changed in place.
    """
    warp, visibility, labels, normals = maps.warp, maps.visibility, maps.labels, maps.normals
    H, W = depth.shape
    PH, PW = regions.shape
    color = np.zeros((2, 3))
    for y in range(H):
        for x in range(W):
            if visibility[y, x] == seen:
                continue
            u = from_pixels[0, 0] * (x + 0.5) + from_pixels[0, 1] * (y + 0.5) + from_pixels[0, 2]
            v = from_pixels[1, 0] * (x + 0.5) + from_pixels[1, 1] * (y + 0.5) + from_pixels[1, 2]
            inverse_depth = from_pixels[2, 0] * (x + 0.5) + from_pixels[2, 1] * (y + 0.5) + from_pixels[2, 2]
            # Written as `not >` because 0 times infinity is NaN, and such a pixel must be skipped, too.
            if not inverse_depth * depth[y, x] > 1.0:
                continue
            u, v = u / inverse_depth, v / inverse_depth
            if not (0 <= u < PW and 0 <= v < PH) or regions[int(v), int(u)] != _HAIR:
                continue
            mixed_sample(portrait, u / PW, v / PH, color)
            for k in range(3):
                warp[y, x, k] = np.uint8(min(gain * color[0, k] + 0.5, 255.0))
                normals[y, x, k] = _CAMERA_FACING_NORMAL[k]
            visibility[y, x], labels[y, x] = beside, _HAIR
