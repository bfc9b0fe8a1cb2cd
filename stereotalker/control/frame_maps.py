"""The record of one frame's control maps while they are drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class FrameMaps(NamedTuple):
    """Maps of one frame of H x W px, which are overwritten in place.

    This is a NamedTuple and not a dataclass because numba kernels accept NamedTuples of arrays as arguments.
    """

    # u8 [H, W, 3] sRGB: the person's colors over the background plate.
    warp: np.ndarray
    # u8 [H, W]: where a pixel's color comes from, a visibility value of `reference_warp`; 0 outside the person.
    visibility: np.ndarray
    # u8 [H, W]: index into smplx_layout.REGIONS; 0 is the background.
    labels: np.ndarray
    # u8 [H, W, 3]: camera-space normal, 127.5 stands for 0; all zeros outside the person.
    normals: np.ndarray
    # u8 [H, W]: share of the pixel that the person covers, of 255.
    coverage: np.ndarray
    # i32 [H, W]: the triangle that the pixel shows; -1 where the mesh does not cover it wholly.
    face: np.ndarray
