"""The clothed surface: offsets on the body's vertices that give the fitted body the outline of the portrait's person.

First, face and hands are snapped onto the detector's keypoints. Then the body's outline is pulled onto the silhouette
of the person, and all other vertices follow smoothly, so that hair and clothes move with the body. Offsets lie in the
view plane, because a single picture shows no depth, and are in pixels of the portrait.

V vertices of the body, M vertices of the skin that move. Points in pixels are (x, y).
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
from stereotalker.control.layers import ARM, COUNT, HAND, TRUNK, vertex_layers
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.smplx_layout import JOINT, REGION, SIDES

# Distance from the nearest face landmark at which the snap of the face has faded out, m.
_FACE_SNAP_M = 0.035
# Vertices keep their place up to half this distance from the nearest face landmark, and are free to follow the outline
# from one and a half times this distance on, m.
_FACE_FIXED_M = 0.012
# Smoothing of the radial basis functions that spread the offsets of keypoints over the vertices.
_FACE_SMOOTHING, _HAND_SMOOTHING = 1e-6, 4.0
# Vertices down to this multiple of the picture's height are moved, so that the body goes on below its lower edge.
_LOWEST_Y = 1.25
# Iterations of finding outline points and solving for offsets.
_ITERATIONS = 12
# Weight of smoothness in the first and in the last iteration.
_FIRST_STIFFNESS, _LAST_STIFFNESS = 30.0, 0.04
# Matches compare positions and normals: a unit difference of normals counts as much as a distance of this share of
# the picture's longer side.
_NORMAL_WEIGHT = 0.06
# Largest distance to the mask's edge, as a share of the longer side; an edge farther away belongs to something else.
_MAX_DISTANCE, _MAX_HAND_DISTANCE = 0.16, 0.012
# Largest part of that distance along the outline. Where an arm hides the trunk's edge, the trunk's outline would else
# slide down to the next edge that is visible.
_MAX_SLIDE = 0.03
# The body's outline is pulled this share of the longer side beyond the mask's edge, because the reference warp has no
# pixels for what the body does not cover.
_OVERLAP = 0.0014
# Distance outside an outline point at which the search for uncovered pixels of the person begins, px. Vertices that
# close a gap go this much farther.
_GAP_START_PX = 1.5
# So close to an arm, the trunk's outline is not looked for, as a share of the longer side.
_AMBIGUOUS = 0.015
# A part is looked for in a window around where it starts, with this margin as a share of the longer side.
_WINDOW_MARGIN = 0.08
# Widest gaps that are closed, as shares of the longer side.
_MAX_GAP, _MAX_FINGER_GAP, _MAX_ARMPIT_GAP = 0.12, 0.025, 0.012
# Largest distance over which the trunk is extended to the edge of its cloth, as a share of the longer side.
_MAX_TRUNK_GAP = 0.03


@dataclass(frozen=True)
class ProjectedBody:
    """The fitted body as the portrait's camera shows it."""

    pixels: np.ndarray  # f32 [V, 3]: x px, y px, depth m
    vertices: np.ndarray  # f32 [V, 3] m
    turn: np.ndarray  # f32 [V, 3, 3] from the rest pose
    rotation: np.ndarray  # f32 [3, 3] of the camera, from world to camera axes
    intrinsics: np.ndarray  # f32 [3, 3] px

    def to_rest(self, shift: np.ndarray, nearer: np.ndarray | float = 0.0) -> np.ndarray:
        """Convert offsets in the camera's view to offsets in the rest pose, f32 [V, 3] m.

        shift [V, 2] px in the view plane; nearer [V] m towards the camera.
        """
        focal, center, depth = self.intrinsics[0, 0], self.intrinsics[:2, 2], self.pixels[:, 2:]
        away = -np.broadcast_to(nearer, len(depth))[:, None]
        flat = (shift * (depth + away) + (self.pixels[:, :2] - center) * away) / focal
        offsets = np.concatenate([flat, away], 1) @ self.rotation
        # Blended skinning matrices are not rotations, so their transposes are not their inverses.
        return np.linalg.solve(self.turn, offsets[..., None])[..., 0].astype(np.float32)


