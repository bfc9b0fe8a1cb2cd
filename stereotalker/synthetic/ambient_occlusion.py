"""Bakes how much of the sky every point of a figure sees, from depth maps that look at the figure from many directions.

Shapes: M mesh points, F triangles, P strand points, all in the rest pose.
"""

from __future__ import annotations

import numpy as np

from stereotalker.geometry.camera import orthographic_view
from stereotalker.geometry.rasterizer import rasterize, vertex_normals
from stereotalker.synthetic.strand_rasterizer import Strands, project_strands, rasterize_strands

_SIDE_PX, _EXTENT_M = 320, 0.9  # of the square depth maps
_MESH_BIAS_M, _STRAND_BIAS_M = 0.004, 0.012  # A point this far behind the depth map still counts as visible.
_SEED = 3  # of the pattern of strands that are thinner than a pixel


def bake_sky_visibility(
    points: np.ndarray, faces: np.ndarray, strands: Strands, strand_points: np.ndarray, views: int = 48
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the sky that mesh points and strand points see in the rest pose, f32 [M] and f32 [P], both in 0..1.

    points f32 [M, 3] m; faces i32 [F, 3]; strand_points f32 [P, 3] m. A mesh point weighs each view by the cosine
    between its normal and the view's direction; a strand point weighs all views alike.
    """
    center = view_center(points)
    normals = vertex_normals(points, faces)
    # The directions lie on a spiral over the sphere, with few of them below the horizon.
    k = np.arange(views) + 0.5
    height, turn = 1 - 1.6 * k / views, k * np.pi * (3 - np.sqrt(5))
    visible, weight = np.zeros(len(points)), np.zeros(len(points))
    strand_visible = np.zeros(len(strand_points))
    for y, angle in zip(height, turn, strict=True):
        r = np.sqrt(1 - y * y)
        direction = np.array([r * np.sin(angle), y, r * np.cos(angle)])
        axes, corner, pixels = orthographic_view(points, direction, center, _EXTENT_M, _SIDE_PX)
        depth = rasterize(pixels, faces, (_SIDE_PX, _SIDE_PX)).depth
        if len(strand_points):
            projected = project_strands(strands, strand_points, axes, corner, _SIDE_PX / _EXTENT_M)
            rasterize_strands(projected, depth, _SEED)
            strand_visible += visible_in_depth_map(strand_points, axes, corner, depth, _EXTENT_M, _STRAND_BIAS_M)
        facing = np.clip(normals @ direction, 0, 1)
        lifted = points + 0.003 * normals
        visible += facing * visible_in_depth_map(lifted, axes, corner, depth, _EXTENT_M, _MESH_BIAS_M)
        weight += facing
    return (visible / np.maximum(weight, 1e-3)).astype(np.float32), (strand_visible / views).astype(np.float32)


def view_center(points: np.ndarray) -> np.ndarray:
    """A point a little above the middle of what half-body pictures show, f64 [3] m. points [M, 3] m."""
    top = points[:, 1].max()
    return np.array([np.median(points[:, 0]), top - 0.40, np.median(points[:, 2])])


def visible_in_depth_map(
    points: np.ndarray, axes: np.ndarray, corner: np.ndarray, depth: np.ndarray, extent: float, bias: float
) -> np.ndarray:
    """Whether an orthographic depth map leaves each point visible, bool [M].

    points [M, 3] m; axes [3, 3] and corner [3] m as `geometry.camera.orthographic_view` returns them; depth f32
    [side, side]
    m, `extent` m wide. A point is visible unless it lies more than `bias` m behind the map. Points outside the map are
    compared with its edge.
    """
    side = depth.shape[0]
    local = points @ axes.T - corner
    column, row = np.clip((local[:, :2] / extent * side).astype(int), 0, side - 1).T
    return local[:, 2] < depth[row, column] + bias
