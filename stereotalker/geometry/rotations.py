"""Conversions of rotations, used by the body model, the acting, retargeting and the exports. T frames."""

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


def scaled_rotation(rotvec: np.ndarray, factor: np.ndarray | float) -> Rotation:
    """Rotations [T, 3] with their angles multiplied by a factor [T]."""
    return Rotation.from_rotvec(rotvec * np.reshape(factor, (-1, 1)))


def limited_rotation(rotation: Rotation, limit: float | np.ndarray) -> Rotation:
    """Rotations [T] whose angles approach `limit` (rad, one for all or [T]) but never reach it."""
    rotvec = rotation.as_rotvec()
    angle = np.linalg.norm(rotvec, axis=-1, keepdims=True)
    limit = np.maximum(np.reshape(limit, (-1, 1)), 1e-9)
    return Rotation.from_rotvec(rotvec * limit * np.tanh(angle / limit) / np.maximum(angle, 1e-9))


def unit_and_length(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [T, 3] and lengths [T] of vectors [T, 3]."""
    length = np.linalg.norm(vectors, axis=1)
    return vectors / np.maximum(length, 1e-9)[:, None], length


def rotations_between(a: np.ndarray, b: np.ndarray) -> Rotation:
    """The smallest rotations that take unit vectors a [T, 3] to b [T, 3], which are not opposite."""
    cross = np.cross(a, b)
    quaternion = np.concatenate([cross, 1 + (a * b).sum(1, keepdims=True)], 1)
    return Rotation.from_quat(quaternion)


def frame_rotation(direction: np.ndarray, normal: np.ndarray) -> Rotation:
    """Rotations [T] whose first axis is a direction [T, 3], and whose third is nearest to a normal [T, 3]."""
    x, _ = unit_and_length(direction)
    z, _ = unit_and_length(normal - (normal * x).sum(1, keepdims=True) * x)
    return Rotation.from_matrix(np.stack([x, np.cross(z, x), z], 2))


def twist_angle(rotation: Rotation, axis: np.ndarray) -> np.ndarray:
    """The angle [T] of rotations about an axis [3], in a swing-twist decomposition, rad."""
    q = rotation.as_quat()
    return 2 * np.arctan2(q[:, :3] @ (axis / np.linalg.norm(axis)), q[:, 3])


def wrapped_angle(angle: np.ndarray) -> np.ndarray:
    """Angles in -pi..pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