def snap_to_keypoints(
    projected: ProjectedBody,
    landmarks: Landmarks,
    hand_points: dict[str, np.ndarray],
    body: Body,
    calibration: Calibration,
) -> np.ndarray:
    """Offsets [V, 2] px that bring face and hands onto the detector's keypoints.

    hand_points: side -> f32 [21, 2] px, the hand points of the fitted body (see `body_fit.hand_pixels`).
    """
    shift = np.zeros((len(projected.pixels), 2))
    is_head = body.weights[:, [JOINT[n] for n in ("head", "jaw", "left_eye", "right_eye")]].sum(1) > 0.3
    residual = landmarks.face - calibration.face_points(projected.pixels[:, :2], body.faces)
    points, rows = calibration.face_template[FACE_INNER], np.flatnonzero(is_head)
    near = np.clip(1 - cKDTree(points).query(body.template[rows])[0] / _FACE_SNAP_M, 0, 1)
    fade = (near**2 * (3 - 2 * near))[:, None]
    shift[rows] = fade * _interpolate(points, residual[FACE_INNER], body.template[rows], _FACE_SMOOTHING)
    for side in SIDES:  # an eyeball moves as a whole
        is_eye = (body.part == PARTS["eye"][0]) & (body.weights[:, JOINT[f"{side}_eye"]] > 0.5)
        shift[is_eye] = residual[IRIS[side]].mean(0)
    for side, points in hand_points.items():
        weight = body.hand_weight(side)
        rows = np.flatnonzero(weight > 0.02)
        shift[rows] = np.minimum(weight[rows], 1)[:, None] * _interpolate(
            _add_depth(points, projected, rows),
            landmarks.hands[side] - points,
            projected.pixels[rows] * (1, 1, projected.intrinsics[0, 0]),
            _HAND_SMOOTHING,
        )
    return shift


def _add_depth(points: np.ndarray, projected: ProjectedBody, rows: np.ndarray) -> np.ndarray:
    """Points [N, 2] px with the depth of the nearest of the vertices `rows`, scaled to pixels. [N, 3]."""
    nearest = cKDTree(projected.pixels[rows, :2]).query(points)[1]
    return np.concatenate([points, projected.pixels[rows][nearest, 2:] * projected.intrinsics[0, 0]], 1)


def _interpolate(points: np.ndarray, values: np.ndarray, targets: np.ndarray, smoothing: float) -> np.ndarray:
    """Values [N, C] at points [N, D], interpolated at targets [M, D] by linear radial basis functions. [M, C]."""
    neighbors = min(40, len(points))
    return RBFInterpolator(points, values, neighbors=neighbors, kernel="linear", smoothing=smoothing)(targets)


def face_fixed_weights(body: Body, calibration: Calibration) -> np.ndarray:
    """How firmly each vertex keeps the place that the landmarks gave it, f32 [V].

    The weight is 1 on the face and fades to 0 around it.
    """
    distance = cKDTree(calibration.face_template[FACE_INNER]).query(body.template)[0]
    return np.clip(1.5 - distance / _FACE_FIXED_M, 0, 1).astype(np.float32)


@dataclass(frozen=True)
class _OutlinePart:
    """A part of the body whose outline is pulled onto its own region of the picture."""

    triangles: np.ndarray  # i32 [F, 3] into the moving vertices
    corner: np.ndarray  # i64 [2] px, x and y of the window's upper left corner
    region: np.ndarray  # bool [h, w] where the window shows the part
    edge: np.ndarray  # f64 [E, 2] px, points on the region's edge
    outward: np.ndarray  # f64 [E, 2] normals of the edge


