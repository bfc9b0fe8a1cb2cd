"""The portrait's light, read off the portrait: how much brighter a surface is that faces here rather than there, and what the body's shadow takes.

The logarithm of a pixel's lightness is that of its region plus a line in its normal, fitted robustly over all that the portrait shows, whatever
the regions' colours. The line rises towards the strongest lamp, whose shadow of the body is one more term; where the lamp stands is
searched around that direction. V vertices, F faces, N pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from stereotalker.body.camera import orthographic
from stereotalker.body.raster import Fragments, rasterize, vertex_normals

_MOST = 8000  # pixels that are asked
_ROUNDS = 4  # of weights by residuals
_HUBER = 0.1  # of the logarithm: what differs more is a pattern or an eye
_RIDGE, _SHADOW_RIDGE = (0.01, 0.01, 0.01), 0.004  # of all pixels' weight: a portrait whose normals hardly differ tells no light
_FLAT = 0.02  # a slope that tells no lamp
_LEVEL = 4.0  # of 255: darker pixels are as light as this
_DIMMEST = 0.5  # so little light there may be, and its inverse so much
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_RINGS, _AROUND = (24.0, 12.0, 6.0), 8  # degrees off the best direction so far, and directions of a ring
_SIDE, _EXTENT_M = 200, 1.3  # texels and extent of the shadow map
_BEHIND_M = 0.015  # so far behind the map a place lies in shadow


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
class Light:
    """World axes."""

    slope: np.ndarray  # f32 [3] of the logarithm of brightness, along the normal
    lamp: np.ndarray  # f64 [3] unit, towards the strongest lamp
    shade: float  # what the lamp's whole shadow adds to the logarithm, at most 0
    target: np.ndarray  # f32 [3] m, the middle of where shadows fall

    def on(self, surface: Surface) -> np.ndarray:
        """How bright it makes a body, f32 [V] around 1."""
        logarithm = surface.normals @ self.slope
        if self.shade:
            logarithm += self.shade * _shadow(surface, self.lamp, self.target)
        return np.exp(np.clip(logarithm, np.log(_DIMMEST), -np.log(_DIMMEST))).astype(np.float32)


def read_light(portrait: np.ndarray, groups: np.ndarray, tells: np.ndarray, surface: Surface, picture: Fragments, target: np.ndarray) -> Light:
    """The light of a portrait u8 [H, W, 3]; where none of its pixels tells, light from everywhere.

    groups u8 [H, W]: what has colours of its own; tells bool [H, W]; picture: the surface as the portrait shows it; target f32 [3] m: its middle. 0.2 s.
    """
    at = np.flatnonzero(tells)
    at = at[:: max(1, -(-len(at) // _MOST))]
    corners, shares = surface.faces[picture.face.ravel()[at]], picture.bary.reshape(-1, 3)[at]
    lightness = np.log(np.maximum(portrait.reshape(-1, 3)[at] @ _LUMA, _LEVEL))
    own = np.unique(groups.ravel()[at], return_inverse=True)[1]

    def seen(values: np.ndarray) -> np.ndarray:
        """Of vertices [V, K], at the pixels [N, K]."""
        return (values[corners] * shares[..., None]).sum(1)

    facing = seen(surface.normals)
    slope, _ = _fit(facing, lightness, own, _RIDGE)
    steep = np.linalg.norm(slope)
    plain = Light(slope, slope / max(steep, 1e-6), 0.0, target)
    if steep < _FLAT:
        return plain

    def with_shadow(lamp: np.ndarray) -> tuple[float, Light]:
        hidden = seen(_shadow(surface, lamp, target)[:, None])
        found, loss = _fit(np.concatenate([facing, hidden], 1), lightness, own, (*_RIDGE, _SHADOW_RIDGE))
        return (loss, Light(found[:3], lamp, float(found[3]), target)) if found[3] < 0 else (np.inf, plain)

    best = with_shadow(plain.lamp)
    for off in _RINGS:
        best = min([best, *(with_shadow(lamp) for lamp in _ring(best[1].lamp, off))], key=lambda tried: tried[0])
    return best[1]


def _fit(basis: np.ndarray, lightness: np.ndarray, own: np.ndarray, ridge: tuple[float, ...]) -> tuple[np.ndarray, float]:
    """Coefficients f32 [K] of columns [N, K] that tell lightness [N] beside its group's own, and the mean Huber loss."""
    weight, off = np.ones(len(lightness)), np.zeros(1)
    for _ in range(_ROUNDS):
        count = np.maximum(np.bincount(own, weight), 1e-9)
        columns = np.column_stack([basis, lightness])
        columns = columns - np.stack([np.bincount(own, weight * column) / count for column in columns.T], 1)[own]
        products = (columns * weight[:, None]).T @ columns
        found = np.linalg.solve(products[:-1, :-1] + np.diag(ridge) * max(weight.sum(), 1.0), products[:-1, -1])
        off = np.abs(columns[:, -1] - columns[:, :-1] @ found)
        weight = np.minimum(1, _HUBER / np.maximum(off, 1e-6))
    return found.astype(np.float32), float(np.where(off < _HUBER, off**2 / 2, _HUBER * (off - _HUBER / 2)).sum())


def _ring(middle: np.ndarray, degrees: float) -> list[np.ndarray]:
    """Unit vectors all around one [3], so far off it."""
    side = np.cross(middle, np.eye(3)[np.abs(middle).argmin()])
    side /= np.linalg.norm(side)
    off, turns = np.radians(degrees), 2 * np.pi * np.arange(_AROUND) / _AROUND
    return [np.cos(off) * middle + np.sin(off) * (np.cos(turn) * side + np.sin(turn) * np.cross(middle, side)) for turn in turns]


def _shadow(surface: Surface, lamp: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The share of a lamp's light that the body itself takes from its vertices, f32 [V]: 1 where what squarely faces the lamp is hidden from it."""
    flat = orthographic(surface.vertices, lamp, target, _EXTENT_M, _SIDE)[2]
    depth = rasterize(flat, surface.faces, (_SIDE, _SIDE)).depth
    return _hidden(flat, depth) * np.maximum(surface.normals @ lamp, 0).astype(np.float32)


@numba.njit(cache=True)
def _hidden(flat, depth):
    """Share of the 3 x 3 texels around each place f32 [V, 3] that lie before it, f32 [V]; 0 outside the map."""
    side, out = depth.shape[0], np.zeros(len(flat), np.float32)
    for v in range(len(flat)):
        column, row = int(flat[v, 0]), int(flat[v, 1])
        if 1 <= column < side - 1 and 1 <= row < side - 1:
            for i in range(-1, 2):
                for j in range(-1, 2):
                    out[v] += (flat[v, 2] > depth[row + i, column + j] + _BEHIND_M) / 9
    return out
