"""Renders a figure: triangles and hair strands into one z-buffer, baked texels, soft light. Labels are what the z-buffer shows.

M points, F triangles, P strand points, S strands, H x W picture. Colours are linear light unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from stereotalker.geometry.camera import flatten, orthographic, project
from stereotalker.geometry.rasterizer import majority_pool, rasterize, vertex_normals
from stereotalker.smplx_layout import REGION
from stereotalker.synthetic.bound_mesh import Binding

CHANNELS = ("red", "green", "blue", "height", "gloss", "roughness", "flesh")  # of a texel
_HEIGHT, _GLOSS, _ROUGHNESS, _FLESH = (CHANNELS.index(name) for name in ("height", "gloss", "roughness", "flesh"))
HAIR = REGION["hair"]
_SHADOW_SIDE, _SHADOW_EXTENT_M = 400, 1.3


@dataclass(frozen=True)
class Texels:
    """Mesh colours (Yuksel et al. 2010): a lattice of (R + 1)(R + 2) / 2 samples on every triangle."""

    first: np.ndarray  # i32 [F], of a triangle's samples
    fineness: np.ndarray  # u8 [F], R
    values: np.ndarray  # f32 [N, 7], CHANNELS; height in m
    region: np.ndarray  # u8 [N]


@dataclass(frozen=True)
class Strands:
    """Hairs as polylines that hang on the body."""

    binding: Binding  # P points
    first: np.ndarray  # i32 [S + 1], where each strand's points begin
    radius: np.ndarray  # f32 [P] m
    colour: np.ndarray  # f32 [P, 3]
    occlusion: np.ndarray  # f32 [P], 1 open sky
    region: np.ndarray  # u8 [P]


@dataclass(frozen=True)
class Figure:
    """A person ready to be rendered: all that does not depend on the frame."""

    binding: Binding
    faces: np.ndarray  # i32 [F, 3]
    texels: Texels
    occlusion: np.ndarray  # f32 [M]
    recess: np.ndarray  # u8 [F]: 1 eyeballs, which lids shade; 2 teeth and tongue, which lips do
    strands: Strands


@dataclass(frozen=True)
class Light:
    """Two directed lights (the first casts the shadow), a sky and a bounce from below. World axes."""

    directions: np.ndarray  # f32 [2, 3] unit, towards the light
    colours: np.ndarray  # f32 [2, 3]
    sky: np.ndarray  # f32 [3]
    bounce: np.ndarray  # f32 [3]


@dataclass(frozen=True)
class Picture:
    image: np.ndarray  # u8 [H, W, 3] sRGB
    regions: np.ndarray  # u8 [H, W]
    depth: np.ndarray  # f32 [H, W] m, infinite where nobody is


def draw_light(seed: int) -> Light:
    """Soft light of a room, a window or a studio."""
    rng = np.random.default_rng([seed, 5])
    side = rng.choice([-1.0, 1.0])
    key = _direction(side * rng.uniform(0.15, 1.15), rng.uniform(0.25, 0.85))
    rim = _direction(-side * rng.uniform(1.6, 2.6), rng.uniform(0.2, 0.7))
    warmth, power = rng.normal(0, 0.05), rng.uniform(0.65, 1.20)
    fill = np.clip(1.8 - power, 0.6, 1.1) * rng.uniform(0.85, 1.05)
    colours = np.stack(
        [
            power * np.array([1 + warmth, 1, 1 - 1.3 * warmth]),
            rng.uniform(0, 0.55) * np.array([1 - warmth, 1, 1 + warmth]),
        ]
    )
    sky = fill * np.array([0.50, 0.52, 0.55]) * (1 - np.array([1, 0, -1]) * 0.5 * warmth)
    return Light(
        np.stack([key, rim]).astype(np.float32),
        colours.astype(np.float32),
        sky.astype(np.float32),
        (fill * np.array([0.30, 0.27, 0.25])).astype(np.float32),
    )


def _direction(azimuth: float, height: float) -> np.ndarray:
    return np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])


def render(
    figure: Figure, vertices: np.ndarray, turn: np.ndarray, intrinsics: np.ndarray, extrinsics: np.ndarray, light: Light,
    plate: np.ndarray, supersample: int = 1,
) -> Picture:  # fmt: skip
    """One picture with exact labels.

    vertices f32 [V, 3] and turn f32 [V, 3, 3] of the posed body under the clothes; camera of the final size; plate u8 [H, W, 3]
    the background. supersample: samples a pixel and axis; labels are the commonest of a pixel's, depth its nearest.
    """
    s, (H, W) = supersample, plate.shape[:2]
    K = intrinsics.copy()
    K[:2] *= s
    points, hairs = figure.binding.pose(vertices, turn), figure.strands.binding.pose(vertices, turn)
    picture = rasterize(project(points, K, extrinsics), figure.faces, (H * s, W * s))
    strand = draw_strands(figure.strands, project(hairs, K, extrinsics), float(K[0, 0]), picture.depth, seed=1)
    axes, low, shadow = _shadow_map(figure, points, hairs, light.directions[0])
    image = np.repeat(np.repeat(plate, s, 0), s, 1)
    regions = np.zeros((H * s, W * s), np.uint8)
    eye = (-extrinsics[:3, :3].T @ extrinsics[:3, 3]).astype(np.float32)
    _shade(
        picture.face, picture.bary, picture.depth, strand, points, vertex_normals(points, figure.faces), figure.faces,
        figure.occlusion, figure.recess, figure.texels.first, figure.texels.fineness, figure.texels.values, figure.texels.region,
        hairs, figure.strands.colour, figure.strands.occlusion, figure.strands.region,
        eye, float(K[0, 0]), light.directions, light.colours, light.sky, light.bounce,
        axes.astype(np.float32), low.astype(np.float32), shadow, image, regions,
    )  # fmt: skip
    if s == 1:
        return Picture(image, regions, picture.depth)
    blocks = image.reshape(H, s, W, s, 3).mean((1, 3))
    return Picture(
        np.rint(blocks).astype(np.uint8), majority_pool(regions, s), picture.depth.reshape(H, s, W, s).min((1, 3))
    )


def draw_strands(strands: Strands, pixels: np.ndarray, focal: float, depth: np.ndarray, seed: int) -> np.ndarray:
    """Draw hairs into a depth map [H, W], in place. pixels f32 [P, 3] as `project` gives them; focal px (0: orthographic, radius in px).

    A hair thinner than a pixel covers its share of the pixels it crosses. Returns the strand point of every pixel, i32 [H, W], -1: none.
    """
    owner = np.full(depth.shape, -1, np.int32)
    _draw_strands(pixels, strands.first, strands.radius, focal, depth, owner, seed)
    return owner


@numba.njit(cache=True)
def _draw_strands(pixels, first, radius, focal, depth, owner, seed):
    H, W = depth.shape
    for s in range(len(first) - 1):
        # Where hairs are finer than pixels, fewer and wider ones cover as much; short steps are taken together.
        p, last = first[s], first[s + 1] - 1
        share = 2 * radius[p] * (focal / max(pixels[p, 2], 0.05) if focal > 0 else 1.0)
        fold = int(min(max(0.8 / max(share, 1e-3), 1.0), 6.0))
        if s % fold:
            continue
        length = abs(pixels[last, 0] - pixels[p, 0]) + abs(pixels[last, 1] - pixels[p, 1])
        stride = int(min(max(2.0 * (last - p) / max(length, 1.0), 1.0), max((last - p) // 4, 1)))
        while p < last:
            q = min(p + stride, last)
            x0, y0, z0 = pixels[p, 0], pixels[p, 1], pixels[p, 2]
            dx, dy, dz = pixels[q, 0] - x0, pixels[q, 1] - y0, pixels[q, 2] - z0
            at, p = p, q
            if z0 < 0.05 or abs(dx) > W or abs(dy) > H:
                continue
            steep = abs(dy) > abs(dx)
            steps = int(max(abs(dx), abs(dy))) + 1
            length = np.sqrt(dx * dx + dy * dy) + 1e-6
            slant = length / (max(abs(dx), abs(dy)) + 1e-6)
            width = 2 * fold * radius[at] * (focal / z0 if focal > 0 else 1.0) * min(slant, 1.414)
            for k in range(steps):
                t = (k + 0.5) / steps
                x, y, z = x0 + t * dx, y0 + t * dy, z0 + t * dz
                across, along = (x, int(np.floor(y))) if steep else (y, int(np.floor(x)))
                low = int(np.ceil(across - width / 2 - 0.5))
                high = int(np.floor(across + width / 2 - 0.5))
                if high < low:  # thinner than a pixel: cover it with the probability of its width
                    h = np.uint32(at * 2654435761 + along * 40503 + seed * 97)
                    h ^= h >> np.uint32(15)
                    h *= np.uint32(2246822519)
                    h ^= h >> np.uint32(13)
                    if (h & np.uint32(1023)) > width * 1024:
                        continue
                    low = high = int(np.floor(across))
                for c in range(low, high + 1):
                    px, py = (c, along) if steep else (along, c)
                    if 0 <= px < W and 0 <= py < H and z < depth[py, px]:
                        depth[py, px] = z
                        owner[py, px] = at


def _shadow_map(
    figure: Figure, points: np.ndarray, hairs: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orthographic depth of the upper body seen from the light: axes [3, 3], corner [3], depth f32 [side, side] m."""
    axes, low, flat = orthographic(points, direction, _centre(points), _SHADOW_EXTENT_M, _SHADOW_SIDE)
    depth = rasterize(flat, figure.faces, (_SHADOW_SIDE, _SHADOW_SIDE)).depth
    if len(hairs):
        scale = _SHADOW_SIDE / _SHADOW_EXTENT_M
        owner = np.full(depth.shape, -1, np.int32)
        _draw_strands(
            flatten(hairs, axes, low, scale),
            figure.strands.first,
            figure.strands.radius * np.float32(scale),
            0.0,
            depth,
            owner,
            2,
        )
    return axes, low, depth


