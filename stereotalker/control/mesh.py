"""The mesh that the warp draws: the body, with its hands as the portrait shows them.

A fit has fingers a few pixels beside their place, and the body's are thinner than many. What the portrait shows of a hand beside the body's
hangs on the joint of the nearest of it, two triangles a pixel. Where the body has a hand and the portrait something else, that is left out.
V vertices of the body, then N that hang on it; F triangles of the body, then those between the N; M and G are all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.body.model import Body
from stereotalker.control.texture import VISIBILITY_TOLERANCE_M
from stereotalker.geometry.rasterizer import Fragments, rasterize
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINTS, REGION, SIDES

# Of the picture's longer side:
_REACH = 1 / 40  # how far a fit's hand may be off
_RIM = 1 / 400  # this close to a hand colours are mixed, and a fit is right
_CORE = 1 / 200  # so far within its outline a hand is looked at for what lies beside it
_BEHIND_M = 0.003  # what hangs beside a hand lies behind it


@dataclass(frozen=True)
class HandFringe:
    """What hangs on the body: joint i64 [N] on which; arm f64 [N, 3] m from there at rest; places f32 [N, 3] x px, y px, depth m in the portrait;
    beside i64 [N] the nearest vertex of the body; faces i32 [G - F, 3]; owner i64 [G - F] the triangle of the body beside them."""

    joint: np.ndarray
    arm: np.ndarray
    places: np.ndarray
    beside: np.ndarray
    faces: np.ndarray
    owner: np.ndarray


_NOTHING = HandFringe(
    np.zeros(0, np.int64),
    np.zeros((0, 3)),
    np.zeros((0, 3), np.float32),
    np.zeros(0, np.int64),
    np.zeros((0, 3), np.int32),
    np.zeros(0, np.int64),
)


@dataclass(frozen=True)
class Mesh:
    """An avatar's mesh, to be posed and drawn."""

    hung: HandFringe
    like: np.ndarray  # i64 [M] the vertex of the body that it is, or hangs beside
    hand: np.ndarray  # u8 [M]: 1 and 2 of the two SIDES, 0 else
    faces: np.ndarray  # i32 [G, 3]
    texture_faces: np.ndarray  # i32 [G, 3] into the body's texture places
    places: np.ndarray  # f32 [M, 3] x px, y px, depth m in the portrait
    left_out: np.ndarray  # bool [H, W] of the portrait: the body has a hand there, the portrait none
    depth: np.ndarray  # f32 [H, W] m of the body in the portrait

    def pose(self, avatar: Avatar, body: Body, motion: Motion) -> np.ndarray:
        """f32 [T, M, 3] m."""
        vertices = body.pose(motion, avatar.betas, avatar.surface)
        joints, turns = body.posed_joints(motion, avatar.betas, avatar.surface)
        hung = joints[:, self.hung.joint] + np.einsum("tnij,nj->tni", turns[:, self.hung.joint], self.hung.arm)
        return np.concatenate([vertices, hung.astype(np.float32)], 1)

    def draw(self, pixels: np.ndarray, size: tuple[int, int]) -> Fragments:
        """pixels f32 [M, 3]: x px, y px, depth m; size (height, width) px."""
        picture = rasterize(pixels, self.faces, size)
        gone = _left_out(picture.face, picture.bary, self.faces, self.hand, self.places, self.left_out, self.depth)
        for side in np.unique(gone[gone > 0]):
            rows, columns = np.nonzero(gone == side)
            top, left = rows.min(), columns.min()
            without = np.where(
                (self.hand[self.faces] == side).any(1)[:, None], self.faces[:, :1], self.faces
            )  # triangles of no extent are not drawn
            behind = rasterize(
                pixels - np.array([left, top, 0], np.float32), without, (rows.max() + 1 - top, columns.max() + 1 - left)
            )
            for own, other in ((picture.face, behind.face), (picture.bary, behind.bary), (picture.depth, behind.depth)):
                own[rows, columns] = other[rows - top, columns - left]
        return picture


