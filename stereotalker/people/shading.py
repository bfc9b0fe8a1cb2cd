"""Renders a synthetic person: rasterise at twice the size, paint the canonical point, shade, average down. Exact labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stereotalker.body.camera import project
from stereotalker.body.layout import REGIONS
from stereotalker.body.model import Body
from stereotalker.body.raster import rasterize, vertex_normals
from stereotalker.people.appearance import Look, hand_weights, paint, torso_weights

SUPERSAMPLE = 2


@dataclass(frozen=True)
class Light:
    """One key light with a soft shadow, a sky and a bounce from below. Directions in world axes, colours linear."""

    direction: np.ndarray  # unit, towards the light
    key: np.ndarray
    sky: np.ndarray
    bounce: np.ndarray


def draw_light(seed: int) -> Light:
    rng = np.random.default_rng([seed, 5])
    azimuth, height = rng.uniform(-1.1, 1.1), rng.uniform(0.35, 0.9)
    direction = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    warm = rng.uniform(-0.06, 0.08)
    power = rng.uniform(0.55, 0.85)
    return Light(direction, power * np.array([1 + warm, 1, 1 - warm]), np.array([0.42, 0.44, 0.47]) * rng.uniform(0.8, 1.2), np.array([0.26, 0.23, 0.21]))


@dataclass(frozen=True)
class Materials:
    """What is the same in every frame of a person: vertex attributes that the painter reads."""

    look: Look
    body: Body
    attributes: np.ndarray  # f32 [V, 9]: canonical point, lips, nails, inner_mouth, lids, hand, torso


def materials(look: Look, body: Body) -> Materials:
    masks = [body.masks[n] for n in ("lips", "nails", "inner_mouth", "lids")] + [hand_weights(body), torso_weights(body)]
    return Materials(look, body, np.concatenate([body.template, np.stack(masks, 1)], 1).astype(np.float32))


def render(
    person: Materials, vertices: np.ndarray, intrinsics: np.ndarray, extrinsics: np.ndarray, light: Light, plate: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One picture and its labels.

    vertices f32 [V, 3] posed, clothed; camera of the final size; plate u8 [H, W, 3] background.
    Returns image u8 [H, W, 3] sRGB and regions u8 [H, W].
    """
    H, W = plate.shape[:2]
    size = (H * SUPERSAMPLE, W * SUPERSAMPLE)
    K = intrinsics.copy()
    K[:2] *= SUPERSAMPLE
    faces = person.body.faces
    picture = rasterize(project(vertices, K, extrinsics), faces, size)
    seen = picture.face >= 0
    normals = vertex_normals(vertices, faces)
    values = picture.interpolate(faces, np.concatenate([person.attributes, normals, vertices], 1))[seen]
    part = person.body.part[faces[picture.face[seen], 0]]
    colour, region, gloss = paint(person.look, person.body, values[:, :3], values[:, 3:9], part)
    shaded = _shade(colour, gloss, values[:, 9:12], values[:, 12:15], vertices, faces, extrinsics, light, values[:, 5])
    image = np.repeat(np.repeat(plate, SUPERSAMPLE, 0), SUPERSAMPLE, 1).astype(np.float32)
    image[seen] = 255 * np.clip(shaded, 0, 1) ** (1 / 2.2)
    labels = np.zeros(size, np.uint8)
    labels[seen] = region
    return _average(image), _vote(labels)


def _shade(colour, gloss, normals, points, vertices, faces, extrinsics, light: Light, inner) -> np.ndarray:
    n = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    eye = -extrinsics[:3, :3].T @ extrinsics[:3, 3]
    view = eye - points
    view /= np.linalg.norm(view, axis=1, keepdims=True)
    n = np.where((n * view).sum(1, keepdims=True) < 0, -n, n)
    lit = _shadow(points + 0.004 * n, vertices, faces, light.direction)
    facing = n @ light.direction
    wrap = np.array([0.30, 0.18, 0.14])  # red light travels furthest under skin
    diffuse = np.clip((facing[:, None] + wrap) / (1 + wrap), 0, 1) * lit[:, None]
    up = (0.5 + 0.5 * n[:, 1])[:, None]
    ambient = up * light.sky + (1 - up) * light.bounce
    half = light.direction + view
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    highlight = gloss * np.clip((n * half).sum(1), 0, 1) ** 40 * lit
    ambient = ambient * (1 - 0.6 * np.clip(inner, 0, 1))[:, None]  # the mouth's inside sees no sky
    return colour * (diffuse * light.key + ambient) + (0.25 * highlight)[:, None]


