"""Numba kernels that shade the samples of a z-buffer: hair strands, and triangles whose colors are baked into texels.

Shapes: M mesh points, F triangles, N texels, P strand points, H x W samples. Colors are linear light in 0..1 unless a
comment says otherwise. The arrays reach the kernels in NamedTuples, which numba accepts.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from stereotalker.smplx_layout import REGION

# Columns of a texel. Height is the bump over the triangle in m. Gloss is a factor: about 0.1 for cloth, 1.6 for
# metal. Roughness and flesh (how far light scatters under the surface) are in 0..1.
CHANNELS = ("red", "green", "blue", "height", "gloss", "roughness", "flesh")
_HEIGHT, _GLOSS, _ROUGHNESS, _FLESH = (CHANNELS.index(name) for name in ("height", "gloss", "roughness", "flesh"))
_HAIR = REGION["hair"]
SHADOW_EXTENT_M = 1.3  # width of the square shadow map, which shows the upper body


class Texels(NamedTuple):
    """Mesh colors (Yuksel et al. 2010): a lattice of (R + 1)(R + 2) / 2 samples on every triangle."""

    first: np.ndarray  # i32 [F], index of a triangle's first sample
    fineness: np.ndarray  # u8 [F], R: lattice steps along an edge
    values: np.ndarray  # f32 [N, 7], columns as in CHANNELS
    region: np.ndarray  # u8 [N], values of smplx_layout.REGION


class Samples(NamedTuple):
    """What the z-buffer shows at every sample of an H x W picture."""

    face: np.ndarray  # i32 [H, W], index of the triangle, -1 where there is none
    bary: np.ndarray  # f32 [H, W, 3], perspective-correct barycentric coordinates in that triangle
    depth: np.ndarray  # f32 [H, W] m, of the triangle or of the strand in front of it
    strand: np.ndarray  # i32 [H, W], index of the strand point, -1 where no strand is in front


class PosedMesh(NamedTuple):
    """The figure's triangles in the pose of one frame."""

    points: np.ndarray  # f32 [M, 3] m
    normals: np.ndarray  # f32 [M, 3] unit
    faces: np.ndarray  # i32 [F, 3]
    sky_visibility: np.ndarray  # f32 [M] in 0..1
    recess: np.ndarray  # u8 [F], as in Figure


class PosedStrands(NamedTuple):
    """The figure's strands in the pose of one frame."""

    points: np.ndarray  # f32 [P, 3] m
    colour: np.ndarray  # f32 [P, 3]
    sky_visibility: np.ndarray  # f32 [P] in 0..1
    region: np.ndarray  # u8 [P]


class View(NamedTuple):
    """What shading needs of the camera."""

    eye: np.ndarray  # f32 [3] m, the camera's center in world axes
    focal: float  # px


class ShadowMap(NamedTuple):
    """Orthographic depth of the upper body as the first light sees it."""

    axes: np.ndarray  # f32 [3, 3], rows are the map's axes in world axes
    corner: np.ndarray  # f32 [3] m, the map's origin along these axes
    depth: np.ndarray  # f32 [side, side] m, SHADOW_EXTENT_M wide


class Light(NamedTuple):
    """Two directed lights, of which the first casts the shadow, a sky above and a bounce from below. World axes."""

    directions: np.ndarray  # f32 [2, 3] unit vectors towards the light
    colours: np.ndarray  # f32 [2, 3]
    sky: np.ndarray  # f32 [3]
    bounce: np.ndarray  # f32 [3]


def _tone_curve() -> np.ndarray:
    """Linear light in steps of 1/1024 to sRGB 0..255, with a soft shoulder above 0.7; u8 [4096]."""
    v = (np.arange(4096) + 0.5) / 1024
    v = np.where(v > 0.7, 0.7 + 0.3 * (1 - np.exp(-(v - 0.7) / 0.3)), v)
    return np.rint(255 * v ** (1 / 2.2)).astype(np.uint8)


_TONES = _tone_curve()

# ---- kernels ---------------------------------------------------------------------------------------------------------
# Kernels and the records that they take stay in one file: numba's cache notices a change of the file that a kernel is
# in, but not of the files that it imports from. A kernel takes the arrays out of the records before its loops: to do
# that for every sample would cost half as much time again, because numba counts the references to each array.


@numba.njit(cache=True, inline="always")
def _srgb(value):
    return _TONES[min(int(max(value, 0.0) * 1024), 4095)]


@numba.njit(cache=True, inline="always")
def _normalize(n):
    length = np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-9
    for a in range(3):
        n[a] /= length