def _centre(points: np.ndarray) -> np.ndarray:
    """A little above the middle of the picture's part of the body."""
    high = points[:, 1].max()
    return np.array([np.median(points[:, 0]), high - 0.40, np.median(points[:, 2])])


def lit_share(
    points: np.ndarray, axes: np.ndarray, low: np.ndarray, depth: np.ndarray, extent: float, bias: float
) -> np.ndarray:
    """Which points [M, 3] a view's depth map does not hide, bool [M]; outside the map all are lit."""
    side = depth.shape[0]
    at = points @ axes.T - low
    column, row = np.clip((at[:, :2] / extent * side).astype(int), 0, side - 1).T
    return at[:, 2] < depth[row, column] + bias


@numba.njit(cache=True, inline="always")
def _lit(x, y, z, axes, low, shadow):
    """Share of light in 0..1: a box of five texels of the shadow map, placed to the fraction of a texel."""
    side = shadow.shape[0]
    scale = side / _SHADOW_EXTENT_M
    a = (axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z - low[0]) * scale
    b = (axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z - low[1]) * scale
    c = axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z - low[2]
    total = 0.0
    column, row = int(np.floor(a - 0.5)), int(np.floor(b - 0.5))
    fa, fb = a - 0.5 - column, b - 0.5 - row
    if column < 2 or row < 2 or column >= side - 3 or row >= side - 3:
        return 1.0
    for i in range(-2, 4):
        wi = 1 - fa if i == -2 else fa if i == 3 else 1.0
        for j in range(-2, 4):
            wj = 1 - fb if j == -2 else fb if j == 3 else 1.0
            gap = shadow[row + j, column + i] + 0.010 - c
            total += wi * wj * min(max(gap / 0.008 + 0.5, 0.0), 1.0)
    return total / 25


