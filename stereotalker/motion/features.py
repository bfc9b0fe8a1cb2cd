"""Converts a Motion to and from the two streams of the denoiser.

The face has one row per frame, body and hands have one row (a slot) per SLOT frames.

T frames, S = T / SLOT slots, P = FACE_COLUMNS, Q = BODY_COLUMNS, K coefficients of the body's basis.
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
JAW = 3 * FACE_JOINTS.index("jaw")  # face column of the jaw's opening angle, rad
# Face columns of the facial actions that move mouth, jaw or tongue.
MOUTH = [3 * len(FACE_JOINTS) + i for name, i in ACTION.items() if name.startswith(("mouth", "jaw", "tongue"))]
# Slots that are interpolated at once, and extra slots on both sides of them. The influence of a value on a cubic spline
# falls by about three quarters with every knot, so with this margin blocks join without a step.
_BLOCK, _MARGIN = 2000, 24
# Indices into JOINTS.
_FACE, _BODY = ([JOINT[name] for name in names] for names in (FACE_JOINTS, BODY_JOINTS))


def face_columns(motion: Motion) -> np.ndarray:
    """f32 [T, P]: jaw and eyes as axis-angle (rad), then the 52 facial actions."""
    return np.concatenate([motion.poses[:, _FACE].reshape(len(motion.poses), -1), motion.expression], 1)


def body_columns(motion: Motion) -> np.ndarray:
    """f32 [T, Q]: the other joints as axis-angle (rad), then the translation (m)."""
    return np.concatenate([motion.poses[:, _BODY].reshape(len(motion.poses), -1), motion.trans], 1)


def to_motion(face: np.ndarray, body: np.ndarray, fps: float) -> Motion:
    """Face columns f32 [T, P] and body columns f32 [T, Q] -> Motion. Facial actions are clipped to 0..1."""
    T = len(face)
    poses = np.zeros((T, len(JOINTS), 3), np.float32)
    poses[:, _FACE] = face[:, : 3 * len(_FACE)].reshape(T, -1, 3)
    poses[:, _BODY] = body[:, :-3].reshape(T, -1, 3)
    expression = np.clip(face[:, 3 * len(_FACE) :], 0, 1).astype(np.float32)
    return Motion(poses, expression, np.ascontiguousarray(body[:, -3:], dtype=np.float32), fps)


def to_slots(body: np.ndarray) -> np.ndarray:
    """Means over every SLOT frames, [T, Q] -> [T / SLOT, Q]. Frames behind the last full slot are dropped."""
    return body[: len(body) // SLOT * SLOT].reshape(-1, SLOT, body.shape[1]).mean(1)


def from_slots(slots: np.ndarray) -> np.ndarray:
    """Interpolate slots [S, Q] at the frames, f32 [S * SLOT, Q]: natural cubic splines through the slots' centers."""
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


def column_weights() -> np.ndarray:
    """Weight of each body column in the principal axes, f32 [Q]: how visible a radian (or meter) of it is to a viewer.

    Head and trunk move little but turn or carry the whole upper body; a finger's curl is large and hardly visible.
    """
    visibility = {
        "head": 4.0,
        "neck": 4.0,
        "spine1": 5.0,
        "spine2": 5.0,
        "spine3": 5.0,
        "left_collar": 3.0,
        "right_collar": 3.0,
    }
    # Names that end in 1, 2 or 3 and are not the spine's are finger joints.
    weights = [visibility.get(name, 0.35 if name[-1] in "123" and "spine" not in name else 1.0) for name in BODY_JOINTS]
    return np.concatenate([np.repeat(weights, 3), np.full(3, 20.0)]).astype(np.float32)


def principal_axes(bodies: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Principal axes of body columns [N, Q] times `column_weights()`: mean [Q], axes [count, Q], deviations [count]."""
    mean = bodies.mean(0)
    centered = (bodies - mean) * column_weights()
    values, vectors = np.linalg.eigh(centered.T @ centered / len(centered))
    order = np.argsort(values)[::-1][:count]
    return mean, np.ascontiguousarray(vectors[:, order].T), np.sqrt(np.maximum(values[order], 1e-10))


def to_coefficients(
    slots: torch.Tensor, mean: torch.Tensor, axes: torch.Tensor, deviation: torch.Tensor
) -> torch.Tensor:
    """Body columns [..., Q] -> coefficients [..., K] of unit deviation."""
    return ((slots - mean) * torch.from_numpy(column_weights())) @ axes.T / deviation


def from_coefficients(
    coefficients: torch.Tensor, mean: torch.Tensor, axes: torch.Tensor, deviation: torch.Tensor
) -> torch.Tensor:
    """The inverse of `to_coefficients`: [..., K] -> [..., Q]."""
    return (coefficients * deviation) @ axes / torch.from_numpy(column_weights()) + mean