def _shadow(points, vertices, faces, direction) -> np.ndarray:
    """Share of light in 0..1 from an orthographic depth map, nine taps."""
    right = np.cross([0.0, 1.0, 0.0], direction)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(direction, right), -direction])
    flat = vertices @ axes.T
    low, extent = flat.min(0), 1.4
    low[:2] = np.median(flat[:, :2], 0) - np.array([extent / 2, extent * 0.35])
    side = 384
    depth = rasterize(np.concatenate([(flat[:, :2] - low[:2]) / extent * side, flat[:, 2:] - low[2] + 1], 1), faces, (side, side)).depth
    at = points @ axes.T
    column, row = ((at[:, :2] - low[:2]) / extent * side).astype(int).T
    z, lit = at[:, 2] - low[2] + 1, np.zeros(len(points))
    for dy in (-2, 0, 2):
        for dx in (-2, 0, 2):
            lit += z < depth[np.clip(row + dy, 0, side - 1), np.clip(column + dx, 0, side - 1)] + 0.008
    return lit / 9


def _average(image: np.ndarray) -> np.ndarray:
    s = SUPERSAMPLE
    H, W = image.shape[0] // s, image.shape[1] // s
    return np.rint(image.reshape(H, s, W, s, 3).mean((1, 3))).astype(np.uint8)


def _vote(labels: np.ndarray) -> np.ndarray:
    """The commonest label of every block; of equals, the first region in layout.REGIONS wins."""
    s = SUPERSAMPLE
    H, W = labels.shape[0] // s, labels.shape[1] // s
    blocks = labels.reshape(H, s, W, s)
    counts = np.stack([(blocks == r).sum((1, 3)) for r in range(len(REGIONS))])
    return counts.argmax(0).astype(np.uint8)


def draw_background(seed: int, size: tuple[int, int]) -> np.ndarray:
    """A soft room: gradient walls, a few blurred shapes, some lights out of focus. u8 [H, W, 3]."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng([seed, 9])
    H, W = size
    y, x = np.mgrid[0:H, 0:W] / H
    top, bottom = _muted(rng, 70, 215), _muted(rng, 45, 185)
    image = top + (bottom - top) * np.clip(y + 0.2 * (x - 0.5) * rng.normal(), 0, 1)[..., None]
    for _ in range(rng.integers(2, 7)):
        cx, cy, w, h = rng.uniform(0, W / H), rng.uniform(0, 1), rng.uniform(0.05, 0.4), rng.uniform(0.05, 0.6)
        image[(np.abs(x - cx) < w / 2) & (np.abs(y - cy) < h / 2)] = _muted(rng, 35, 225)
    image = gaussian_filter(image, (H * rng.uniform(0.01, 0.04),) * 2 + (0,))
    for _ in range(rng.integers(0, 8)):
        disc = np.hypot(x - rng.uniform(0, W / H), y - rng.uniform(0, 0.7)) < rng.uniform(0.01, 0.04)
        image = np.where(gaussian_filter(disc.astype(float), H * 0.004)[..., None] > 0.5, 0.6 * image + 0.4 * rng.uniform(150, 255, 3), image)
    return np.clip(gaussian_filter(image, (H * 0.003,) * 2 + (0,)) + rng.normal(0, 1.5, (H, W, 1)), 0, 255).astype(np.uint8)


def _muted(rng, low: float, high: float) -> np.ndarray:
    """A colour of interiors: mostly grey, a little warm or cold."""
    return np.clip(rng.uniform(low, high) + rng.normal(0, 14, 3), 0, 255)
