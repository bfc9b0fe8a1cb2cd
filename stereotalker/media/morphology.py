"""Structuring elements for the morphology of masks."""

from __future__ import annotations

import cv2
import numpy as np


def disk_kernel(radius: int) -> np.ndarray:
    """A round structuring element, u8 [2 radius + 1, 2 radius + 1]."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
