"""Mip maps of the portrait and of the background (Williams 1983), so that distant cameras do not alias."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numba
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.records import Avatar, Camera
from stereotalker.smplx_layout import REGION

# No level but the first has a side shorter than this, px.
_MIN_SIDE = 32
# Largest difference of a channel, of 255, up to which a pixel of a picture counts as one of the photo. Portrait and
# reduced photo are scaled down by different filters, and so differ a little at edges.
_MAX_DIFFERENCE = 12


class MipPair(NamedTuple):
    """Two neighboring levels of a mip map, to be mixed (trilinear sampling). Numba kernels take NamedTuples."""

    fine: np.ndarray  # u8 [L, h, w, 3] sRGB: L pictures of the same size
    coarse: np.ndarray  # u8 [L, h // 2, w // 2, 3] sRGB; the same array as `fine` at the coarsest level
    blend: float  # share of the coarse level, 0..1


def levels(avatar: Avatar) -> tuple[np.ndarray, ...]:
    """The mip map of an avatar's portrait: u8 [h, w, 3], then halved again and again.

    Every background pixel takes the color of the nearest pixel of the person, so that no sample at the person's outline
    mixes in the background.
    """
    is_background = avatar.regions == REGION["background"]
    rows, columns = distance_transform_edt(is_background, return_distances=False, return_indices=True)
    picture = avatar.portrait if is_background.all() else avatar.portrait[rows, columns]
    return halved(at_photo_size(avatar, picture, ~is_background))


def at_photo_size(avatar: Avatar, picture: np.ndarray, is_own: np.ndarray) -> np.ndarray:
    """A picture u8 [H, W, 3] as large as the avatar's portrait, at the size of its photo; itself without a photo.

    is_own bool [H, W]: pixels that are the portrait's own, and not filled. Where they show what the photo shows, the
    picture gets the photo's detail. Elsewhere it is only enlarged.
    """
    if avatar.photo is None:
        return picture
    (H, W), (h, w) = avatar.photo.shape[:2], picture.shape[:2]
    reduced = cv2.resize(avatar.photo, (w, h), interpolation=cv2.INTER_AREA)
    difference = np.abs(picture.astype(np.int16) - reduced).max(-1)
    is_same = cv2.erode((is_own & (difference <= _MAX_DIFFERENCE)).astype(np.uint8), np.ones((3, 3), np.uint8))
    weight = cv2.resize(is_same.astype(np.float32), (W, H), interpolation=cv2.INTER_LINEAR)[..., None]
    large, large_reduced = (
        cv2.resize(p.astype(np.float32), (W, H), interpolation=cv2.INTER_CUBIC) for p in (picture, reduced)
    )
    detailed = large + weight * (avatar.photo - large_reduced)
    return np.clip(np.rint(detailed), 0, 255).astype(np.uint8)


def shows_more(avatar: Avatar, camera: Camera) -> bool:
    """Whether any frame of a camera shows the person larger than the avatar's portrait does."""
    views = zip(camera.intrinsics, camera.extrinsics, strict=True)
    return any(_level_of_detail(avatar, avatar.portrait, K, E) < -1e-3 for K, E in views)


def halved(picture: np.ndarray) -> tuple[np.ndarray, ...]:
    """The mip map of a picture u8 [H, W, 3]: the picture itself, then each level half as large as the one before."""
    pyramid = [picture]
    while min(pyramid[-1].shape[:2]) >= 2 * _MIN_SIDE:
        H, W = pyramid[-1].shape[:2]
        pyramid.append(cv2.resize(pyramid[-1], (W // 2, H // 2), interpolation=cv2.INTER_AREA))
    return tuple(pyramid)


def pair(avatar: Avatar, pyramid: tuple[np.ndarray, ...], intrinsics: np.ndarray, extrinsics: np.ndarray) -> MipPair:
    """The two levels of a mip map whose resolutions enclose that of a camera, and the share of the coarser.

    pyramid: of pictures that show what the avatar's portrait shows, every level u8 [L, h, w, 3], the finest first;
    intrinsics [3, 3] px, extrinsics [3 or 4, 4] world -> camera, m.
    """
    level = np.clip(_level_of_detail(avatar, pyramid[0], intrinsics, extrinsics), 0, len(pyramid) - 1)
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
    level = np.ceil(_level_of_detail(avatar, pyramid[0], intrinsics, extrinsics) - 1e-3) - 1
    return pyramid[int(np.clip(level, 0, len(pyramid) - 1))]


def _level_of_detail(avatar: Avatar, finest: np.ndarray, intrinsics: np.ndarray, extrinsics: np.ndarray) -> float:
    """How often to halve a mip map's finest level until it is as coarse as a camera's picture; may be negative.

    finest: u8 [..., h, w, 3], shows what the avatar's portrait shows.
    """

    def pixel_density(K: np.ndarray, E: np.ndarray) -> float:
        """Resolution at the point that cameras look at, px per m."""
        return float(K[1, 1] / max((E[:3, :3] @ avatar.target + E[:3, 3])[2], 1e-3))

    enlargement = finest.shape[-3] / avatar.portrait.shape[0]
    portrait_density = enlargement * pixel_density(avatar.intrinsics, avatar.extrinsics)
    return float(np.log2(portrait_density / pixel_density(intrinsics, extrinsics)))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def mixed_sample(
    fine: np.ndarray, coarse: np.ndarray, blend: float, picture: int, x: float, y: float
) -> tuple[float, float, float]:
    """Trilinear sample of one of the pictures of a mip map: a color in 0..255.

    fine, coarse and blend: of a MipPair; x and y: place as fractions of the picture's width and height.
    """
    red, green, blue = bilinear_sample(fine, picture, x * fine.shape[2], y * fine.shape[1])
    if blend > 0:
        r, g, b = bilinear_sample(coarse, picture, x * coarse.shape[2], y * coarse.shape[1])
        red, green, blue = red + blend * (r - red), green + blend * (g - green), blue + blend * (b - blue)
    return red, green, blue


@numba.njit(cache=True, nogil=True, error_model="numpy")
def bilinear_sample(images: np.ndarray, picture: int, x: float, y: float) -> tuple[float, float, float]:
    """Bilinear sample of one of several images [L, H, W, 3].

    x and y in px; pixel centers lie at +0.5, and places beyond the edges take the edge's color.
    """
    H, W = images.shape[1], images.shape[2]
    x = min(max(x - 0.5, 0.0), W - 1.001)
    y = min(max(y - 0.5, 0.0), H - 1.001)
    # Unsigned, so that numba does not look for negative indices.
    p, c, r = np.uint64(picture), np.uint64(x), np.uint64(y)
    right, below = np.uint64(c + np.uint64(1)), np.uint64(r + np.uint64(1))
    fx, fy = x - np.float64(c), y - np.float64(r)
    gx, gy = 1 - fx, 1 - fy
    red = (images[p, r, c, 0] * gx + images[p, r, right, 0] * fx) * gy + (
        images[p, below, c, 0] * gx + images[p, below, right, 0] * fx
    ) * fy
    green = (images[p, r, c, 1] * gx + images[p, r, right, 1] * fx) * gy + (
        images[p, below, c, 1] * gx + images[p, below, right, 1] * fx
    ) * fy
    blue = (images[p, r, c, 2] * gx + images[p, r, right, 2] * fx) * gy + (
        images[p, below, c, 2] * gx + images[p, below, right, 2] * fx
    ) * fy
    return red, green, blue
