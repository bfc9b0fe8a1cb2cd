"""The clothed surface: vector offsets on the body's vertices so that it looks as the portrait does.

First faces and hands are moved the last pixel onto the detector's points; then the outline is pulled onto the person's outline,
all else following smoothly, so that hair and clothes move with the body. In the view plane only, as a single picture shows no depth.
V vertices, of which the skin is moved; offsets in the view plane are in pixels of the portrait.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from stereotalker.avatar.detector_calibration import Calibration
from stereotalker.avatar.landmarks import FACE_INNER, IRIS, Landmarks
from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.smplx_layout import JOINT, SIDES

_FACE_REACH_M = 0.035  # behind the last landmark, where the snap has faded out
_FACE_HELD_M = 0.012  # beside the landmarks, where the outline begins to pull
_FACE_SLACK, _HAND_SLACK = 1e-6, 4.0  # smoothing of what is spread from the detector's points
_BELOW = 1.25  # of the picture's height: the body is moved so far beyond its lower edge
_ROUNDS = 12
_STIFF, _SOFT = 30.0, 0.04  # weight of smoothness in the first and the last round
_NORMAL_PX = 0.06  # of the picture's longer side: how much a wrong normal counts in pixels
_LOOSEST = 0.16  # of the longer side: an edge farther away belongs to something else
_HAND_LOOSEST = 0.012
_OVERLAP = 0.0014  # the body reaches this far beyond the outline: of what it does not cover the warp knows nothing
_BEYOND_PX = 1.5
_WIDEST_GAP, _WIDEST_FINGER_GAP = 0.12, 0.025


@dataclass(frozen=True)
class Seen:
    """The fitted body in the portrait."""

    pixels: np.ndarray  # f32 [V, 3] x px, y px, depth m
    vertices: np.ndarray  # f32 [V, 3] m
    turn: np.ndarray  # f32 [V, 3, 3] from the rest pose
    rotation: np.ndarray  # f32 [3, 3] of the camera
    intrinsics: np.ndarray  # f32 [3, 3]

    def to_rest(self, shift: np.ndarray, nearer: np.ndarray | float = 0.0) -> np.ndarray:
        """Offsets in the view plane [V, 2] px, and towards the camera [V] m -> in the rest pose, f32 [V, 3] m."""
        focal, centre, depth = self.intrinsics[0, 0], self.intrinsics[:2, 2], self.pixels[:, 2:]
        away = -np.broadcast_to(nearer, len(depth))[:, None]
        flat = (shift * (depth + away) + (self.pixels[:, :2] - centre) * away) / focal
        moved = np.concatenate([flat, away], 1) @ self.rotation
        return np.linalg.solve(self.turn, moved[..., None])[..., 0].astype(np.float32)  # blended turns are no rotations


def snap(
    seen: Seen, marks: Landmarks, hand_points: dict[str, np.ndarray], body: Body, known: Calibration
) -> np.ndarray:
    """Offsets [V, 2] px that bring face and hands onto the detector's points. hand_points: side -> f32 [21, 2] px, ours."""
    shift = np.zeros((len(seen.pixels), 2))
    head = body.weights[:, [JOINT[n] for n in ("head", "jaw", "left_eye", "right_eye")]].sum(1) > 0.3
    off = marks.face - known.face_points(seen.pixels[:, :2], body.faces)
    places, rows = known.face_template[FACE_INNER], np.flatnonzero(head)
    near = np.clip(1 - cKDTree(places).query(body.template[rows])[0] / _FACE_REACH_M, 0, 1)
    shift[rows] = (near**2 * (3 - 2 * near))[:, None] * _spread(
        places, off[FACE_INNER], body.template[rows], _FACE_SLACK
    )
    for side in SIDES:  # an eyeball moves as a whole
        eye = (body.part == PARTS["eye"][0]) & (body.weights[:, JOINT[f"{side}_eye"]] > 0.5)
        shift[eye] = off[IRIS[side]].mean(0)
    for side, points in hand_points.items():
        weight = body.hand_weight(side)
        rows = np.flatnonzero(weight > 0.02)
        shift[rows] = np.minimum(weight[rows], 1)[:, None] * _spread(
            _with_depth(points, seen, rows),
            marks.hands[side] - points,
            seen.pixels[rows] * (1, 1, seen.intrinsics[0, 0]),
            _HAND_SLACK,
        )
    return shift


