"""Hands as the portrait shows them: a piece of the picture with depth, which moves with the hand.

A fitted hand is right to a few millimetres only. Drawn as a mesh that has left the portrait's pose, its fingers end in
pieces of their neighbors or of the background. A relief has the outline of the picture instead, and the depth of the
fitted hand, smoothed. Where that is not right (see `ShownHand.weight`), the mesh is drawn.

H x W: the portrait; R: vertices of a relief, Q: its triangles; J: joints that move it; F: triangles of the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates

from stereotalker.body.model import Body
from stereotalker.control.body_parts import joint_reach
from stereotalker.control.foreshortened_arms import ONTO_HAND_M
from stereotalker.control.frame_maps import FrameMaps
from stereotalker.control.layers import ARM, HAND, MIXED_RIM, triangle_layers, vertex_layers
from stereotalker.control.light import Surface
from stereotalker.control.limb_materials import weighted_lab
from stereotalker.control.mipmaps import MipPair, at_photo_size, halved
from stereotalker.control.shown_hands import ShownHand, find_hands, hand_joints, hand_triangles
from stereotalker.control.warp_kernels import SEEN, SUPERSAMPLING, DrawnMesh
from stereotalker.geometry.camera import project
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.media.morphology import disk_kernel
from stereotalker.media.pull_push import extrapolate_colors
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, REGION, SIDES

# The grid of a relief has so many cells along the longer side of the hand.
_CELLS = 28
# Standard deviation of the smoothing of depth, and of skinning weights, as shares of the hand's longer side. A finger
# that bends takes its neighbors along.
_DEPTH_SMOOTHING, _WEIGHT_SMOOTHING = 0.06, 0.10
# Standard deviation of the smoothing of the outline, as a share of the longer side of the portrait, and a factor on the
# result, so that the outermost pixels of the hand are opaque.
_OUTLINE_SMOOTHING, _RIM_OPACITY = 1 / 2000, 1.5
# A relief goes on over a bare forearm up to this distance from the hand, as a share of the longer side of the portrait,
# and fades from this share of that distance on.
_FOREARM_REACH, _OPAQUE_SHARE = 0.05, 0.6
# Only the forearm up to this distance from the wrist counts, m, whose color differs at most so much from that of the
# hand (CIELAB with half of its lightness), and which fingers move by at most 1 minus this weight: fingers that lie
# before a forearm do not fade.
_FOREARM_M, _MAX_SKIN_DIFFERENCE, _MIN_WRIST_WEIGHT = 0.09, 11.0, 0.5
# Where it does not, and the arm is bare, it fades over this distance from the wrist, m: the mesh goes on below it.
_WRIST_FADE_M = 0.025
# A relief ends with the hand where the forearm points at the camera by more than this cosine.
_MAX_FORESHORTENING = 0.85
# A relief is drawn over what lies less than this before it, m: cuffs and forearms reach into the hand.
_IN_FRONT_M = 0.015


@dataclass(frozen=True)
class HandRelief:
    """One hand of a portrait, or two that touch."""

    hand: ShownHand
    # Mip map, the finest level first, each u8 [1, h, w, 3]: the portrait where it shows the hand, and the hand's colors
    # continued beside it.
    levels: tuple[np.ndarray, ...]
    # f32 [H, W] in 0..1. It fades over the outline, and more slowly where the hand continues into a bare forearm.
    opacity: np.ndarray
    regions: np.ndarray  # u8 [H, W] label of hands, and of arms where the portrait shows arms
    places: np.ndarray  # f32 [R, 3] of the vertices in the portrait: x px, y px, depth m
    faces: np.ndarray  # i32 [Q, 3]
    weights: np.ndarray  # f64 [R, J] how much every joint moves a vertex
    vertices: np.ndarray  # f64 [R, J, 3] m: every vertex in the frame of every joint
    replaced: np.ndarray  # bool [F] triangles of the body that are not drawn under it
    hand_faces: np.ndarray  # bool [F] triangles of the body's hands, over which it is drawn wherever they are
    hand_vertices: np.ndarray  # bool [V] vertices of the body's hands

    def posed(self, positions: np.ndarray, rotations: np.ndarray) -> np.ndarray:
        """Its vertices f64 [R, 3] m, for positions [55, 3] m and world rotations [55, 3, 3] of the body's joints."""
        rows = _moving_joints(self.hand.sides)
        moved = np.einsum("jab,rjb->rja", rotations[rows], self.vertices) + positions[rows]
        return (self.weights[..., None] * moved).sum(1)