@numba.njit(cache=True, inline="always")
def _lit_share(x, y, z, axes, corner, depth):
    """Share of the first light that reaches a point, in 0..1, from the 5 x 5 texels of the shadow map around it.

    The box of 5 x 5 is placed to a fraction of a texel, so the share has no steps. Points outside the map are lit.
    """
    side = depth.shape[0]
    scale = side / SHADOW_EXTENT_M
    a = (axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z - corner[0]) * scale
    b = (axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z - corner[1]) * scale
    c = axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z - corner[2]
    total = 0.0
    column, row = int(np.floor(a - 0.5)), int(np.floor(b - 0.5))
    fa, fb = a - 0.5 - column, b - 0.5 - row
    if column < 2 or row < 2 or column >= side - 3 or row >= side - 3:
        return 1.0
    for i in range(-2, 4):
        wi = 1 - fa if i == -2 else fa if i == 3 else 1.0
        for j in range(-2, 4):
            wj = 1 - fb if j == -2 else fb if j == 3 else 1.0
            gap = depth[row + j, column + i] + 0.010 - c
            total += wi * wj * min(max(gap / 0.008 + 0.5, 0.0), 1.0)
    return total / 25


@numba.njit(cache=True, inline="always")
def _recess_visibility(depth, y, x, focal, has_lower_rim):
    """How open a sample is that lies behind a rim, 0.08..1.

    Lids some millimeters above an eyeball, or lips above and below the teeth, stand nearer to the camera and shade it.
    """
    z, H = depth[y, x], depth.shape[0]
    shade = 0.0
    for k in range(1, 4):
        step = int(round((0.0026 if has_lower_rim else 0.0016) * k * focal / z))
        if y - step >= 0 and depth[y - step, x] < z - 0.0007:
            shade += 0.25 if has_lower_rim else 0.20
        if has_lower_rim and y + step < H and depth[y + step, x] < z - 0.0007:
            shade += 0.20
    return max(1 - shade, 0.08)


@numba.njit(cache=True, inline="always")
def _lattice_place(b1, b2, R):
    """Where a place in a triangle lies in its lattice of texels with R steps along an edge.

    b1 and b2 are the barycentric coordinates of the triangle's second and third corner. Returns the indices of three
    samples of the lattice, the weights of the three, and whether the small triangle between them points upwards, which
    says that its first sample is the origin of both axes.
    """
    u, w = min(max(b1, 0.0), 1.0) * R, min(max(b2, 0.0), 1.0) * R
    i, j = int(u), int(w)
    if i + j >= R:  # The place lies on the edge opposite to the first corner: step back into the triangle.
        if i > 0:
            i -= 1
        elif j > 0:
            j -= 1
    fu, fw = u - i, w - j
    row = j * (2 * R + 3 - j) // 2
    above = row + R + 1 - j
    if fu + fw <= 1 or i + j + 1 >= R:
        return row + i, row + i + 1, above + i, 1 - fu - fw, fu, fw, True
    return above + i + 1, row + i + 1, above + i, fu + fw - 1, 1 - fw, 1 - fu, False


@numba.njit(cache=True, inline="always")
def _bend_normal(n, points, corners, R, step_u, step_w, pixel):
    """Bend the unit normal n in place by the heights of texels (Mikkelsen 2010).

    corners are the triangle's three points, R its lattice steps along an edge. step_u and step_w are the differences of
    height (m) along one lattice step of the two edges from the first corner. pixel is the size of a pixel there in m.
    """
    i0, i1, i2 = corners
    ux, uy, uz = (
        (points[i1, 0] - points[i0, 0]) / R,
        (points[i1, 1] - points[i0, 1]) / R,
        (points[i1, 2] - points[i0, 2]) / R,
    )
    wx, wy, wz = (
        (points[i2, 0] - points[i0, 0]) / R,
        (points[i2, 1] - points[i0, 1]) / R,
        (points[i2, 2] - points[i0, 2]) / R,
    )
    rx, ry, rz = wy * n[2] - wz * n[1], wz * n[0] - wx * n[2], wx * n[1] - wy * n[0]
    sx, sy, sz = n[1] * uz - n[2] * uy, n[2] * ux - n[0] * uz, n[0] * uy - n[1] * ux
    det = ux * rx + uy * ry + uz * rz
    if abs(det) > 1e-12:
        fine = min(np.sqrt(abs(det)) / max(pixel, 1e-6), 1.0)  # Heights finer than a pixel would only be noise.
        n[0] -= fine * (step_u * rx + step_w * sx) / det
        n[1] -= fine * (step_u * ry + step_w * sy) / det
        n[2] -= fine * (step_u * rz + step_w * sz) / det
        _normalize(n)


