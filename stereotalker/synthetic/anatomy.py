"""Places and vertex weights on the mean body, which all synthetic people share. Computed once for a body file.

Canonical coordinates are those of the mean shape in its rest pose: x to the person's left, y up, z to the front, in
meters. The eyes are at y 0.888, the mouth at 0.814, the chin at 0.77, the base of the neck near 0.70, the crown at
1.004; the shoulders are near x 0.18 y 0.64, the pit of the neck at y 0.70 z 0.085, the wrists at x 0.71. The modules of
this package draw at such places on the mean body; the drawing reaches a person by the binding of its vertices.
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

HEAD = np.array([0.0, 0.885, 0.060])  # middle of the skull, canonical m
EYE = np.array([0.0312, 0.888, 0.150])  # iris of the left eye, canonical m
FLOOR_Y = -0.03  # canonical height (m) below which nothing shows in a half-body picture


@dataclass(frozen=True)
class Anatomy:
    """Vertex sets and weights of a body. V vertices, F' skin triangles."""

    body: Body
    skin: np.ndarray  # bool [V], vertices of the skin, not of eyes, teeth, tongue or lash ribbons
    faces: np.ndarray  # i32 [F', 3]: skin triangles above FLOOR_Y
    hand: np.ndarray  # f32 [V], skinning weights of wrists and fingers
    head: np.ndarray  # f32 [V], of head and jaw
    torso: np.ndarray  # f32 [V], of pelvis, spine, collars and neck
    mean: csr_matrix  # [V, V], row v averages the neighbors of vertex v
    crown: int  # index of the highest vertex, which no expression moves

    def smooth(self, vertices: np.ndarray, amount: np.ndarray, rounds: int) -> np.ndarray:
        """Laplacian smoothing of vertices [V, 3], with the strength amount [V] in 0..1 at each vertex; f64 [V, 3]."""
        rows = np.flatnonzero(amount > 0)
        mean, out, step = self.mean[rows], vertices.astype(np.float64), 0.6 * amount[rows, None]
        for _ in range(rounds):
            out[rows] += step * (mean @ out - out[rows])
        return out

    def normals(self, vertices: np.ndarray) -> np.ndarray:
        """Unit normals f32 [V, 3] of vertices [V, 3] m."""
        return vertex_normals(vertices, self.body.faces)


def anatomy(body: Body) -> Anatomy:
    """The anatomy of a body file; computed once for each."""
    return _anatomy(body.path, body.reader, body.betas)


@lru_cache(maxsize=2)
def _anatomy(path, reader, betas) -> Anatomy:
    body = load_body(path, reader, betas)
    skin = body.part == PARTS["body"][0]
    faces = body.faces[skin[body.faces].all(1) & (body.template[body.faces][:, :, 1] > FLOOR_Y).any(1)]

    def joint_weight(names):
        return body.weights[:, [JOINT[n] for n in names]].sum(1)

    hand = [n for n in JOINTS if n.endswith("wrist") or n[-1] in "123" and n.startswith(("left", "right"))]
    pairs = np.concatenate([body.faces[:, [0, 1]], body.faces[:, [1, 2]], body.faces[:, [2, 0]]])
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    links = csr_matrix((np.ones(len(pairs)), pairs.T), shape=(len(skin),) * 2)
    degree = np.maximum(np.asarray(links.sum(1)).ravel(), 1)
    mean = csr_matrix(
        (links.data / np.repeat(degree, np.diff(links.indptr)), links.indices, links.indptr), shape=links.shape
    )
    head = joint_weight(("head", "jaw"))
    return Anatomy(
        body=body, skin=skin, faces=faces, hand=joint_weight(hand), head=head, mean=mean,
        torso=joint_weight(("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar", "neck")),
        crown=int(np.argmax(body.template[:, 1] * skin)),
    )  # fmt: skip


def noise(points: np.ndarray, frequency: float | tuple[float, float, float], seed: int, waves: int = 8) -> np.ndarray:
    """Smooth noise with values of about -1..1: a sum of plane waves of random directions. Deterministic in `seed`.

    points [N, 3] m -> f32 [N]. frequency in rad/m, one for all axes or one for each.
    """
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(waves, 3))
    directions *= rng.uniform(0.6, 1.6, (waves, 1)) / np.linalg.norm(directions, axis=1, keepdims=True)
    wave_vectors = (directions * frequency).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, waves).astype(np.float32)
    return np.sin(points.astype(np.float32) @ wave_vectors.T + phases).sum(1) * np.float32(0.95 / np.sqrt(waves))


def ramp(value: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Smooth step: 0 at start, 1 at stop. start may lie above stop."""
    t = np.clip((value - start) / (stop - start), 0, 1)
    return t * t * (3 - 2 * t)


def bump(distance: np.ndarray, width: float) -> np.ndarray:
    """A Gaussian: 1 at distance 0, 1/e at `width`."""
    return np.exp(-((distance / width) ** 2))
