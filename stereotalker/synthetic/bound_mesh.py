"""Meshes whose points are bound to vertices of the body, and the few operations that cut such meshes.

A posed point is S @ vertices + (S @ turn) @ offset, where S is a sparse row of weights over body vertices and offset is
in the rest pose. So clothes, hair and glasses follow the skin under them, expressions included, without a simulation.

Shapes: M points, V body vertices, F triangles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, vstack

MAX_BINDING_VERTICES = 4  # body vertices that a point of a Binding depends on, at most


@dataclass(frozen=True)
class Mesh:
    """Triangles over bound points."""

    bind: csr_matrix  # [M, V] weights, rows sum to one
    offset: np.ndarray  # f64 [M, 3] m from the bound place, rest pose
    faces: np.ndarray  # i32 [F, 3]

    def canonical(self, template: np.ndarray) -> np.ndarray:
        """Where the points lie on the mean body, without their offsets: canonical points [M, 3] m."""
        return self.bind @ template

    def place(self, rest: np.ndarray) -> np.ndarray:
        """Where the points lie on a body in its rest pose, [M, 3] m. rest [V, 3] m."""
        return self.bind @ rest + self.offset


@dataclass(frozen=True)
class Binding:
    """The binding of a mesh or of strands, packed for the renderer."""

    index: np.ndarray  # i32 [M, MAX_BINDING_VERTICES], body vertices, the heaviest first
    weight: np.ndarray  # f32 [M, MAX_BINDING_VERTICES], rows sum to one; 0 for places that are not used
    offset: np.ndarray  # f32 [M, 3] m, rest pose

    def pose(self, vertices: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """Posed points f32 [M, 3] m. vertices f32 [V, 3] m and turn f32 [V, 3, 3] (rotations) are the posed body."""
        return _pose_points(self.index, self.weight, self.offset, vertices, turn)


def pack_binding(bind: csr_matrix, offset: np.ndarray) -> Binding:
    """Keep the MAX_BINDING_VERTICES heaviest vertices of each point. bind [M, V], offset [M, 3] m."""
    bind = bind.tocsr()
    M = bind.shape[0]
    index, weight = np.zeros((M, MAX_BINDING_VERTICES), np.int32), np.zeros((M, MAX_BINDING_VERTICES), np.float32)
    row = np.repeat(np.arange(M), np.diff(bind.indptr))
    order = np.lexsort((-bind.data, row))
    rank = np.arange(len(row)) - bind.indptr[row]
    kept = rank < MAX_BINDING_VERTICES
    index[row[kept], rank[kept]] = bind.indices[order][kept]
    weight[row[kept], rank[kept]] = bind.data[order][kept]
    return Binding(index, weight / weight.sum(1, keepdims=True), offset.astype(np.float32))


@numba.njit(cache=True, fastmath=False)
def _pose_points(index, weight, offset, vertices, turn):
    out = np.zeros((len(index), 3), np.float32)
    for m in range(len(index)):
        for k in range(index.shape[1]):
            w = weight[m, k]
            if w == 0.0:
                break
            v = index[m, k]
            for a in range(3):
                out[m, a] += w * (
                    vertices[v, a]
                    + turn[v, a, 0] * offset[m, 0]
                    + turn[v, a, 1] * offset[m, 1]
                    + turn[v, a, 2] * offset[m, 2]
                )
    return out


def submesh(V: int, faces: np.ndarray) -> Mesh:
    """Triangles of the body [F, 3] as a mesh without offsets. V is the number of body vertices."""
    used, local = np.unique(faces, return_inverse=True)
    bind = csr_matrix((np.ones(len(used)), (np.arange(len(used)), used)), shape=(len(used), V))
    return Mesh(bind, np.zeros((len(used), 3)), local.reshape(-1, 3).astype(np.int32))


def attach(V: int, anchors: np.ndarray, rest: np.ndarray, points: np.ndarray, faces: np.ndarray) -> Mesh:
    """A mesh of its own: every point [M, 3] m follows one body vertex, anchors [M]. rest [V, 3] m."""
    bind = csr_matrix((np.ones(len(points)), (np.arange(len(points)), anchors)), shape=(len(points), V))
    return Mesh(bind, points - rest[anchors], np.asarray(faces, np.int32))


def join_meshes(meshes: list[Mesh]) -> Mesh:
    """All meshes as one, their points and triangles in the order of the list."""
    first = np.cumsum([0] + [len(m.offset) for m in meshes])
    return Mesh(
        vstack([m.bind for m in meshes]).tocsr(), np.concatenate([m.offset for m in meshes]),
        np.concatenate([m.faces + start for m, start in zip(meshes, first, strict=False)]).astype(np.int32),
    )  # fmt: skip


def subdivide(mesh: Mesh) -> Mesh:
    """Cut every triangle into four at the middles of its edges."""
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), 1)
    unique, place = np.unique(edges, axis=0, return_inverse=True)
    M, F = len(mesh.offset), len(mesh.faces)
    ab, bc, ca = (place.reshape(3, F) + M).astype(np.int32)
    a, b, c = mesh.faces.T
    faces = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    half = np.full(len(unique), 0.5)
    return Mesh(*_with_points(mesh, unique, half), faces)


def clip(mesh: Mesh, inside: np.ndarray) -> tuple[Mesh, np.ndarray]:
    """Cut a mesh where inside [M] is 0 and keep the positive side.

    Returns the mesh, and its cut edges i32 [E, 2] as pairs of points with the inside on the left.
    """
    keep = inside[mesh.faces] > 0
    count = keep.sum(1)
    pieces = [mesh.faces[count == 3]]
    # The corners of every cut triangle are rotated so that the one that is alone on its side comes first.
    one, two = mesh.faces[count == 1], mesh.faces[count == 2]
    one = np.take_along_axis(one, (np.argmax(keep[count == 1], 1)[:, None] + np.arange(3)) % 3, 1)
    two = np.take_along_axis(two, (np.argmin(keep[count == 2], 1)[:, None] + np.arange(3)) % 3, 1)
    crossed = np.sort(np.concatenate([one[:, [0, 1]], one[:, [0, 2]], two[:, [0, 1]], two[:, [0, 2]]]), 1)
    unique, place = np.unique(crossed, axis=0, return_inverse=True)
    place = place.ravel() + len(mesh.offset)
    n, m = len(one), len(two)
    p, q, r, s = place[:n], place[n : 2 * n], place[2 * n : 2 * n + m], place[2 * n + m :]
    pieces += [np.stack([one[:, 0], p, q], 1), np.stack([r, two[:, 1], two[:, 2]], 1), np.stack([r, two[:, 2], s], 1)]
    cut = np.concatenate([np.stack([p, q], 1), np.stack([s, r], 1)])
    low, high = inside[unique[:, 0]], inside[unique[:, 1]]
    share = np.clip(high / np.where(high == low, 1, high - low), 0.02, 0.98)  # weight of the first corner
    bind, offset = _with_points(mesh, unique, share)
    faces = np.concatenate(pieces).astype(np.int32)
    used, local = np.unique(faces, return_inverse=True)
    renumber = np.zeros(len(offset), np.int32)
    renumber[used] = np.arange(len(used))
    return Mesh(bind[used], offset[used], local.reshape(-1, 3).astype(np.int32)), renumber[cut]


def rim(mesh: Mesh, cut: np.ndarray, inward: np.ndarray) -> Mesh:
    """The thickness of a hem: a strip from the cut edges [E, 2] to the same edges moved by inward [M, 3] m."""
    used, local = np.unique(cut, return_inverse=True)
    local = local.reshape(-1, 2)
    n = len(used)
    bind = vstack([mesh.bind[used], mesh.bind[used]]).tocsr()
    offset = np.concatenate([mesh.offset[used], mesh.offset[used] + inward[used]])
    a, b = local.T
    faces = np.concatenate([np.stack([a, a + n, b], 1), np.stack([b, a + n, b + n], 1)])
    return Mesh(bind, offset, faces.astype(np.int32))


def translate(mesh: Mesh, shift: np.ndarray) -> Mesh:
    """The mesh with every point moved by shift [M, 3] m in the rest pose."""
    return replace(mesh, offset=mesh.offset + shift)


def _with_points(mesh: Mesh, pairs: np.ndarray, share: np.ndarray) -> tuple[csr_matrix, np.ndarray]:
    """Bindings and offsets of the mesh's points, followed by one new point on each edge.

    pairs [E, 2] are the ends of the edges; share [E] is the weight of the first end, the second has the rest.
    """
    n = np.arange(len(pairs))
    mix = coo_matrix(
        (np.concatenate([share, 1 - share]), (np.tile(n, 2), pairs.T.ravel())), shape=(len(pairs), len(mesh.offset))
    ).tocsr()  # fmt: skip
    return vstack([mesh.bind, mix @ mesh.bind]).tocsr(), np.concatenate([mesh.offset, mix @ mesh.offset])


def tube(
    path: np.ndarray, radius: np.ndarray | float, sides: int = 6, closed: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Points [N * sides, 3] m and triangles i32 [F, 3] of a tube along path [N, 3] m.

    radius in m, one or one for each of the N places; a closed tube joins its end to its start.
    """
    N = len(path)
    tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent, [0.31, 0.83, 0.46])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(tangent, side)
    turn = np.arange(sides) * 2 * np.pi / sides
    ring = np.cos(turn)[:, None] * side[:, None] + np.sin(turn)[:, None] * up[:, None]
    points = (path[:, None] + np.broadcast_to(radius, N)[:, None, None] * ring).reshape(-1, 3)
    return points, grid_faces(N, sides, closed, True)


def grid_faces(rows: int, columns: int, around_rows: bool = False, around_columns: bool = False) -> np.ndarray:
    """Triangles i32 [F, 3] of a grid of points that are numbered row after row.

    around_rows joins the last row to the first, around_columns the last column to the first.
    """
    r, c = np.meshgrid(np.arange(rows - (not around_rows)), np.arange(columns - (not around_columns)), indexing="ij")
    r2, c2 = (r + 1) % rows, (c + 1) % columns
    a, b, d, e = (x.ravel() for x in (r * columns + c, r * columns + c2, r2 * columns + c, r2 * columns + c2))
    return np.concatenate([np.stack([a, b, d], 1), np.stack([b, e, d], 1)]).astype(np.int32)
