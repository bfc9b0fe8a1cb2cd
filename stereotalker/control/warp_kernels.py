"""The compiled loop of the reference warp, and the records it takes. See `reference_warp`.

One pass over the supersampled frame shades every sample, and averages the samples of a pixel at once, so that no
supersampled picture is ever written. H x W: the frame; PH x PW: the portrait; L: layers of the portrait; S: side of the
texture atlas; V: vertices, F: triangles.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from stereotalker.control.body_parts import VISIBILITY_TOLERANCE_M
from stereotalker.control.frame_maps import FrameMaps
from stereotalker.control.hair_plane import HairSource, hair_place
from stereotalker.control.mipmaps import MipPair, bilinear_sample, mixed_sample
from stereotalker.control.texture import COPIED_TEXEL, MIRRORED_TEXEL, SMOOTHED_TEXEL, VISIBLE_TEXEL
from stereotalker.geometry.rasterizer import LABELS
from stereotalker.smplx_layout import REGION

# Samples per pixel and axis.
SUPERSAMPLING = 2
# Values of Control.visibility on the person; 0 is outside. Higher values mean more reliable colors.
SEEN = 255  # the portrait shows this surface
COMPLETED = 240  # something hides this surface in the portrait, and the picture of its layer was completed there
SMOOTHED = 228  # an arm that the portrait shows, in smoothed colors
COPIED = 216  # an arm's or a hand's color, or the trunk's, that the texture continues from what the portrait shows
FROM_TEXTURE = 192  # a texel that the portrait shows, where the direct lookup in the portrait was refused
MIRRORED = 128  # a texel whose color comes from the other side of the body
FROM_HAIR_PLANE = 96  # hair on the hair plane, beside the body
GUESSED = 64  # a texel whose color is a guess


_HAIR, _BACKGROUND = REGION["hair"], REGION["background"]


# Columns of `DrawnMesh.vertices`: the first of three, or the only one. They lie side by side because all are read
# together.
PLACE = 0  # where the vertex is in the portrait: x px, y px, depth m
NORMAL = 3  # in camera space
SHADING = 6
# How much of the color comes from the portrait, the rest from the atlas, in 0..1. It is less than 1 where the portrait
# shows the surface much more slantwise than the frame does, on smoothed arms that turn, and on hands under a relief.
PORTRAIT_SHARE = 7
# How far the surface has left the portrait's pose, in 0..1. The edges of what the portrait shows then count as INTERIOR
# says.
DEPARTURE = 8
# Columns of `PortraitSource.layers`; see `layers.Layer`.
DEPTH, LAYER_SHADING, INTERIOR = 0, 1, 2
USE = 3  # one of the values below
NOT_SAMPLED, SAMPLED, SHOWN = 0, 1, 2


class DrawnMesh(NamedTuple):
    """The rasterized, supersampled mesh of a frame, and the values of its vertices in this frame."""

    face: np.ndarray  # i32 [2 H, 2 W] triangle that a sample shows, -1: none
    bary: np.ndarray  # f32 [2 H, 2 W, 3] barycentric coordinates, perspective-correct
    depth: np.ndarray  # f32 [2 H, 2 W] m; infinite where there is no triangle
    vertices: np.ndarray  # f32 [V, 9]


class PortraitSource(NamedTuple):
    """The layers of the portrait, and what decides whether the portrait shows a point of the mesh."""

    faces: np.ndarray  # i32 [F, 3] vertices of every triangle
    layer: np.ndarray  # u8 [F] layer of every triangle
    region: np.ndarray  # u8 [V] index into smplx_layout.REGIONS
    # bool [V]: false in the mouth, which the portrait shows at best in part.
    is_outside_mouth: np.ndarray
    # bool [V]: vertices of the head, whose other sides the atlas and the hair plane show better than its front.
    is_head: np.ndarray
    regions: np.ndarray  # u8 [PH, PW] regions of the portrait
    layers: np.ndarray  # f32 [L, PH, PW, 4]


class AtlasSource(NamedTuple):
    """The texture atlas and the mesh's texture coordinates in it."""

    faces: np.ndarray  # i32 [F, 3] index into `corners`
    corners: np.ndarray  # f32 [N, 2] x and y in texels
    color: np.ndarray  # f32 [1, S, S, 3] sRGB in 0..255 without shading, which may put it beyond 255
    origin: np.ndarray  # u8 [S, S], see `Texture.seen`


