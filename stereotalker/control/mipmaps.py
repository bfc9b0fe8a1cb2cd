"""The portrait at several sizes, so that a camera farther off does not skip its pixels (mip mapping, Williams 1983)."""

from __future__ import annotations

import cv2
import numba
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.control.background_plate import sample
from stereotalker.records import Avatar
from stereotalker.smplx_layout import REGION

_SMALLEST = 32  # px


def levels(avatar: Avatar) -> tuple[np.ndarray, ...]:
    """The portrait u8 [H, W, 3], then halved again and again. Beyond the person its colours go on, so that no sample mixes in the background."""
    outside = avatar.regions == REGION["background"]
    rows, columns = distance_transform_edt(outside, return_distances=False, return_indices=True)
    return halved(avatar.portrait if outside.all() else avatar.portrait[rows, columns])


def halved(picture: np.ndarray) -> tuple[np.ndarray, ...]:
    """A picture u8 [H, W, 3], then half as large again and again."""
    found = [picture]
    while min(found[-1].shape[:2]) >= 2 * _SMALLEST:
        H, W = found[-1].shape[:2]
        found.append(cv2.resize(found[-1], (W // 2, H // 2), interpolation=cv2.INTER_AREA))
    return tuple(found)


def pair(
    avatar: Avatar, of: tuple[np.ndarray, ...], intrinsics: np.ndarray, extrinsics: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """The two levels of an avatar's `levels` between which a camera's pixels lie, and the share of the coarser. intrinsics [3, 3], extrinsics [3 or 4, 4]."""
    level = np.clip(_halvings(avatar, intrinsics, extrinsics), 0, len(of) - 1)
    fine = int(level + 1e-3)
    return of[fine], of[min(fine + 1, len(of) - 1)], max(float(level) - fine, 0.0)


def wall(avatar: Avatar, of: tuple[np.ndarray, ...], intrinsics: np.ndarray, extrinsics: np.ndarray) -> np.ndarray:
    """The largest of the avatar's backgrounds, halved, of which a camera's pixel shows two to a side at the most, as many as a bilinear sample mixes."""
    return of[int(np.clip(np.ceil(_halvings(avatar, intrinsics, extrinsics) - 1e-3) - 1, 0, len(of) - 1))]


def _halvings(avatar: Avatar, intrinsics: np.ndarray, extrinsics: np.ndarray) -> float:
    """How often the portrait has to be halved to be as coarse as what a camera sees of the person."""

    def density(K: np.ndarray, E: np.ndarray) -> float:
        """px a metre at the point that cameras look at."""
        return float(K[1, 1] / max((E[:3, :3] @ avatar.target + E[:3, 3])[2], 1e-3))

    return float(np.log2(density(avatar.intrinsics, avatar.extrinsics) / density(intrinsics, extrinsics)))


@numba.njit(cache=True)
def mixed_sample(fine, coarse, blend, x, y, out):
    """Bilinear sample of both levels at a place in shares of the picture's width and height, mixed. out f64 [2, 3]: the colour is out[0]."""
    sample(fine, x * fine.shape[1], y * fine.shape[0], out[0])
    if blend > 0:
        sample(coarse, x * coarse.shape[1], y * coarse.shape[0], out[1])
        for k in range(3):
            out[0, k] += blend * (out[1, k] - out[0, k])
