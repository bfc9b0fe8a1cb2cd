"""Makes an avatar's texture atlas: the colors that the portrait shows, and the rest by symmetry and nearness.

On arms and hands, shown colors are continued over the surface (see `limb_colors`). The atlas has S x S texels (see
`atlas`). V: vertices of the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.spatial import cKDTree

from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body
from stereotalker.control.atlas import SIZE, Atlas, atlas_of
from stereotalker.control.body_parts import VISIBILITY_TOLERANCE_M
from stereotalker.control.foreshortened_arms import SmoothedArms
from stereotalker.control.layers import HAND, TRUNK, Layer, vertex_layers
from stereotalker.control.limb_colors import complete_limbs
from stereotalker.control.limb_materials import LimbMaterials
from stereotalker.records import Avatar
from stereotalker.smplx_layout import REGION

# Distance, m, that is added in quadrature to that of a candidate mirrored from the other side of the body.
_MIRROR_PENALTY_M = 0.03
# Cosine of the angle to the portrait's camera below which a texel of an arm or a hand is not taken from the portrait.
_MIN_SOURCE_FACING = 0.35
# The visible texels of a region are thinned to about this many, so that the nearest ones cover a wide area and those
# at a shadowed rim do not decide alone.
_MAX_SOURCES = 3000
# Number of visible texels that are mixed for a hidden one.
_NEIGHBORS = 24
# Colors (sRGB u8) of what a closed mouth hides: means over the mouths of 25 rendered people. Keys are part numbers.
_MOUTH_PART_COLORS = {PARTS["tongue"][0]: (52, 28, 27), PARTS["teeth"][0]: (79, 65, 58)}
_MOUTH_LINING_COLOR = (62, 36, 34)
# Where a texel's color comes from: the portrait, the portrait smoothed, the continuation of what it shows on a limb or
# beside a hidden part of the trunk, or the mirror image of what it shows. 0 is a guess.
VISIBLE_TEXEL = 255
SMOOTHED_TEXEL = 224
COPIED_TEXEL = 192
MIRRORED_TEXEL = 128


@dataclass(frozen=True)
class Texture:
    """A texture atlas.

    colour: f32 [S, S, 3] sRGB in 0..255 without the light's shading; dividing by the shading may put it beyond 255.
    seen: u8 [S, S], VISIBLE_TEXEL, SMOOTHED_TEXEL, COPIED_TEXEL, MIRRORED_TEXEL or 0 for a guess.
    """

    colour: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True)
class _Texels:
    """What the portrait shows of the N texels."""

    is_front: np.ndarray  # bool [N] no part of its layer hides it
    is_shown: np.ndarray  # bool [N] the portrait shows it
    is_interior: np.ndarray  # bool [N] it is not near an edge of what the portrait shows
    color: np.ndarray  # f32 [N, 3] sRGB in 0..255 of its layer's picture at its place


def make_texture(
    avatar: Avatar,
    body: Body,
    pixels: np.ndarray,
    layers: tuple[Layer, ...],
    materials: LimbMaterials,
    region: np.ndarray,
    shading: np.ndarray,
    facing: np.ndarray,
    smoothed: SmoothedArms,
) -> Texture:
    """Make the texture atlas of an avatar.

    pixels f32 [V, 3]: the avatar's body in the portrait, x px, y px, depth m; layers and materials: those of the
    portrait; region u8 [V]; shading f32 [V] of the surface in the portrait; facing f32 [V]: cosine of the angle to
    its camera; smoothed: parts of arms with smooth colors.

    Away from limbs, a hidden texel takes colors only from visible texels of its own region. Hands take the face's color
    where the portrait shows nothing of them.
    """
    atlas = atlas_of(body.path, body.reader, body.betas)
    nearest_vertex = atlas.nearest_vertex
    texel_layer = vertex_layers(body)[nearest_vertex]
    part = body.part[nearest_vertex]
    is_mouth_lining = (body.masks["inner_mouth"][nearest_vertex] > 0.5) & (part == PARTS["body"][0])
    is_fixed = is_mouth_lining | np.isin(part, list(_MOUTH_PART_COLORS))
    texels = _read_layers(avatar, (pixels[atlas.corners] * atlas.weights[..., None]).sum(1), texel_layer, layers)
    is_visible = texels.is_shown & ~is_fixed
    color = texels.color / (shading[atlas.corners] * atlas.weights).sum(1)[:, None]
    origin = np.where(is_visible, VISIBLE_TEXEL, 0).astype(np.uint8)

    is_limb, groups = texel_layer != TRUNK, region[nearest_vertex]
    reach, end = np.abs(atlas.positions[:, 0]), materials.sleeve_end
    is_source = is_visible & is_limb & texels.is_interior & (facing[nearest_vertex] > _MIN_SOURCE_FACING)
    is_source &= (texel_layer < HAND) | (reach > end)  # the skin of a hand says nothing of the cuff over it
    is_source &= ~smoothed.in_foreshortened_sleeve(texel_layer, reach)  # most of it lies in the shadow of the hand
    is_hidden_limb, is_smoothed = is_limb & ~is_source, smoothed.contains(texel_layer, reach)
    skin, cloth = _typical_colors(color, is_source & (texel_layer >= HAND), is_visible, groups)
    completed = complete_limbs(body, atlas, color, is_source, is_smoothed, end, skin, cloth)
    color[is_hidden_limb | is_smoothed] = completed[is_hidden_limb | is_smoothed]
    # Where the trunk's picture was completed, its color is as good as a copy. The head's is not completed.
    is_completed = texels.is_front & ~is_visible & ~is_fixed & np.isin(groups, (REGION["torso"], REGION["legs"]))
    origin[is_hidden_limb | (is_completed & ~is_limb)] = COPIED_TEXEL
    origin[is_smoothed & is_source] = SMOOTHED_TEXEL
    for group in np.unique(groups):
        in_group = (groups == group) & ~is_limb
        sources = np.flatnonzero(in_group & is_visible)
        targets = np.flatnonzero(in_group & ~is_visible & ~is_completed)
        if len(sources) and len(targets):
            sources = sources[:: max(1, -(-len(sources) // _MAX_SOURCES))]
            color[targets], is_mirrored = _colors_from_nearest(atlas.positions, color, sources, targets)
            origin[targets[is_mirrored]] = MIRRORED_TEXEL
        elif len(targets):
            color[targets] = skin if group in (REGION["arms"], REGION["hands"]) else _median(color, is_visible)
    color[is_mouth_lining] = _MOUTH_LINING_COLOR
    for number, part_color in _MOUTH_PART_COLORS.items():
        color[part == number] = part_color

    color_map, origin_map = np.zeros((SIZE, SIZE, 3), np.float32), np.zeros((SIZE, SIZE), np.uint8)
    color_map[atlas.rows, atlas.columns], origin_map[atlas.rows, atlas.columns] = color, origin
    return Texture(_fill_gutters(color_map, atlas), _fill_gutters(origin_map, atlas))


def _typical_colors(
    color: np.ndarray, is_hand: np.ndarray, is_visible: np.ndarray, region: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Median colors of skin and of cloth, f32 [3] each: of the hands, or else the face, and of the trunk's cloth.

    color f32 [N, 3]; is_hand bool [N]: texels of hands that the portrait shows; is_visible bool [N]: that it shows;
    region u8 [N]. Gray stands for what the portrait does not show.
    """
    is_face = is_visible & (region == REGION["face"])
    is_cloth = is_visible & np.isin(region, (REGION["torso"], REGION["legs"]))
    return _median(color, is_hand, is_face, is_visible), _median(color, is_cloth, is_visible)