def make_reliefs(avatar: Avatar, body: Body, pixels: np.ndarray, sleeve_end: float) -> tuple[HandRelief, ...]:
    """The reliefs of the hands that the portrait shows well enough.

    pixels f32 [V, 3]: the body in the portrait, x px, y px, depth m; sleeve_end: m along the arm, see `LimbMaterials`.
    """
    return tuple(_make_relief(avatar, body, pixels, sleeve_end, hand) for hand in find_hands(avatar, body, pixels))


def _moving_joints(sides: tuple[str, ...]) -> list[int]:
    """Rows of the joints that move a relief: those of the hands, and the elbows, which move its end on the forearm."""
    return [*hand_joints(sides), *(JOINT[f"{side}_elbow"] for side in sides)]


def _make_relief(avatar: Avatar, body: Body, pixels: np.ndarray, sleeve_end: float, hand: ShownHand) -> HandRelief:
    y, x = np.nonzero(hand.is_shown)
    extent, reach = int(max(np.ptp(y), np.ptp(x))) + 1, round(_FOREARM_REACH * max(hand.is_shown.shape))
    window = np.s_[max(y.min() - reach, 0) : y.max() + reach + 1, max(x.min() - reach, 0) : x.max() + reach + 1]
    still, rows = Motion.still(avatar.poses, avatar.expression), _moving_joints(hand.sides)
    positions, rotations = (a[0, rows].astype(float) for a in body.posed_joints(still, avatar.betas, avatar.surface))
    maps = _window_maps(body, pixels, hand, window, extent)
    opacity = np.zeros(hand.is_shown.shape, np.float32)
    count = len(hand.sides)
    forearms = positions[:count] - positions[-count:]
    is_bare = sleeve_end < joint_reach(body, "wrist")
    goes_on = _is_seen_from_the_side(forearms, positions[:count], avatar.extrinsics)
    opacity[window] = _opacity(avatar, hand, maps.is_forearm & goes_on, window)
    if is_bare and not goes_on:
        opacity[window] *= np.clip(maps.beyond_wrist / _WRIST_FADE_M, 0, 1)
    grid, faces = _grid(opacity[window] > 0, max(2, round(extent / _CELLS)))

    def at_grid(values: np.ndarray) -> np.ndarray:
        return map_coordinates(values, grid.T, order=1, mode="nearest")

    corner = (window[1].start, window[0].start)
    places = np.column_stack([grid[:, ::-1] + corner + 0.5, at_grid(maps.depth)]).astype(np.float32)
    weights = np.stack([at_grid(weight) for weight in maps.weights], -1)
    is_shown = opacity >= 0.5
    is_forearm_label = avatar.regions == REGION["arms"]
    picture = _picture(avatar.portrait, hand.is_shown | (opacity > 0) & is_forearm_label)
    # A bare arm goes on under the relief, so that no gap opens when the wrist bends. Triangles that begin before the
    # wrist reach about as far as cloth does, so a sleeve is open at its end.
    mesh_end = joint_reach(body, "wrist") + (ONTO_HAND_M if is_bare else 0)
    return HandRelief(
        hand=hand,
        levels=tuple(level[None] for level in halved(at_photo_size(avatar, picture, is_shown))),
        opacity=opacity,
        regions=np.where(is_forearm_label & ~hand.is_shown, REGION["arms"], REGION["hands"]).astype(np.uint8),
        places=places,
        faces=faces,
        weights=weights / np.maximum(weights.sum(1, keepdims=True), 1e-6),
        vertices=np.einsum("jba,rjb->rja", rotations, _unproject(places, avatar)[:, None] - positions),
        replaced=_triangles_beyond(body, hand.sides, mesh_end),
        hand_faces=hand_triangles(body, hand.sides),
        hand_vertices=np.isin(vertex_layers(body), [HAND + SIDES.index(side) for side in hand.sides]),
    )


