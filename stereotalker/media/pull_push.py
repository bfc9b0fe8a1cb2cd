"""Continues the colors of a picture smoothly over its unknown pixels."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

# Distance over which the nearest color gives way to a smooth mean of all; share of the longer side.
_NEAREST_COLOR_REACH = 1 / 150


def extrapolate_colors(picture: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """The picture u8 [H, W, 3] where `is_known` bool [H, W], with its colors continued smoothly everywhere else."""
    if not is_known.any():
        return picture
    is_unknown = ~is_known
    distance, (rows, columns) = distance_transform_edt(is_unknown, return_indices=True)
    near = np.exp(-distance[is_unknown] / max(1.0, max(is_known.shape) * _NEAREST_COLOR_REACH))[:, None]
    nearest = picture[rows[is_unknown], columns[is_unknown]]
    smooth = _pull_push(picture.astype(np.float32), is_known)[is_unknown]
    result = picture.copy()
    result[is_unknown] = np.clip(np.rint(near * nearest + (1 - near) * smooth), 0, 255).astype(np.uint8)
    return result


def _pull_push(picture: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """Fill unknown pixels from ever coarser means of the known ones (Gortler et al. 1996). f32 [H, W, 3]."""
    weight = is_known.astype(np.float32)
    if min(weight.shape) < 4 or is_known.all():
        mean = (picture * weight[..., None]).sum((0, 1)) / max(float(weight.sum()), 1e-6)
        return np.where(is_known[..., None], picture, mean)
    size = (-(-weight.shape[1] // 2), -(-weight.shape[0] // 2))
    coarse_weight = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(picture * weight[..., None], size, interpolation=cv2.INTER_AREA)
    coarse = coarse / np.maximum(coarse_weight, 1e-6)[..., None]
    filled = _pull_push(coarse, coarse_weight > 1e-3)
    return np.where(
        is_known[..., None], picture, cv2.resize(filled, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
    )
