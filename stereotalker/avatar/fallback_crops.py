"""Crops of a portrait in which a person may be found who was not found in the whole picture.

Screenshots and pictures in a video's shape have bars of one color, which the detectors take for a part of the scene;
and in a panorama the person is small.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BAR_SPREAD = 4  # largest difference from the bar's median color in a line of a bar, of 255
_MIN_BAR = 0.04  # smallest bar, in sides of the picture: thinner ones do not mislead the detectors
_MIN_ASPECT_RATIO = 1.5  # aspect ratio from which squares along the longer side are searched
_SQUARE_COUNT = 5  # overlapping squares along the longer side, from its middle outwards


def fallback_crops(picture: np.ndarray) -> Iterator[np.ndarray]:
    """Crops of a picture u8 [H, W, 3], the likeliest first: without its bars, then squares along its longer side."""
    inner = without_bars(picture)
    if inner.shape != picture.shape:
        yield inner
    H, W = inner.shape[:2]
    side, longer = min(H, W), max(H, W)
    if longer < _MIN_ASPECT_RATIO * side:
        return
    middle = (longer - side) // 2
    offsets = sorted(np.linspace(0, longer - side, _SQUARE_COUNT).astype(int), key=lambda offset: abs(offset - middle))
    for offset in offsets:
        yield inner[:, offset : offset + side] if W > H else inner[offset : offset + side]


def without_bars(picture: np.ndarray) -> np.ndarray:
    """The picture without bars of one color at its edges; the picture itself if it has none that matter."""
    for axis in (0, 1, 0):  # a bar beside the picture is of one color only once those above are gone
        lines = np.moveaxis(picture, axis, 0)
        begin, end = _bar(lines), _bar(lines[::-1])
        if begin + end < len(lines):
            picture = np.moveaxis(lines[begin : len(lines) - end], 0, axis)
    return np.ascontiguousarray(picture)


def _bar(lines: np.ndarray) -> int:
    """Number of lines of one color at the beginning of u8 [N, M, 3]; 0 if they are too few to matter."""
    color = np.median(lines[0].astype(np.int16), 0)
    differs = (np.abs(lines.astype(np.int16) - color) > _BAR_SPREAD).any((1, 2))
    count = int(differs.argmax()) if differs.any() else 0
    return count if count >= _MIN_BAR * len(lines) else 0
