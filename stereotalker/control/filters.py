"""Filters of torch pictures over square windows. torch's own pooling of a single channel is slower.

The windows are cut off at the picture's border; a window has 2 radius + 1 px along both axes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

_Combine = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def max_filter(picture: torch.Tensor, radius: int) -> torch.Tensor:
    """The largest value of every window, f32 [..., H, W]."""
    return _over_window(picture, radius, torch.maximum, -torch.inf)


def mean_filter(picture: torch.Tensor, radius: int) -> torch.Tensor:
    """The mean of every window, f32 [..., H, W]."""
    total = _over_window(picture, radius, torch.add, 0.0)
    return total / _over_window(torch.ones_like(picture), radius, torch.add, 0.0)


def _over_window(picture: torch.Tensor, radius: int, combine: _Combine, neutral: float) -> torch.Tensor:
    """Combine the values of every window: along the rows, then along the columns."""
    for axis in (-1, -2):
        padding = (radius, radius) if axis == -1 else (0, 0, radius, radius)
        picture = _over_line(functional.pad(picture, padding, value=neutral), 2 * radius + 1, combine, axis)
    return picture


def _over_line(picture: torch.Tensor, width: int, combine: _Combine, axis: int) -> torch.Tensor:
    """Combine `width` successive values along an axis, for every place at which they lie in the picture.

    Windows of 1, 2, 4, ... values are built from two of half the width. Those that the width is the sum of (as a binary
    number) are put side by side.
    """
    result, done, have = None, 0, 1
    size = picture.shape[axis] - width + 1
    while True:
        if width & have:
            part = picture.narrow(axis, done, size)
            result, done = part if result is None else combine(result, part), done + have
        if done == width:
            assert result is not None
            return result
        length = picture.shape[axis] - have
        picture, have = combine(picture.narrow(axis, 0, length), picture.narrow(axis, have, length)), 2 * have
