"""Renders a figure with exact region labels: one z-buffer of triangles and hair strands, texels, soft light.

A label is the region of what the z-buffer shows at that sample, so labels cannot disagree with the picture.

Shapes: M mesh points, F triangles, N texels, P strand points, S strands, V body vertices, H x W picture.
Colors are linear light in 0..1 unless a comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stereotalker.geometry.camera import orthographic, project
from stereotalker.geometry.rasterizer import majority_pool, rasterize, vertex_normals
from stereotalker.synthetic.ambient_occlusion import view_center
from stereotalker.synthetic.bound_mesh import Binding
from stereotalker.synthetic.shading_kernels import (
    SHADOW_EXTENT_M,
    Light,
    PosedMesh,
    PosedStrands,
    Samples,
    ShadowMap,
    Texels,
    View,
    shade_strands,
    shade_surfaces,
)
from stereotalker.synthetic.strand_rasterizer import (
    ProjectedStrands,
    Strands,
    project_orthographic,
    rasterize_strands,
)

_SHADOW_SIDE_PX = 400  # of the square shadow map
_CAMERA_SEED, _SHADOW_SEED = 1, 2  # of the pattern of strands that are thinner than a pixel


@dataclass(frozen=True)
class Figure:
    """A person ready to be rendered: everything that does not depend on the frame."""

    binding: Binding  # of the M mesh points
    faces: np.ndarray  # i32 [F, 3]
    texels: Texels
    sky_visibility: np.ndarray  # f32 [M] in 0..1, 1 where nothing hides the sky
    recess: (
        np.ndarray
    )  # u8 [F]: 1 on eyeballs, which the lids shade; 2 on teeth and tongue, which the lips shade; else 0
    strands: Strands


@dataclass(frozen=True)
class Picture:
    """One rendered picture with its labels."""

    image: np.ndarray  # u8 [H, W, 3] sRGB
    regions: np.ndarray  # u8 [H, W], values of smplx_layout.REGION
    depth: np.ndarray  # f32 [H, W] m, infinite on the background


def draw_light(seed: int) -> Light:
    """Draw the soft light of a room, a window or a studio. Deterministic in `seed`."""
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


def _direction(azimuth: float, elevation: float) -> np.ndarray:
    """Unit vector f64 [3] of two angles in radians; azimuth 0 is the front."""
    return np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])


def render(
    figure: Figure,
    vertices: np.ndarray,
    turn: np.ndarray,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
    light: Light,
    plate: np.ndarray,
    supersample: int = 1,
) -> Picture:
    """Render one picture with exact labels.

    vertices f32 [V, 3] m and turn f32 [V, 3, 3] (rotations) are the posed body under the clothes. intrinsics f32 [3, 3]
    px and extrinsics f32 [4, 4] are the camera of the final size. plate u8 [H, W, 3] sRGB is the background plate.
    supersample is the number of samples per pixel and axis: a pixel's color is the mean of its samples, its label the
    most frequent one, its depth the nearest.
    """
    s, (H, W) = supersample, plate.shape[:2]
    K = intrinsics.copy()
    K[:2] *= s
    focal = float(K[0, 0])
    points, hairs = figure.binding.pose(vertices, turn), figure.strands.binding.pose(vertices, turn)
    fragments = rasterize(project(points, K, extrinsics), figure.faces, (H * s, W * s))
    strands = figure.strands
    projected = ProjectedStrands(project(hairs, K, extrinsics), strands.first, strands.radius, focal)
    strand = rasterize_strands(projected, fragments.depth, _CAMERA_SEED)
    image = np.repeat(np.repeat(plate, s, 0), s, 1)
    regions = np.zeros((H * s, W * s), np.uint8)
    eye = (-extrinsics[:3, :3].T @ extrinsics[:3, 3]).astype(np.float32)
    samples = Samples(fragments.face, fragments.bary, fragments.depth, strand)
    normals = vertex_normals(points, figure.faces)
    mesh = PosedMesh(points, normals, figure.faces, figure.sky_visibility, figure.recess)
    posed_strands = PosedStrands(hairs, strands.colour, strands.sky_visibility, strands.region)
    view, shadow = View(eye, focal), _shadow_map(figure, points, hairs, light.directions[0])
    shade_surfaces(samples, mesh, figure.texels, view, light, shadow, image, regions)
    shade_strands(samples, posed_strands, view, light, shadow, image, regions)
    if s == 1:
        return Picture(image, regions, fragments.depth)
    blocks = image.reshape(H, s, W, s, 3).mean((1, 3))
    nearest = fragments.depth.reshape(H, s, W, s).min((1, 3))
    return Picture(np.rint(blocks).astype(np.uint8), majority_pool(regions, s), nearest)


def _shadow_map(figure: Figure, points: np.ndarray, hairs: np.ndarray, direction: np.ndarray) -> ShadowMap:
    """The shadow map of a light. points f32 [M, 3] m, hairs f32 [P, 3] m, direction f32 [3] towards the light."""
    side = _SHADOW_SIDE_PX
    axes, corner, pixels = orthographic(points, direction, view_center(points), SHADOW_EXTENT_M, side)
    depth = rasterize(pixels, figure.faces, (side, side)).depth
    if len(hairs):
        projected = project_orthographic(figure.strands, hairs, axes, corner, side / SHADOW_EXTENT_M)
        rasterize_strands(projected, depth, _SHADOW_SEED)
    return ShadowMap(axes.astype(np.float32), corner.astype(np.float32), depth)
