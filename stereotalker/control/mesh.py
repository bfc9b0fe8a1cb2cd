"""The mesh that the warp draws: the body mesh, with its hands corrected to what the portrait shows.

The fingers of a fit lie a few pixels off, and the body's are thinner than many people's. What the portrait shows of a
hand beside the body's hand becomes the hand fringe: extra vertices, two triangles per pixel, rigidly attached to a
joint of the nearest part of the hand. Where the body has a hand and the portrait shows something else, the hand is
left out. V: vertices of the body, N: vertices of the fringe, M = V + N; F: triangles of the body, G: all triangles.
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

# How far the hand of a fit may be off, as a fraction of the picture's longer side.
_MAX_HAND_OFFSET = 1 / 40
# So close to a hand of the portrait colors are mixed, and the body's hand counts as right; fraction of the longer side.
_RIM_WIDTH = 1 / 400
# The fringe is attached to parts of the hand so far inside its silhouette, because the surface at the silhouette itself
# faces elsewhere; fraction of the longer side.
_CORE_DEPTH = 1 / 200
# Distance of the fringe behind the hand beside which it lies, m.
_FRINGE_DEPTH_M = 0.003


@dataclass(frozen=True)
class HandFringe:
    """Vertices and triangles that show the portrait's hands beside the body's."""

    joint: np.ndarray  # i64 [N] joint to which a vertex is attached
    offset: np.ndarray  # f64 [N, 3] m from that joint, in the rest pose
    places: np.ndarray  # f32 [N, 3] in the portrait: x px, y px, depth m
    beside: np.ndarray  # i64 [N] nearest vertex of the body
    faces: np.ndarray  # i32 [G - F, 3]
    owner: np.ndarray  # i64 [G - F] triangle of the body beside which a triangle lies


_NO_FRINGE = HandFringe(
    np.zeros(0, np.int64),
    np.zeros((0, 3)),
    np.zeros((0, 3), np.float32),
    np.zeros(0, np.int64),
    np.zeros((0, 3), np.int32),
    np.zeros(0, np.int64),
)


@dataclass(frozen=True)
class Mesh:
    """The mesh of an avatar. H x W: size of the portrait."""

    hand_fringe: HandFringe
    like: np.ndarray  # i64 [M] the vertex of the body that a vertex is, or that it lies beside
    hand: np.ndarray  # u8 [M]: 1 or 2 for a hand of the first or second of SIDES, 0 elsewhere
    faces: np.ndarray  # i32 [G, 3]
    texture_faces: np.ndarray  # i32 [G, 3] into the body's texture coordinates
    places: np.ndarray  # f32 [M, 3] in the portrait: x px, y px, depth m
    is_left_out: np.ndarray  # bool [H, W] pixels of the portrait where the body has a hand and the portrait shows none
    depth: np.ndarray  # f32 [H, W] m, depth of the body in the portrait

    def pose(self, avatar: Avatar, body: Body, motion: Motion) -> np.ndarray:
        """Vertices of the mesh in every frame of a motion, f32 [T, M, 3] m."""
        vertices = body.pose(motion, avatar.betas, avatar.surface)
        joints, rotations = body.posed_joints(motion, avatar.betas, avatar.surface)
        offsets = np.einsum("tnij,nj->tni", rotations[:, self.hand_fringe.joint], self.hand_fringe.offset)
        fringe = joints[:, self.hand_fringe.joint] + offsets
        return np.concatenate([vertices, fringe.astype(np.float32)], 1)

    def draw(self, pixels: np.ndarray, size: tuple[int, int]) -> Fragments:
        """Rasterize the mesh without the parts of hands that are left out. pixels f32 [M, 3]: x px, y px, depth m.

        size: (height, width) px.
        """
        fragments = rasterize(pixels, self.faces, size)
        missing = _find_left_out(
            fragments.face, fragments.bary, self.faces, self.hand, self.places, self.is_left_out, self.depth
        )
        for side in np.unique(missing[missing > 0]):
            # Draw what lies behind this hand, in the rectangle that holds its missing pixels.
            rows, columns = np.nonzero(missing == side)
            top, left = rows.min(), columns.min()
            box_size = (rows.max() + 1 - top, columns.max() + 1 - left)
            # Triangles of this hand collapse to a point, which the rasterizer does not draw.
            is_this_hand = (self.hand[self.faces] == side).any(1)
            other_faces = np.where(is_this_hand[:, None], self.faces[:, :1], self.faces)
            behind = rasterize(pixels - np.array([left, top, 0], np.float32), other_faces, box_size)
            for target, source in (
                (fragments.face, behind.face),
                (fragments.bary, behind.bary),
                (fragments.depth, behind.depth),
            ):
                target[rows, columns] = source[rows - top, columns - left]
        return fragments


def make_mesh(avatar: Avatar, body: Body, places: np.ndarray, fragments: Fragments, regions: np.ndarray) -> Mesh:
    """Make the mesh of an avatar.

    places f32 [V, 3]: the body in the portrait, x px, y px, depth m; fragments: the body rasterized in the portrait;
    regions u8 [H, W] of the portrait.
    """
    extent = max(regions.shape)
    vertex = fragments.vertices(body.faces)
    hand = np.sum([k * (body.hand_weight(side) > 0.5) for k, side in enumerate(SIDES, 1)], 0).astype(np.uint8)
    body_hand, portrait_hand = np.where(vertex >= 0, hand[vertex], 0), regions == REGION["hands"]
    # A hand of the body that meets no hand of the portrait stays as it is.
    is_body_hand = (body_hand > 0) & np.isin(body_hand, body_hand[portrait_hand])
    distance = distance_transform_edt(~portrait_hand) / extent
    fringe = _NO_FRINGE
    if is_body_hand.any():
        fringe = _make_fringe(avatar, body, fragments, vertex, is_body_hand, portrait_hand)
    like = np.concatenate([np.arange(len(places)), fringe.beside])
    return Mesh(
        hand_fringe=fringe,
        like=like,
        hand=hand[like],
        faces=np.concatenate([body.faces, fringe.faces]),
        texture_faces=np.concatenate([body.texture_faces, body.texture_faces[fringe.owner]]),
        places=np.concatenate([places, fringe.places]),
        is_left_out=is_body_hand & (distance > _RIM_WIDTH) & (distance < _MAX_HAND_OFFSET),
        depth=fragments.depth,
    )


def _make_fringe(
    avatar: Avatar,
    body: Body,
    fragments: Fragments,
    vertex: np.ndarray,
    is_body_hand: np.ndarray,
    portrait_hand: np.ndarray,
) -> HandFringe:
    """Make two triangles for every pixel where the portrait shows a hand beside those of the body.

    vertex i64 [H, W]: the body's vertex at a pixel; is_body_hand and portrait_hand, bool [H, W]: where the body has a
    hand, and where the portrait shows one.
    """
    H, W = portrait_hand.shape
    extent = max(H, W)
    distance = distance_transform_edt(~is_body_hand)
    inner_depth = distance_transform_edt(is_body_hand)
    core = inner_depth > min(_CORE_DEPTH * extent, 0.5 * inner_depth.max())
    nearest_core = distance_transform_edt(~core, return_distances=False, return_indices=True)
    rows, columns = np.nonzero(portrait_hand & (distance > 0) & (distance < _MAX_HAND_OFFSET * extent))
    nearest = tuple(nearest_core[:, rows, columns])
    joint = body.weights[vertex[nearest]].argmax(1)

    # Pixels share their corners only if they are attached to the same joint, so that fingers can part.
    corners = np.concatenate([np.stack([rows + i, columns + j, joint, *nearest], 1) for i in (0, 1) for j in (0, 1)])
    corner_keys = corners[:, :3] @ [(W + 1) * len(JOINTS), len(JOINTS), 1]
    _, first, corner_index = np.unique(corner_keys, return_index=True, return_inverse=True)
    y, x, joint, core_row, core_column = corners[first].T
    beside, depth = vertex[core_row, core_column], fragments.depth[core_row, core_column] + _FRINGE_DEPTH_M

    # Unproject the corners to world space, then express them relative to their joints.
    R, translation = avatar.extrinsics[:3, :3].astype(np.float64), avatar.extrinsics[:3, 3]
    rays = np.stack([x, y, np.ones(len(x))], 1) @ np.linalg.inv(avatar.intrinsics.astype(np.float64)).T
    points = (rays * depth[:, None] - translation) @ R
    joints, rotations = body.posed_joints(Motion.still(avatar.poses, avatar.expression), avatar.betas, avatar.surface)
    offset = np.einsum("nji,nj->ni", rotations[0][joint], points - joints[0][joint])

    a, b, c, d = len(body.template) + corner_index.reshape(4, -1)
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([d, c, b], 1)]).astype(np.int32)
    owner = fragments.face[nearest_core[0][rows, columns], nearest_core[1][rows, columns]]
    places = np.stack([x, y, depth], 1).astype(np.float32)
    return HandFringe(joint, offset, places, beside, faces, np.tile(owner, 2))


@numba.njit(cache=True)
def _find_left_out(
    face: np.ndarray,
    bary: np.ndarray,
    faces: np.ndarray,
    hand: np.ndarray,
    places: np.ndarray,
    is_left_out: np.ndarray,
    portrait_depth: np.ndarray,
) -> np.ndarray:
    """Find the pixels of a picture that show a part of a hand which the portrait shows not to be there.

    face i32 [H, W] and bary f32 [H, W, 3]: the rasterized mesh; the others: fields of `Mesh`, portrait_depth is its
    `depth`. Returns which hand it is, u8 [H, W], 0 where none.
    """
    H, W = face.shape
    PH, PW = is_left_out.shape
    missing = np.zeros((H, W), np.uint8)
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0:
                continue
            a, b, c = faces[face[y, x]]
            if hand[a] == 0 or hand[b] != hand[a] or hand[c] != hand[a]:
                continue
            place = bary[y, x, 0] * places[a] + bary[y, x, 1] * places[b] + bary[y, x, 2] * places[c]
            if not (0 <= place[0] < PW and 0 <= place[1] < PH):
                continue
            row, column = int(place[1]), int(place[0])
            if is_left_out[row, column] and abs(portrait_depth[row, column] - place[2]) < VISIBILITY_TOLERANCE_M:
                missing[y, x] = hand[a]
    return missing
