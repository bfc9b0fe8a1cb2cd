"""Covers the painted pixels of frames by rectangles, so that the networks work where their output is used."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numba
import numpy as np

# Rectangles are sought on a grid of cells of this size, px, or a divisor of it.
_CELL = 8
# Context that the networks get around painted pixels, px.
_MARGIN = 16
# What a rectangle costs beside its area: the networks are called once more, which takes as long as so many pixels.
_CALL_COST = 6400
# The sides of areas with context are multiples of this, px. For every new size, oneDNN compiles some two hundred
# kernels, which takes as long as several frames, and keeps them.
_SIDE = 32


# Edges in cells: top, bottom, left, right. The bottom of a box without cells is 0.
_Box: TypeAlias = tuple[int, int, int, int]


class _Grid(NamedTuple):
    """Lengths in cells."""

    rows: int  # of the picture
    columns: int
    step: int  # edges of areas with context are multiples of it
    side: int  # sides of areas with context are multiples of it
    margin: int
    call_cost: int  # cells of area


class Area(NamedTuple):
    """A rectangle of pixels."""

    top: int
    bottom: int  # one after the last row
    left: int
    right: int  # one after the last column

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and its columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def within(self, other: Area) -> Area:
        """The same area, in coordinates of another one that contains it."""
        return Area(self.top - other.top, self.bottom - other.top, self.left - other.left, self.right - other.left)

    def scaled(self, size: tuple[int, int], target: tuple[int, int]) -> Area:
        """The area that covers this one when a picture of `size` (height, width) is brought to `target`."""
        vertical, horizontal = (to / side for to, side in zip(target, size, strict=True))
        top, left = int(self.top * vertical), int(self.left * horizontal)
        bottom, right = math.ceil(self.bottom * vertical), math.ceil(self.right * horizontal)
        return Area(top, min(bottom, target[0]), left, min(right, target[1]))


def cover(is_painted: np.ndarray, multiple: int) -> list[tuple[Area, Area]]:
    """Cover painted pixels, bool [H, W], by disjoint areas. Returns each, and the area with the context it needs.

    The picture is cut in two again and again where that saves the most work. multiple: the edges of areas with context
    are multiples of it, but at the picture's lower and right borders, px.
    """
    H, W = is_painted.shape
    cell = math.gcd(multiple, _CELL)
    step = multiple // cell
    grid = _Grid(
        rows=-(-H // cell), columns=-(-W // cell), step=step, side=math.lcm(step, _SIDE // cell),
        margin=-(-_MARGIN // cell), call_cost=_CALL_COST // cell**2,
    )  # fmt: skip
    padded = np.zeros((grid.rows * cell, grid.columns * cell), bool)
    padded[:H, :W] = is_painted
    cells = padded.reshape(grid.rows, cell, grid.columns, cell).max((1, 3))

    def in_pixels(box: _Box) -> Area:
        top, bottom, left, right = (cell * edge for edge in box)
        return Area(top, min(bottom, H), left, min(right, W))

    boxes = _cut(cells, _tight(cells, 0, grid.rows, 0, grid.columns), grid)
    return [(in_pixels(box), in_pixels(_grown(box, grid))) for box in boxes]


def _cut(cells: np.ndarray, box: _Box, grid: _Grid) -> list[_Box]:
    """Cut a box as long as that saves work; all boxes that are left have cells."""
    if box[1] == 0:
        return []
    is_row, place = _best_cut(cells, box, grid)
    if place < 0:
        return [box]
    top, bottom, left, right = box
    halves = (
        (_tight(cells, top, place, left, right), _tight(cells, place, bottom, left, right))
        if is_row
        else (_tight(cells, top, bottom, left, place), _tight(cells, top, bottom, place, right))
    )
    return [part for half in halves for part in _cut(cells, half, grid)]


@numba.njit(cache=True, nogil=True)
def _best_cut(cells: np.ndarray, box: _Box, grid: _Grid) -> tuple[bool, int]:
    """Whether to cut a box between rows or between columns, and before which one; -1 where no cut saves work."""
    top, bottom, left, right = box
    is_row, place, best = True, -1, _cost(box, grid)
    for row in range(top + 1, bottom):
        above, below = _tight(cells, top, row, left, right), _tight(cells, row, bottom, left, right)
        cost = _cost(above, grid) + _cost(below, grid)
        if cost < best:
            is_row, place, best = True, row, cost
    for column in range(left + 1, right):
        before, after = _tight(cells, top, bottom, left, column), _tight(cells, top, bottom, column, right)
        cost = _cost(before, grid) + _cost(after, grid)
        if cost < best:
            is_row, place, best = False, column, cost
    return is_row, place


@numba.njit(cache=True, nogil=True)
def _tight(cells: np.ndarray, top: int, bottom: int, left: int, right: int) -> _Box:
    """The smallest box around the cells in a box; all zeros if there are none."""
    first_row, last_row, first_column, last_column = bottom, -1, right, -1
    for row in range(top, bottom):
        for column in range(left, right):
            if cells[row, column]:
                first_row, last_row = min(first_row, row), row
                first_column, last_column = min(first_column, column), max(last_column, column)
    if last_row < 0:
        return 0, 0, 0, 0
    return first_row, last_row + 1, first_column, last_column + 1


@numba.njit(cache=True, nogil=True)
def _grown(box: _Box, grid: _Grid) -> _Box:
    """A box with its margin."""
    top, bottom = _grown_side(box[0], box[1], grid.rows, grid)
    left, right = _grown_side(box[2], box[3], grid.columns, grid)
    return top, bottom, left, right


@numba.njit(cache=True, nogil=True)
def _grown_side(start: int, stop: int, cells: int, grid: _Grid) -> tuple[int, int]:
    """A stretch of a side of so many cells with its margin: as `_Grid` says, or the whole side."""
    end = -(-cells // grid.step) * grid.step
    first = max(start - grid.margin, 0) // grid.step * grid.step
    length = min(-(-(stop + grid.margin - first) // grid.side) * grid.side, end)
    first = min(first, end - length)
    return first, first + length


@numba.njit(cache=True, nogil=True)
def _cost(box: _Box, grid: _Grid) -> int:
    """What the networks' work in a box costs, in cells of area; 0 for a box without cells."""
    if box[1] == 0:
        return 0
    top, bottom, left, right = _grown(box, grid)
    return (bottom - top) * (right - left) + grid.call_cost
