"""Estimates the light of a portrait: how shading depends on a surface's normal, and how dark the body's own shadow is.

The model is first-order spherical harmonics (Ramamoorthi and Hanrahan 2001) in the logarithm: the log luma of a pixel
(of sRGB values, not of linear light) is a constant of its color group plus a linear function of the normal. It is
fitted by iteratively reweighted least squares. The linear function rises towards the key light. The shadow that the
key light casts (a shadow map, Williams 1978) is one more term; its direction is searched around that of the rise, for
the shadow that explains the portrait best. V: vertices, F: faces, N: pixels, K: coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np

from stereotalker.geometry.camera import orthographic_view, project_orthographic
from stereotalker.geometry.rasterizer import Fragments, rasterize, vertex_normals

# Largest number of pixels that are fitted; a portrait with more is sampled at regular steps.
_MAX_PIXELS = 8000
# Iterations of the reweighted least squares.
_IRLS_ITERATIONS = 4
# Threshold of the Huber loss in log luma. A larger residual is a pattern of the cloth or an eye, and counts less.
_HUBER_DELTA = 0.1
# Ridge regularization of the normal's and of the shadow's coefficients, as a fraction of the summed weight of all
# pixels. Without it, a portrait whose normals hardly differ would give an arbitrary light.
_NORMAL_RIDGE = (0.01, 0.01, 0.01)
_SHADOW_RIDGE = 0.004
# Length of the slope (log shading per unit normal) below which there is no key light whose shadow could be searched.
_MIN_SLOPE = 0.02
# Smallest luma, of 255. Darker pixels count as this, which bounds the logarithm.
_MIN_LUMA = 4.0
# Smallest shading factor. Its inverse is the largest.
_MIN_SHADING = 0.5
# Luma of R'G'B' by ITU-R BT.601.
_LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)
# Share of the loss that a shadow must explain to count in full. Soft light casts hardly any, and folds look like some:
# its edge would then wander over the cloth as an arm moves.
_SURE_OF_SHADOW = 0.2
# The search for the key light tries this many directions on a ring around the best one so far; radii of the rings,
# degrees.
_SEARCH_RADII_DEG = (24.0, 12.0, 6.0)
_SEARCH_DIRECTIONS = 8
# Side of the shadow map in texels, and in m. Outside of it nothing casts or receives a shadow.
_SHADOW_MAP_SIDE = 240
_SHADOW_MAP_EXTENT_M = 1.6
# A vertex is looked up in the shadow map this far along its normal; at 0, surfaces at grazing light shadow themselves.
_NORMAL_OFFSET_M = 0.005
# Depth behind the shadow map's surface at which half of the light is gone, and the depth range over which it fades.
_DEPTH_BIAS_M = 0.012
_FADE_RANGE_M = 0.01


@dataclass(frozen=True)
class Surface:
    """A posed mesh: vertices f32 [V, 3] m, their unit normals f32 [V, 3], and triangles i32 [F, 3]."""

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray

    @classmethod
    def of(cls, vertices: np.ndarray, faces: np.ndarray) -> Surface:
        """A surface with area-weighted vertex normals."""
        return cls(vertices, vertex_normals(vertices, faces), faces)


@dataclass(frozen=True)
class PortraitLight:
    """The light of a portrait, in world axes. With slope and shadow 0 it comes equally from all directions."""

    slope: np.ndarray  # f32 [3] gradient of log shading with respect to the normal
    key: np.ndarray  # f64 [3] unit vector towards the key light
    shadow: float  # what a full shadow of the key light adds to log shading, at most 0
    target: np.ndarray  # f32 [3] m, center of the shadow map

    def shading(self, surface: Surface) -> np.ndarray:
        """The factor by which the light multiplies the surface's colors, f32 [V], around 1."""
        log_shading = surface.normals @ self.slope
        if self.shadow:
            log_shading += self.shadow * _vertex_shadow(surface, self.key, self.target)
        return _shading_factor(log_shading).astype(np.float32)

    def change(self, before: np.ndarray, after: np.ndarray) -> float:
        """The factor by which the shading of a point outside of any shadow changes when its normal [3] changes."""
        return float(_shading_factor((after - before) @ self.slope))


