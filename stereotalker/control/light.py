"""The portrait's light, read off the portrait: how a surface's shading changes with where it faces, and what the body's own shadow takes.

First-order spherical harmonics (Ramamoorthi and Hanrahan 2001) in the logarithm: a pixel's log luma (of sRGB values, not of linear light) is its
region's own plus a line in the normal, fitted by iteratively reweighted least squares. The line rises towards the key light; the shadow that
this one casts (a shadow map, Williams 1978) is one term more, and where it stands is searched around that direction, by which shadow
explains the portrait best. V vertices, F faces, N pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from stereotalker.geometry.camera import flatten, orthographic
from stereotalker.geometry.rasterizer import Fragments, rasterize, vertex_normals

_MOST = 8000  # pixels that are asked
_ROUNDS = 4  # of weights by residuals
_HUBER = 0.1  # of log luma: what differs more is a pattern or an eye
_RIDGE, _SHADOW_RIDGE = (
    (0.01, 0.01, 0.01),
    0.004,
)  # of all pixels' weight: a portrait whose normals hardly differ tells no light
_FLAT = 0.02  # a slope that tells no key light
_DARKEST = 4.0  # of 255: darker pixels count as this
_DIMMEST = 0.5  # the least shading, and its inverse the most
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_RINGS, _AROUND = (24.0, 12.0, 6.0), 8  # degrees off the best direction so far, and directions of a ring
_SIDE, _EXTENT_M = 240, 1.6  # texels and extent of the shadow map; outside it nothing casts or takes a shadow
_OFFSET_M = 0.005  # along the normal, where a vertex is looked up, or surfaces at grazing light shade themselves
_BIAS_M, _SOFT_M = 0.012, 0.01  # behind the map's depth: where half of the light is gone, and over what depth it goes


@dataclass(frozen=True)
class Surface:
    """A posed body: vertices f32 [V, 3] m, their normals f32 [V, 3], faces i32 [F, 3]."""

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray

    @classmethod
    def of(cls, vertices: np.ndarray, faces: np.ndarray) -> Surface:
        return cls(vertices, vertex_normals(vertices, faces), faces)


@dataclass(frozen=True)
class PortraitLight:
    """How a portrait is lit; world axes, all zeros but the target: from everywhere."""

    slope: np.ndarray  # f32 [3] of log shading, along the normal
    key: np.ndarray  # f64 [3] unit, towards the key light
    shadow: float  # what the key light's whole shadow adds to log shading, at most 0
    target: np.ndarray  # f32 [3] m, the middle of the shadow map

    def shading(self, surface: Surface) -> np.ndarray:
        """By what the light multiplies the surface's colours, f32 [V] around 1."""
        shades = surface.normals @ self.slope
        if self.shadow:
            shades += self.shadow * _shadowed(surface, self.key, self.target)
        return _bounded(shades).astype(np.float32)

    def change(self, before: np.ndarray, after: np.ndarray) -> float:
        """By what the shading of an unshadowed place changes whose normal [3] changes."""
        return float(_bounded((after - before) @ self.slope))