def _is_seen_from_the_side(bones: np.ndarray, ends: np.ndarray, extrinsics: np.ndarray) -> bool:
    """Whether none of some bones f64 [N, 3] m, which end at `ends`, points at the camera or away from it."""
    to_camera = -extrinsics[:3, :3].T @ extrinsics[:3, 3] - ends
    along = np.abs((bones * to_camera).sum(1)) / np.linalg.norm(bones, axis=1) / np.linalg.norm(to_camera, axis=1)
    return bool(along.max() < _MAX_FORESHORTENING)


def _triangles_beyond(body: Body, sides: tuple[str, ...], distance: float) -> np.ndarray:
    """The triangles of arms and hands that lie wholly beyond a distance from the body's midplane, m. bool [F]."""
    layer = triangle_layers(vertex_layers(body), body.faces)
    is_limb = np.isin(layer, [part + SIDES.index(side) for part in (ARM, HAND) for side in sides])
    return is_limb & (np.abs(body.template[body.faces, 0]).min(1) > distance)


@dataclass(frozen=True)
class _WindowMaps:
    """What the fitted body says of a window of the portrait, h x w."""

    weights: np.ndarray  # f64 [J, h, w] how much every joint moves a pixel
    depth: np.ndarray  # f64 [h, w] m
    is_forearm: np.ndarray  # bool [h, w] pixels of the forearm beside the wrist
    beyond_wrist: np.ndarray  # f64 [h, w] m along the hand from the wrist


def _window_maps(
    body: Body, pixels: np.ndarray, hand: ShownHand, window: tuple[slice, slice], extent: int
) -> _WindowMaps:
    """extent: the longer side of the hand, px."""
    faces, size, count = body.faces[hand_triangles(body, hand.sides)], hand.is_shown.shape, len(hand.sides)
    fragments = rasterize(pixels, faces, size)
    drawn, vertex = (hand.is_shown & np.isfinite(fragments.depth))[window], fragments.vertices(faces)[window]
    of_joints = body.weights[:, hand_joints(hand.sides)]
    of_joints = of_joints / np.maximum(of_joints.sum(1, keepdims=True), 1e-6)
    weights = np.stack([_smoothed(weight[vertex], drawn, _WEIGHT_SMOOTHING * extent) for weight in of_joints.T])
    near_wrist = 1 - weights[count:].sum(0)
    depth = _smoothed(fragments.depth[window], drawn, _DEPTH_SMOOTHING * extent)
    # The farther from the hand, the more the forearm moves the relief.
    distance = distance_transform_edt(~hand.is_shown[window]) / (_OPAQUE_SHARE * _FOREARM_REACH * max(size))
    of_forearm = np.clip(distance, 0, 1) * np.clip((near_wrist - _MIN_WRIST_WEIGHT) / (1 - _MIN_WRIST_WEIGHT), 0, 1)
    elbows = of_forearm * weights[:count] / np.maximum(weights[:count].sum(0), 1e-6)
    layer = triangle_layers(vertex_layers(body), body.faces)
    arms = body.faces[np.isin(layer, [ARM + SIDES.index(side) for side in hand.sides])]
    arm = rasterize(pixels, arms, size)
    reach = arm.interpolate(arms, np.abs(body.template[:, :1]))[window][..., 0]
    is_near_wrist = reach > joint_reach(body, "wrist") - _FOREARM_M
    if (is_forearm := is_near_wrist & ~drawn).any():
        depth += of_forearm * (_smoothed(arm.depth[window], is_forearm, _DEPTH_SMOOTHING * extent) - depth)
    may_show = is_near_wrist & (near_wrist > _MIN_WRIST_WEIGHT)
    beyond = fragments.interpolate(faces, np.abs(body.template[:, :1]) - joint_reach(body, "wrist"))[window][..., 0]
    beyond = _smoothed(beyond, drawn, _DEPTH_SMOOTHING * extent)
    return _WindowMaps(np.concatenate([(1 - of_forearm) * weights, elbows]), depth, may_show, beyond)