@numba.njit(cache=True, fastmath=False)
def shade_strands(samples, strands, view, light, shadow, image, regions):
    """Color the samples that show a strand, in place: image u8 [H, W, 3] sRGB, regions u8 [H, W].

    The model is that of Kajiya and Kay (1989) with the two shifted lobes of Scheuermann (2004). Arguments: Samples,
    PosedStrands, View, Light, ShadowMap.
    """
    strand, eye = samples.strand, view.eye
    points, strand_colour, strand_sky, region = strands.points, strands.colour, strands.sky_visibility, strands.region
    directions, colours, sky, bounce = light.directions, light.colours, light.sky, light.bounce
    axes, corner, shadow_depth = shadow.axes, shadow.corner, shadow.depth
    H, W = strand.shape
    tangent = np.zeros(3, np.float32)
    p = np.zeros(3, np.float32)  # the point, m
    v = np.zeros(3, np.float32)  # unit, to the camera
    out = np.zeros(3, np.float32)  # the color
    for y in range(H):
        for x in range(W):
            k = strand[y, x]
            if k < 0:
                continue
            for a in range(3):
                p[a] = points[k, a]
                tangent[a] = points[k + 1, a] - points[k, a]
            _normalize(tangent)
            for a in range(3):
                v[a] = eye[a] - p[a]
            _normalize(v)
            lit = _lit_share(p[0], p[1], p[2], axes, corner, shadow_depth)
            sky_visibility = strand_sky[k]
            along_view = tangent[0] * v[0] + tangent[1] * v[1] + tangent[2] * v[2]
            for a in range(3):
                out[a] = sky_visibility * (0.55 * sky[a] + 0.35 * bounce[a]) * strand_colour[k, a]
            for q in range(2):
                d = directions[q]
                share = (0.15 + 0.85 * lit if q == 0 else 0.8) * (0.25 + 0.75 * sky_visibility)
                along = tangent[0] * d[0] + tangent[1] * d[1] + tangent[2] * d[2]
                across = np.sqrt(max(1 - along * along, 0.0))
                view_across = np.sqrt(max(1 - along_view * along_view, 0.0))
                c0 = max(across * view_across - along * along_view, 0.0)
                # Brows, beard and lashes lie in the region of the face and have no white lobe.
                white = (0.0 if region[k] != _HAIR else 0.05) * max(c0 * 0.995 + 0.10 * along, 0.0) ** 40
                tinted = 0.45 * max(c0 * 0.98 - 0.18 * along, 0.0) ** 14
                for a in range(3):
                    out[a] += (
                        colours[q, a]
                        * share
                        * (strand_colour[k, a] * (0.42 * across + tinted) + white * (0.25 + strand_colour[k, a]))
                    )
            for a in range(3):
                image[y, x, a] = _srgb(out[a])
            regions[y, x] = region[k]