def align_silhouette(
    projected: ProjectedBody, regions: np.ndarray, body: Body, start: np.ndarray, fixed: np.ndarray
) -> np.ndarray:
    """Offsets [V, 2] px that bring the body's outline onto the person's, beginning with the offsets `start` [V, 2] px.

    Hands, arms and the rest are aligned each with their own regions, so that an arm before the trunk and a finger
    before an arm find their edges, too. regions u8 [H, W]: labels of the picture; fixed [V] in 0..1: how firmly a
    vertex keeps its offset in `start`.
    """
    is_moving = (body.part == PARTS["body"][0]) & (projected.pixels[:, 1] < regions.shape[0] * _LOWEST_Y)
    moving = np.flatnonzero(is_moving)
    triangles = submesh_triangles(body.faces, moving)
    smoothness = bilaplacian(triangles, len(moving))
    side = max(regions.shape)
    fixed, is_hand = fixed[moving], body.hand_weight()[moving] > 0.5
    trunk_joints = [JOINT[n] for n in ("pelvis", "spine1", "spine2", "spine3", "left_hip", "right_hip")]
    is_trunk = body.weights[moving][:, trunk_joints].sum(1) > 0.5
    parts = _outline_parts(
        body, moving, triangles, regions, projected.pixels[moving] + np.pad(start[moving], ((0, 0), (0, 1)))
    )
    shift = start[moving].copy()
    # A vertex that closed a gap is then hidden from the outline, so its goal is kept for later iterations.
    gap_goal, closed_gap = shift.copy(), np.zeros(len(moving))
    for k in range(_ITERATIONS):
        px = projected.pixels[moving].copy()
        px[:, :2] += shift
        stiffness = _FIRST_STIFFNESS * (_LAST_STIFFNESS / _FIRST_STIFFNESS) ** (k / (_ITERATIONS - 1))
        goal_weight, goal = np.zeros(len(moving)), shift.copy()
        for part in parts:
            local = px - np.pad(part.corner, (0, 1))
            covered = rasterize(local.astype(np.float32), part.triangles, part.region.shape).face >= 0
            rim, normal = _outline_vertices(local, part.triangles, covered)
            rim = rim[fixed[rim] < 0.5]
            normal = normal[rim]
            max_distance = np.where(is_hand[rim], _MAX_HAND_DISTANCE, _MAX_DISTANCE) * side
            pull, weight = _match_edges(px[rim, :2], normal, part.edge, part.outward, side, max_distance)
            gap, meets_body = _uncovered_gap(local[rim, :2], normal, covered, part.region, _MAX_GAP * side)
            # Gaps between trunk and arm close on the trunk's side; between fingers, both sides meet half way.
            narrow = np.where(is_hand[rim], _MAX_FINGER_GAP, np.where(is_trunk[rim], _MAX_ARMPIT_GAP, 0.0)) * side
            closes = meets_body & (gap < narrow)
            closing = np.where(is_hand[rim], 0.5 * gap, gap)[:, None] * normal + _GAP_START_PX * normal
            longest = np.where(is_hand[rim], _MAX_HAND_DISTANCE, np.where(is_trunk[rim], _MAX_TRUNK_GAP, np.inf)) * side
            extends = ~meets_body & (gap > _GAP_START_PX) & (gap < longest) & bool(len(part.edge))
            pull[closes], weight[closes] = closing[closes], 1.0
            pull[extends], weight[extends] = (gap[:, None] * normal)[extends], 1.0
            gap_goal[rim[closes]], closed_gap[rim[closes]] = shift[rim[closes]] + closing[closes], 1.0
            # A vertex may be on the outlines of several parts. The last, smallest one decides, even against a goal: the
            # trunk would else be pulled before an arm.
            goal_weight[rim] = weight
            goal[rim] = shift[rim] + pull
        is_hidden = (closed_gap > 0) & (goal_weight == 0)
        goal_weight[is_hidden], goal[is_hidden] = 1.0, gap_goal[is_hidden]
        anchor = 1e3 * fixed + 1e-3
        system = sparse.diags(goal_weight + anchor) + stiffness * smoothness
        right = goal_weight[:, None] * goal + anchor[:, None] * start[moving]
        shift = splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(right)
    result = start.copy()
    result[moving] = shift
    return result