def read_light(
    portrait: np.ndarray,
    groups: np.ndarray,
    valid: np.ndarray,
    surface: Surface,
    fragments: Fragments,
    target: np.ndarray,
) -> PortraitLight:
    """Estimate the light of a portrait u8 [H, W, 3] sRGB. Takes 0.2 s.

    groups u8 [H, W]: color group of every pixel, for example its region; each group has its own unknown brightness.
    valid bool [H, W]: pixels that may be used, if they show the surface; without any, the light comes equally from all
    directions. fragments: the surface rasterized in the portrait. target f32 [3] m: the middle of the upper body.
    """
    pixels = np.flatnonzero(valid & (fragments.face >= 0))
    pixels = pixels[:: max(1, -(-len(pixels) // _MAX_PIXELS))]
    corners, weights = surface.faces[fragments.face.ravel()[pixels]], fragments.bary.reshape(-1, 3)[pixels]
    log_luma = np.log(np.maximum(portrait.reshape(-1, 3)[pixels] @ _LUMA_WEIGHTS, _MIN_LUMA))
    group = np.unique(groups.ravel()[pixels], return_inverse=True)[1]

    def at_pixels(values: np.ndarray) -> np.ndarray:
        """Interpolate values of vertices [V, C] at the pixels, [N, C]."""
        return (values[corners] * weights[..., None]).sum(1)

    normals = at_pixels(surface.normals)
    slope, loss_without_shadow = _fit_log_luma(normals, log_luma, group, _NORMAL_RIDGE)
    steepness = np.linalg.norm(slope)
    without_shadow = PortraitLight(slope, slope.astype(np.float64) / max(float(steepness), 1e-6), 0.0, target)
    if steepness < _MIN_SLOPE:
        return without_shadow

    def fit_with_shadow(key: np.ndarray) -> tuple[float, PortraitLight]:
        """The loss and the light of a fit whose shadow comes from a key light f64 [3].

        A fit whose shadow brightens is impossible and has an infinite loss.
        """
        shadow = at_pixels(_vertex_shadow(surface, key, target)[:, None])
        coefficients, loss = _fit_log_luma(
            np.concatenate([normals, shadow], 1), log_luma, group, (*_NORMAL_RIDGE, _SHADOW_RIDGE)
        )
        if coefficients[3] < 0:
            return loss, PortraitLight(coefficients[:3], key, float(coefficients[3]), target)
        return np.inf, without_shadow

    best = fit_with_shadow(without_shadow.key)
    for radius_deg in _SEARCH_RADII_DEG:
        candidates = [fit_with_shadow(key) for key in _directions_around(best[1].key, radius_deg)]
        best = min([best, *candidates], key=lambda candidate: candidate[0])
    loss, light = best
    explained = 1 - loss / max(loss_without_shadow, 1e-9) if np.isfinite(loss) else 0.0
    certainty = float(np.clip(explained / _SURE_OF_SHADOW, 0, 1))
    mixed_slope = (slope + certainty * (light.slope - slope)).astype(np.float32)
    return replace(light, slope=mixed_slope, shadow=certainty * light.shadow)


def _shading_factor(log_shading: np.ndarray) -> np.ndarray:
    """Shading as a factor, limited to _MIN_SHADING and its inverse."""
    return np.exp(np.clip(log_shading, np.log(_MIN_SHADING), -np.log(_MIN_SHADING)))


def _fit_log_luma(
    basis: np.ndarray, log_luma: np.ndarray, group: np.ndarray, ridge: tuple[float, ...]
) -> tuple[np.ndarray, float]:
    """Fit log luma [N] by a basis [N, K] and one constant per group [N]. ridge [K]: regularization, see _NORMAL_RIDGE.

    Returns the coefficients of the basis, f32 [K], and the summed Huber loss.
    """
    weight, residual = np.ones(len(log_luma)), np.zeros(1)
    for _ in range(_IRLS_ITERATIONS):
        # The constants of the groups drop out when each column has its weighted mean of the group subtracted.
        group_weight = np.maximum(np.bincount(group, weight), 1e-9)
        columns = np.column_stack([basis, log_luma])
        group_means = np.stack([np.bincount(group, weight * column) / group_weight for column in columns.T], 1)
        columns = columns - group_means[group]
        products = (columns * weight[:, None]).T @ columns
        regularization = np.diag(ridge) * max(weight.sum(), 1.0)
        coefficients = np.linalg.solve(products[:-1, :-1] + regularization, products[:-1, -1])
        residual = np.abs(columns[:, -1] - columns[:, :-1] @ coefficients)
        weight = np.minimum(1, _HUBER_DELTA / np.maximum(residual, 1e-6))
    huber = np.where(residual < _HUBER_DELTA, residual**2 / 2, _HUBER_DELTA * (residual - _HUBER_DELTA / 2))
    return coefficients.astype(np.float32), float(huber.sum())


def _directions_around(center: np.ndarray, radius_deg: float) -> list[np.ndarray]:
    """Unit vectors f64 [3] on a ring around a unit vector [3], each this angle away from it."""
    side = np.cross(center, np.eye(3)[np.abs(center).argmin()])
    side /= np.linalg.norm(side)
    angle, turns = np.radians(radius_deg), 2 * np.pi * np.arange(_SEARCH_DIRECTIONS) / _SEARCH_DIRECTIONS
    return [
        np.cos(angle) * center + np.sin(angle) * (np.cos(turn) * side + np.sin(turn) * np.cross(center, side))
        for turn in turns
    ]


def _vertex_shadow(surface: Surface, key: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The share of the key light that the body itself blocks from its vertices, f32 [V].

    It is 1 for a blocked vertex that faces the light squarely, and falls with the cosine of the angle of incidence.
    """
    axes, low, pixels = orthographic_view(surface.vertices, key, target, _SHADOW_MAP_EXTENT_M, _SHADOW_MAP_SIDE)
    depth = rasterize(pixels, surface.faces, (_SHADOW_MAP_SIDE, _SHADOW_MAP_SIDE)).depth
    offset_vertices = surface.vertices + np.float32(_NORMAL_OFFSET_M) * surface.normals
    places = project_orthographic(offset_vertices, axes, low, _SHADOW_MAP_SIDE / _SHADOW_MAP_EXTENT_M)
    return _occlusion(places, depth) * np.maximum(surface.normals @ key, 0).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _occlusion(places: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """How much of the shadow map lies in front of a place, f32 [V] in 0..1, by percentage-closer filtering.

    places f32 [V, 3]: x and y in texels, depth m; depth f32 [S, S] m. The filter (Reeves et al. 1987) is a box of 3 x
    3 texels, centered on the place itself and not on a texel, so that the result changes smoothly as things move.
    """
    side, out = depth.shape[0], np.zeros(len(places), np.float32)
    for v in range(len(places)):
        column, row = int(np.floor(places[v, 0] - 0.5)), int(np.floor(places[v, 1] - 0.5))
        if column < 1 or row < 1 or column >= side - 2 or row >= side - 2:
            continue
        fraction_x, fraction_y = places[v, 0] - 0.5 - column, places[v, 1] - 0.5 - row
        for i in range(-1, 3):
            weight_y = 1 - fraction_y if i == -1 else fraction_y if i == 2 else 1.0
            for j in range(-1, 3):
                weight = weight_y * (1 - fraction_x if j == -1 else fraction_x if j == 2 else 1.0)
                gap = places[v, 2] - depth[row + i, column + j] - _DEPTH_BIAS_M
                out[v] += weight * min(max(gap / _FADE_RANGE_M + 0.5, 0.0), 1.0) / 9
    return out
