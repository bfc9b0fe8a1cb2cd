"""Conversions of rotations, used by the body model, the acting and the exports."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation, Slerp


def axis_angle_to_matrix(vectors: torch.Tensor) -> torch.Tensor:
    """Rodrigues' formula. f32 [..., 3] radians -> f32 [..., 3, 3]."""
    # The smplx package adds the same offset, so both readers of the body file agree.
    angle = torch.linalg.vector_norm(vectors + 1e-8, dim=-1, keepdim=True)
    x, y, z = (vectors / angle).unbind(-1)
    zero = torch.zeros_like(x)
    K = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    sin, cos = torch.sin(angle)[..., None], torch.cos(angle)[..., None]
    return torch.eye(3, dtype=vectors.dtype, device=vectors.device) + sin * K + (1 - cos) * (K @ K)


def rotation_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation [3, 3] that takes direction a [3] to direction b [3].

    For opposite directions, whose smallest rotation is not unique, it is the identity.
    """
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    axis = np.cross(a, b)
    sin, cos = np.linalg.norm(axis), float(np.dot(a, b))
    if sin < 1e-9:
        return np.eye(3)
    return Rotation.from_rotvec(axis / sin * np.arctan2(sin, cos)).as_matrix()


def resample_axis_angle(poses: np.ndarray, times: np.ndarray, new_times: np.ndarray) -> np.ndarray:
    """Resample every joint by spherical linear interpolation (slerp), and hold the first and the last pose outside.

    poses f32 [T, J, 3] axis-angle rad at `times` [T] s -> f32 [N, J, 3] at `new_times` [N] s.
    """
    if len(poses) == 1:
        return np.repeat(poses, len(new_times), axis=0)
    clipped = np.clip(new_times, times[0], times[-1])
    tracks = [Slerp(times, Rotation.from_rotvec(poses[:, j]))(clipped).as_rotvec() for j in range(poses.shape[1])]
    return np.stack(tracks, axis=1).astype(np.float32)