def _median(color: np.ndarray, *choices: np.ndarray) -> np.ndarray:
    """Median f32 [3] of the colors f32 [N, 3] of the first choice bool [N] that has any; gray without any."""
    chosen = next((choice for choice in choices if choice.any()), None)
    return np.full(3, 128, np.float32) if chosen is None else np.median(color[chosen], 0).astype(np.float32)


def _read_layers(avatar: Avatar, places: np.ndarray, texel_layer: np.ndarray, layers: tuple[Layer, ...]) -> _Texels:
    """Look every texel up in its layer. places f32 [N, 3]: x px, y px, depth m; texel_layer u8 [N]."""
    H, W = avatar.regions.shape
    columns, rows = (np.clip(places[:, k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    is_inside = (places[:, 0] >= 0) & (places[:, 0] < W) & (places[:, 1] >= 0) & (places[:, 1] < H)
    is_front, is_shown, is_interior = (np.zeros(len(places), bool) for _ in range(3))
    color = np.zeros((len(places), 3), np.float32)
    for index, layer in enumerate(layers):
        own = np.flatnonzero(texel_layer == index)
        depth = layer.depth[rows[own], columns[own]]
        is_front[own] = is_inside[own] & (np.abs(depth - places[own, 2]) < VISIBILITY_TOLERANCE_M)
        is_shown[own] = is_front[own] & layer.is_shown[rows[own], columns[own]]
        is_interior[own] = layer.interior[rows[own], columns[own]] > 0.5
        at = [places[own, 1] - 0.5, places[own, 0] - 0.5]
        for k in range(3):
            color[own, k] = map_coordinates(layer.picture[..., k], at, np.float32, order=1, mode="nearest")
    return _Texels(is_front, is_shown, is_interior, color)


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


def _fill_gutters(color: np.ndarray, atlas: Atlas) -> np.ndarray:
    """Extend every chart's values to the empty texels around it, so that bilinear samples at its border are right."""
    is_empty = np.ones(color.shape[:2], bool)
    is_empty[atlas.rows, atlas.columns] = False
    rows, columns = distance_transform_edt(is_empty, return_distances=False, return_indices=True)
    return color[rows, columns]
