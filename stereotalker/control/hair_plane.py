"""Hair that hangs beside head and neck, where the body has no surface: a plane through the head, facing the portrait's camera, that turns with the head."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from stereotalker.body.model import Body
from stereotalker.control.mipmaps import mixed_sample
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, REGION

# Before the head's joint. Of -10 to +4 cm the best warps of five training people at 20 degrees.
_BEFORE_M = 0.05
_FACING = 127, 127, 0  # the normal of a surface that looks into the camera
_HEAD, _HAIR = JOINT["head"], REGION["hair"]


@dataclass(frozen=True)
class HairPlane:
    """place f64 [3, 3] maps (x px, y px, 1) of the portrait to its point on the plane, m; at f64 [3] m and turn f64 [3, 3] are the portrait's head's."""

    place: np.ndarray
    at: np.ndarray
    turn: np.ndarray

    def normal(self, turn: np.ndarray) -> np.ndarray:
        """The plane's, world axes, f64 [3], where the head has turned f64 [3, 3]; towards the camera where it is as in the portrait."""
        towards = -np.cross(self.place[:, 0], self.place[:, 1])
        return turn @ self.turn.T @ (towards / np.linalg.norm(towards))

    def from_pixels(
        self, at: np.ndarray, turn: np.ndarray, intrinsics: np.ndarray, extrinsics: np.ndarray
    ) -> np.ndarray:
        """f64 [3, 3] that maps a camera's (x px, y px, 1) to (x px, y px, 1) of the portrait over the plane's depth in m.

        at f64 [3] m, turn f64 [3, 3]: where the head is now, see `heads`; intrinsics [3, 3], extrinsics [3 or 4, 4].
        """
        R, shift = extrinsics[:3, :3].astype(np.float64), extrinsics[:3, 3]
        moved = turn @ self.turn.T
        return np.linalg.inv(
            intrinsics @ (R @ moved @ self.place + np.outer(R @ (at - moved @ self.at) + shift, (0, 0, 1)))
        )


def hang(avatar: Avatar, body: Body) -> HairPlane | None:
    """The plane of an avatar; None where its portrait shows no hair."""
    if not (avatar.regions == _HAIR).any():
        return None
    at, turn = heads(avatar, body, Motion.still(avatar.poses, avatar.expression))
    R, shift = avatar.extrinsics[:3, :3].astype(np.float64), avatar.extrinsics[:3, 3]
    depth = (R @ at[0] + shift)[2] - _BEFORE_M
    return HairPlane(
        R.T @ (depth * np.linalg.inv(avatar.intrinsics.astype(np.float64)) - np.outer(shift, (0, 0, 1))), at[0], turn[0]
    )


def heads(avatar: Avatar, body: Body, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Where the head's joint is in every frame, f64 [T, 3] m, and how it has turned, f64 [T, 3, 3]."""
    joints, turns = body.posed_joints(motion, avatar.betas, avatar.surface)
    return joints[:, _HEAD].astype(np.float64), turns[:, _HEAD].astype(np.float64)


@numba.njit(cache=True)
def draw(from_pixels, depth, regions, fine, coarse, blend, gain, beside, seen, warp, visibility, labels, normals):
    """Draw the portrait's hair into a picture's maps, where the plane is nearer than the body and the portrait did not show the body.

    from_pixels as of `Curtain`; depth f32 [H, W] m of the body; regions u8 of the portrait; fine, coarse, blend: see `mips.pair`; gain: of colours. In place:
    warp, normals u8 [H, W, 3], labels u8 [H, W] and visibility u8 [H, W], which becomes `beside`; where it is `seen` all stays.
    """
    H, W = depth.shape
    PH, PW = regions.shape
    colour = np.zeros((2, 3))
    for y in range(H):
        for x in range(W):
            if visibility[y, x] == seen:
                continue
            u = from_pixels[0, 0] * (x + 0.5) + from_pixels[0, 1] * (y + 0.5) + from_pixels[0, 2]
            v = from_pixels[1, 0] * (x + 0.5) + from_pixels[1, 1] * (y + 0.5) + from_pixels[1, 2]
            nearness = from_pixels[2, 0] * (x + 0.5) + from_pixels[2, 1] * (y + 0.5) + from_pixels[2, 2]
            if not nearness * depth[y, x] > 1.0:  # 0 times infinity is nan
                continue
            u, v = u / nearness, v / nearness
            if not (0 <= u < PW and 0 <= v < PH) or regions[int(v), int(u)] != _HAIR:
                continue
            mixed_sample(fine, coarse, blend, u / PW, v / PH, colour)
            for k in range(3):
                warp[y, x, k] = np.uint8(min(gain * colour[0, k] + 0.5, 255.0))
                normals[y, x, k] = _FACING[k]
            visibility[y, x], labels[y, x] = beside, _HAIR
