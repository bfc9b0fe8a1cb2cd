"""Compiled loops of the reference warp, and the records they take. See `reference_warp`.

H x W: the supersampled frame; PH x PW: the portrait; S: side of the texture atlas; V: vertices, F: triangles.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from stereotalker.control.background_plate import bilinear_sample
from stereotalker.control.body_parts import VISIBILITY_TOLERANCE_M
from stereotalker.control.frame_maps import FrameMaps
from stereotalker.control.mipmaps import MipPair, mixed_sample
from stereotalker.control.texture import COPIED_TEXEL, MIRRORED_TEXEL, VISIBLE_TEXEL

# Values of Control.visibility on the person; 0 is outside. Higher values mean more reliable colors.
SEEN = 255  # the portrait shows this surface
COMPLETED = 240  # something hides this surface in the portrait, and the picture of its layer was completed there
COPIED = 216  # an arm's or a hand's color, or the trunk's, that the texture continues from what the portrait shows
FROM_TEXTURE = 192  # a texel that the portrait shows, where the direct lookup in the portrait was refused
MIRRORED = 128  # a texel whose color comes from the other side of the body
FROM_HAIR_PLANE = 96  # hair on the hair plane, beside the body
GUESSED = 64  # a texel whose color is a guess


class DrawnMesh(NamedTuple):
    """The rasterized mesh of a frame: `Fragments` and the triangles they index, in a form that numba takes."""

    face: np.ndarray  # i32 [H, W] triangle that a pixel shows, -1: none
    bary: np.ndarray  # f32 [H, W, 3] barycentric coordinates, perspective-correct
    faces: np.ndarray  # i32 [F, 3] vertices of every triangle
    layer: np.ndarray  # u8 [F] layer of every triangle


class LayerSource(NamedTuple):
    """A layer of the portrait, and what decides whether the portrait shows a point of the mesh."""

    # f32 [V, 3]: where every vertex is in the portrait, x px, y px, depth m.
    places: np.ndarray
    # bool [V]: false in the mouth, which the portrait shows at best in part.
    is_outside_mouth: np.ndarray
    # bool [V]: vertices of the head, whose other sides the atlas and the hair plane show better than its front.
    is_head: np.ndarray
    # f32 [V] in 0..1: how much of the color comes from the portrait, the rest from the atlas. It is less than 1 where
    # the portrait shows the surface much more slantwise than the frame does.
    portrait_share: np.ndarray
    # f32 [V] in 0..1: how far the surface has left the portrait's pose. The edges of what the portrait shows then count
    # as `interior` says.
    departure: np.ndarray
    # f32 [PH, PW] m, depth of the layer in the portrait, and f32 [PH, PW], its shading.
    depth: np.ndarray
    shading: np.ndarray
    # u8 [PH, PW] regions of the portrait, and bool [PH, PW], where it shows this layer and where its picture is of use.
    regions: np.ndarray
    is_shown: np.ndarray
    may_sample: np.ndarray
    # f32 [PH, PW] in 0..1, see `layers.Layer`.
    interior: np.ndarray


class AtlasSource(NamedTuple):
    """The texture atlas and the mesh's texture coordinates in it."""

    faces: np.ndarray  # i32 [G, 3] index into `corners`
    corners: np.ndarray  # f32 [N, 2] x and y in texels
    color: np.ndarray  # f32 [S, S, 3] sRGB in 0..255 without shading, which may put it beyond 255
    origin: np.ndarray  # u8 [S, S] VISIBLE_TEXEL, COPIED_TEXEL, MIRRORED_TEXEL or 0 for a guess


@numba.njit(cache=True)
def _interpolate(triangle: np.ndarray, weights: np.ndarray, values: np.ndarray, out: np.ndarray) -> int:
    """Interpolate vertex values [V, C] in a triangle [3] with barycentric weights [3], into out f64 [C].

    Returns the index of the nearest of the three vertices.
    """
    out[:] = 0.0
    for i in range(3):
        for k in range(len(out)):
            out[k] += weights[i] * values[triangle[i], k]
    return triangle[np.argmax(weights)]


@numba.njit(cache=True)
def _mean(triangle: np.ndarray, weights: np.ndarray, values: np.ndarray) -> float:
    """Vertex values f32 [V] at a point of a triangle [3], by its barycentric weights [3]."""
    return weights[0] * values[triangle[0]] + weights[1] * values[triangle[1]] + weights[2] * values[triangle[2]]


