"""Renders the background for another camera: the avatar's background picture is a flat wall behind the speaker."""

from __future__ import annotations

import numba
import numpy as np

from stereotalker.control.mipmaps import bilinear_sample
from stereotalker.records import Avatar

# Distance of the wall behind the world origin, where the speaker is, m: the wall is the plane z = -BACKGROUND_M.
BACKGROUND_M = 1.2

# Smallest homogeneous divisor of a pixel, as a fraction of that at the picture's middle. A ray below it hardly meets
# the wall, or not at all, and is clamped to it.
_MIN_DIVISOR = 1e-3


def background_plate(
    avatar: Avatar,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
    size: tuple[int, int],
    wall: np.ndarray | None = None,
) -> np.ndarray:
    """The background seen by a camera, as a wall BACKGROUND_M behind the speaker, u8 [H, W, 3] sRGB.

    Beyond its edges the wall is mirrored. intrinsics [3, 3] px; extrinsics [3 or 4, 4] world -> camera, m; size
    (height, width) px of the result. wall: the avatar's background at another size, u8 [h, w, 3]; None: the avatar's
    own.
    """
    wall = avatar.background if wall is None else wall
    scale = np.array([*wall.shape[1::-1], 1]) / np.array([*avatar.portrait.shape[1::-1], 1])
    camera_to_wall_pixels = (
        scale[:, None]
        * _wall_to_pixels(avatar.intrinsics, avatar.extrinsics)
        @ np.linalg.inv(_wall_to_pixels(intrinsics, extrinsics))
    )
    out = np.zeros((*size, 3), np.uint8)
    _warp_by_homography(np.ascontiguousarray(wall), camera_to_wall_pixels.astype(np.float64), out)
    return out


def _wall_to_pixels(intrinsics: np.ndarray, extrinsics: np.ndarray) -> np.ndarray:
    """Homography f64 [3, 3] from a point (x, y, 1) of the wall z = -BACKGROUND_M, in m, to a camera's pixels."""
    rotation, translation = extrinsics[:3, :3].astype(np.float64), extrinsics[:3, 3]
    return intrinsics @ np.stack([rotation[:, 0], rotation[:, 1], translation - BACKGROUND_M * rotation[:, 2]], 1)


@numba.njit(cache=True, nogil=True)
def _mirror(x: float, size: int) -> float:
    """Reflect a coordinate into 0..size, as if the picture were tiled with its mirror images."""
    x = abs(x) % (2.0 * size)
    return 2.0 * size - x if x > size else x


@numba.njit(cache=True, nogil=True)
def _warp_by_homography(image: np.ndarray, homography: np.ndarray, out: np.ndarray) -> None:
    """Fill out u8 [H, W, 3] from an image u8 [h, w, 3]. homography f64 [3, 3]: pixels of `out` -> pixels of `image`."""
    H, W = image.shape[0], image.shape[1]
    images = image.reshape(1, H, W, 3)
    middle_divisor = homography[2, 0] * out.shape[1] / 2 + homography[2, 1] * out.shape[0] / 2 + homography[2, 2]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            px, py = x + 0.5, y + 0.5
            w = homography[2, 0] * px + homography[2, 1] * py + homography[2, 2]
            if w / middle_divisor < _MIN_DIVISOR:
                w = _MIN_DIVISOR * middle_divisor
            u = (homography[0, 0] * px + homography[0, 1] * py + homography[0, 2]) / w
            v = (homography[1, 0] * px + homography[1, 1] * py + homography[1, 2]) / w
            red, green, blue = bilinear_sample(images, 0, _mirror(u, W), _mirror(v, H))
            out[y, x, 0] = np.uint8(red + 0.5)
            out[y, x, 1] = np.uint8(green + 0.5)
            out[y, x, 2] = np.uint8(blue + 0.5)
