"""The texels of a body's texture atlas, and where they lie on the body.

The atlas has SIZE x SIZE texels over the body file's own texture coordinates (MakeHuman's layout on the free body,
SMPL-X's on the licensed one).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from stereotalker.body.model import Body, BodyReader, load_body
from stereotalker.geometry.rasterizer import rasterize

# Side of the texture atlas, texels.
SIZE = 512


@dataclass(frozen=True)
class Atlas:
    """Where the N texels that lie on the body are, in the atlas and on the body."""

    rows: np.ndarray  # i64 [N]
    columns: np.ndarray  # i64 [N]
    corners: np.ndarray  # i32 [N, 3] vertices of the texel's triangle
    weights: np.ndarray  # f32 [N, 3] barycentric coordinates in that triangle
    positions: np.ndarray  # f32 [N, 3] m on the mean body in the rest pose

    @property
    def nearest_vertex(self) -> np.ndarray:
        """The corner of every texel with the largest weight, i32 [N]."""
        return self.corners[np.arange(len(self.corners)), self.weights.argmax(1)]


@lru_cache(maxsize=2)
def atlas_of(path: Path, reader: BodyReader, betas: int) -> Atlas:
    """Rasterize a body file's triangles in its texture coordinates. The arguments are those of `load_body`."""
    body = load_body(path, reader, betas)
    corners = np.concatenate([texel_corners(body), np.ones((len(body.texture_coordinates), 1), np.float32)], 1)
    fragments = rasterize(corners, body.texture_faces, (SIZE, SIZE))
    rows, columns = np.nonzero(fragments.face >= 0)
    vertices, weights = body.faces[fragments.face[rows, columns]], fragments.bary[rows, columns]
    return Atlas(rows, columns, vertices, weights, (body.template[vertices] * weights[..., None]).sum(1))


def texel_corners(body: Body) -> np.ndarray:
    """The body's texture coordinates in texels, y down. f32 [N, 2]."""
    return np.stack([body.texture_coordinates[:, 0], 1 - body.texture_coordinates[:, 1]], 1) * np.float32(SIZE)
