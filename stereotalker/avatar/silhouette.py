"""The person's silhouette as a body fit uses it: bare arms lie within it, because clothes only make a body wider."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from stereotalker.avatar.landmarks import Landmarks
from stereotalker.body.model import Body
from stereotalker.smplx_layout import JOINT, SIDES

# Every so many vertices of the arms are compared with the silhouette.
_VERTEX_STEP = 8
# The silhouette is scaled down to this length of the longer side, px.
_SIZE_PX = 256


def arm_vertices(body: Body) -> np.ndarray:
    """Vertices spread over upper arms and forearms, i64 [N]."""
    weight = body.weights[:, [JOINT[f"{side}_{name}"] for side in SIDES for name in ("shoulder", "elbow")]].sum(1)
    return np.flatnonzero(weight > 0.9)[::_VERTEX_STEP]


def distance_outside(landmarks: Landmarks) -> torch.Tensor:
    """Distance of every place from the person's silhouette, 0 within it or without a person. f32 [1, 1, h, w] px."""
    H, W = landmarks.size
    scale = min(1.0, _SIZE_PX / max(H, W))
    person = cv2.resize(landmarks.person, (round(W * scale), round(H * scale)), interpolation=cv2.INTER_AREA)
    outside = distance_transform_edt(person < 0.5) if (person >= 0.5).any() else np.zeros_like(person)
    return torch.from_numpy((outside / scale).astype(np.float32))[None, None]
