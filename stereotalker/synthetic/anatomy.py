"""What all people share: where things are on the mean body, and fields over its vertices. Computed once a body file.

Canonical axes: the rest pose of the mean shape; x to the person's left, y up, z front, metres. The eyes are at y 0.888, the mouth
at 0.814, the chin at 0.77, the neck's base near 0.70, the crown at 1.004.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.sparse import csr_matrix

from stereotalker.body.free_body import PARTS
from stereotalker.body.model import Body, load_body
from stereotalker.geometry.rasterizer import vertex_normals
from stereotalker.smplx_layout import JOINT, JOINTS

HEAD = np.array([0.0, 0.885, 0.060])  # middle of the skull
EYE = np.array([0.0312, 0.888, 0.150])  # the left one's iris
FLOOR_Y = -0.03  # nothing below is ever in a half-body picture


@dataclass(frozen=True)
class Anatomy:
    """V vertices of the body, F its triangles."""

    body: Body
    skin: np.ndarray  # bool [V]
    faces: np.ndarray  # i32 [F', 3]: skin triangles above FLOOR_Y
    hand: np.ndarray  # f32 [V] weights
    head: np.ndarray  # f32 [V]
    torso: np.ndarray  # f32 [V]
    mean: csr_matrix  # [V, V], row v averages its neighbours
    crown: int  # a vertex that no expression moves

    def smooth(self, vertices: np.ndarray, amount: np.ndarray, rounds: int) -> np.ndarray:
        """Laplacian smoothing of [V, 3], as strong at every vertex as amount [V] in 0..1 says."""
        part = np.flatnonzero(amount > 0)
        mean, out, step = self.mean[part], vertices.astype(np.float64), 0.6 * amount[part, None]
        for _ in range(rounds):
            out[part] += step * (mean @ out - out[part])
        return out

    def normals(self, vertices: np.ndarray) -> np.ndarray:
        return vertex_normals(vertices, self.body.faces)


def anatomy(body: Body) -> Anatomy:
    return _anatomy(body.path, body.reader, body.betas)


@lru_cache(maxsize=2)
def _anatomy(path, reader, betas) -> Anatomy:
    body = load_body(path, reader, betas)
    skin = body.part == PARTS["body"][0]
    faces = body.faces[skin[body.faces].all(1) & (body.template[body.faces][:, :, 1] > FLOOR_Y).any(1)]

    def columns(names):
        return body.weights[:, [JOINT[n] for n in names]].sum(1)

    hand = [n for n in JOINTS if n.endswith("wrist") or n[-1] in "123" and n.startswith(("left", "right"))]
    pairs = np.concatenate([body.faces[:, [0, 1]], body.faces[:, [1, 2]], body.faces[:, [2, 0]]])
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    links = csr_matrix((np.ones(len(pairs)), pairs.T), shape=(len(skin),) * 2)
    degree = np.maximum(np.asarray(links.sum(1)).ravel(), 1)
    mean = csr_matrix(
        (links.data / np.repeat(degree, np.diff(links.indptr)), links.indices, links.indptr), shape=links.shape
    )
    head = columns(("head", "jaw"))
    return Anatomy(
        body=body, skin=skin, faces=faces, hand=columns(hand), head=head, mean=mean,
        torso=columns(("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar", "neck")),
        crown=int(np.argmax(body.template[:, 1] * skin)),
    )  # fmt: skip


def noise(points: np.ndarray, frequency: float | tuple[float, float, float], seed: int, waves: int = 8) -> np.ndarray:
    """Smooth noise of about unit range: a sum of plane waves. points [N, 3] -> f32 [N]; frequency rad/m, of every axis or of all."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(waves, 3))
    directions *= rng.uniform(0.6, 1.6, (waves, 1)) / np.linalg.norm(directions, axis=1, keepdims=True)
    turns = (directions * frequency).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, waves).astype(np.float32)
    return np.sin(points.astype(np.float32) @ turns.T + phases).sum(1) * np.float32(0.95 / np.sqrt(waves))


def ramp(value: np.ndarray, start: float, stop: float) -> np.ndarray:
    """0 at start, 1 at stop, smooth between; start may lie above stop."""
    t = np.clip((value - start) / (stop - start), 0, 1)
    return t * t * (3 - 2 * t)


def bump(distance: np.ndarray, width: float) -> np.ndarray:
    """1 at distance 0, falling off as a Gaussian of the given width."""
    return np.exp(-((distance / width) ** 2))