def _with_depth(points: np.ndarray, seen: Seen, rows: np.ndarray) -> np.ndarray:
    """Points [N, 2] px with the depth (in pixels) of the nearest of some vertices."""
    near = cKDTree(seen.pixels[rows, :2]).query(points)[1]
    return np.concatenate([points, seen.pixels[rows][near, 2:] * seen.intrinsics[0, 0]], 1)


def _spread(places: np.ndarray, values: np.ndarray, targets: np.ndarray, smoothing: float) -> np.ndarray:
    return RBFInterpolator(places, values, neighbors=min(40, len(places)), kernel="linear", smoothing=smoothing)(
        targets
    )


def held_vertices(body: Body, known: Calibration) -> np.ndarray:
    """1 for the face, which the landmarks placed, 0 for all else, fading between. f32 [V]."""
    near = cKDTree(known.face_template[FACE_INNER]).query(body.template)[0]
    return np.clip(1.5 - near / _FACE_HELD_M, 0, 1).astype(np.float32)


def clothe(seen: Seen, mask: np.ndarray, body: Body, start: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Offsets [V, 2] px that bring the body's outline onto the person's, after `start` [V, 2] px; `held` [V] in 0..1 vertices keep theirs."""
    moved = np.flatnonzero((body.part == PARTS["body"][0]) & (seen.pixels[:, 1] < mask.shape[0] * _BELOW))
    triangles = renumbered(body.faces, moved)
    smooth = bending(triangles, len(moved))
    edge, outward = _mask_edge(mask)
    side = max(mask.shape)
    edge = edge + _OVERLAP * side * outward
    keep, hand = held[moved], body.hand_weight()[moved] > 0.5
    trunk = (
        body.weights[moved][
            :, [JOINT[n] for n in ("pelvis", "spine1", "spine2", "spine3", "left_hip", "right_hip")]
        ].sum(1)
        > 0.5
    )
    shift = start[moved].copy()
    behind, hidden = (
        shift.copy(),
        np.zeros(len(moved)),
    )  # vertices that closed a gap: where they went, while they are out of sight
    for k in range(_ROUNDS):
        px = seen.pixels[moved].copy()
        px[:, :2] += shift
        covered = rasterize(px.astype(np.float32), triangles, mask.shape).face >= 0
        rim, normal = _rim(px, triangles, covered)
        rim = rim[keep[rim] < 0.5]
        normal = normal[rim]
        stiffness = _STIFF * (_SOFT / _STIFF) ** (k / (_ROUNDS - 1))
        pull, weight = _pulls(
            px[rim, :2], normal, edge, outward, side, np.where(hand[rim], _HAND_LOOSEST, _LOOSEST) * side
        )
        run, meets = _open_run(px[rim, :2], normal, covered, mask)
        # Cloth that shows between arm and trunk hangs on the trunk; between fingers, both sides meet half way.
        closes = meets & (trunk[rim] | (hand[rim] & (run < _WIDEST_FINGER_GAP * side)))
        closing = np.where(hand[rim], 0.5 * run, run)[:, None] * normal + _BEYOND_PX * normal
        reaches = ~meets & (run > _BEYOND_PX) & (~hand[rim] | (run < _HAND_LOOSEST * side))
        pull[closes], weight[closes] = closing[closes], 1.0
        pull[reaches], weight[reaches] = (run[:, None] * normal)[reaches], 1.0
        behind[rim[closes]], hidden[rim[closes]] = shift[rim[closes]] + closing[closes], 1.0
        total, wanted = hidden.copy(), np.where(hidden[:, None] > 0, behind, shift)
        total[rim] = weight
        wanted[rim] = shift[rim] + pull
        anchored = 1e3 * keep + 1e-3
        system = sparse.diags(total + anchored) + stiffness * smooth
        right = total[:, None] * wanted + anchored[:, None] * start[moved]
        shift = splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(right)
    out = start.copy()
    out[moved] = shift
    return out


def _open_run(
    points: np.ndarray, normals: np.ndarray, covered: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far outwards of points [N, 2] px it is all person whom the body does not cover, px [N], 0 where too far; and whether the body comes again there."""
    H, W = mask.shape
    reach = np.arange(_BEYOND_PX, _WIDEST_GAP * max(H, W))
    at = points[:, None] + reach[None, :, None] * normals[:, None]
    columns, rows = (np.clip(at[..., k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    stop = covered[rows, columns] | ~mask[rows, columns]
    first = stop.argmax(1)
    ends = stop.any(1) & (first > 0)
    meets = covered[rows, columns][np.arange(len(points)), first] & ends
    return np.where(ends, reach[first], 0.0), meets


def _rim(px: np.ndarray, triangles: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices on the outline that is seen against the background, and the outward direction [moved, 2] of every vertex."""
    size = covered.shape
    away = gaussian_filter(
        distance_transform_edt(~np.pad(covered, 1)) - distance_transform_edt(np.pad(covered, 1)), 2.0
    )[1:-1, 1:-1]
    rows, columns = (np.clip(px[:, k], 0, size[1 - k] - 1) for k in (1, 0))
    near = map_coordinates(away, [rows, columns], order=1)
    gradient = np.stack([map_coordinates(np.gradient(away, axis=a), [rows, columns], order=1) for a in (1, 0)], 1)
    outward = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-6)
    inside = (px[:, 0] > 1) & (px[:, 0] < size[1] - 1) & (px[:, 1] > 1) & (px[:, 1] < size[0] - 1)
    a, b, c = (px[triangles[:, k], :2] for k in range(3))
    facing = np.sign((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]))
    both = np.zeros((len(px), 2), bool)
    for k in range(3):
        both[triangles[facing > 0, k], 0] = True
        both[triangles[facing < 0, k], 1] = True
    return np.flatnonzero(inside & (np.abs(near) < 3.0) & both.all(1)), outward


def _mask_edge(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 2] px on the mask's edge and its outward normals; the picture's own border is no edge."""
    padded = np.pad(mask, 8, mode="edge")
    away = gaussian_filter(distance_transform_edt(~padded) - distance_transform_edt(padded), 1.5)[8:-8, 8:-8]
    gy, gx = np.gradient(away)
    rows, columns = np.nonzero(np.abs(away) < 0.6)
    inner = (rows > 1) & (rows < mask.shape[0] - 2) & (columns > 1) & (columns < mask.shape[1] - 2)
    rows, columns = rows[inner], columns[inner]
    normal = np.stack([gx[rows, columns], gy[rows, columns]], 1)
    length = np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    points = np.stack([columns + 0.5, rows + 0.5], 1) - normal / length * away[rows, columns, None]
    return points, normal / length


def _pulls(
    points: np.ndarray, normals: np.ndarray, edge: np.ndarray, outward: np.ndarray, side: int, loosest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far every point [N, 2] of our outline is to go, and how much it matters.

    Both ways: each point to its nearest edge, and each edge to its nearest point; nearness counts place and direction.
    """
    scale = _NORMAL_PX * side
    tree = cKDTree(np.concatenate([edge, scale * outward], 1))
    far, index = tree.query(np.concatenate([points, scale * normals], 1))
    good = (far < loosest) & ((outward[index] * normals).sum(1) > 0.3)
    pull = np.where(good[:, None], edge[index] - points, 0)
    weight = good.astype(float)
    own = cKDTree(np.concatenate([points, scale * normals], 1))
    back, owner = own.query(np.concatenate([edge, scale * outward], 1))
    fits = (back < loosest[owner]) & ((outward * normals[owner]).sum(1) > 0.3)
    count = np.bincount(owner[fits], minlength=len(points)).astype(float)
    drawn = np.stack(
        [np.bincount(owner[fits], (edge - points[owner])[fits, k], minlength=len(points)) for k in (0, 1)], 1
    )
    drawn /= np.maximum(count, 1)[:, None]
    both = count > 0
    pull[both] = np.where(good[both, None], 0.5 * (pull[both] + drawn[both]), drawn[both])
    weight[both] = 1.0
    along = (pull * normals).sum(1, keepdims=True) * normals
    return along + 0.3 * (pull - along), weight


def renumbered(faces: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The triangles i32 [F', 3] among `kept` vertices alone, by their numbers among them."""
    place = np.full(faces.max() + 1, -1)
    place[kept] = np.arange(len(kept))
    own = place[faces]
    return own[(own >= 0).all(1)].astype(np.int32)


def bending(triangles: np.ndarray, count: int) -> sparse.csr_matrix:
    """Squared uniform Laplacian [count, count] of triangles i32 [F, 3]."""
    pairs = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    links = sparse.csr_matrix((np.ones(len(pairs)), pairs.T), shape=(count, count))
    degree = np.maximum(np.asarray(links.sum(1)).ravel(), 1)
    laplacian = sparse.eye(count) - sparse.diags(1 / degree) @ links
    return (laplacian.T @ laplacian).tocsr()