def read_light(
    portrait: np.ndarray,
    groups: np.ndarray,
    valid: np.ndarray,
    surface: Surface,
    picture: Fragments,
    target: np.ndarray,
) -> PortraitLight:
    """The light of a portrait u8 [H, W, 3]; from everywhere, where no pixel tells. Takes 0.2 s.

    groups u8 [H, W]: what has colours of its own; valid bool [H, W]: pixels that may tell, of those where the surface is; picture: the
    surface as the portrait shows it; target f32 [3] m: the middle of the upper body.
    """
    at = np.flatnonzero(valid & (picture.face >= 0))
    at = at[:: max(1, -(-len(at) // _MOST))]
    corners, shares = surface.faces[picture.face.ravel()[at]], picture.bary.reshape(-1, 3)[at]
    log_luma = np.log(np.maximum(portrait.reshape(-1, 3)[at] @ _LUMA, _DARKEST))
    group = np.unique(groups.ravel()[at], return_inverse=True)[1]

    def seen(values: np.ndarray) -> np.ndarray:
        """Of vertices [V, K], at the pixels [N, K]."""
        return (values[corners] * shares[..., None]).sum(1)

    normals = seen(surface.normals)
    slope, _ = _fit(normals, log_luma, group, _RIDGE)
    steep = np.linalg.norm(slope)
    plain = PortraitLight(slope, slope.astype(np.float64) / max(steep, 1e-6), 0.0, target)
    if steep < _FLAT:
        return plain

    def with_shadow(key: np.ndarray) -> tuple[float, PortraitLight]:
        shadowed = seen(_shadowed(surface, key, target)[:, None])
        found, loss = _fit(np.concatenate([normals, shadowed], 1), log_luma, group, (*_RIDGE, _SHADOW_RIDGE))
        return (loss, PortraitLight(found[:3], key, float(found[3]), target)) if found[3] < 0 else (np.inf, plain)

    best = with_shadow(plain.key)
    for degrees in _RINGS:
        best = min([best, *(with_shadow(key) for key in _ring(best[1].key, degrees))], key=lambda tried: tried[0])
    return best[1]


def _bounded(log_shading: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(log_shading, np.log(_DIMMEST), -np.log(_DIMMEST)))


def _fit(
    basis: np.ndarray, log_luma: np.ndarray, group: np.ndarray, ridge: tuple[float, ...]
) -> tuple[np.ndarray, float]:
    """Coefficients f32 [K] of columns [N, K] that tell log luma [N] beside its group's own, and the summed Huber loss."""
    weight, residual = np.ones(len(log_luma)), np.zeros(1)
    for _ in range(_ROUNDS):
        count = np.maximum(np.bincount(group, weight), 1e-9)
        columns = np.column_stack([basis, log_luma])
        columns = columns - np.stack([np.bincount(group, weight * column) / count for column in columns.T], 1)[group]
        products = (columns * weight[:, None]).T @ columns
        found = np.linalg.solve(products[:-1, :-1] + np.diag(ridge) * max(weight.sum(), 1.0), products[:-1, -1])
        residual = np.abs(columns[:, -1] - columns[:, :-1] @ found)
        weight = np.minimum(1, _HUBER / np.maximum(residual, 1e-6))
    return found.astype(np.float32), float(
        np.where(residual < _HUBER, residual**2 / 2, _HUBER * (residual - _HUBER / 2)).sum()
    )


def _ring(middle: np.ndarray, degrees: float) -> list[np.ndarray]:
    """Unit vectors all around one [3], so far off it."""
    side = np.cross(middle, np.eye(3)[np.abs(middle).argmin()])
    side /= np.linalg.norm(side)
    angle, turns = np.radians(degrees), 2 * np.pi * np.arange(_AROUND) / _AROUND
    return [
        np.cos(angle) * middle + np.sin(angle) * (np.cos(turn) * side + np.sin(turn) * np.cross(middle, side))
        for turn in turns
    ]


def _shadowed(surface: Surface, key: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The share of the key light that the body itself takes from its vertices, f32 [V]: 1 where what squarely faces the light is hidden from it."""
    axes, low, flat = orthographic(surface.vertices, key, target, _EXTENT_M, _SIDE)
    depth = rasterize(flat, surface.faces, (_SIDE, _SIDE)).depth
    looked_up = flatten(surface.vertices + np.float32(_OFFSET_M) * surface.normals, axes, low, _SIDE / _EXTENT_M)
    return _hidden(looked_up, depth) * np.maximum(surface.normals @ key, 0).astype(np.float32)


@numba.njit(cache=True)
def _hidden(places, depth):
    """How much of a box of 3 texels around each place f32 [V, 3], set to the fraction of a texel, lies before it, f32 [V] (percentage-closer
    filtering, Reeves et al. 1987): it changes smoothly as things move."""
    side, out = depth.shape[0], np.zeros(len(places), np.float32)
    for v in range(len(places)):
        column, row = int(np.floor(places[v, 0] - 0.5)), int(np.floor(places[v, 1] - 0.5))
        if column < 1 or row < 1 or column >= side - 2 or row >= side - 2:
            continue
        right, below = places[v, 0] - 0.5 - column, places[v, 1] - 0.5 - row
        for i in range(-1, 3):
            across = 1 - below if i == -1 else below if i == 2 else 1.0
            for j in range(-1, 3):
                share = across * (1 - right if j == -1 else right if j == 2 else 1.0)
                gap = places[v, 2] - depth[row + i, column + j] - _BIAS_M
                out[v] += share * min(max(gap / _SOFT_M + 0.5, 0.0), 1.0) / 9
    return out
