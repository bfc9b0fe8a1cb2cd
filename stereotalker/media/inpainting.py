"""Inpainting by patches: every patch of the filled hole resembles a patch outside it, from a coarse grid to a fine one.

The method is that of Wexler, Shechtman and Irani 2007, "Space-Time Completion of Video", with the search of Barnes et
al. 2009, "PatchMatch". The loops are compiled with numba, run in one thread and are deterministic.

h x w is the size of one grid. A patch is named by its center. The source of a patch is the patch outside the hole that
it resembles; `shift` i32 [h, w, 2] leads from a patch to its source (rows, columns). `target` marks patches that touch
the hole, `source` marks patches that may be sources.
"""

from __future__ import annotations

import cv2
import numba
import numpy as np
from scipy.ndimage import distance_transform_edt

# Patches have 2 * 3 + 1 = 7 px a side.
_RADIUS = 3
# Length of the longer side of the coarsest grid, px.
_COARSEST_PX = 32
# Factor between the sizes of two grids.
_GRID_STEP = 1.5
# Iterations of search and vote, on the coarsest grid and on the finest.
_ITERATIONS = 12, 3
# Cost of a shift by the whole picture, vertically and horizontally, in squared color levels. Rooms change from floor to
# ceiling but hardly along the floor. Clothes hang: buttons and seams go on downwards.
ROOM, CLOTHES = (30_000.0, 0.0), (0.0, 30_000.0)
# A patch may be lighter or darker than its source by up to this many color levels, because walls have shading.
_MAX_SHADE = 80.0
# The weight of a patch falls by this factor for every px of its distance from the pixels outside the hole.
_WEIGHT_DECAY = 1.3


