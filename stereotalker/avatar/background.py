"""The background behind the person, filled in, and the person's colours without it at the edge."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

from stereotalker.avatar.inpainting import complete

_HALO = 0.008  # of the longer side: the background begins this far from the person's outline
_COARSE = 192  # px of the longer side at which the inside is filled
_SOFT, _INTO = (
    1.6,
    3.0,
)  # px of the coarse picture: blur of the filling, which hides its seams, and how deep that begins
_BLEND = 0.002  # of the longer side: over which the filling begins
_EDGE_PX = 1.5  # within the outline, pixels are part background


def fill_background(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """u8 [H, W, 3] with the person (bool [H, W]) painted over with what the rest shows, a little out of focus. A camera 20 degrees off sees all that is behind the head."""
    H, W = mask.shape
    side = max(H, W)
    hole = cv2.dilate(mask.astype(np.uint8), disc(max(2, round(_HALO * side))), borderValue=0)
    scale = min(1.0, _COARSE / side)
    size = (max(8, round(W * scale)), max(8, round(H * scale)))
    share = cv2.resize(1.0 - hole.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    known = cv2.resize(picture.astype(np.float32) * (1 - hole[..., None]), size, interpolation=cv2.INTER_AREA)
    small = np.clip(known / np.maximum(share, 1e-3)[..., None], 0, 255).astype(
        np.uint8
    )  # means over known pixels alone
    gone = share < 0.5
    if gone.all():  # hardly any wall is in sight
        seen = ~mask if (~mask).any() else mask
        return np.broadcast_to(picture[seen].mean(0), picture.shape).astype(np.uint8)
    filled = complete(small, gone, _across(small, gone))
    amount = np.clip(distance_transform_edt(gone) / _INTO, 0, 1)[..., None]
    filled = (filled * (1 - amount) + cv2.GaussianBlur(filled, (0, 0), _SOFT) * amount).astype(np.uint8)
    large = cv2.resize(filled, (W, H), interpolation=cv2.INTER_CUBIC)
    blend = np.maximum(cv2.GaussianBlur(hole.astype(np.float32), (0, 0), max(_BLEND * side, 0.5)), hole)[..., None]
    return np.rint(large * blend + picture * (1 - blend)).astype(np.uint8)


def _across(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """u8 [H, W, 3]: every row's hole filled from its left to its right; a row that is all hole, as the nearest that is not."""
    columns, out = np.arange(hole.shape[1]), picture.copy()
    whole = np.flatnonzero(~hole.all(1))
    for row in range(len(hole)):
        like = whole[np.abs(whole - row).argmin()] if len(whole) else row
        seen = columns[~hole[like]]
        if len(seen):
            out[row] = np.stack([np.interp(columns, seen, picture[like, seen, c]) for c in range(3)], -1)
    return out


def without_fringe(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture, the person's own colours continued over the outline, so that no background travels with a moving edge."""
    depth = distance_transform_edt(mask)
    rows, columns = distance_transform_edt(depth <= _EDGE_PX, return_distances=False, return_indices=True)
    near = (depth <= _EDGE_PX) & (distance_transform_edt(~mask) <= 2 * _EDGE_PX)
    return np.where(near[..., None], picture[rows, columns], picture)


def disc(radius: int) -> np.ndarray:
    """A round structuring element, u8 [2 radius + 1, 2 radius + 1]."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
