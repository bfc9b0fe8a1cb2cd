"""Fill the background behind the person, and extend the person's colors over the background at the silhouette."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import sparse
from scipy.ndimage import distance_transform_edt
from scipy.sparse.linalg import splu

from stereotalker.media.inpainting import ROOM, inpaint
from stereotalker.media.morphology import disk_kernel
from stereotalker.media.pull_push import extrapolate_colors

# The background begins this far outside the person's silhouette, as a share of the picture's longer side. What lies
# nearer is filled as well.
_HALO = 0.016
# The hole is filled in a picture that is scaled down to this length of the longer side, px.
_FILL_SIZE_PX = 256
# Blur of the filling, which hides its seams (standard deviation), and the depth inside the hole at which the blur has
# its full effect. Both in px of the picture that is scaled down.
_BLUR_PX, _BLUR_DEPTH_PX = 1.3, 4.0
# Along the hole's edge, to this depth, the filling's colors are compared with those around it after this blur, with
# which plain walls are continued, too. Both in px of the picture that is scaled down.
_EDGE_DEPTH_PX, _EDGE_BLUR_PX = 3.3, 2.7
# A background whose detail, the standard deviation from a blurred picture, is below the first number of levels is a
# plain wall; above the second it is none. The blur is in px of the picture that is scaled down.
_PLAIN_DETAIL, _WALL_BLUR_PX = (4.0, 8.0), 8.0
# Width over which picture and filling are blended, as a share of the longer side.
_BLEND = 0.006
# Pixels of the person this near to the silhouette are mixed with the background, px.
_EDGE_PX = 1.5


def fill_background(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Replace the person by what the rest of the picture shows, slightly blurred. u8 [H, W, 3].

    picture u8 [H, W, 3]; mask bool [H, W]: the person. A camera 20 degrees off shows all of the background that is
    behind the head. If hardly any background is visible, the result is its mean color.
    """
    H, W = mask.shape
    side = max(H, W)
    hole = cv2.dilate(mask.astype(np.uint8), disk_kernel(max(2, round(_HALO * side))), borderValue=0)
    scale = min(1.0, _FILL_SIZE_PX / side)
    size = (max(8, round(W * scale)), max(8, round(H * scale)))
    # Small pixels are means over the background's pixels alone.
    background_share = cv2.resize(1.0 - hole.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    background = cv2.resize(picture.astype(np.float32) * (1 - hole[..., None]), size, interpolation=cv2.INTER_AREA)
    small = np.clip(background / np.maximum(background_share, 1e-3)[..., None], 0, 255).astype(np.uint8)
    small_hole = background_share < 0.5
    if small_hole.all():
        visible = ~mask if (~mask).any() else mask
        return np.broadcast_to(picture[visible].mean(0), picture.shape).astype(np.uint8)
    filled = inpaint(small, small_hole, _interpolate_rows(small, small_hole), ROOM)
    around = extrapolate_colors(small, ~small_hole)
    filled = _match_surroundings(_with_plain_wall(filled, small, around, small_hole), around, small_hole)
    amount = np.clip(distance_transform_edt(small_hole) / _BLUR_DEPTH_PX, 0, 1)[..., None]
    filled = np.rint(filled * (1 - amount) + cv2.GaussianBlur(filled, (0, 0), _BLUR_PX) * amount).astype(np.uint8)
    large = cv2.resize(filled, (W, H), interpolation=cv2.INTER_CUBIC)
    blend = np.maximum(cv2.GaussianBlur(hole.astype(np.float32), (0, 0), max(_BLEND * side, 0.5)), hole)[..., None]
    return np.rint(large * blend + picture * (1 - blend)).astype(np.uint8)


def _with_plain_wall(filled: np.ndarray, picture: np.ndarray, around: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The filling, or on a plain wall the smoothest continuation of its colors: patches would leave shapes there.

    filled, picture, and around, the picture with its colors continued into the hole: u8 [h, w, 3]; hole bool [h, w].
    """
    detail = picture - cv2.GaussianBlur(around.astype(np.float32), (0, 0), _WALL_BLUR_PX)
    plain, patterned = _PLAIN_DETAIL
    share = float(np.clip((patterned - np.sqrt(np.mean(detail[~hole] ** 2))) / (patterned - plain), 0, 1))
    if share == 0:
        return filled
    # Blurred, so that single pixels at the edge draw no streaks.
    wall = _harmonic(cv2.GaussianBlur(around.astype(np.float64), (0, 0), _EDGE_BLUR_PX), hole)
    return np.where(hole[..., None], np.rint((1 - share) * filled + share * wall), picture).astype(np.uint8)


def _harmonic(known: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The values f64 [h, w, 3] with the solution of Laplace's equation in the hole bool [h, w]; borders reflect."""
    horizontal, vertical = (
        sparse.diags([1.0, [-1.0, *[-2.0] * (n - 2), -1.0], 1.0], [-1, 0, 1], (n, n)) for n in hole.shape[::-1]
    )
    inside = hole.ravel()
    of_hole = sparse.kronsum(horizontal, vertical, "csr")[inside]
    result = known.reshape(-1, 3).copy()
    result[inside] = splu(-of_hole[:, inside].tocsc()).solve(of_hole[:, ~inside] @ result[~inside])
    return result.reshape(known.shape)


def _match_surroundings(filled: np.ndarray, around: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The filling with the colors of its surroundings along the edge of the hole, so that no outline is left there.

    filled u8 [h, w, 3]; around u8 [h, w, 3]: the picture with its colors continued into the hole bool [h, w]. The
    change goes on smoothly into the hole. f64 [h, w, 3] in 0..255.
    """
    blurred, within = (cv2.GaussianBlur(a.astype(np.float64), (0, 0), _EDGE_BLUR_PX) for a in (around, filled))
    inner = distance_transform_edt(hole) > _EDGE_DEPTH_PX
    change = _harmonic(blurred - within, inner) if inner.any() else blurred - within
    return np.where(hole[..., None], np.clip(filled + change, 0, 255), filled)


def _interpolate_rows(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill the hole of every row by interpolating between its left and right side. u8 [H, W, 3].

    A row without any pixel outside the hole is filled like the nearest row that has some.
    """
    columns, result = np.arange(hole.shape[1]), picture.copy()
    usable_rows = np.flatnonzero(~hole.all(1))
    for row in range(len(hole)):
        source = usable_rows[np.abs(usable_rows - row).argmin()] if len(usable_rows) else row
        visible = columns[~hole[source]]
        if len(visible):
            channels = [np.interp(columns, visible, picture[source, visible, c]) for c in range(3)]
            result[row] = np.stack(channels, -1)
    return result


def extend_person_colors(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Extend the person's own colors over the silhouette, so that no background moves with the person. u8 [H, W, 3].

    picture u8 [H, W, 3]; mask bool [H, W]: the person.
    """
    depth = distance_transform_edt(mask)
    rows, columns = distance_transform_edt(depth <= _EDGE_PX, return_distances=False, return_indices=True)
    near_edge = (depth <= _EDGE_PX) & (distance_transform_edt(~mask) <= 2 * _EDGE_PX)
    return np.where(near_edge[..., None], picture[rows, columns], picture)
