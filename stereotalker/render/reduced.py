"""Large frames: the networks work on reduced control maps, and what they change is put onto the full ones.

The warp carries the portrait's detail at the frame's own size, so that only what the portrait did not show is as coarse
as the networks' picture.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch.nn import functional

from stereotalker.records import Control

# A pixel of an enlarged picture is mixed from pixels that are at most so far away (bicubic), px of the small picture.
_REACH = 2


def network_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Height and width of the networks' picture for frames of this size, px: at most `longest` along either axis."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def reduce_maps(maps: Control, size: tuple[int, int]) -> Control:
    """Control maps at another size (height, width), px: means of colors, and the nearest of all other values."""
    if maps.labels.shape[1:] == size:
        return maps

    def resized(pictures: np.ndarray, interpolation: int) -> np.ndarray:
        return np.stack([cv2.resize(picture, size[::-1], interpolation=interpolation) for picture in pictures])

    warp, plate, coverage = (resized(m, cv2.INTER_AREA) for m in (maps.warp, maps.plate, maps.coverage))
    visibility, labels, normals = (
        resized(m, cv2.INTER_NEAREST_EXACT) for m in (maps.visibility, maps.labels, maps.normals)
    )
    return Control(warp, visibility, normals, labels, plate, coverage, maps.azimuth, maps.elevation)


def reduce_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask bool [H, W] at another size: true for every pixel from which `enlarge` makes one of the mask's."""
    if mask.shape == size:
        return mask
    reduced = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0
    return cv2.dilate(reduced.astype(np.uint8), np.ones((2 * _REACH + 1, 2 * _REACH + 1), np.uint8)) > 0


def enlarge(
    picture: torch.Tensor, person: torch.Tensor, reduced: torch.Tensor, warp: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring the networks' picture f32 [B, 3, h, w] and the person's alpha f32 [B, 1, h, w] to the size of the warp.

    What the picture adds to the reduced warp f32 [B, 3, h, w] is added to the warp f32 [B, 3, H, W], which keeps its
    detail. Returns both, f32 [B, 3, H, W] and f32 [B, 1, H, W].
    """
    size = warp.shape[2:]
    change = functional.interpolate(picture - reduced, size, mode="bicubic", align_corners=False)
    return warp + change, functional.interpolate(person, size, mode="bilinear", align_corners=False)