def _outline_parts(
    body: Body, moving: np.ndarray, triangles: np.ndarray, regions: np.ndarray, px: np.ndarray
) -> list[_OutlinePart]:
    """The rest of the body, both arms and both hands. moving i64 [M]; triangles i32 [F, 3] into it; px [M, 2]."""
    person, is_limb = regions != REGION["background"], np.isin(regions, (REGION["arms"], REGION["hands"]))
    # Close to an arm, cloth may be the trunk's or a sleeve's, so it pulls neither.
    is_trunk = person & (distance_transform_edt(~is_limb) > _AMBIGUOUS * max(regions.shape))
    layer = vertex_layers(body)[moving]
    overlap, margin = _OVERLAP * max(regions.shape), round(_WINDOW_MARGIN * max(regions.shape))

    def edges(mask: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The edge of a mask, where the picture shows one of the labels `inside` within it."""
        edge, outward = _mask_edge(mask)
        columns, rows = np.clip((edge - 2 * outward).astype(int), 0, np.array(mask.shape[::-1]) - 1).T
        is_own = inside[rows, columns]
        return edge[is_own] + overlap * outward[is_own], outward[is_own]

    is_hand = regions == REGION["hands"]
    everything = tuple(range(COUNT))
    # The whole body has no edge of its own to follow, but gaps between its parts.
    kinds = [(everything, person, (np.zeros((0, 2)), np.zeros((0, 2))))]
    kinds += [((TRUNK,), person & ~is_limb, edges(person, is_trunk))]
    kinds += [((ARM + k, HAND + k), is_limb, edges(is_limb, is_limb)) for k in (0, 1)]
    kinds += [((HAND + k,), is_hand, edges(is_hand, is_hand)) for k in (0, 1)]
    parts = []
    for layers, region, (edge, outward) in kinds:
        is_own = np.isin(layer, layers)
        own = triangles[is_own[triangles].all(1) if layers == (TRUNK,) else is_own[triangles].any(1)]
        if not len(own) or not (len(edge) or layers == everything):
            continue
        low = np.clip(px[is_own, :2].min(0).astype(int) - margin, 0, np.array(regions.shape[::-1]) - 2)
        high = np.clip(px[is_own, :2].max(0).astype(int) + margin, low + 2, regions.shape[::-1])
        window = slice(low[1], high[1]), slice(low[0], high[0])
        parts.append(_OutlinePart(own, low, region[window], edge, outward))
    return parts


def _uncovered_gap(
    points: np.ndarray, normals: np.ndarray, covered: np.ndarray, mask: np.ndarray, longest: float
) -> tuple[np.ndarray, np.ndarray]:
    """How far the person goes on uncovered by the body, from points [N, 2] px along their outward normals [N, 2].

    covered, mask bool [H, W]: pixels of the body and of the person; longest: of all gaps, px. Returns the length of
    the gap in px [N], 0 if there is none or it is too long, and whether the body follows behind it, bool [N].
    """
    H, W = mask.shape
    steps = np.arange(_GAP_START_PX, longest)
    places = points[:, None] + steps[None, :, None] * normals[:, None]
    columns, rows = (np.clip(places[..., k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    stops = covered[rows, columns] | ~mask[rows, columns]
    first = stops.argmax(1)
    is_gap = stops.any(1) & (first > 0)
    meets_body = covered[rows, columns][np.arange(len(points)), first] & is_gap
    return np.where(is_gap, steps[first], 0.0), meets_body


def _outline_vertices(px: np.ndarray, triangles: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices on the body's outline against the background, and the outward direction [M, 2] of every vertex.

    px [M, 3]: projected vertices; triangles i32 [F, 3]; covered bool [H, W]: pixels of the body.
    """
    size = covered.shape
    padded = np.pad(covered, 1)
    signed = distance_transform_edt(~padded) - distance_transform_edt(padded)
    outside_px = gaussian_filter(signed, 2.0)[1:-1, 1:-1]
    rows, columns = (np.clip(px[:, k], 0, size[1 - k] - 1) for k in (1, 0))
    distance = map_coordinates(outside_px, [rows, columns], order=1)
    gradient = np.stack([map_coordinates(np.gradient(outside_px, axis=a), [rows, columns], order=1) for a in (1, 0)], 1)
    outward = gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-6)
    is_inside = (px[:, 0] > 1) & (px[:, 0] < size[1] - 1) & (px[:, 1] > 1) & (px[:, 1] < size[0] - 1)
    # A vertex is on the outline if some of its triangles face the camera and some do not.
    a, b, c = (px[triangles[:, k], :2] for k in range(3))
    facing = np.sign((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]))
    has_facing = np.zeros((len(px), 2), bool)
    for k in range(3):
        has_facing[triangles[facing > 0, k], 0] = True
        has_facing[triangles[facing < 0, k], 1] = True
    return np.flatnonzero(is_inside & (np.abs(distance) < 3.0) & has_facing.all(1)), outward