def _tone_curve() -> np.ndarray:
    """Linear light in steps of 1/1024 to sRGB 0..255, with a soft shoulder; u8 [4096]."""
    v = (np.arange(4096) + 0.5) / 1024
    v = np.where(v > 0.7, 0.7 + 0.3 * (1 - np.exp(-(v - 0.7) / 0.3)), v)
    return np.rint(255 * v ** (1 / 2.2)).astype(np.uint8)


_TONES = _tone_curve()


@numba.njit(cache=True, inline="always")
def _srgb(value):
    return _TONES[min(int(max(value, 0.0) * 1024), 4095)]


@numba.njit(cache=True, fastmath=False)
def _shade(
    face, bary, depth, strand, points, normals, faces, occlusion, recess, first, fineness, texels, texel_region,
    hairs, hair_colour, hair_occlusion, hair_region, eye, focal, directions, colours, sky, bounce,
    axes, low, shadow, image, regions,
):  # fmt: skip
    H, W = face.shape
    t = np.zeros(texels.shape[1], np.float32)
    n = np.zeros(3, np.float32)
    g = np.zeros(3, np.float32)
    p = np.zeros(3, np.float32)
    v = np.zeros(3, np.float32)
    out = np.zeros(3, np.float32)
    for y in range(H):
        for x in range(W):
            if strand[y, x] >= 0:
                k = strand[y, x]
                for a in range(3):
                    p[a] = hairs[k, a]
                    n[a] = hairs[k + 1, a] - hairs[k, a]  # the tangent
                _unit(n)
                for a in range(3):
                    v[a] = eye[a] - p[a]
                _unit(v)
                light = _lit(p[0], p[1], p[2], axes, low, shadow)
                open_sky = hair_occlusion[k]
                along_view = n[0] * v[0] + n[1] * v[1] + n[2] * v[2]
                for a in range(3):
                    out[a] = open_sky * (0.55 * sky[a] + 0.35 * bounce[a]) * hair_colour[k, a]
                for q in range(2):
                    d = directions[q]
                    share = (0.15 + 0.85 * light if q == 0 else 0.8) * (0.25 + 0.75 * open_sky)
                    along = n[0] * d[0] + n[1] * d[1] + n[2] * d[2]
                    across = np.sqrt(max(1 - along * along, 0.0))
                    # Kajiya-Kay 1989, with the two shifted lobes of Scheuermann 2004
                    view_across = np.sqrt(max(1 - along_view * along_view, 0.0))
                    c0 = max(across * view_across - along * along_view, 0.0)
                    white = (0.0 if hair_region[k] != HAIR else 0.05) * max(c0 * 0.995 + 0.10 * along, 0.0) ** 40
                    tinted = 0.45 * max(c0 * 0.98 - 0.18 * along, 0.0) ** 14
                    for a in range(3):
                        out[a] += (
                            colours[q, a]
                            * share
                            * (hair_colour[k, a] * (0.42 * across + tinted) + white * (0.25 + hair_colour[k, a]))
                        )
                for a in range(3):
                    image[y, x, a] = _srgb(out[a])
                regions[y, x] = hair_region[k]
                continue
            f = face[y, x]
            if f < 0:
                continue
            i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
            b0, b1, b2 = bary[y, x, 0], bary[y, x, 1], bary[y, x, 2]
            for a in range(3):
                n[a] = b0 * normals[i0, a] + b1 * normals[i1, a] + b2 * normals[i2, a]
                p[a] = b0 * points[i0, a] + b1 * points[i1, a] + b2 * points[i2, a]
                v[a] = eye[a] - p[a]
            _unit(n)
            _unit(v)
            if n[0] * v[0] + n[1] * v[1] + n[2] * v[2] < 0:
                for a in range(3):
                    n[a] = -n[a]
            for a in range(3):
                g[a] = n[a]  # without the texel's bump
            regions[y, x] = _texel(
                f, b1, b2, first, fineness, texels, texel_region, points, i0, i1, i2, n, t, depth[y, x] / focal
            )
            open_sky = b0 * occlusion[i0] + b1 * occlusion[i1] + b2 * occlusion[i2]
            if recess[f]:
                open_sky *= _recessed(depth, y, x, focal, recess[f] == 2)
            light = _lit(p[0] + 0.006 * g[0], p[1] + 0.006 * g[1], p[2] + 0.006 * g[2], axes, low, shadow)
            flesh = t[_FLESH]
            up = 0.5 + 0.5 * n[1]
            root = np.sqrt(open_sky)
            for a in range(3):
                open_tinted = open_sky + t[a] * 0.8 * (
                    root - open_sky
                )  # light that bounces in a crease takes its colour
                out[a] = t[a] * open_tinted * (up * sky[a] + (1 - up) * bounce[a])
            glancing = 1 - max(n[0] * v[0] + n[1] * v[1] + n[2] * v[2], 0.0)
            glancing = glancing * glancing * glancing * glancing * glancing
            mirror_up = 2 * (n[0] * v[0] + n[1] * v[1] + n[2] * v[2]) * n[1] - v[1]
            reflected = (
                t[_GLOSS] * (0.12 + 1.6 * glancing) * max(0.4 + 0.6 * mirror_up, 0.0) * open_sky * (1 - t[_ROUGHNESS])
            )
            for a in range(3):
                out[a] += reflected * sky[a]
            for q in range(2):
                d = directions[q]
                share = light if q == 0 else 0.35 + 0.65 * open_sky
                facing = n[0] * d[0] + n[1] * d[1] + n[2] * d[2]
                for a in range(3):
                    wrap = (
                        flesh * (0.34 if a == 0 else 0.17 if a == 1 else 0.12) + 0.06
                    )  # red light travels furthest under skin
                    diffuse = max(facing + wrap, 0.0) / (1 + wrap)
                    out[a] += t[a] * diffuse * colours[q, a] * share * (0.5 + 0.5 * open_sky)
                hx, hy, hz = d[0] + v[0], d[1] + v[1], d[2] + v[2]
                length = np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-6
                nh = max((n[0] * hx + n[1] * hy + n[2] * hz) / length, 0.0)
                alpha = t[_ROUGHNESS] * t[_ROUGHNESS] + 0.002
                lobe = alpha / (3.1416 * (nh * nh * (alpha - 1) + 1) ** 2)
                shine = t[_GLOSS] * lobe * (0.6 + 3 * glancing) * max(facing, 0.0) * share * open_sky
                for a in range(3):
                    out[a] += 0.25 * shine * colours[q, a]
            for a in range(3):
                image[y, x, a] = _srgb(out[a])