def make_mesh(avatar: Avatar, body: Body, places: np.ndarray, picture: Fragments, regions: np.ndarray) -> Mesh:
    """places f32 [V, 3]: the body in the portrait, x px, y px, depth m; picture: the same, drawn; regions u8 [H, W] of the portrait."""
    extent = max(regions.shape)
    corner = picture.vertices(body.faces)
    hand = sum(np.uint8(k) * (body.hand_weight(side) > 0.5) for k, side in enumerate(SIDES, 1)).astype(np.uint8)
    at, shown = np.where(corner >= 0, hand[corner], 0), regions == REGION["hands"]
    drawn = (at > 0) & np.isin(at, at[shown])  # a hand that the portrait does not show stays as it is
    off = distance_transform_edt(~shown) / extent
    hung = _hang(avatar, body, picture, corner, drawn, shown) if drawn.any() else _NOTHING
    like = np.concatenate([np.arange(len(places)), hung.beside])
    return Mesh(
        hung, like, hand[like], np.concatenate([body.faces, hung.faces]), np.concatenate([body.texture_faces, body.texture_faces[hung.owner]]),
        np.concatenate([places, hung.places]), drawn & (off > _RIM) & (off < _REACH), picture.depth,
    )  # fmt: skip


def _hang(
    avatar: Avatar, body: Body, picture: Fragments, corner: np.ndarray, drawn: np.ndarray, shown: np.ndarray
) -> HandFringe:
    """Two triangles for every pixel of the portrait that shows a hand beside those that are drawn. corner i64 [H, W]: the body's vertex at a pixel."""
    H, W = shown.shape
    extent = max(H, W)
    away = distance_transform_edt(~drawn)
    within = distance_transform_edt(drawn)
    core = within > min(
        _CORE * extent, 0.5 * within.max()
    )  # at its rim a hand faces elsewhere than what lies beside it
    nearest = distance_transform_edt(~core, return_distances=False, return_indices=True)
    rows, columns = np.nonzero(shown & (away > 0) & (away < _REACH * extent))
    at = tuple(nearest[:, rows, columns])
    joint = body.weights[corner[at]].argmax(1)
    pixels = np.concatenate(
        [np.stack([rows + i, columns + j, joint, *at], 1) for i in (0, 1) for j in (0, 1)]
    )  # their corners
    _, first, place = np.unique(
        pixels[:, :3] @ [(W + 1) * len(JOINTS), len(JOINTS), 1], return_index=True, return_inverse=True
    )
    y, x, joint, *at = pixels[first].T  # corners of pixels that hang on other joints are others: fingers part
    beside, depth = corner[tuple(at)], picture.depth[tuple(at)] + _BEHIND_M
    R, shift = avatar.extrinsics[:3, :3].astype(np.float64), avatar.extrinsics[:3, 3]
    points = (
        np.stack([x, y, np.ones(len(x))], 1) @ np.linalg.inv(avatar.intrinsics.astype(np.float64)).T * depth[:, None]
        - shift
    ) @ R
    joints, turns = body.posed_joints(Motion.still(avatar.poses, avatar.expression), avatar.betas, avatar.surface)
    arm = np.einsum("nji,nj->ni", turns[0][joint], points - joints[0][joint])
    a, b, c, d = len(body.template) + place.reshape(4, -1)
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([d, c, b], 1)]).astype(np.int32)
    return HandFringe(
        joint,
        arm,
        np.stack([x, y, depth], 1).astype(np.float32),
        beside,
        faces,
        np.tile(picture.face[nearest[0][rows, columns], nearest[1][rows, columns]], 2),
    )


@numba.njit(cache=True)
def _left_out(face, bary, faces, hand, places, left_out, front):
    """Where a picture shows what the portrait would of a hand, had it one there: which hand, u8 [H, W]."""
    H, W = face.shape
    PH, PW = left_out.shape
    gone = np.zeros((H, W), np.uint8)
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0:
                continue
            a, b, c = faces[face[y, x]]
            if hand[a] == 0 or hand[b] != hand[a] or hand[c] != hand[a]:
                continue
            at = bary[y, x, 0] * places[a] + bary[y, x, 1] * places[b] + bary[y, x, 2] * places[c]
            if not (0 <= at[0] < PW and 0 <= at[1] < PH):
                continue
            row, column = int(at[1]), int(at[0])
            if left_out[row, column] and abs(front[row, column] - at[2]) < VISIBILITY_TOLERANCE_M:
                gone[y, x] = hand[a]
    return gone
