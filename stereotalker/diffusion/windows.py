"""A fixed grid of windows or segments over a clip, so that any of them can be made alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    index: int
    start: int  # first frame
    stop: int  # behind the last frame
    overlap: int  # frames at the start that the window before has made already


def windows(frames: int, length: int, overlap: int = 0) -> list[Window]:
    """Cover frames 0..frames-1 by windows of `length` that share `overlap` with the one before; the last is shorter."""
    if not 0 <= overlap < length:
        raise ValueError(f"overlap {overlap} must be at least 0 and below the window's {length} frames")
    grid = []
    start = 0
    while True:
        stop = min(start + length, frames)
        grid.append(Window(len(grid), start, stop, overlap if grid else 0))
        if stop >= frames:
            return grid
        start = stop - overlap
