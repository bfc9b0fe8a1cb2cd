"""Makes an avatar's texture atlas: the colors that the portrait shows, and the rest by symmetry and nearness.

On arms and hands, what the portrait does not show is copied: a texel takes the mean of few texels around one place,
which is the same place of the other arm or hand, or the place before it on the side that the portrait shows.

The atlas has S x S texels over the body file's own texture coordinates (MakeHuman's layout on the free body, SMPL-X's
on the licensed one). V: vertices of the body.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.spatial import cKDTree

from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body, load_body
from stereotalker.control.body_parts import VISIBILITY_TOLERANCE_M
from stereotalker.control.layers import HAND, TRUNK, Layer, vertex_layers
from stereotalker.control.sleeves import sleeve_end
from stereotalker.geometry.rasterizer import rasterize
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, JOINTS, PARENTS, REGION, SIDES

# Side of the texture atlas, texels.
SIZE = 512
# Distance, m, that is added in quadrature to that of a candidate mirrored from the other side of the body.
_MIRROR_PENALTY_M = 0.03
# The same on arms and hands: for a candidate of the other arm, and for one of the side that faces the portrait.
_OTHER_ARM_PENALTY_M, _FRONT_PENALTY_M = 0.008, 0.012
# On arms and hands, a distance along the limb counts this many times as much as one around it, so that sleeves end at
# one place all around.
_ALONG_LIMB = 2.5
# Number of neighboring texels that are mixed for a copy: just enough that seams between copied places do not show.
_COPY_NEIGHBORS = 40
# Distance, m, that is added to a neighbor's before it is weighted: neighbors nearer than this count about alike.
_COPY_BLUR_M = 0.006
# Arms and hands are thinned to about this many sources each.
_MAX_COPY_SOURCES = 8000
# Weights of lightness and the two chroma channels in a distance of CIELAB colors; lightness counts less, because skin
# lies in shadow, too. Skin and cloth that are nearer than the distance cannot be distinguished.
_LAB_WEIGHTS = np.array([0.5, 1, 1], np.float32)
_MIN_SKIN_CLOTH_DISTANCE = 10.0
# Share of an arm's sources that may lie on the wrong side of the sleeve's end.
_MAX_WRONG_SOURCES = 0.15
# Cosine of the angle to the portrait's camera below which a texel of an arm or a hand is no source of copies.
_MIN_SOURCE_FACING = 0.35
# The visible texels of a region are thinned to about this many, so that the nearest ones cover a wide area and those
# at a shadowed rim do not decide alone.
_MAX_SOURCES = 3000
# Number of visible texels that are mixed for a hidden one.
_NEIGHBORS = 24
# Colors (sRGB u8) of what a closed mouth hides: means over the mouths of 25 rendered people. Keys are part numbers.
_MOUTH_PART_COLORS = {PARTS["tongue"][0]: (52, 28, 27), PARTS["teeth"][0]: (79, 65, 58)}
_MOUTH_LINING_COLOR = (62, 36, 34)
# Where a texel's color comes from: the portrait, on arms and hands a copy of another place, or the mirror image of what
# the portrait shows. 0 is a guess.
VISIBLE_TEXEL = 255
COPIED_TEXEL = 192
MIRRORED_TEXEL = 128


@dataclass(frozen=True)
class Texture:
    """A texture atlas.

    colour: f32 [S, S, 3] sRGB in 0..255 without the light's shading; dividing by the shading may put it beyond 255.
    seen: u8 [S, S], VISIBLE_TEXEL, COPIED_TEXEL, MIRRORED_TEXEL or 0 for a guess.
    """

    colour: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True)
class _Atlas:
    """Where the N texels that lie on the body are, in the atlas and on the body."""

    rows: np.ndarray  # i64 [N]
    columns: np.ndarray  # i64 [N]
    corners: np.ndarray  # i32 [N, 3] vertices of the texel's triangle
    weights: np.ndarray  # f32 [N, 3] barycentric coordinates in that triangle
    positions: np.ndarray  # f32 [N, 3] m on the mean body in the rest pose


@dataclass(frozen=True)
class _Texels:
    """What the portrait shows of the N texels."""

    is_filled: np.ndarray  # bool [N] its layer's picture has a color of use for it, and no part of the layer hides it
    is_shown: np.ndarray  # bool [N] the portrait shows it
    color: np.ndarray  # f32 [N, 3] sRGB in 0..255 of its layer's picture at its place


def make_texture(
    avatar: Avatar,
    body: Body,
    pixels: np.ndarray,
    layers: tuple[Layer, ...],
    region: np.ndarray,
    shading: np.ndarray,
    facing: np.ndarray,
) -> Texture:
    """Make the texture atlas of an avatar.

    pixels f32 [V, 3]: the avatar's body in the portrait, x px, y px, depth m; layers: those of the portrait; region
    u8 [V]; shading f32 [V] of the surface in the portrait; facing f32 [V]: cosine of the angle to its camera.

    A hidden texel takes colors only from visible texels of its own region. Hands take the face's color where the
    portrait shows nothing of them.
    """
    atlas = _atlas(body.path, body.reader, body.betas)
    nearest_vertex = atlas.corners[np.arange(len(atlas.rows)), atlas.weights.argmax(1)]
    texel_layer = vertex_layers(body)[nearest_vertex]
    part = body.part[nearest_vertex]
    is_mouth_lining = (body.masks["inner_mouth"][nearest_vertex] > 0.5) & (part == PARTS["body"][0])
    is_fixed = is_mouth_lining | np.isin(part, list(_MOUTH_PART_COLORS))
    texels = _read_layers(avatar, (pixels[atlas.corners] * atlas.weights[..., None]).sum(1), texel_layer, layers)
    is_visible = texels.is_shown & ~is_fixed
    color = texels.color / (shading[atlas.corners] * atlas.weights).sum(1)[:, None]
    origin = np.where(is_visible, VISIBLE_TEXEL, 0).astype(np.uint8)

    is_limb = texel_layer != TRUNK
    groups = np.where(is_limb, np.where(texel_layer >= HAND, REGION["hands"], REGION["arms"]), region[nearest_vertex])
    # Where a layer's picture was completed, its color is as good as a copy; only the head is not completed.
    is_filled = texels.is_filled & np.isin(groups, [REGION[name] for name in ("torso", "legs", "arms", "hands")])
    is_target = ~is_visible & ~is_filled
    origin[~is_visible & is_filled & ~is_fixed] = COPIED_TEXEL
    is_source = is_visible & (~is_limb | (facing[nearest_vertex] > _MIN_SOURCE_FACING))
    is_source &= ~_beyond_sleeve_end(color, atlas.positions, groups, is_source)
    far_side = _far_side(avatar, body, atlas, nearest_vertex)
    for group in np.unique(groups):
        in_group = groups == group
        sources, targets = np.flatnonzero(in_group & is_source), np.flatnonzero(in_group & is_target)
        if len(sources) and len(targets):
            if group in (REGION["arms"], REGION["hands"]):
                sources = sources[:: max(1, -(-len(sources) // _MAX_COPY_SOURCES))]
                color[targets] = _copied(atlas.positions, far_side, color, sources, targets)
                origin[targets] = COPIED_TEXEL
            else:
                sources = sources[:: max(1, -(-len(sources) // _MAX_SOURCES))]
                color[targets], is_mirrored = _colors_from_nearest(atlas.positions, color, sources, targets)
                origin[targets[is_mirrored]] = MIRRORED_TEXEL
        elif len(targets):
            is_similar = is_source & (groups == REGION["face"]) if group == REGION["hands"] else is_visible
            is_similar = is_similar if is_similar.any() else is_visible
            # Gray stands for a portrait that shows no person at all.
            color[targets] = np.median(color[is_similar], 0) if is_similar.any() else 128
    color[is_mouth_lining] = _MOUTH_LINING_COLOR
    for number, part_color in _MOUTH_PART_COLORS.items():
        color[part == number] = part_color

    color_map, origin_map = np.zeros((SIZE, SIZE, 3), np.float32), np.zeros((SIZE, SIZE), np.uint8)
    color_map[atlas.rows, atlas.columns], origin_map[atlas.rows, atlas.columns] = color, origin
    return Texture(_fill_gutters(color_map, atlas), origin_map)


def _read_layers(avatar: Avatar, places: np.ndarray, texel_layer: np.ndarray, layers: tuple[Layer, ...]) -> _Texels:
    """Look every texel up in its layer. places f32 [N, 3]: x px, y px, depth m; texel_layer u8 [N]."""
    H, W = avatar.regions.shape
    columns, rows = (np.clip(places[:, k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    is_inside = (places[:, 0] >= 0) & (places[:, 0] < W) & (places[:, 1] >= 0) & (places[:, 1] < H)
    is_filled, is_shown = np.zeros(len(places), bool), np.zeros(len(places), bool)
    color = np.zeros((len(places), 3), np.float32)
    for index, layer in enumerate(layers):
        own = np.flatnonzero(texel_layer == index)
        depth = layer.depth[rows[own], columns[own]]
        is_front = is_inside[own] & (np.abs(depth - places[own, 2]) < VISIBILITY_TOLERANCE_M)
        is_filled[own] = is_front & layer.may_sample[rows[own], columns[own]]
        is_shown[own] = is_front & layer.is_shown[rows[own], columns[own]]
        at = [places[own, 1] - 0.5, places[own, 0] - 0.5]
        for k in range(3):
            color[own, k] = map_coordinates(layer.levels[0][..., k], at, np.float32, order=1, mode="nearest")
    return _Texels(is_filled, is_shown, color)


def _beyond_sleeve_end(
    color: np.ndarray, positions: np.ndarray, groups: np.ndarray, is_source: np.ndarray
) -> np.ndarray:
    """Sources on an arm that are skin where its sleeve still is, or cloth where the arm is bare, bool [N].

    They are the rim of a hand, or cloth that was taken for the arm, and would be spread over all that is hidden. color
    f32 [N, 3]; positions f32 [N, 3] m in the rest pose; groups u8 [N]: regions; is_source bool [N].
    """
    lab = cv2.cvtColor((color[None] / 255).clip(0, 1).astype(np.float32), cv2.COLOR_RGB2LAB)[0] * _LAB_WEIGHTS
    is_skin, is_cloth = (is_source & (groups == REGION[name]) for name in ("hands", "torso"))
    result = np.zeros(len(groups), bool)
    if not (is_skin.any() and is_cloth.any() and (is_source & (groups == REGION["arms"])).any()):
        return result
    skin, cloth = np.median(lab[is_skin], 0), np.median(lab[is_cloth], 0)
    if np.linalg.norm(skin - cloth) < _MIN_SKIN_CLOTH_DISTANCE:
        return result
    is_bare = np.linalg.norm(lab - skin, axis=1) < np.linalg.norm(lab - cloth, axis=1)
    arm, reach = np.flatnonzero(is_source & (groups == REGION["arms"])), np.abs(positions[:, 0])
    is_wrong = (reach[arm] > sleeve_end(reach[arm], is_bare[arm])) != is_bare[arm]
    # With more of them the colors do not tell skin from cloth.
    if is_wrong.mean() < _MAX_WRONG_SOURCES:
        result[arm] = is_wrong
    return result


def _far_side(avatar: Avatar, body: Body, atlas: _Atlas, nearest_vertex: np.ndarray) -> np.ndarray:
    """The place behind every texel, as the portrait's camera sees it, on the far side of the limb. f32 [N, 3] m.

    It is the texel's position in the rest pose, reflected at the plane through the limb's axis across the view.
    """
    still = Motion.still(avatar.poses, avatar.expression)
    posed = body.posed(still, avatar.betas, avatar.surface)
    rotation, translation = avatar.extrinsics[:3, :3], avatar.extrinsics[:3, 3]
    view = posed.vertices[0] + rotation.T @ translation  # from the camera to the vertex
    view = np.einsum("vji,vj->vi", posed.turn[0], view)
    view /= np.maximum(np.linalg.norm(view, axis=1, keepdims=True), 1e-6)
    view = view[nearest_vertex]
    joints = body.joints(np.zeros(body.betas, np.float32))
    joint = body.weights.argmax(1)[nearest_vertex]
    start, along = joints[joint], _bone_directions(joints)[joint]
    offset = atlas.positions - start
    across = offset - (offset * along).sum(1, keepdims=True) * along
    return (atlas.positions - 2 * (across * view).sum(1, keepdims=True) * view).astype(np.float32)


def _bone_directions(joints: np.ndarray) -> np.ndarray:
    """Unit vectors [55, 3] from every joint to its first child, or onwards from its parent where it has none."""
    direction = joints - joints[list(PARENTS)]
    for child in reversed(range(1, len(JOINTS))):
        direction[PARENTS[child]] = joints[child] - joints[PARENTS[child]]
    for side in SIDES:
        direction[JOINT[f"{side}_wrist"]] = joints[JOINT[f"{side}_middle1"]] - joints[JOINT[f"{side}_wrist"]]
    return direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)


def _copied(
    positions: np.ndarray, far_side: np.ndarray, color: np.ndarray, sources: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Colors f32 [B, 3] for texels of arms or hands, copied from the places that correspond to them.

    positions and far_side f32 [N, 3] m; color f32 [N, 3]; sources i64 [A] and targets i64 [B]: rows of them.
    """
    mirror = np.array([-1, 1, 1], np.float32)
    kinds = [
        (positions[sources], 0.0),
        (far_side[sources], _FRONT_PENALTY_M),
        (positions[sources] * mirror, _OTHER_ARM_PENALTY_M),
        (far_side[sources] * mirror, _OTHER_ARM_PENALTY_M + _FRONT_PENALTY_M),
    ]
    scale = np.array([_ALONG_LIMB, 1, 1], np.float32)
    candidates = np.concatenate(
        [np.pad(places * scale, ((0, 0), (0, 1)), constant_values=penalty) for places, penalty in kinds]
    )
    queries = np.pad(positions[targets] * scale, ((0, 0), (0, 1)))
    distance, nearest = cKDTree(candidates).query(queries, k=min(_COPY_NEIGHBORS, len(candidates)))
    distance, chosen = distance.reshape(len(targets), -1), sources[nearest.reshape(len(targets), -1) % len(sources)]
    weight = 1 / (distance + _COPY_BLUR_M) ** 2
    weight /= weight.sum(1, keepdims=True)
    return (color[chosen] * weight[..., None]).sum(1)