def _mask_edge(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 2] px on the mask's edge and its outward normals [N, 2]; the picture's border is no edge."""
    padded = np.pad(mask, 8, mode="edge")
    signed = distance_transform_edt(~padded) - distance_transform_edt(padded)
    outside_px = gaussian_filter(signed, 1.5)[8:-8, 8:-8]
    gy, gx = np.gradient(outside_px)
    rows, columns = np.nonzero(np.abs(outside_px) < 0.6)
    inner = (rows > 1) & (rows < mask.shape[0] - 2) & (columns > 1) & (columns < mask.shape[1] - 2)
    rows, columns = rows[inner], columns[inner]
    normal = np.stack([gx[rows, columns], gy[rows, columns]], 1)
    length = np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    points = np.stack([columns + 0.5, rows + 0.5], 1) - normal / length * outside_px[rows, columns, None]
    return points, normal / length


def _match_edges(
    points: np.ndarray, normals: np.ndarray, edge: np.ndarray, outward: np.ndarray, side: int, max_distance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far every point of the body's outline has to move, [N, 2] px, and the weight of that move, [N].

    points, normals [N, 2]: the body's outline; edge, outward [E, 2]: the mask's; side: the picture's longer side, px;
    max_distance [N] px. Matches go both ways: each point to its nearest edge point, and each edge point to its nearest
    point. The distance counts place and direction.
    """
    if not len(edge) or not len(points):
        return np.zeros_like(points), np.zeros(len(points))
    scale = _NORMAL_WEIGHT * side

    def is_match(distance: np.ndarray, point: np.ndarray, place: np.ndarray) -> np.ndarray:
        move = edge[place] - points[point]
        slide = np.abs(move[:, 0] * normals[point, 1] - move[:, 1] * normals[point, 0])
        is_alike = (outward[place] * normals[point]).sum(1) > 0.3
        return (distance < max_distance[point]) & is_alike & (slide < _MAX_SLIDE * side)

    edge_tree = cKDTree(np.concatenate([edge, scale * outward], 1))
    distance, index = edge_tree.query(np.concatenate([points, scale * normals], 1))
    is_matched = is_match(distance, np.arange(len(points)), index)
    pull = np.where(is_matched[:, None], edge[index] - points, 0)
    weight = is_matched.astype(float)
    point_tree = cKDTree(np.concatenate([points, scale * normals], 1))
    distance, owner = point_tree.query(np.concatenate([edge, scale * outward], 1))
    is_close = is_match(distance, owner, np.arange(len(edge)))
    count = np.bincount(owner[is_close], minlength=len(points)).astype(float)
    moves = (edge - points[owner])[is_close]
    move_sum = np.stack([np.bincount(owner[is_close], moves[:, k], minlength=len(points)) for k in (0, 1)], 1)
    mean_move = move_sum / np.maximum(count, 1)[:, None]
    has_edge = count > 0
    both_ways = 0.5 * (pull[has_edge] + mean_move[has_edge])
    pull[has_edge] = np.where(is_matched[has_edge, None], both_ways, mean_move[has_edge])
    weight[has_edge] = 1.0
    along = (pull * normals).sum(1, keepdims=True) * normals
    return along + 0.3 * (pull - along), weight


def submesh_triangles(faces: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """The triangles i32 [F', 3] whose corners are all in `vertices` i64 [M], as indices into `vertices`."""
    new_index = np.full(faces.max() + 1, -1)
    new_index[vertices] = np.arange(len(vertices))
    triangles = new_index[faces]
    return triangles[(triangles >= 0).all(1)].astype(np.int32)


def bilaplacian(triangles: np.ndarray, count: int) -> sparse.csr_matrix:
    """Squared uniform Laplacian [count, count] of a mesh with triangles i32 [F, 3] and `count` vertices."""
    pairs = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    links = sparse.csr_matrix((np.ones(len(pairs)), pairs.T), shape=(count, count))
    degree = np.maximum(np.asarray(links.sum(1)).ravel(), 1)
    laplacian = sparse.eye(count) - sparse.diags(1 / degree) @ links
    return (laplacian.T @ laplacian).tocsr()
