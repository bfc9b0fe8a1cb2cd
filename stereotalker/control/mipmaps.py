"""Mip maps of the portrait and of the background (Williams 1983), so that distant cameras do not alias."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numba
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.control.background_plate import bilinear_sample
from stereotalker.records import Avatar
from stereotalker.smplx_layout import REGION

# No level but the first has a side shorter than this, px.
_MIN_SIDE = 32


class MipPair(NamedTuple):
    """Two neighboring levels of a mip map, to be mixed (trilinear sampling). Numba kernels take NamedTuples."""

    fine: np.ndarray  # u8 [h, w, 3] sRGB
    coarse: np.ndarray  # u8 [h // 2, w // 2, 3] sRGB; the same array as `fine` at the coarsest level
    blend: float  # share of the coarse level, 0..1


def levels(avatar: Avatar) -> tuple[np.ndarray, ...]:
    """The mip map of an avatar's portrait: u8 [H, W, 3], then halved again and again.

    Every background pixel takes the color of the nearest pixel of the person, so that no sample at the person's outline
    mixes in the background.
    """
    is_background = avatar.regions == REGION["background"]
    rows, columns = distance_transform_edt(is_background, return_distances=False, return_indices=True)
    return halved(avatar.portrait if is_background.all() else avatar.portrait[rows, columns])


def halved(picture: np.ndarray) -> tuple[np.ndarray, ...]:
    """The mip map of a picture u8 [H, W, 3]: the picture itself, then each level half as large as the one before."""
    pyramid = [picture]
    while min(pyramid[-1].shape[:2]) >= 2 * _MIN_SIDE:
        H, W = pyramid[-1].shape[:2]
        pyramid.append(cv2.resize(pyramid[-1], (W // 2, H // 2), interpolation=cv2.INTER_AREA))
    return tuple(pyramid)


def pair(avatar: Avatar, pyramid: tuple[np.ndarray, ...], intrinsics: np.ndarray, extrinsics: np.ndarray) -> MipPair:
    """The two levels of an avatar's `levels` whose resolutions enclose that of a camera, and the share of the coarser.

    intrinsics [3, 3] px, extrinsics [3 or 4, 4] world -> camera, m.
    """
    level = np.clip(_level_of_detail(avatar, intrinsics, extrinsics), 0, len(pyramid) - 1)
    # The small term keeps rounding from choosing the level below, where the camera is as fine as a level.
    fine = int(level + 1e-3)
    return MipPair(pyramid[fine], pyramid[min(fine + 1, len(pyramid) - 1)], max(float(level) - fine, 0.0))


def background_level(
    avatar: Avatar, pyramid: tuple[np.ndarray, ...], intrinsics: np.ndarray, extrinsics: np.ndarray
) -> np.ndarray:
    """The level of the background's mip map to sample for a camera, u8 [h, w, 3].

    It is the finest level of which a camera pixel covers at most two pixels along each axis, because a bilinear
    sample mixes that many. intrinsics [3, 3] px, extrinsics [3 or 4, 4] world -> camera, m.
    """
    level = np.ceil(_level_of_detail(avatar, intrinsics, extrinsics) - 1e-3) - 1
    return pyramid[int(np.clip(level, 0, len(pyramid) - 1))]


def _level_of_detail(avatar: Avatar, intrinsics: np.ndarray, extrinsics: np.ndarray) -> float:
    """How often to halve the portrait until it shows the person as coarsely as a camera does; may be negative."""

    def pixel_density(K: np.ndarray, E: np.ndarray) -> float:
        """Resolution at the point that cameras look at, px per m."""
        return float(K[1, 1] / max((E[:3, :3] @ avatar.target + E[:3, 3])[2], 1e-3))

    return float(np.log2(pixel_density(avatar.intrinsics, avatar.extrinsics) / pixel_density(intrinsics, extrinsics)))


@numba.njit(cache=True)
def mixed_sample(levels: MipPair, x: float, y: float, out: np.ndarray) -> None:
    """Trilinear sample of a mip map. x and y: place as fractions of the picture's width and height.

    out f64 [2, 3] is overwritten: out[0] becomes the color in 0..255, out[1] is scratch space.
    """
    fine, coarse = levels.fine, levels.coarse
    bilinear_sample(fine, x * fine.shape[1], y * fine.shape[0], out[0])
    if levels.blend > 0:
        bilinear_sample(coarse, x * coarse.shape[1], y * coarse.shape[0], out[1])
        for k in range(3):
            out[0, k] += levels.blend * (out[1, k] - out[0, k])
