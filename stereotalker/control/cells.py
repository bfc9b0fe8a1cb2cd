"""Cuts pictures into cells, whose pixels are the channels that networks see (pixel-unshuffle, Shi et al. 2016)."""

from __future__ import annotations

import torch


def to_cells(picture: torch.Tensor, side: int) -> torch.Tensor:
    """Cells of side x side px of a picture [B, H, W, C]: [B, H / side, W / side, C side^2].

    The order of a cell's values is that of torch's pixel_unshuffle: by channel, then row, then column.
    """
    cells = picture.unflatten(2, (-1, side)).unflatten(1, (-1, side))
    return cells.permute(0, 1, 3, 5, 2, 4).flatten(3)