@numba.njit(cache=True, fastmath=False)
def shade_surfaces(samples, mesh, texels, view, light, shadow, image, regions):
    """Color the samples that show a triangle, in place: image u8 [H, W, 3] sRGB, regions u8 [H, W].

    A sample's region is that of the nearest of the three texels around it. Arguments: Samples, PosedMesh, Texels, View,
    Light, ShadowMap.
    """
    face, bary, depth, strand = samples.face, samples.bary, samples.depth, samples.strand
    points, normals, faces, mesh_sky, recess = mesh.points, mesh.normals, mesh.faces, mesh.sky_visibility, mesh.recess
    first, fineness, values, texel_region = texels.first, texels.fineness, texels.values, texels.region
    eye, focal = view.eye, view.focal
    directions, colours, sky, bounce = light.directions, light.colours, light.sky, light.bounce
    axes, corner, shadow_depth = shadow.axes, shadow.corner, shadow.depth
    H, W = face.shape
    t = np.zeros(values.shape[1], np.float32)  # the texel, columns as in CHANNELS
    n = np.zeros(3, np.float32)  # unit normal
    g = np.zeros(3, np.float32)  # unit normal without the texel's bump
    p = np.zeros(3, np.float32)  # the point, m
    v = np.zeros(3, np.float32)  # unit, to the camera
    out = np.zeros(3, np.float32)  # the color
    for y in range(H):
        for x in range(W):
            f = face[y, x]
            if f < 0 or strand[y, x] >= 0:
                continue
            i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
            b0, b1, b2 = bary[y, x, 0], bary[y, x, 1], bary[y, x, 2]
            for a in range(3):
                n[a] = b0 * normals[i0, a] + b1 * normals[i1, a] + b2 * normals[i2, a]
                p[a] = b0 * points[i0, a] + b1 * points[i1, a] + b2 * points[i2, a]
                v[a] = eye[a] - p[a]
            _normalize(n)
            _normalize(v)
            if n[0] * v[0] + n[1] * v[1] + n[2] * v[2] < 0:
                for a in range(3):
                    n[a] = -n[a]
            for a in range(3):
                g[a] = n[a]
            # Interpolate the texels around the place, and let their heights bend the normal.
            R, start = fineness[f], first[f]
            s00, s10, s01, w00, w10, w01, is_upright = _lattice_place(b1, b2, R)
            s00, s10, s01 = start + s00, start + s10, start + s01
            for c in range(values.shape[1]):
                t[c] = w00 * values[s00, c] + w10 * values[s10, c] + w01 * values[s01, c]
            if is_upright:
                step_u, step_w = (
                    values[s10, _HEIGHT] - values[s00, _HEIGHT],
                    values[s01, _HEIGHT] - values[s00, _HEIGHT],
                )
            else:
                step_u, step_w = (
                    values[s00, _HEIGHT] - values[s01, _HEIGHT],
                    values[s00, _HEIGHT] - values[s10, _HEIGHT],
                )
            _bend_normal(n, points, (i0, i1, i2), R, step_u, step_w, depth[y, x] / focal)
            if w10 >= w00 and w10 >= w01:
                regions[y, x] = texel_region[s10]
            else:
                regions[y, x] = texel_region[s01] if w01 > w00 else texel_region[s00]
            # How much of the sky and of the first light reaches the place.
            sky_visibility = b0 * mesh_sky[i0] + b1 * mesh_sky[i1] + b2 * mesh_sky[i2]
            if recess[f]:
                sky_visibility *= _recess_visibility(depth, y, x, focal, recess[f] == 2)
            lit = _lit_share(p[0] + 0.006 * g[0], p[1] + 0.006 * g[1], p[2] + 0.006 * g[2], axes, corner, shadow_depth)
            # Light from the sky and from below.
            flesh = t[_FLESH]
            up = 0.5 + 0.5 * n[1]
            root = np.sqrt(sky_visibility)
            for a in range(3):
                # Light that bounces several times in a crease takes the color of the crease.
                tinted_visibility = sky_visibility + t[a] * 0.8 * (root - sky_visibility)
                out[a] = t[a] * tinted_visibility * (up * sky[a] + (1 - up) * bounce[a])
            glancing = 1 - max(n[0] * v[0] + n[1] * v[1] + n[2] * v[2], 0.0)
            glancing = glancing * glancing * glancing * glancing * glancing
            mirror_up = 2 * (n[0] * v[0] + n[1] * v[1] + n[2] * v[2]) * n[1] - v[1]
            sheen = t[_GLOSS] * (0.12 + 1.6 * glancing)
            reflected = sheen * max(0.4 + 0.6 * mirror_up, 0.0) * sky_visibility * (1 - t[_ROUGHNESS])
            for a in range(3):
                out[a] += reflected * sky[a]
            # The two directed lights.
            for q in range(2):
                d = directions[q]
                share = lit if q == 0 else 0.35 + 0.65 * sky_visibility
                facing = n[0] * d[0] + n[1] * d[1] + n[2] * d[2]
                for a in range(3):
                    # Light wraps around flesh, red light the most because it travels furthest under the skin.
                    wrap = flesh * (0.34 if a == 0 else 0.17 if a == 1 else 0.12) + 0.06
                    diffuse = max(facing + wrap, 0.0) / (1 + wrap)
                    out[a] += t[a] * diffuse * colours[q, a] * share * (0.5 + 0.5 * sky_visibility)
                hx, hy, hz = d[0] + v[0], d[1] + v[1], d[2] + v[2]
                length = np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-6
                nh = max((n[0] * hx + n[1] * hy + n[2] * hz) / length, 0.0)
                alpha = t[_ROUGHNESS] * t[_ROUGHNESS] + 0.002
                lobe = alpha / (3.1416 * (nh * nh * (alpha - 1) + 1) ** 2)
                shine = t[_GLOSS] * lobe * (0.6 + 3 * glancing) * max(facing, 0.0) * share * sky_visibility
                for a in range(3):
                    out[a] += 0.25 * shine * colours[q, a]
            for a in range(3):
                image[y, x, a] = _srgb(out[a])