def _colors_from_nearest(
    positions: np.ndarray, color: np.ndarray, sources: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mix the colors of the nearest sources, on this side of the body or mirrored from the other, for every target.

    positions f32 [N, 3] m; color f32 [N, 3]; sources i64 [A] and targets i64 [B]: rows of them. Returns colors [B, 3]
    and whether the nearest source of a target lies on the other side, bool [B].
    """
    mirrored = positions[sources] * np.array([-1, 1, 1], np.float32)
    # The fourth coordinate moves mirrored sources farther away.
    candidates = np.concatenate(
        [
            np.pad(positions[sources], ((0, 0), (0, 1))),
            np.pad(mirrored, ((0, 0), (0, 1)), constant_values=_MIRROR_PENALTY_M),
        ]
    )
    queries = np.pad(positions[targets], ((0, 0), (0, 1)))
    distance, nearest = cKDTree(candidates).query(queries, k=min(_NEIGHBORS, len(candidates)))
    weight = 1 / (distance + 2e-3)
    weight /= weight.sum(1, keepdims=True)
    return (color[sources[nearest % len(sources)]] * weight[..., None]).sum(1), nearest[:, 0] >= len(sources)


def _fill_gutters(color: np.ndarray, atlas: _Atlas) -> np.ndarray:
    """Extend every chart's colors to the empty texels around it, so that bilinear samples at its border are right."""
    is_empty = np.ones(color.shape[:2], bool)
    is_empty[atlas.rows, atlas.columns] = False
    rows, columns = distance_transform_edt(is_empty, return_distances=False, return_indices=True)
    return color[rows, columns]


@lru_cache(maxsize=2)
def _atlas(path: Path, reader: str, betas: int) -> _Atlas:
    """Rasterize a body file's triangles in its texture coordinates. The arguments are those of `load_body`."""
    body = load_body(path, reader, betas)
    corners = np.concatenate([texel_corners(body), np.ones((len(body.texture_coordinates), 1), np.float32)], 1)
    fragments = rasterize(corners, body.texture_faces, (SIZE, SIZE))
    rows, columns = np.nonzero(fragments.face >= 0)
    vertices, weights = body.faces[fragments.face[rows, columns]], fragments.bary[rows, columns]
    return _Atlas(rows, columns, vertices, weights, (body.template[vertices] * weights[..., None]).sum(1))


def texel_corners(body: Body) -> np.ndarray:
    """The body's texture coordinates in texels, y down. f32 [N, 2]."""
    return np.stack([body.texture_coordinates[:, 0], 1 - body.texture_coordinates[:, 1]], 1) * np.float32(SIZE)
