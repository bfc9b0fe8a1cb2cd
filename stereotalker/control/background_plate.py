"""The background behind the speaker, seen by another camera: the portrait's own, as a wall."""

from __future__ import annotations

import numba
import numpy as np

from stereotalker.records import Avatar

BACKGROUND_M = 1.2  # how far behind the speaker the background hangs

_GRAZING = 1e-3


def background_plate(
    avatar: Avatar,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
    size: tuple[int, int],
    wall: np.ndarray | None = None,
) -> np.ndarray:
    """The background seen by a camera, as a wall BACKGROUND_M behind the speaker; edges mirror. u8 [H, W, 3].

    wall: the avatar's background at another size, u8 [h, w, 3]; None: as it is.
    """
    wall = avatar.background if wall is None else wall
    shrunk = np.array([*wall.shape[1::-1], 1]) / np.array([*avatar.background.shape[1::-1], 1])
    turn = (
        shrunk[:, None]
        * _wall_to_pixels(avatar.intrinsics, avatar.extrinsics)
        @ np.linalg.inv(_wall_to_pixels(intrinsics, extrinsics))
    )
    out = np.zeros((*size, 3), np.uint8)
    _homography(wall, turn.astype(np.float64), out)
    return out


def _wall_to_pixels(intrinsics: np.ndarray, extrinsics: np.ndarray) -> np.ndarray:
    """Homography [3, 3] from a point (x, y, 1) of the wall z = -BACKGROUND_M, in m, to pixels."""
    rotation, shift = extrinsics[:3, :3].astype(np.float64), extrinsics[:3, 3]
    return intrinsics @ np.stack([rotation[:, 0], rotation[:, 1], shift - BACKGROUND_M * rotation[:, 2]], 1)


@numba.njit(cache=True)
def sample(image, x, y, out):
    """Bilinear sample at pixel-centre coordinates, edges clamped."""
    H, W = image.shape[0], image.shape[1]
    x = min(max(x - 0.5, 0.0), W - 1.001)
    y = min(max(y - 0.5, 0.0), H - 1.001)
    c, r = int(x), int(y)
    fx, fy = x - c, y - r
    for k in range(3):
        top = image[r, c, k] * (1 - fx) + image[r, c + 1, k] * fx
        bottom = image[r + 1, c, k] * (1 - fx) + image[r + 1, c + 1, k] * fx
        out[k] = top * (1 - fy) + bottom * fy


@numba.njit(cache=True)
def _mirror(x, size):
    x = abs(x) % (2.0 * size)
    return 2.0 * size - x if x > size else x


@numba.njit(cache=True)
def _homography(image, turn, out):
    H, W = image.shape[0], image.shape[1]
    colour = np.zeros(3)
    ahead = turn[2, 0] * out.shape[1] / 2 + turn[2, 1] * out.shape[0] / 2 + turn[2, 2]  # of the picture's middle
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            px, py = x + 0.5, y + 0.5
            w = turn[2, 0] * px + turn[2, 1] * py + turn[2, 2]
            if w / ahead < _GRAZING:  # a ray that hardly meets the wall, or not at all
                w = _GRAZING * ahead
            u = (turn[0, 0] * px + turn[0, 1] * py + turn[0, 2]) / w
            v = (turn[1, 0] * px + turn[1, 1] * py + turn[1, 2]) / w
            sample(image, _mirror(u, W), _mirror(v, H), colour)
            for k in range(3):
                out[y, x, k] = np.uint8(colour[k] + 0.5)