def _picture(portrait: np.ndarray, is_hand: np.ndarray) -> np.ndarray:
    """The portrait u8 [H, W, 3] inside the outline of a hand bool [H, W], and the colors there continued beside it."""
    rim = max(1, round(max(is_hand.shape) * MIXED_RIM))
    return extrapolate_colors(portrait, cv2.erode(is_hand.astype(np.uint8), disk_kernel(rim), borderValue=1) > 0)


def _opacity(avatar: Avatar, hand: ShownHand, is_forearm: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """`HandRelief.opacity` in a window of the portrait, f32 [h, w].

    is_forearm bool [h, w]: where a forearm may be shown.
    """
    side, is_hand = max(hand.is_shown.shape), hand.is_shown[window]
    own, of_hand = (
        weighted_lab(picture[window]) for picture in (avatar.portrait, _picture(avatar.portrait, hand.is_shown))
    )
    is_skin = np.linalg.norm(own - of_hand, axis=-1) < _MAX_SKIN_DIFFERENCE
    is_bare_forearm = is_forearm & is_skin & (avatar.regions[window] == REGION["arms"])
    distance = distance_transform_edt(~is_hand) / (_FOREARM_REACH * side)
    fade = np.clip((1 - distance) / (1 - _OPAQUE_SHARE), 0, 1)
    shown = np.where(is_bare_forearm, fade, is_hand).astype(np.float32)
    return np.minimum(_RIM_OPACITY * cv2.GaussianBlur(shown, (0, 0), max(_OUTLINE_SMOOTHING * side, 0.5)), 1)


def _grid(mask: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """A grid over a mask bool [h, w] and its surroundings: points f64 [R, 2] (row, column), triangles i32 [Q, 3]."""
    y, x = (np.minimum(np.arange(0, n + step, step), n - 1) for n in mask.shape)
    points = np.stack(np.meshgrid(y, x, indexing="ij"), -1)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((2 * step + 1,) * 2, np.uint8)) > 0
    is_used = near[points[..., 0], points[..., 1]]
    number = np.arange(is_used.size).reshape(is_used.shape)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    is_cell = is_used[:-1, :-1] & is_used[:-1, 1:] & is_used[1:, :-1] & is_used[1:, 1:]
    triangles = [np.stack(corners, -1)[is_cell] for corners in ((a, c, b), (b, c, d))]
    return points.reshape(-1, 2).astype(np.float64), np.concatenate(triangles).astype(np.int32)


def _smoothed(values: np.ndarray, is_known: np.ndarray, deviation: float) -> np.ndarray:
    """Values f32 [h, w], continued from where they are known, and blurred. f64 [h, w]."""
    rows, columns = distance_transform_edt(~is_known, return_distances=False, return_indices=True)
    return cv2.GaussianBlur(
        values[rows, columns].astype(np.float64), (0, 0), deviation, borderType=cv2.BORDER_REPLICATE
    )


def _unproject(places: np.ndarray, avatar: Avatar) -> np.ndarray:
    """World positions f64 [R, 3] m of places [R, 3] in the portrait: x px, y px, depth m."""
    K, E = avatar.intrinsics.astype(np.float64), avatar.extrinsics.astype(np.float64)
    rays = np.column_stack([places[:, :2], np.ones(len(places))]) @ np.linalg.inv(K).T
    return (rays * places[:, 2:] - E[:3, 3]) @ E[:3, :3]


def draw_relief(
    maps: FrameMaps,
    relief: HandRelief,
    vertices: np.ndarray,
    weight: float,
    mesh: DrawnMesh,
    depth: np.ndarray,
    levels: MipPair,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
) -> None:
    """Draw a posed relief over the finished maps of a frame, in place.

    vertices f64 [R, 3] m: see `HandRelief.posed`; weight: of the relief over what lies below it, 0 to 1; mesh: of the
    body; depth f32 [s H, s W] m: of the reliefs that are drawn already, with s = SUPERSAMPLING samples per pixel and
    axis, overwritten; levels: of the relief's mip map, for this camera; intrinsics [3, 3] px of the samples, extrinsics
    [4, 4].
    """
    surface = Surface.of(vertices.astype(np.float32), relief.faces)
    pixels = project(surface.vertices, intrinsics, extrinsics)
    (H, W), s = maps.labels.shape, SUPERSAMPLING
    (x0, y0), (x1, y1) = (
        np.clip(corner, 0, (W, H)).astype(int)
        for corner in (np.floor(pixels[:, :2].min(0) / s), np.ceil(pixels[:, :2].max(0) / s))
    )
    if x0 >= x1 or y0 >= y1:
        return
    drawn = rasterize(pixels - np.array([s * x0, s * y0, 0], np.float32), relief.faces, (s * (y1 - y0), s * (x1 - x0)))
    values = np.column_stack([relief.places[:, :2], surface.normals @ extrinsics[:3, :3].T])
    values = drawn.interpolate(relief.faces, values)
    PH, PW = relief.opacity.shape
    place = values[..., :2] / np.array([PW, PH], np.float32)
    samples = np.s_[s * y0 : s * y1, s * x0 : s * x1]
    of_body = np.where(relief.hand_faces[mesh.face[samples]], np.inf, mesh.depth[samples])
    before = drawn.depth < np.minimum(of_body, depth[samples]) + _IN_FRONT_M
    opacity = weight * _sample(relief.opacity, place) * before
    np.copyto(depth[samples], drawn.depth, where=opacity > 0.5)
    color = _sample(levels.fine[0], place)
    if levels.blend > 0:
        color += levels.blend * (_sample(levels.coarse[0], place) - color)

    def pooled(values: np.ndarray) -> np.ndarray:
        """Means f32 [h, w, C] of the samples [s h, s w, C] of every pixel."""
        return values.reshape(y1 - y0, s, x1 - x0, s, -1).mean((1, 3))

    share = pooled(opacity)
    mixed = pooled(np.concatenate([color, values[..., 2:]], -1) * opacity[..., None]) / np.maximum(share, 1e-6)
    window = np.s_[y0:y1, x0:x1]
    warp = maps.warp[window]
    maps.warp[window] = np.rint(warp + share * (np.clip(mixed[..., :3], 0, 255) - warp))
    covered = maps.coverage[window]
    maps.coverage[window] = np.rint(covered + share[..., 0] * (255 - covered.astype(np.float32)))
    is_hand = share[..., 0] >= 0.5
    normals = mixed[..., 3:] / np.maximum(np.linalg.norm(mixed[..., 3:], axis=-1, keepdims=True), 1e-6)
    maps.normals[window][is_hand] = np.clip(127.5 + 127.5 * normals, 0, 255)[is_hand].astype(np.uint8)
    region = cv2.remap(relief.regions, *_at(place, relief.regions), cv2.INTER_NEAREST)[::s, ::s]
    maps.labels[window][is_hand] = region[is_hand]
    maps.visibility[window][is_hand] = SEEN


def _sample(picture: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Bilinear samples f32 [h, w] or [h, w, C] of a picture, at places f32 [h, w, 2] as shares of width and height."""
    x, y = _at(place, picture)
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def _at(place: np.ndarray, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of a picture, f32 [h, w] px as OpenCV counts them, at places as in `_sample`."""
    H, W = picture.shape[:2]
    return place[..., 0] * W - np.float32(0.5), place[..., 1] * H - np.float32(0.5)
