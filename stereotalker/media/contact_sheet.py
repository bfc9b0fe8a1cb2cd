"""Contact sheets: many small pictures in a grid, each with a label, for a person to look through.

All pictures are u8 [H, W, 3] sRGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw


def labelled_tile(picture: np.ndarray, text: str) -> np.ndarray:
    """Return a copy of the picture with white text, outlined in black, in its upper left corner."""
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((6, 4), text, fill=(255, 255, 255), stroke_width=2, stroke_fill=(0, 0, 0), font_size=18)
    return np.asarray(image)


def split_into_rows(tiles: Sequence[np.ndarray], columns: int) -> list[Sequence[np.ndarray]]:
    """Cut a sequence of tiles into rows of `columns` tiles; the last row may be shorter."""
    return [tiles[start : start + columns] for start in range(0, len(tiles), columns)]


def grid(rows: Sequence[Sequence[np.ndarray]], fill: int | tuple[int, int, int] = 0) -> np.ndarray:
    """Lay out rows of tiles as a table, u8 [H, W, 3].

    A row is as high as its highest tile, a column as wide as its widest. Tiles lie in the upper left corner of their
    cells. Cells without a tile, and the rest of cells that are larger than their tile, have the gray level or the color
    `fill`.
    Raises ValueError where there is no tile.
    """
    if not any(len(row) for row in rows):
        raise ValueError("a contact sheet needs at least one tile")
    heights = [max((tile.shape[0] for tile in row), default=0) for row in rows]
    columns = max(len(row) for row in rows)
    widths = [max(row[c].shape[1] for row in rows if c < len(row)) for c in range(columns)]
    sheet = np.full((sum(heights), sum(widths), 3), fill, np.uint8)
    tops, lefts = np.cumsum([0, *heights]), np.cumsum([0, *widths])
    for row, top in zip(rows, tops, strict=False):
        for tile, left in zip(row, lefts, strict=False):
            height, width = tile.shape[:2]
            sheet[top : top + height, left : left + width] = tile
    return sheet
