"""Where the parts of an arm are in the trunk's frame, by forward kinematics. T frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from stereotalker.smplx_layout import JOINT


@dataclass(frozen=True)
class ArmPositions:
    """An arm in the trunk's frame, in every frame of a motion (or in one)."""

    shoulder: np.ndarray  # [T, 3] m
    elbow: np.ndarray  # [T, 3] m
    wrist: np.ndarray  # [T, 3] m
    upper_arm: Rotation  # [T]
    forearm: Rotation  # [T]
    hand: Rotation  # [T]

    @classmethod
    def of(cls, side: str, poses: np.ndarray, joints: np.ndarray) -> ArmPositions:
        """poses [T, 55, 3] axis-angle rad; joints [55, 3] m."""
        collar, shoulder, elbow, wrist = (JOINT[f"{side}_{name}"] for name in ("collar", "shoulder", "elbow", "wrist"))
        R = [Rotation.from_rotvec(poses[:, collar])]
        for joint in (shoulder, elbow, wrist):
            R.append(R[-1] * Rotation.from_rotvec(poses[:, joint]))
        p = [joints[collar] + R[0].apply(joints[shoulder] - joints[collar])]
        p.append(p[-1] + R[1].apply(joints[elbow] - joints[shoulder]))
        p.append(p[-1] + R[2].apply(joints[wrist] - joints[elbow]))
        return cls(p[0], p[1], p[2], R[1], R[2], R[3])
