"""The mesh that the warp draws: the body, with its hands as the portrait shows them.

A fit has fingers a few pixels beside their place, and the body's are thinner than many. What the portrait shows of a hand beside the body's
hangs flat on the nearest of its joints, a cell a pixel. Where the body has a hand and the portrait something else, the hand is left out.
V vertices of the body, then N that hang on it; F triangles of the body, then those between the N; M and G are all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.body.layout import REGION, SIDES
from stereotalker.body.model import Body
from stereotalker.body.raster import Fragments, rasterize
from stereotalker.control.parts import hands_of
from stereotalker.control.texture import SEEN_M
from stereotalker.records import Avatar, Motion

_REACH = 1 / 40  # of the picture's height: how far a fit's hand may be off
_RIM = 1 / 400  # of the height: this close to a hand colours are mixed
_BEHIND_M = 0.003  # what hangs beside a hand lies behind it


@dataclass(frozen=True)
class Hung:
    """What hangs on the body: joint i64 [N] on which; arm f64 [N, 3] m from there at rest; places f32 [N, 3] x px, y px, depth m in the portrait;
    beside i64 [N] the nearest vertex of the body; faces i32 [G - F, 3]; owner i64 [G - F] the triangle of the body beside them."""

    joint: np.ndarray
    arm: np.ndarray
    places: np.ndarray
    beside: np.ndarray
    faces: np.ndarray
    owner: np.ndarray


_NOTHING = Hung(np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 3), np.float32), np.zeros(0, np.int64), np.zeros((0, 3), np.int32), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Mesh:
    """An avatar's mesh, to be posed and drawn."""

    hung: Hung
    like: np.ndarray  # i64 [M] the vertex of the body that it is, or hangs beside
    hand: np.ndarray  # bool [M]
    faces: np.ndarray  # i32 [G, 3]
    handless: np.ndarray  # i32 [G, 3]: the same, those of hands without extent
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
        if self.left_out.any():
            behind = rasterize(pixels, self.handless, size)
            _leave_out(picture.face, picture.bary, picture.depth, self.faces, self.hand, self.places, self.left_out, self.depth, behind.face, behind.bary, behind.depth)
        return picture


def make_mesh(avatar: Avatar, body: Body, places: np.ndarray, picture: Fragments, regions: np.ndarray) -> Mesh:
    """places f32 [V, 3]: the body in the portrait, x px, y px, depth m; picture: the same, drawn; regions u8 [H, W] of the portrait."""
    H = regions.shape[0]
    corner = np.take_along_axis(body.faces[picture.face], picture.bary.argmax(-1)[..., None], -1)[..., 0]
    shown, drawn = regions == REGION["hands"], np.zeros(regions.shape, bool)
    for side in SIDES:  # a hand that the portrait does not show stays as it is
        own = (picture.face >= 0) & (body.hand_weight(side) > 0.5)[corner]
        drawn |= own & (own & shown).any()
    off = distance_transform_edt(~shown)
    left_out = drawn & ~np.isin(regions, [REGION["hands"], REGION["background"]]) & (_RIM * H < off) & (off < _REACH * H)
    hung = _hang(avatar, body, picture, corner, drawn, shown) if drawn.any() else _NOTHING
    like, faces = np.concatenate([np.arange(len(places)), hung.beside]), np.concatenate([body.faces, hung.faces])
    hand = hands_of(body)[like]
    handless = np.where(hand[faces].any(1)[:, None], faces[:, :1], faces)
    texture_faces = np.concatenate([body.texture_faces, body.texture_faces[hung.owner]])
    return Mesh(hung, like, hand, faces, handless, texture_faces, np.concatenate([places, hung.places]), left_out, picture.depth)


def _hang(avatar: Avatar, body: Body, picture: Fragments, corner: np.ndarray, drawn: np.ndarray, shown: np.ndarray) -> Hung:
    """Two triangles for every pixel of the portrait that shows a hand beside those that are drawn. corner i64 [H, W]: the body's vertex at a pixel."""
    H, W = shown.shape
    away, nearest = distance_transform_edt(~drawn, return_indices=True)
    rows, columns = np.nonzero(shown & (away > 0) & (away < _REACH * H))
    corners = [(rows + i) * (W + 1) + columns + j for i in (0, 1) for j in (0, 1)]  # of pixels, numbered along the picture
    used, place = np.unique(np.concatenate(corners), return_inverse=True)
    y, x = np.divmod(used, W + 1)
    at = tuple(nearest[:, np.minimum(y, H - 1), np.minimum(x, W - 1)])
    beside, depth = corner[at].astype(np.int64), picture.depth[at] + _BEHIND_M
    R, shift = avatar.extrinsics[:3, :3].astype(np.float64), avatar.extrinsics[:3, 3]
    points = (np.stack([x, y, np.ones(len(x))], 1) @ np.linalg.inv(avatar.intrinsics.astype(np.float64)).T * depth[:, None] - shift) @ R
    joints, turns = body.posed_joints(Motion.still(avatar.poses, avatar.expression), avatar.betas, avatar.surface)
    joint = body.weights[beside].argmax(1)
    arm = np.einsum("nji,nj->ni", turns[0][joint], points - joints[0][joint])
    a, b, c, d = len(body.template) + place.reshape(4, -1)
    owner = picture.face[tuple(nearest[:, rows, columns])]
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([d, c, b], 1)]).astype(np.int32)
    return Hung(joint, arm, np.stack([x, y, depth], 1).astype(np.float32), beside, faces, np.tile(owner, 2))


@numba.njit(cache=True)
def _leave_out(face, bary, depth, faces, hand, places, left_out, front, behind_face, behind_bary, behind_depth):
    """Put what is behind in the place of hands that the portrait does not show where it would, in place."""
    H, W = face.shape
    PH, PW = left_out.shape
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0:
                continue
            a, b, c = faces[face[y, x]]
            if not (hand[a] and hand[b] and hand[c]):
                continue
            at = bary[y, x, 0] * places[a] + bary[y, x, 1] * places[b] + bary[y, x, 2] * places[c]
            if not (0 <= at[0] < PW and 0 <= at[1] < PH):
                continue
            row, column = int(at[1]), int(at[0])
            if left_out[row, column] and abs(front[row, column] - at[2]) < SEEN_M:
                face[y, x], depth[y, x] = behind_face[y, x], behind_depth[y, x]
                bary[y, x] = behind_bary[y, x]
