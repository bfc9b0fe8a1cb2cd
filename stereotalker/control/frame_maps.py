"""The record of one frame's control maps while the numba kernels draw them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class FrameMaps(NamedTuple):
    """Maps of one frame of H x W px, C-contiguous and mostly supersampled. Kernels overwrite their pixels in place.

    This is a NamedTuple and not a dataclass because numba kernels accept NamedTuples of arrays as arguments.
    """

    # u8 [H, W, 3] sRGB: the background plate at first, then the person's colors over it.
    warp: np.ndarray
    # u8 [H, W]: where a pixel's color comes from, a visibility value of `reference_warp`; 0 outside the person.
    visibility: np.ndarray
    # u8 [H, W]: index into smplx_layout.REGIONS; 0 is the background.
    labels: np.ndarray
    # u8 [H, W, 3]: camera-space normal, 127.5 stands for 0; all zeros outside the person.
    normals: np.ndarray