@numba.njit(cache=True, nogil=True, error_model="numpy")
def draw_frame(
    drawn: DrawnMesh,
    portrait: PortraitSource,
    levels: MipPair,
    atlas: AtlasSource,
    hair: HairSource,
    plate: np.ndarray,
    maps: FrameMaps,
) -> None:
    """Draw the control maps of a frame: the mesh with the portrait's colors, hair beside it, and the rest of the atlas.

    levels: of the layers' pictures; plate u8 [H, W, 3]; maps: overwritten. A pixel's color is the mean of its samples,
    its label the most frequent one. Visibility values and u8 normals cannot be averaged, so the sample at the right and
    below the pixel's center stands for it.
    """
    # Local names, because numba counts references at every access to a field of a record.
    face, bary, depth, vertices = drawn.face, drawn.bary, drawn.depth, drawn.vertices
    faces, triangle_layer, region, layers = portrait.faces, portrait.layer, portrait.region, portrait.layers
    is_outside_mouth, is_head, regions = portrait.is_outside_mouth, portrait.is_head, portrait.regions
    fine, coarse, blend = levels.fine, levels.coarse, levels.blend
    atlas_faces, corners, atlas_color, origin = atlas.faces, atlas.corners, atlas.color, atlas.origin
    warp, visibilities, labels, normals = maps.warp, maps.visibility, maps.labels, maps.normals
    coverage, shown_face = maps.coverage, maps.face
    has_hair, from_pixels, hair_gain = hair.is_there, hair.from_pixels, hair.gain
    hair_fine, hair_coarse, hair_blend = hair.levels.fine, hair.levels.coarse, hair.levels.blend

    (H, W), (PH, PW) = labels.shape, regions.shape
    center, samples = SUPERSAMPLING // 2, SUPERSAMPLING**2
    votes = np.zeros(LABELS, np.int64)
    for y in range(H):
        for x in range(W):
            red_sum, green_sum, blue_sum, persons, covered = 0, 0, 0, 0, 0
            votes[:] = 0
            for sample in range(samples):
                row, column = SUPERSAMPLING * y + sample // SUPERSAMPLING, SUPERSAMPLING * x + sample % SUPERSAMPLING
                t = face[row, column]
                visibility, label, is_hair = 0, _BACKGROUND, False
                red, green, blue = float(plate[y, x, 0]), float(plate[y, x, 1]), float(plate[y, x, 2])
                u, v, w = bary[row, column, 0], bary[row, column, 1], bary[row, column, 2]
                a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
                if t >= 0:
                    covered += 1
                    vertex = faces[t, _largest(u, v, w)]
                    label, layer = region[vertex], triangle_layer[t]
                    px, py, pz = _point(vertices, PLACE, a, b, c, u, v, w)
                    if is_outside_mouth[vertex] and 0 <= px < PW and 0 <= py < PH:
                        i, j = np.uint64(py), np.uint64(px)
                        share = float(_mean(vertices, PORTRAIT_SHARE, a, b, c, u, v, w))
                        if (
                            abs(layers[layer, i, j, DEPTH] - pz) < VISIBILITY_TOLERANCE_M
                            and layers[layer, i, j, USE] != NOT_SAMPLED
                            and share > 0
                            and not (is_head[vertex] and regions[i, j] == _BACKGROUND)
                        ):
                            departure = float(_mean(vertices, DEPARTURE, a, b, c, u, v, w))
                            share *= 1 - departure * (1 - float(layers[layer, i, j, INTERIOR]))
                            visibility = COMPLETED
                            if layers[layer, i, j, USE] == SHOWN:
                                label, visibility = regions[i, j], SEEN
                            red, green, blue = mixed_sample(fine, coarse, blend, layer, px / PW, py / PH)
                            light = layers[layer, i, j, LAYER_SHADING]
                            red, green, blue = share * red / light, share * green / light, share * blue / light
                            if share < 1:
                                other, other_red, other_green, other_blue = _read_atlas(
                                    atlas_faces, corners, atlas_color, origin, t, u, v, w
                                )
                                rest = 1 - share
                                red, green, blue = (
                                    red + rest * other_red,
                                    green + rest * other_green,
                                    blue + rest * other_blue,
                                )
                                if share < 0.5:
                                    visibility = SMOOTHED if other == SMOOTHED else COPIED
                if has_hair and visibility != SEEN:
                    is_hair, hair_x, hair_y = hair_place(from_pixels, regions, row, column, depth[row, column])
                    if is_hair:
                        other_red, other_green, other_blue = mixed_sample(
                            hair_fine, hair_coarse, hair_blend, 0, hair_x / PW, hair_y / PH
                        )
                        visibility, label = FROM_HAIR_PLANE, _HAIR
                        red, green, blue = (
                            _to_u8(hair_gain * other_red),
                            _to_u8(hair_gain * other_green),
                            _to_u8(hair_gain * other_blue),
                        )
                if t >= 0 and not is_hair:
                    if visibility == 0:
                        visibility, red, green, blue = _read_atlas(
                            atlas_faces, corners, atlas_color, origin, t, u, v, w
                        )
                    gain = _mean(vertices, SHADING, a, b, c, u, v, w)
                    red, green, blue = _to_u8(red * gain), _to_u8(green * gain), _to_u8(blue * gain)
                red_sum, green_sum, blue_sum = red_sum + int(red), green_sum + int(green), blue_sum + int(blue)
                persons += visibility > 0
                votes[label] += 1
                if sample == center * SUPERSAMPLING + center:
                    visibilities[y, x], shown_face[y, x] = visibility, t
                    n0, n1, n2, length = -1.0, -1.0, -1.0, 1.0
                    if is_hair:
                        n0, n1, n2 = 0.0, 0.0, -1.0
                    elif t >= 0:
                        n0, n1, n2 = _point(vertices, NORMAL, a, b, c, u, v, w)
                        length = max(np.sqrt(n0 * n0 + n1 * n1 + n2 * n2), 1e-6)
                    normals[y, x, 0] = np.uint8(min(max(127.5 + 127.5 * n0 / length, 0), 255))
                    normals[y, x, 1] = np.uint8(min(max(127.5 + 127.5 * n1 / length, 0), 255))
                    normals[y, x, 2] = np.uint8(min(max(127.5 + 127.5 * n2 / length, 0), 255))
            # Rounded as OpenCV's INTER_AREA does.
            warp[y, x, 0] = (red_sum + samples // 2) // samples
            warp[y, x, 1] = (green_sum + samples // 2) // samples
            warp[y, x, 2] = (blue_sum + samples // 2) // samples
            coverage[y, x] = (255 * persons + samples // 2) // samples
            labels[y, x] = np.argmax(votes)
            if covered < samples:
                shown_face[y, x] = -1


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _largest(u: float, v: float, w: float) -> int:
    """The index of the largest of three barycentric coordinates, the first of equal ones."""
    if v > u:
        return 2 if w > v else 1
    return 2 if w > u else 0


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _mean(values: np.ndarray, column: int, a: int, b: int, c: int, u: float, v: float, w: float) -> float:
    """A column of values f32 [V, _] at the vertices a, b and c, weighted by u, v and w."""
    return u * values[a, column] + v * values[b, column] + w * values[c, column]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _point(
    values: np.ndarray, column: int, a: int, b: int, c: int, u: float, v: float, w: float
) -> tuple[float, float, float]:
    """Three columns of values f32 [V, _], of which `column` is the first, weighted as in `_mean`."""
    return (
        np.float64(u * values[a, column]) + v * values[b, column] + w * values[c, column],
        np.float64(u * values[a, column + 1]) + v * values[b, column + 1] + w * values[c, column + 1],
        np.float64(u * values[a, column + 2]) + v * values[b, column + 2] + w * values[c, column + 2],
    )


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _read_atlas(
    faces: np.ndarray,
    corners: np.ndarray,
    colors: np.ndarray,
    origins: np.ndarray,
    triangle: int,
    u: float,
    v: float,
    w: float,
) -> tuple[int, float, float, float]:
    """The visibility and the color, without shading, of the point of a triangle with barycentric weights u, v, w.

    faces, corners, colors and origins: of an AtlasSource.
    """
    a, b, c = faces[triangle, 0], faces[triangle, 1], faces[triangle, 2]
    x = np.float64(u * corners[a, 0]) + v * corners[b, 0] + w * corners[c, 0]
    y = np.float64(u * corners[a, 1]) + v * corners[b, 1] + w * corners[c, 1]
    red, green, blue = bilinear_sample(colors, 0, x, y)
    row = min(max(int(y), 0), origins.shape[0] - 1)
    column = min(max(int(x), 0), origins.shape[1] - 1)
    origin = origins[np.uint64(row), np.uint64(column)]
    visibility = GUESSED
    if origin == VISIBLE_TEXEL:
        visibility = FROM_TEXTURE
    elif origin == SMOOTHED_TEXEL:
        visibility = SMOOTHED
    elif origin == COPIED_TEXEL:
        visibility = COPIED
    elif origin == MIRRORED_TEXEL:
        visibility = MIRRORED
    return visibility, red, green, blue


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _to_u8(value: float) -> float:
    """A color value, at least 0, rounded and limited to 255."""
    return np.floor(min(value + 0.5, 255.0))
