"""A fixed grid of windows or segments over a clip, so that each of them can be computed alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A range of frames of a clip."""

    index: int  # number of the window in the clip
    start: int  # first frame
    stop: int  # one after the last frame
    overlap: int  # frames at the start that belong to the window before as well


def windows(frames: int, length: int, overlap: int = 0) -> list[Window]:
    """Cover the frames 0..frames-1 by windows of `length` frames; the last one may be shorter.

    Each window shares `overlap` frames with the one before. Raises ValueError if 0 <= overlap < length does not hold.
    """
    if not 0 <= overlap < length:
        raise ValueError(f"overlap {overlap} must be at least 0 and below the window's {length} frames")
    grid: list[Window] = []
    start = 0
    while True:
        stop = min(start + length, frames)
        grid.append(Window(len(grid), start, stop, overlap if grid else 0))
        if stop >= frames:
            return grid
        start = stop - overlap