def inpaint(
    picture: np.ndarray,
    hole: np.ndarray,
    first: np.ndarray,
    shift_cost: tuple[float, float],
    usable: np.ndarray | None = None,
) -> np.ndarray:
    """Fill the hole (bool [H, W]) of a picture u8 [H, W, 3] with what the rest of it shows. u8 [H, W, 3].

    first u8 [H, W, 3]: a first guess. The coarsest grid starts from it, and it remains if no patch is outside the hole.
    shift_cost: ROOM or CLOTHES.
    usable bool [H, W]: pixels that patches may be copied from; None: all outside the hole.
    """
    side = max(hole.shape)
    levels = 1 + max(0, round(np.log(side / _COARSEST_PX) / np.log(_GRID_STEP)))
    shift = None
    for resolution in np.linspace(0, 1, levels) if levels > 1 else (1.0,):
        scale = min(1.0, _COARSEST_PX / side) ** (1 - resolution)
        size = tuple(max(2 * _RADIUS + 2, round(n * scale)) for n in hole.shape)
        grid_hole = cv2.resize(hole.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0
        source, target = _patch_centers(grid_hole)
        if usable is not None:
            grid_usable = cv2.resize(usable.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
            source &= cv2.erode(grid_usable, np.ones((2 * _RADIUS + 1,) * 2, np.uint8), borderValue=0) > 0
        if not grid_hole.any() or not source.any():  # a coarse grid may have no room for a patch beside the hole
            continue
        guess = np.where(hole[..., None], first, picture)
        image = cv2.resize(guess, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
        shift = np.zeros((*size, 2), np.int32) if shift is None else _resize_shift(shift, size)
        base_weight = (_WEIGHT_DECAY ** -distance_transform_edt(grid_hole)).astype(np.float32)
        for k in range(round(_ITERATIONS[0] + (_ITERATIONS[1] - _ITERATIONS[0]) * resolution)):
            cost = _search(image, source, target, np.argwhere(source), shift, *shift_cost, np.random.default_rng(k))
            similarity = np.exp(-cost / (2 * np.percentile(cost[target], 75) + 2)).astype(np.float32)
            _vote(image, grid_hole, target, shift, base_weight * similarity)
        filled = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        first = cv2.resize(filled, hole.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.where(hole[..., None], first, picture)


def _resize_shift(shift: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The shifts of a coarser grid on a finer one: i32 [*size, 2]."""
    channels = [
        cv2.resize(shift[..., k] * (size[k] / shift.shape[k]), size[::-1], interpolation=cv2.INTER_NEAREST)
        for k in (0, 1)
    ]
    return np.rint(np.stack(channels, -1)).astype(np.int32)


def _patch_centers(hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centers of patches that lie within the picture and outside the hole, and of those that touch it: bool [h, w]."""
    touches_hole = cv2.dilate(hole.astype(np.uint8), np.ones((2 * _RADIUS + 1,) * 2, np.uint8)) > 0
    is_inside = np.zeros_like(hole)
    is_inside[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS] = True
    return is_inside & ~touches_hole, touches_hole


@numba.njit(cache=True)
def _visible_part(y, x, h, w):
    """First and last row and column, counted from its center (y, x), of the part of a patch within the picture.

    Also returns how many pixels that part has.
    """
    y0, y1, x0, x1 = max(-_RADIUS, -y), min(_RADIUS, h - 1 - y), max(-_RADIUS, -x), min(_RADIUS, w - 1 - x)
    return y0, y1, x0, x1, np.float32((y1 - y0 + 1) * (x1 - x0 + 1))


@numba.njit(cache=True)
def _patch_cost(image, y, x, v, u, vertical, horizontal, limit):
    """Mean squared difference of the patches at (y, x) and (v, u), plus the cost of the shift.

    Their shade is matched first. Returns `limit` as soon as the cost reaches it.
    """
    h, w = image.shape[:2]
    y0, y1, x0, x1, count = _visible_part(y, x, h, w)
    total = np.float32(vertical * abs(v - y) / h + horizontal * abs(u - x) / w)
    if total >= limit:
        return limit
    for c in range(3):
        squares, sums = np.float32(0), np.float32(0)
        for i in range(y0, y1 + 1):
            for j in range(x0, x1 + 1):
                d = image[y + i, x + j, c] - image[v + i, u + j, c]
                squares += d * d
                sums += d
        mean = sums / count
        shade = min(max(mean, -_MAX_SHADE), _MAX_SHADE)
        total += squares / count - shade * (2 * mean - shade)
        if total >= limit:
            return limit
    return total


@numba.njit(cache=True)
def _search(image, source, target, candidates, shift, vertical, horizontal, rng):
    """Improve `shift` in place for the patches of `target`; return the cost of their new sources, f32 [h, w].

    image f32 [h, w, 3]; candidates i64 [N, 2]: centers of all sources. Tried are the sources of neighbors, shifted
    along, and random ones at ever smaller distances, as in PatchMatch.
    """
    h, w = image.shape[:2]
    cost = np.zeros((h, w), np.float32)
    for y in range(h):
        for x in range(w):
            if target[y, x]:
                v, u = y + shift[y, x, 0], x + shift[y, x, 1]
                while not (0 <= v < h and 0 <= u < w and source[v, u]):
                    v, u = candidates[rng.integers(0, len(candidates))]
                shift[y, x, 0], shift[y, x, 1] = v - y, u - x
                cost[y, x] = _patch_cost(image, y, x, v, u, vertical, horizontal, np.float32(1e12))
    for sweep in range(4):
        step = 1 if sweep % 2 == 0 else -1
        for a in range(h):
            y = a if step > 0 else h - 1 - a
            for b in range(w):
                x = b if step > 0 else w - 1 - b
                if not target[y, x]:
                    continue
                best = cost[y, x]
                for n in range(2):
                    ny, nx = (y - step, x) if n == 0 else (y, x - step)
                    if 0 <= ny < h and 0 <= nx < w and target[ny, nx]:
                        v, u = y + shift[ny, nx, 0], x + shift[ny, nx, 1]
                        if 0 <= v < h and 0 <= u < w and source[v, u]:
                            d = _patch_cost(image, y, x, v, u, vertical, horizontal, best)
                            if d < best:
                                best, shift[y, x, 0], shift[y, x, 1] = d, v - y, u - x
                reach = max(h, w)
                while reach >= 1:
                    v = y + shift[y, x, 0] + rng.integers(-reach, reach + 1)
                    u = x + shift[y, x, 1] + rng.integers(-reach, reach + 1)
                    if 0 <= v < h and 0 <= u < w and source[v, u]:
                        d = _patch_cost(image, y, x, v, u, vertical, horizontal, best)
                        if d < best:
                            best, shift[y, x, 0], shift[y, x, 1] = d, v - y, u - x
                    reach //= 2
                cost[y, x] = best
    return cost


@numba.njit(cache=True)
def _vote(image, hole, target, shift, weight):
    """Set every pixel of the hole, in place, to the weighted mean of what the sources of its patches have there.

    image f32 [h, w, 3]; hole bool [h, w]; weight f32 [h, w] of the patches. Each source is brought to the shade of
    its patch first.
    """
    h, w = hole.shape
    total = np.zeros((h, w, 3), np.float32)
    count = np.zeros((h, w), np.float32)
    for y in range(h):
        for x in range(w):
            if not target[y, x]:
                continue
            y0, y1, x0, x1, pixels = _visible_part(y, x, h, w)
            v, u = y + shift[y, x, 0], x + shift[y, x, 1]
            for c in range(3):
                sums = np.float32(0)
                for i in range(y0, y1 + 1):
                    for j in range(x0, x1 + 1):
                        sums += image[y + i, x + j, c] - image[v + i, u + j, c]
                shade = min(max(sums / pixels, -_MAX_SHADE), _MAX_SHADE)
                for i in range(y0, y1 + 1):
                    for j in range(x0, x1 + 1):
                        if hole[y + i, x + j]:
                            total[y + i, x + j, c] += weight[y, x] * (image[v + i, u + j, c] + shade)
            for i in range(y0, y1 + 1):
                for j in range(x0, x1 + 1):
                    if hole[y + i, x + j]:
                        count[y + i, x + j] += weight[y, x]
    for y in range(h):
        for x in range(w):
            if hole[y, x] and count[y, x] > 0:
                for c in range(3):
                    image[y, x, c] = total[y, x, c] / count[y, x]
