"""Makes an avatar's texture atlas: the colors that the portrait shows, and the rest by symmetry and nearness.

The atlas has S x S texels over the body file's own texture coordinates (MakeHuman's layout on the free body, SMPL-X's
on the licensed one). V: vertices of the body, R: regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates
from scipy.spatial import cKDTree

from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body, load_body
from stereotalker.control.region_sources import BARE, inner_person_mask
from stereotalker.control.sleeves import SourceLabels
from stereotalker.geometry.rasterizer import Fragments, rasterize
from stereotalker.records import Avatar
from stereotalker.smplx_layout import REGION

# Side of the texture atlas, texels.
SIZE = 512
# A surface at most this far behind the portrait's depth map counts as visible, m. Fingers are 15 mm thick, so that
# their backs stay hidden.
VISIBILITY_TOLERANCE_M = 0.006
# Distance, m, that is added in quadrature to that of a candidate mirrored from the other side of the body.
_MIRROR_PENALTY_M = 0.03
# The visible texels of a region are thinned to about this many, so that the nearest ones cover a wide area and those
# at a shadowed rim do not decide alone.
_MAX_SOURCES = 3000
# Number of visible texels that are mixed for a hidden one.
_NEIGHBORS = 24
# Colors (sRGB u8) of what a closed mouth hides: means over the mouths of 25 rendered people. Keys are part numbers.
_MOUTH_PART_COLORS = {PARTS["tongue"][0]: (52, 28, 27), PARTS["teeth"][0]: (79, 65, 58)}
_MOUTH_LINING_COLOR = (62, 36, 34)
# Where a texel's color comes from: the portrait, or the mirror image of what the portrait shows. 0 is a guess.
VISIBLE_TEXEL = 255
MIRRORED_TEXEL = 128


@dataclass(frozen=True)
class Texture:
    """A texture atlas.

    colour: f32 [S, S, 3] sRGB in 0..255 without the light's shading; dividing by the shading may put it beyond 255.
    seen: u8 [S, S], VISIBLE_TEXEL, MIRRORED_TEXEL or 0 for a guess.
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


def make_texture(
    avatar: Avatar,
    body: Body,
    portrait: np.ndarray,
    pixels: np.ndarray,
    fragments: Fragments,
    region: np.ndarray,
    source_labels: SourceLabels,
    shading: np.ndarray,
) -> Texture:
    """Make the texture atlas of an avatar.

    portrait u8 [H, W, 3], whose colors are extended beyond the person's outline (see `mipmaps.levels`); pixels f32
    [V, 3]: the avatar's body in the portrait, x px, y px, depth m; fragments: the mesh rasterized in the portrait;
    region u8 [V]; shading f32 [V] of the surface in the portrait.

    A hidden texel takes colors only from visible texels of its own region, and on an arm only from the same side of the
    sleeve's end. Hands, and arms beyond the sleeves, take the face's color where the portrait shows nothing of them.
    """
    atlas = _atlas(body.path, body.reader, body.betas)
    H, W = avatar.regions.shape
    places = (pixels[atlas.corners] * atlas.weights[..., None]).sum(1)
    columns, rows = (np.clip(places[:, k].astype(int), 0, (W, H)[k] - 1) for k in (0, 1))
    is_inside = (places[:, 0] >= 0) & (places[:, 0] < W) & (places[:, 1] >= 0) & (places[:, 1] < H)
    nearest_vertex = atlas.corners[np.arange(len(places)), atlas.weights.argmax(1)]
    part = body.part[nearest_vertex]
    is_mouth_lining = (body.masks["inner_mouth"][nearest_vertex] > 0.5) & (part == PARTS["body"][0])
    is_visible = (
        is_inside
        & (np.abs(fragments.depth[rows, columns] - places[:, 2]) < VISIBILITY_TOLERANCE_M)
        & (avatar.regions[rows, columns] != REGION["background"])
    )
    is_allowed = source_labels.allowed_sources[nearest_vertex, source_labels.pixels[rows, columns]]
    is_visible &= is_allowed & ~is_mouth_lining & ~np.isin(part, list(_MOUTH_PART_COLORS))

    color = np.stack(
        [
            map_coordinates(
                portrait[..., k], [places[:, 1] - 0.5, places[:, 0] - 0.5], np.float32, order=1, mode="nearest"
            )
            for k in range(3)
        ],
        1,
    )
    color /= (shading[atlas.corners] * atlas.weights).sum(1)[:, None]
    origin = np.where(is_visible, VISIBLE_TEXEL, 0).astype(np.uint8)

    is_beyond_sleeve = (source_labels.beyond[atlas.corners] * atlas.weights).sum(1) > 0
    groups = np.where(is_beyond_sleeve & (region[nearest_vertex] == REGION["arms"]), BARE, region[nearest_vertex])
    is_source = (
        is_visible
        & inner_person_mask(avatar.regions)[rows, columns]
        & (~np.isin(groups, [REGION["arms"], BARE]) | (source_labels.pixels[rows, columns] == groups))
    )
    for group in np.unique(groups):
        in_group = groups == group
        sources, targets = np.flatnonzero(in_group & is_source), np.flatnonzero(in_group & ~is_visible)
        sources = sources[:: max(1, -(-len(sources) // _MAX_SOURCES))]
        if len(sources) and len(targets):
            color[targets], is_mirrored = _colors_from_nearest(atlas.positions, color, sources, targets)
            origin[targets[is_mirrored]] = MIRRORED_TEXEL
        elif len(targets):
            is_similar = is_source & (groups == REGION["face"]) if group in (REGION["hands"], BARE) else is_visible
            is_similar = is_similar if is_similar.any() else is_visible
            # Gray stands for a portrait that shows no person at all.
            color[targets] = np.median(color[is_similar], 0) if is_similar.any() else 128
    color[is_mouth_lining] = _MOUTH_LINING_COLOR
    for number, part_color in _MOUTH_PART_COLORS.items():
        color[part == number] = part_color

    color_map, origin_map = np.zeros((SIZE, SIZE, 3), np.float32), np.zeros((SIZE, SIZE), np.uint8)
    color_map[atlas.rows, atlas.columns], origin_map[atlas.rows, atlas.columns] = color, origin
    return Texture(_fill_gutters(color_map, atlas), origin_map)


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
    corners = np.concatenate([texel_corners(body), np.ones((len(body.texture_places), 1), np.float32)], 1)
    fragments = rasterize(corners, body.texture_faces, (SIZE, SIZE))
    rows, columns = np.nonzero(fragments.face >= 0)
    vertices, weights = body.faces[fragments.face[rows, columns]], fragments.bary[rows, columns]
    return _Atlas(rows, columns, vertices, weights, (body.template[vertices] * weights[..., None]).sum(1))


def texel_corners(body: Body) -> np.ndarray:
    """The body's texture coordinates in texels, y down. f32 [N, 2]."""
    return np.stack([body.texture_places[:, 0], 1 - body.texture_places[:, 1]], 1) * np.float32(SIZE)
