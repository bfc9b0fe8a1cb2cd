"""Groups of hair strands that grow from the same area, and how they are bound to the body.

Hair of the head, eyebrows, beards and lashes are all made of such groups. Shapes: S strands of a group, N points a
strand, P points of all strands together, V body vertices. Lengths in m; canonical coordinates as in synthetic.anatomy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import cKDTree

from stereotalker.synthetic.anatomy import Anatomy, ramp
from stereotalker.synthetic.bound_mesh import pack_binding
from stereotalker.synthetic.strand_rasterizer import Strands

_GREY = np.array([0.31, 0.305, 0.30])  # linear light of a white hair


@dataclass(frozen=True)
class StrandGroup:
    """Strands in the rest pose, all with the same number of points."""

    paths: np.ndarray  # f64 [S, N, 3] m, from the root to the tip
    anchors: np.ndarray  # int [S], the body vertex at each root
    radius: np.ndarray  # f64 [S, N] m
    colour: np.ndarray  # f64 [S, N, 3] linear light
    region: int  # a value of smplx_layout.REGION
    follows_chest: bool = False  # whether points below the shoulders follow the chest instead of the head


class Roots(NamedTuple):
    """Places on the skin from which strands grow."""

    points: np.ndarray  # f64 [S, 3] m, rest pose
    anchors: np.ndarray  # int [S], the body vertex nearest to each point

    def pick(self, rows: np.ndarray) -> Roots:
        """Some of the roots, by index or by mask."""
        return Roots(self.points[rows], self.anchors[rows])


@dataclass(frozen=True)
class StrandLook:
    """What the strands of a group look like."""

    radius: float | np.ndarray  # m at the root, before it varies from strand to strand
    colour: np.ndarray  # f64 [3] linear light
    grey: float  # share of white strands, 0..1
    region: int  # a value of smplx_layout.REGION


def scatter_roots(
    anatomy: Anatomy,
    rest: np.ndarray,
    inside: Callable[[np.ndarray], np.ndarray],
    count: int,
    rng: np.random.Generator,
) -> Roots:
    """Roots spread evenly over the head's skin where inside > 0.

    rest f64 [V, 3] m is the skin in its rest pose. inside maps canonical points [n, 3] to a signed distance in m,
    positive inside the area. count roots are drawn over the triangles that touch the area; those that fall outside of
    it are dropped.
    """
    template = anatomy.body.template
    faces = anatomy.faces
    distance = inside(template.astype(np.float64))
    faces = faces[(distance[faces] > -0.004).any(1) & (anatomy.head[faces].mean(1) > 0.5)]
    a, b, c = (rest[faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = np.searchsorted(np.cumsum(area) / area.sum(), (np.arange(count) + rng.random(count)) / count)
    chosen = np.minimum(chosen, len(faces) - 1)
    u, v = rng.random((2, count))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    bary = np.stack([1 - u - v, u, v], 1)
    kept = inside((template[faces[chosen]] * bary[..., None]).sum(1)) > 0
    chosen, bary = chosen[kept], bary[kept]
    points = (rest[faces[chosen]] * bary[..., None]).sum(1)
    return Roots(points, faces[chosen, bary.argmax(1)])


def make_group(
    paths: np.ndarray, anchors: np.ndarray, look: StrandLook, rng: np.random.Generator, follows_chest: bool = False
) -> StrandGroup:
    """A group of strands whose tint, radius and share of white vary from strand to strand and from root to tip.

    paths f64 [S, N, 3] m; anchors int [S].
    """
    S, N = paths.shape[:2]
    s = np.linspace(0, 1, N)
    tint = rng.lognormal(0, 0.22, (S, 1, 1)) * (0.80 + 0.35 * s)[None, :, None]
    colour = look.colour * tint
    white = (rng.random((S, 1, 1)) < look.grey) * 0.85
    colour = colour * (1 - white) + white * _GREY * tint
    radius = look.radius * (1 - 0.55 * s**3)[None] * rng.uniform(0.8, 1.25, (S, 1))
    return StrandGroup(paths, anchors, radius, np.clip(colour, 0.002, 0.9), look.region, follows_chest)


def bind_strands(groups: list[StrandGroup], anatomy: Anatomy, rest: np.ndarray) -> Strands:
    """Bind the strands of all groups to the body and join them. rest f64 [V, 3] m, the skin in its rest pose.

    The result's sky visibility is one everywhere, as long as it has not been baked.
    """
    V, template = len(rest), anatomy.body.template
    chest = np.flatnonzero(anatomy.skin & (anatomy.torso > 0.8) & (template[:, 1] > 0.35))
    tree = cKDTree(rest[chest])
    binds, offsets, counts, radius, colour, region = [], [], [], [], [], []
    for group in groups:
        S, N = group.paths.shape[:2]
        points, rows = group.paths.reshape(-1, 3), np.arange(S * N)
        root = np.repeat(group.anchors, N)
        if group.follows_chest:
            low = ramp(points[:, 1] - (rest[anatomy.crown] - template[anatomy.crown])[1], 0.80, 0.70)
            nearest = chest[tree.query(points)[1]]
            weights, columns = np.concatenate([1 - low, low]), np.concatenate([root, nearest])
            bind = csr_matrix((weights, (np.tile(rows, 2), columns)), shape=(S * N, V))
        else:
            bind = csr_matrix((np.ones(S * N), (rows, root)), shape=(S * N, V))
        binds.append(bind)
        offsets.append(points - bind @ rest)
        counts += [N] * S
        radius.append(group.radius.ravel())
        colour.append(group.colour.reshape(-1, 3))
        region.append(np.full(S * N, group.region, np.uint8))
    P = sum(len(o) for o in offsets)
    return Strands(
        binding=pack_binding(vstack(binds), np.concatenate(offsets)),
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        radius=np.concatenate(radius).astype(np.float32),
        colour=np.concatenate(colour).astype(np.float32),
        sky_visibility=np.ones(P, np.float32),
        region=np.concatenate(region),
    )
