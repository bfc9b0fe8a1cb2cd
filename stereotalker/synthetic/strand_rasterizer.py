"""Rasterizes hair strands into the depth map of the triangles that they lie in front of.

A strand is a polyline. Where it is thinner than a pixel, a pixel that it crosses shows it with a probability equal to
its width in pixels, so a dense head of hair covers the right share of the picture without antialiasing. Compiled with
numba, one thread, deterministic.

Shapes: S strands, P points of all strands together, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from stereotalker.geometry.camera import project_orthographic
from stereotalker.synthetic.bound_mesh import Binding


@dataclass(frozen=True)
class Strands:
    """Hair strands, bound to the body. The points of a strand follow one another, from the root to the tip."""

    binding: Binding  # of the P points
    first: np.ndarray  # i32 [S + 1], index of each strand's first point, and P at the end
    radius: np.ndarray  # f32 [P] m
    colour: np.ndarray  # f32 [P, 3] linear light, 0..1
    sky_visibility: np.ndarray  # f32 [P] in 0..1, 1 where nothing hides the sky
    region: np.ndarray  # u8 [P], values of smplx_layout.REGION


class ProjectedStrands(NamedTuple):
    """Strands as one view sees them; an argument of numba kernels."""

    pixels: np.ndarray  # f32 [P, 3]: x px, y px, depth m
    first: np.ndarray  # i32 [S + 1], index of each strand's first point, and P at the end
    radius: np.ndarray  # f32 [P], m for a perspective view, px for an orthographic one
    focal: float  # px; 0 says that the view is orthographic


def project_strands(
    strands: Strands, points: np.ndarray, axes: np.ndarray, corner: np.ndarray, scale: float
) -> ProjectedStrands:
    """Strands in the view of `geometry.camera.orthographic_view`.

    points f32 [P, 3] m: the posed strand points; axes f64 [3, 3]; corner f64 [3] m; scale in px per m.
    """
    return ProjectedStrands(
        project_orthographic(points, axes, corner, scale), strands.first, strands.radius * np.float32(scale), focal=0.0
    )


def rasterize_strands(strands: ProjectedStrands, depth: np.ndarray, seed: int) -> np.ndarray:
    """Draw strands into a depth map f32 [H, W] in m, which changes in place. The nearest depth wins.

    seed selects the random pattern of strands that are thinner than a pixel.
    Returns the index of the strand point that each pixel shows, i32 [H, W], -1 where it shows no strand.
    """
    owner = np.full(depth.shape, -1, np.int32)
    _rasterize_strands(strands, depth, owner, seed)
    return owner


@numba.njit(cache=True)
def _rasterize_strands(strands, depth, owner, seed):
    pixels, first, radius, focal = strands.pixels, strands.first, strands.radius, strands.focal
    H, W = depth.shape
    for s in range(len(first) - 1):
        # Where strands are finer than pixels, every `fold`-th one is drawn, `fold` times as wide: that covers as much
        # and costs less. Steps shorter than two pixels are joined, but a strand keeps at least four of them.
        p, last = first[s], first[s + 1] - 1
        width_px = 2 * radius[p] * (focal / max(pixels[p, 2], 0.05) if focal > 0 else 1.0)
        fold = int(min(max(0.8 / max(width_px, 1e-3), 1.0), 6.0))
        if s % fold:
            continue
        length = abs(pixels[last, 0] - pixels[p, 0]) + abs(pixels[last, 1] - pixels[p, 1])
        stride = int(min(max(2.0 * (last - p) / max(length, 1.0), 1.0), max((last - p) // 4, 1)))
        while p < last:
            q = min(p + stride, last)
            x0, y0, z0 = pixels[p, 0], pixels[p, 1], pixels[p, 2]
            dx, dy, dz = pixels[q, 0] - x0, pixels[q, 1] - y0, pixels[q, 2] - z0
            point, p = p, q
            if z0 < 0.05 or abs(dx) > W or abs(dy) > H:
                continue
            steep = abs(dy) > abs(dx)
            steps = int(max(abs(dx), abs(dy))) + 1
            length = np.sqrt(dx * dx + dy * dy) + 1e-6
            slant = length / (max(abs(dx), abs(dy)) + 1e-6)
            width = 2 * fold * radius[point] * (focal / z0 if focal > 0 else 1.0) * min(slant, 1.414)
            for k in range(steps):
                t = (k + 0.5) / steps
                x, y, z = x0 + t * dx, y0 + t * dy, z0 + t * dz
                across, along = (x, int(np.floor(y))) if steep else (y, int(np.floor(x)))
                low = int(np.ceil(across - width / 2 - 0.5))
                high = int(np.floor(across + width / 2 - 0.5))
                if high < low:
                    # No pixel center lies within the width, so the pixel is covered with a probability of that width. A
                    # hash of the point and the pixel row or column takes the place of a random number: same input, same
                    # picture.
                    h = np.uint32(point * 2654435761 + along * 40503 + seed * 97)
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
                        owner[py, px] = point
