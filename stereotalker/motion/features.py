"""A Motion as the two streams that the denoiser knows: the face at the frame rate, body and hands at half of it.

T frames, S = T / SLOT slots, P = len(FACE) face columns, Q body columns, K coefficients of the body's basis.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from stereotalker.motion.language_prior import SLOT
from stereotalker.records import Motion
from stereotalker.smplx_layout import ACTION, ACTIONS, JOINT, JOINTS

FACE_JOINTS: tuple[str, ...] = ("jaw", "left_eye", "right_eye")
BODY_JOINTS: tuple[str, ...] = tuple(name for name in JOINTS if name not in FACE_JOINTS)
FACE_COLUMNS = 3 * len(FACE_JOINTS) + len(ACTIONS)
BODY_COLUMNS = 3 * len(BODY_JOINTS) + 3
JAW = 3 * FACE_JOINTS.index("jaw")  # face column: the jaw's opening, rad
MOUTH = [3 * len(FACE_JOINTS) + i for name, i in ACTION.items() if name.startswith(("mouth", "jaw", "tongue"))]
_BLOCK, _MARGIN = (
    2000,
    24,
)  # slots of a curve made at once, and beyond it on both sides: a spline forgets three quarters a knot
_FACE, _BODY = ([JOINT[name] for name in names] for names in (FACE_JOINTS, BODY_JOINTS))


def face_columns(motion: Motion) -> np.ndarray:
    """f32 [T, P]: jaw and eyes as axis-angle, then the 52 actions."""
    return np.concatenate([motion.poses[:, _FACE].reshape(len(motion.poses), -1), motion.expression], 1)


def body_columns(motion: Motion) -> np.ndarray:
    """f32 [T, Q]: the other joints as axis-angle, then the translation."""
    return np.concatenate([motion.poses[:, _BODY].reshape(len(motion.poses), -1), motion.trans], 1)


def to_motion(face: np.ndarray, body: np.ndarray, fps: float) -> Motion:
    """f32 [T, P] and [T, Q] -> Motion; actions are kept within 0..1."""
    T = len(face)
    poses = np.zeros((T, len(JOINTS), 3), np.float32)
    poses[:, _FACE] = face[:, : 3 * len(_FACE)].reshape(T, -1, 3)
    poses[:, _BODY] = body[:, :-3].reshape(T, -1, 3)
    expression = np.clip(face[:, 3 * len(_FACE) :], 0, 1).astype(np.float32)
    return Motion(poses, expression, np.ascontiguousarray(body[:, -3:], dtype=np.float32), fps)


def to_slots(body: np.ndarray) -> np.ndarray:
    """Means of every SLOT frames. [T, Q] -> [T / SLOT, Q]."""
    return body[: len(body) // SLOT * SLOT].reshape(-1, SLOT, body.shape[1]).mean(1)


def from_slots(slots: np.ndarray) -> np.ndarray:
    """Smooth curves through the slots' centres, at the frames. [S, Q] -> [S * SLOT, Q]."""
    if len(slots) < 2:
        return np.repeat(slots, SLOT, 0)
    out = np.empty((len(slots) * SLOT, slots.shape[1]), np.float32)
    for start in range(0, len(slots), _BLOCK):
        stop = min(start + _BLOCK, len(slots))
        low, high = max(start - _MARGIN, 0), min(stop + _MARGIN, len(slots))
        frames = (np.arange(start * SLOT, stop * SLOT) + 0.5) / SLOT - 0.5
        out[start * SLOT : stop * SLOT] = CubicSpline(np.arange(low, high), slots[low:high], axis=0, bc_type="natural")(
            frames
        )
    return out


def importance() -> np.ndarray:
    """How much a radian (or metre) of each body column is seen: a head's nod is small and matters, a finger's curl is neither. f32 [Q]."""
    seen = {
        "head": 4.0,
        "neck": 4.0,
        "spine1": 5.0,
        "spine2": 5.0,
        "spine3": 5.0,
        "left_collar": 3.0,
        "right_collar": 3.0,
    }
    weights = [seen.get(name, 0.35 if name[-1] in "123" and "spine" not in name else 1.0) for name in BODY_JOINTS]
    return np.concatenate([np.repeat(weights, 3), np.full(3, 20.0)]).astype(np.float32)


def principal_axes(bodies: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [Q], axes [K, Q] and deviations [K] of body columns [N, Q] times their importance."""
    mean = bodies.mean(0)
    centred = (bodies - mean) * importance()
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    order = np.argsort(values)[::-1][:count]
    return mean, np.ascontiguousarray(vectors[:, order].T), np.sqrt(np.maximum(values[order], 1e-10))


def to_coefficients(
    slots: torch.Tensor, mean: torch.Tensor, axes: torch.Tensor, deviation: torch.Tensor
) -> torch.Tensor:
    """Body columns [..., Q] -> coefficients of unit size [..., K]."""
    return ((slots - mean) * torch.from_numpy(importance())) @ axes.T / deviation


def from_coefficients(
    coefficients: torch.Tensor, mean: torch.Tensor, axes: torch.Tensor, deviation: torch.Tensor
) -> torch.Tensor:
    """The way back: [..., K] -> [..., Q]."""
    return (coefficients * deviation) @ axes / torch.from_numpy(importance()) + mean
