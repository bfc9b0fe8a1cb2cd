"""A picture's hole filled with what the rest of it shows: every patch of the filling is like one outside, found from coarse to fine.

Wexler, Shechtman and Irani 2007, "Space-Time Completion of Video", with the search of Barnes et al. 2009, "PatchMatch". Compiled with
numba, one thread, deterministic.
"""

from __future__ import annotations

import cv2
import numba
import numpy as np
from scipy.ndimage import distance_transform_edt

_R = 3  # px: patches are 7 x 7
_COARSEST = 32  # px of the longer side
_STEP = 1.5  # from one grid to the next
_TURNS = 12, 3  # of search and vote, on the coarsest grid and on the finest
_LEVEL = 30_000.0  # squared levels of colour that a shift by the picture's whole height costs: rooms are alike along their floor
_SHADE = 80.0  # levels by which a patch may be lighter or darker than where it comes from: walls have shades
_TRUST = 1.3  # patches count for less the farther they are from what is known, by this factor a pixel


def complete(picture: np.ndarray, hole: np.ndarray, first: np.ndarray) -> np.ndarray:
    """u8 [H, W, 3]: the picture, its hole (bool [H, W]) filled. first u8 [H, W, 3]: a guess, from which the coarsest grid starts, and which stays
    where no patch is free of the hole."""
    side = max(hole.shape)
    levels = 1 + max(0, round(np.log(side / _COARSEST) / np.log(_STEP)))
    shift = None
    for share in np.linspace(0, 1, levels) if levels > 1 else (1.0,):
        scale = min(1.0, _COARSEST / side) ** (1 - share)
        size = tuple(max(2 * _R + 2, round(n * scale)) for n in hole.shape)
        gone = cv2.resize(hole.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0
        source, target = _middles(gone)
        if not gone.any() or not source.any():  # a coarse grid may have no room for a patch beside the hole
            continue
        seen = cv2.resize(np.where(hole[..., None], first, picture), size[::-1], interpolation=cv2.INTER_AREA).astype(
            np.float32
        )
        shift = np.zeros((*size, 2), np.int32) if shift is None else _finer(shift, size)
        trust = (_TRUST ** -distance_transform_edt(gone)).astype(np.float32)
        for turn in range(round(_TURNS[0] + (_TURNS[1] - _TURNS[0]) * share)):
            off = _search(seen, source, target, np.argwhere(source), shift, np.random.default_rng(turn))
            _vote(
                seen,
                gone,
                target,
                shift,
                trust * np.exp(-off / (2 * np.percentile(off[target], 75) + 2)).astype(np.float32),
            )
        first = cv2.resize(
            np.clip(np.rint(seen), 0, 255).astype(np.uint8), hole.shape[::-1], interpolation=cv2.INTER_CUBIC
        )
    return np.where(hole[..., None], first, picture)


def _finer(shift: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where patches come from, on a finer grid: i32 [*size, 2]."""
    longer = [
        cv2.resize(shift[..., k] * (size[k] / shift.shape[k]), size[::-1], interpolation=cv2.INTER_NEAREST)
        for k in (0, 1)
    ]
    return np.rint(np.stack(longer, -1)).astype(np.int32)


def _middles(gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles of patches that lie within the picture and outside the hole, and of such as touch the hole: bool [h, w] each."""
    touching = cv2.dilate(gone.astype(np.uint8), np.ones((2 * _R + 1,) * 2, np.uint8)) > 0
    inside = np.zeros_like(gone)
    inside[_R:-_R, _R:-_R] = True
    return inside & ~touching, touching


@numba.njit(cache=True)
def _overlap(y, x, h, w):
    """What of a patch lies within the picture, and how many pixels: rows and columns from its middle, the last ones included."""
    y0, y1, x0, x1 = max(-_R, -y), min(_R, h - 1 - y), max(-_R, -x), min(_R, w - 1 - x)
    return y0, y1, x0, x1, np.float32((y1 - y0 + 1) * (x1 - x0 + 1))


@numba.njit(cache=True)
def _apart(seen, y, x, v, u, most):
    """Mean squared difference of two patches but for their shade, and the cost of their difference in height; `most` where it is more."""
    h, w = seen.shape[:2]
    y0, y1, x0, x1, count = _overlap(y, x, h, w)
    total = np.float32(_LEVEL * abs(v - y) / h)
    if total >= most:
        return most
    for c in range(3):
        squares, sums = np.float32(0), np.float32(0)
        for i in range(y0, y1 + 1):
            for j in range(x0, x1 + 1):
                d = seen[y + i, x + j, c] - seen[v + i, u + j, c]
                squares += d * d
                sums += d
        mean = sums / count
        lighter = min(max(mean, -_SHADE), _SHADE)
        total += squares / count - lighter * (2 * mean - lighter)
        if total >= most:
            return most
    return total


@numba.njit(cache=True)
def _search(seen, source, target, fitting, shift, rng):
    """Better places (i32 [h, w, 2] from here) for the patches of `target`: their neighbours', and such at random. How far off they are, f32 [h, w]."""
    h, w = seen.shape[:2]
    off = np.zeros((h, w), np.float32)
    for y in range(h):
        for x in range(w):
            if target[y, x]:
                v, u = y + shift[y, x, 0], x + shift[y, x, 1]
                while not (0 <= v < h and 0 <= u < w and source[v, u]):
                    v, u = fitting[rng.integers(0, len(fitting))]
                shift[y, x, 0], shift[y, x, 1] = v - y, u - x
                off[y, x] = _apart(seen, y, x, v, u, np.float32(1e12))
    for sweep in range(4):
        step = 1 if sweep % 2 == 0 else -1
        for a in range(h):
            y = a if step > 0 else h - 1 - a
            for b in range(w):
                x = b if step > 0 else w - 1 - b
                if not target[y, x]:
                    continue
                best = off[y, x]
                for n in range(2):
                    ny, nx = (y - step, x) if n == 0 else (y, x - step)
                    if 0 <= ny < h and 0 <= nx < w and target[ny, nx]:
                        v, u = y + shift[ny, nx, 0], x + shift[ny, nx, 1]
                        if 0 <= v < h and 0 <= u < w and source[v, u]:
                            d = _apart(seen, y, x, v, u, best)
                            if d < best:
                                best, shift[y, x, 0], shift[y, x, 1] = d, v - y, u - x
                reach = max(h, w)
                while reach >= 1:
                    v = y + shift[y, x, 0] + rng.integers(-reach, reach + 1)
                    u = x + shift[y, x, 1] + rng.integers(-reach, reach + 1)
                    if 0 <= v < h and 0 <= u < w and source[v, u]:
                        d = _apart(seen, y, x, v, u, best)
                        if d < best:
                            best, shift[y, x, 0], shift[y, x, 1] = d, v - y, u - x
                    reach //= 2
                off[y, x] = best
    return off


@numba.njit(cache=True)
def _vote(seen, gone, target, shift, weight):
    """Every pixel of the hole becomes the weighted mean of what the patches over it have there, each in its place's shade."""
    h, w = gone.shape
    total = np.zeros((h, w, 3), np.float32)
    count = np.zeros((h, w), np.float32)
    for y in range(h):
        for x in range(w):
            if not target[y, x]:
                continue
            y0, y1, x0, x1, inside = _overlap(y, x, h, w)
            v, u = y + shift[y, x, 0], x + shift[y, x, 1]
            for c in range(3):
                sums = np.float32(0)
                for i in range(y0, y1 + 1):
                    for j in range(x0, x1 + 1):
                        sums += seen[y + i, x + j, c] - seen[v + i, u + j, c]
                lighter = min(max(sums / inside, -_SHADE), _SHADE)
                for i in range(y0, y1 + 1):
                    for j in range(x0, x1 + 1):
                        if gone[y + i, x + j]:
                            total[y + i, x + j, c] += weight[y, x] * (seen[v + i, u + j, c] + lighter)
            for i in range(y0, y1 + 1):
                for j in range(x0, x1 + 1):
                    if gone[y + i, x + j]:
                        count[y + i, x + j] += weight[y, x]
    for y in range(h):
        for x in range(w):
            if gone[y, x] and count[y, x] > 0:
                for c in range(3):
                    seen[y, x, c] = total[y, x, c] / count[y, x]