@numba.njit(cache=True, inline="always")
def _unit(n):
    length = np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-9
    for a in range(3):
        n[a] /= length


@numba.njit(cache=True, inline="always")
def _recessed(depth, y, x, focal, both):
    """How open a pixel is that lies behind a rim: lids some millimetres above, or lips above and below, stand nearer and shade it."""
    z, H = depth[y, x], depth.shape[0]
    shade = 0.0
    for k in range(1, 4):
        step = int(round((0.0026 if both else 0.0016) * k * focal / z))
        if y - step >= 0 and depth[y - step, x] < z - 0.0007:
            shade += 0.25 if both else 0.20
        if both and y + step < H and depth[y + step, x] < z - 0.0007:
            shade += 0.20
    return max(1 - shade, 0.08)


@numba.njit(cache=True)
def _texel(f, b1, b2, first, fineness, texels, region, points, i0, i1, i2, n, t, pixel):
    """Interpolate a triangle's samples into t, and bend the normal n by their heights (Mikkelsen 2010). Returns the region."""
    R = fineness[f]
    u, w = min(max(b1, 0.0), 1.0) * R, min(max(b2, 0.0), 1.0) * R
    i, j = int(u), int(w)
    if i + j >= R:  # on the far edge: step back into the triangle
        if i > 0:
            i -= 1
        elif j > 0:
            j -= 1
    fu, fw = u - i, w - j
    row = first[f] + j * (2 * R + 3 - j) // 2
    above = row + R + 1 - j
    p10, p01 = row + i + 1, above + i
    if fu + fw <= 1 or i + j + 1 >= R:
        p00 = row + i
        w00, w10, w01 = 1 - fu - fw, fu, fw
        step_u, step_w = texels[p10, _HEIGHT] - texels[p00, _HEIGHT], texels[p01, _HEIGHT] - texels[p00, _HEIGHT]
    else:
        p00 = above + i + 1
        w00, w10, w01 = fu + fw - 1, 1 - fw, 1 - fu
        step_u, step_w = texels[p00, _HEIGHT] - texels[p01, _HEIGHT], texels[p00, _HEIGHT] - texels[p10, _HEIGHT]
    for c in range(texels.shape[1]):
        t[c] = w00 * texels[p00, c] + w10 * texels[p10, c] + w01 * texels[p01, c]
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
        fine = min(np.sqrt(abs(det)) / max(pixel, 1e-6), 1.0)  # heights finer than a pixel would only be noise
        n[0] -= fine * (step_u * rx + step_w * sx) / det
        n[1] -= fine * (step_u * ry + step_w * sy) / det
        n[2] -= fine * (step_u * rz + step_w * sz) / det
        _unit(n)
    if w10 >= w00 and w10 >= w01:
        return region[p10]
    return region[p01] if w01 > w00 else region[p00]


