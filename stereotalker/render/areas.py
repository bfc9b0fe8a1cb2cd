"""Covers the painted pixels of frames by rectangles, so that the networks work where their output is used."""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

# Rectangles are sought on a grid of cells of this size, px.
_CELL = 8
# Context that the networks get around painted pixels, in cells.
_MARGIN = 2
# What a rectangle costs beside its area, in cells of area: the networks are called once more.
_CALL_COST = 100
# The sides of areas with context are multiples of this many cells. For every new size, oneDNN compiles some two hundred
# kernels, which takes as long as several frames, and keeps them.
_SIDE = 4


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
    rows, columns = -(-H // _CELL), -(-W // _CELL)
    padded = np.zeros((rows * _CELL, columns * _CELL), bool)
    padded[:H, :W] = is_painted
    cells = padded.reshape(rows, _CELL, columns, _CELL).max((1, 3))
    step = max(1, multiple // _CELL)

    def in_pixels(box: tuple[int, int, int, int]) -> Area:
        top, bottom, left, right = (_CELL * edge for edge in box)
        return Area(top, min(bottom, H), left, min(right, W))

    boxes = _cut(cells, _tight(cells, 0, rows, 0, columns), step)
    return [(in_pixels(box), in_pixels(_grown(box, step, rows, columns))) for box in boxes]


def _cut(cells: np.ndarray, box: tuple[int, int, int, int], step: int) -> list[tuple[int, int, int, int]]:
    """Cut a box of cells (top, bottom, left, right) as long as that saves work; all boxes that are left have cells.

    The bottom of a box without cells is 0.
    """
    if box[1] == 0:
        return []
    is_row, place = _best_cut(cells, box, step)
    if place < 0:
        return [box]
    top, bottom, left, right = box
    halves = (
        (_tight(cells, top, place, left, right), _tight(cells, place, bottom, left, right))
        if is_row
        else (_tight(cells, top, bottom, left, place), _tight(cells, top, bottom, place, right))
    )
    return [part for half in halves for part in _cut(cells, half, step)]


@numba.njit(cache=True, nogil=True)
def _best_cut(cells: np.ndarray, box: tuple[int, int, int, int], step: int) -> tuple[bool, int]:
    """Whether to cut a box between rows or between columns, and before which one; -1 where no cut saves area."""
    (top, bottom, left, right), (rows, columns) = box, cells.shape
    is_row, place, best = True, -1, _cost(box, step, rows, columns)
    for row in range(top + 1, bottom):
        above, below = _tight(cells, top, row, left, right), _tight(cells, row, bottom, left, right)
        cost = _cost(above, step, rows, columns) + _cost(below, step, rows, columns)
        if cost < best:
            is_row, place, best = True, row, cost
    for column in range(left + 1, right):
        before, after = _tight(cells, top, bottom, left, column), _tight(cells, top, bottom, column, right)
        cost = _cost(before, step, rows, columns) + _cost(after, step, rows, columns)
        if cost < best:
            is_row, place, best = False, column, cost
    return is_row, place


@numba.njit(cache=True, nogil=True)
def _tight(cells: np.ndarray, top: int, bottom: int, left: int, right: int) -> tuple[int, int, int, int]:
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
def _grown(box: tuple[int, int, int, int], step: int, rows: int, columns: int) -> tuple[int, int, int, int]:
    """A box with its margin, in a picture of rows x columns cells; its edges are multiples of `step`."""
    top, bottom = _grown_side(box[0], box[1], step, rows)
    left, right = _grown_side(box[2], box[3], step, columns)
    return top, bottom, left, right


@numba.njit(cache=True, nogil=True)
def _grown_side(start: int, stop: int, step: int, cells: int) -> tuple[int, int]:
    """A stretch of cells with its margin; its length is a multiple of _SIDE, or all that there are."""
    end = -(-cells // step) * step
    first = max(start - _MARGIN, 0) // step * step
    length = min(-(-(stop + _MARGIN - first) // _SIDE) * _SIDE, end)
    first = min(first, end - length) // step * step
    return first, first + length


@numba.njit(cache=True, nogil=True)
def _cost(box: tuple[int, int, int, int], step: int, rows: int, columns: int) -> int:
    """What the networks' work in a box costs, in cells of area; 0 for a box without cells."""
    if box[1] == 0:
        return 0
    top, bottom, left, right = _grown(box, step, rows, columns)
    return (bottom - top) * (right - left) + _CALL_COST