@numba.njit(cache=True)
def _read_atlas(atlas: AtlasSource, triangle: int, weights: np.ndarray, color: np.ndarray) -> int:
    """Read the color f64 [3] of a point of a triangle, without shading. Returns the visibility of its texel."""
    texel = np.zeros(2)
    _interpolate(atlas.faces[triangle], weights, atlas.corners, texel)
    bilinear_sample(atlas.color, texel[0], texel[1], color)
    row = min(max(int(texel[1]), 0), atlas.origin.shape[0] - 1)
    column = min(max(int(texel[0]), 0), atlas.origin.shape[1] - 1)
    origin = atlas.origin[row, column]
    if origin == VISIBLE_TEXEL:
        return FROM_TEXTURE
    if origin == COPIED_TEXEL:
        return COPIED
    return MIRRORED if origin == MIRRORED_TEXEL else GUESSED


@numba.njit(cache=True)
def draw_normals_and_labels(drawn: DrawnMesh, vertex_normals: np.ndarray, region: np.ndarray, maps: FrameMaps) -> None:
    """Draw normals and region labels of the mesh. vertex_normals f32 [V, 3] in camera space; region u8 [V]."""
    face, bary, faces = drawn.face, drawn.bary, drawn.faces
    labels, normals = maps.labels, maps.normals
    H, W = face.shape
    n = np.zeros(3)
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0:
                continue
            labels[y, x] = region[_interpolate(faces[face[y, x]], bary[y, x], vertex_normals, n)]
            length = max(np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]), 1e-6)
            for k in range(3):
                normals[y, x, k] = np.uint8(min(max(127.5 + 127.5 * n[k] / length, 0), 255))


@numba.njit(cache=True)
def warp_layer(
    drawn: DrawnMesh,
    layer: int,
    shading: np.ndarray,
    portrait: LayerSource,
    atlas: AtlasSource,
    levels: MipPair,
    maps: FrameMaps,
) -> None:
    """Draw the side of a layer that faces the portrait: its colors, and region labels where the portrait shows it.

    Visibility becomes SEEN or COMPLETED, or COPIED where most of the color comes from the atlas. shading f32 [V] in
    this frame; levels: of the layer's mip map.
    """
    face, bary, faces, layers = drawn.face, drawn.bary, drawn.faces, drawn.layer
    places, regions = portrait.places, portrait.regions
    warp, visibility, labels = maps.warp, maps.visibility, maps.labels
    H, W = face.shape
    PH, PW = regions.shape
    color, place, atlas_color = np.zeros((2, 3)), np.zeros(3), np.zeros(3)
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0 or layers[face[y, x]] != layer:
                continue
            triangle, weights = faces[face[y, x]], bary[y, x]
            vertex = _interpolate(triangle, weights, places, place)
            if not portrait.is_outside_mouth[vertex] or not (0 <= place[0] < PW and 0 <= place[1] < PH):
                continue
            column, row = int(place[0]), int(place[1])
            if abs(portrait.depth[row, column] - place[2]) >= VISIBILITY_TOLERANCE_M:
                continue
            if not portrait.may_sample[row, column]:
                continue
            share = _mean(triangle, weights, portrait.portrait_share)
            if share <= 0 or (portrait.is_head[vertex] and regions[row, column] == 0):
                continue
            share *= 1 - _mean(triangle, weights, portrait.departure) * (1 - portrait.interior[row, column])
            if portrait.is_shown[row, column]:
                labels[y, x], visibility[y, x] = regions[row, column], SEEN
            else:
                visibility[y, x] = COMPLETED
            mixed_sample(levels, place[0] / PW, place[1] / PH, color)
            gain = _mean(triangle, weights, shading)
            if share < 1:
                _read_atlas(atlas, face[y, x], weights, atlas_color)
                if share < 0.5:
                    visibility[y, x] = COPIED
            for k in range(3):
                value = share * color[0, k] / portrait.shading[row, column]
                if share < 1:
                    value += (1 - share) * atlas_color[k]
                warp[y, x, k] = np.uint8(min(value * gain + 0.5, 255.0))


@numba.njit(cache=True)
def fill_from_atlas(drawn: DrawnMesh, shading: np.ndarray, atlas: AtlasSource, maps: FrameMaps) -> None:
    """Draw the rest of the body, where visibility is still 0, from the texture atlas. shading f32 [V] in this frame."""
    face, bary, faces = drawn.face, drawn.bary, drawn.faces
    warp, visibility = maps.warp, maps.visibility
    H, W = face.shape
    color = np.zeros(3)
    for y in range(H):
        for x in range(W):
            if face[y, x] < 0 or visibility[y, x] > 0:
                continue
            visibility[y, x] = _read_atlas(atlas, face[y, x], bary[y, x], color)
            gain = _mean(faces[face[y, x]], bary[y, x], shading)
            for k in range(3):
                warp[y, x, k] = np.uint8(min(color[k] * gain + 0.5, 255.0))