def occlude(
    figure_points: np.ndarray, faces: np.ndarray, strands: Strands | None, hairs: np.ndarray, views: int = 48
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the sky that points and strand points see in the rest pose, from depth maps all around. f32 [M], f32 [P]."""
    side, extent, centre = 320, 0.9, _centre(figure_points)
    normals = vertex_normals(figure_points, faces)
    k = np.arange(views) + 0.5
    height, turn = 1 - 1.6 * k / views, k * np.pi * (3 - np.sqrt(5))  # a spiral over the sphere, little from below
    total, weight = np.zeros(len(figure_points)), np.zeros(len(figure_points))
    hair_total = np.zeros(len(hairs))
    for y, a in zip(height, turn, strict=True):
        r = np.sqrt(1 - y * y)
        direction = np.array([r * np.sin(a), y, r * np.cos(a)])
        axes, low, flat = orthographic(figure_points, direction, centre, extent, side)
        depth = rasterize(flat, faces, (side, side)).depth
        if strands is not None and len(hairs):
            scale = side / extent
            _draw_strands(
                flatten(hairs, axes, low, scale),
                strands.first,
                strands.radius * np.float32(scale),
                0.0,
                depth,
                np.full(depth.shape, -1, np.int32),
                3,
            )
            near = lit_share(hairs, axes, low, depth, extent, 0.012)
            hair_total += near
        facing = np.clip(normals @ direction, 0, 1)
        total += facing * lit_share(figure_points + 0.003 * normals, axes, low, depth, extent, 0.004)
        weight += facing
    return (total / np.maximum(weight, 1e-3)).astype(np.float32), (hair_total / views).astype(np.float32)
