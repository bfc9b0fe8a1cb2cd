"""Z-buffer rasterizer: which triangle each pixel shows and where in it, vertex normals, and majority pooling of labels.

The functions are compiled with numba, run in one thread and are deterministic. V vertices, F triangles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from stereotalker.smplx_layout import REGIONS

# Number of labels of a picture of regions.
LABELS = len(REGIONS)


@dataclass(frozen=True)
class Fragments:
    """One rasterized picture."""

    face: np.ndarray  # i32 [H, W], index of the triangle; -1 where there is none
    bary: np.ndarray  # f32 [H, W, 3], perspective-correct barycentric coordinates
    depth: np.ndarray  # f32 [H, W] m; infinite where there is no triangle

    def interpolate(self, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Interpolate vertex values [V, C] -> f32 [H, W, C], zero where there is no triangle. faces i32 [F, 3]."""
        return _interpolate(self.face, self.bary, faces, np.ascontiguousarray(values, np.float32))

    def vertices(self, faces: np.ndarray) -> np.ndarray:
        """The vertex nearest to each pixel in its triangle, i64 [H, W]; -1 where there is none. faces i32 [F, 3]."""
        nearest = np.take_along_axis(faces[self.face], self.bary.argmax(-1)[..., None], -1)[..., 0]
        return np.where(self.face >= 0, nearest, -1).astype(np.int64)


def rasterize(pixels: np.ndarray, faces: np.ndarray, size: tuple[int, int]) -> Fragments:
    """Draw triangles. pixels f32 [V, 3]: x px, y px, depth m; faces i32 [F, 3]; size (height, width) px.

    Pixel centers lie at +0.5. The nearest triangle is visible; of equal depths it is the one with the lower index, so
    the picture depends on its input only. Both sides of a triangle are drawn. Triangles with a corner nearer than 1 cm
    are left out.
    """
    height, width = size
    face = np.full((height, width), -1, np.int32)
    bary = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), np.inf, np.float32)
    _draw(np.ascontiguousarray(pixels, np.float32), np.ascontiguousarray(faces, np.int32), face, bary, depth)
    return Fragments(face, bary, depth)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _draw(pixels, faces, out_face, out_bary, out_depth):
    height, width = out_face.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = pixels[a, 0], pixels[a, 1], pixels[a, 2]
        bx, by, bz = pixels[b, 0] - ax, pixels[b, 1] - ay, pixels[b, 2]
        cx, cy, cz = pixels[c, 0] - ax, pixels[c, 1] - ay, pixels[c, 2]
        area = bx * cy - by * cx
        if area == 0.0 or az <= 0.01 or bz <= 0.01 or cz <= 0.01:
            continue
        x0 = max(0, int(np.floor(ax + min(0.0, bx, cx) - 0.5)))
        x1 = min(width - 1, int(np.ceil(ax + max(0.0, bx, cx) - 0.5)))
        y0 = max(0, int(np.floor(ay + min(0.0, by, cy) - 0.5)))
        y1 = min(height - 1, int(np.ceil(ay + max(0.0, by, cy) - 0.5)))
        for y in range(y0, y1 + 1):
            py = y + 0.5 - ay
            for x in range(x0, x1 + 1):
                px = x + 0.5 - ax
                v, w = px * cy - py * cx, bx * py - by * px
                # Most pixels fail here, without a division.
                if (v < 0.0 or w < 0.0) if area > 0.0 else (v > 0.0 or w > 0.0):
                    continue
                v, w = v / area, w / area
                u = 1.0 - v - w
                if u < 0.0:
                    continue
                inverse = u / az + v / bz + w / cz
                z = 1.0 / inverse
                if z < out_depth[y, x]:
                    out_depth[y, x] = z
                    out_face[y, x] = f
                    out_bary[y, x, 0] = u / az * z
                    out_bary[y, x, 1] = v / bz * z
                    out_bary[y, x, 2] = w / cz * z


@numba.njit(cache=True, nogil=True)
def _interpolate(face, bary, faces, values):
    height, width = face.shape
    out = np.zeros((height, width, values.shape[1]), np.float32)
    for y in range(height):
        for x in range(width):
            f = face[y, x]
            if f >= 0:
                for k in range(values.shape[1]):
                    out[y, x, k] = (
                        bary[y, x, 0] * values[faces[f, 0], k]
                        + bary[y, x, 1] * values[faces[f, 1], k]
                        + bary[y, x, 2] * values[faces[f, 2], k]
                    )
    return out


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals. f32 [V, 3] m, i32 [F, 3] -> f32 [V, 3]."""
    return _vertex_normals(np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32))


@numba.njit(cache=True, nogil=True)
def _vertex_normals(vertices, faces):
    normals = np.zeros_like(vertices)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for i in (a, b, c):
            normals[i, 0] += nx
            normals[i, 1] += ny
            normals[i, 2] += nz
    for i in range(normals.shape[0]):
        length = np.sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2)
        if length > 0:
            for k in range(3):
                normals[i, k] /= length
    return normals


@numba.njit(cache=True, nogil=True)
def majority_pool(regions, s):
    """The most frequent label of every block of s x s px, u8 [H, W] -> u8 [H // s, W // s].

    Labels are indices into smplx_layout.REGIONS. Of equally frequent ones the first in REGIONS is taken.
    """
    H, W = regions.shape[0] // s, regions.shape[1] // s
    out, votes = np.zeros((H, W), np.uint8), np.zeros(LABELS, np.int64)
    for y in range(H):
        for x in range(W):
            votes[:] = 0
            for i in range(s):
                for j in range(s):
                    votes[regions[y * s + i, x * s + j]] += 1
            out[y, x] = np.argmax(votes)
    return out
