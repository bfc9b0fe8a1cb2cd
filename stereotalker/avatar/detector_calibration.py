"""The detector calibration: where a detector's keypoints lie on the body, and priors of how people hold themselves.

It is measured on rendered synthetic people. The detector runs on rendered heads, and its points are cast back onto the
surface. Its body points become offsets from the joints of SMPL-X. The motion examples of all personalities give the
priors of trunk, arms and fingers. The stage `avatar` writes the file (see `training.detector_calibration`); fits only
read it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stereotalker.errors import UserError
from stereotalker.params import ASSETS
from stereotalker.smplx_layout import JOINT, SIDES

# Face height of the mean shape: distance from the chin to the upper edge of the forehead, m.
FACE_HEIGHT_M = 0.165
FILE = ASSETS / "DETECTOR_FREE.npz"
ARM_JOINTS = tuple(f"{side}_{name}" for side in SIDES for name in ("collar", "shoulder", "elbow", "wrist"))
TRUNK_JOINTS = ("spine1", "spine2", "spine3")
# Body points and the joint whose rotation their offsets follow.
OFFSET_FRAMES = {
    "shoulder": "{side}_collar",
    "elbow": "{side}_shoulder",
    "wrist": "{side}_elbow",
    "hip": "pelvis",
}
# In the order of the detector's hand points.
FINGERS = ("thumb", "index", "middle", "ring", "pinky")
# The joint of each of the 21 hand points. A fingertip has no joint of its own and is given the last one of its finger.
HAND_JOINTS = ("wrist", *(f"{finger}{k}" for finger in FINGERS for k in (1, 2, 3, 3)))
# Sign of the x coordinate of offsets, which are stored for the left side.
MIRROR_X = {"left": 1.0, "right": -1.0}


class PosePoint(NamedTuple):
    """Where a body point of the detector lies, as an offset from the joint of the same name.

    The offset is that of the left side; mirror x for the right.
    """

    frame: str  # joint whose rotation the offset follows, a format string with {side}
    offset: np.ndarray  # f32 [3] m


@dataclass(frozen=True)
class Calibration:
    """The arrays of the calibration file, under the names that they have there."""

    face_triangle: np.ndarray  # i64 [478] the body's triangle that carries each face point
    face_weights: np.ndarray  # f32 [478, 3] barycentric coordinates in that triangle
    face_spread: np.ndarray  # f32 [478] median distance of single heads' points from the template, in face heights
    face_template: np.ndarray  # f32 [478, 3] m, the face points of the mean body in the rest pose
    head_offset: np.ndarray  # f32 [3, 3] detector's head rotation @ head_offset = rotation of the SMPL-X head joint
    pose_offsets: np.ndarray  # f32 [4, 3] m, for shoulder, elbow, wrist and hip
    # f32 [5, 3] from the last joint of each finger to its tip, in lengths of the bone before that joint. They are those
    # of the left hand; mirror x for the right.
    tips: np.ndarray
    arm_examples: np.ndarray  # f32 [N, 24] rad, arms of motion examples that differ from each other
    trunk_mean: np.ndarray  # f32 [3, 3] rad, of the three spine joints
    arm_mean: np.ndarray  # f32 [24] rad, of ARM_JOINTS
    arm_scale: np.ndarray  # f32 [24, 24] Cholesky factor of the covariance
    hand_mean: np.ndarray  # f32 [2, 45] rad, left and right
    hand_scale: np.ndarray  # f32 [2, 45, 45] Cholesky factors of the covariances
    expression_mean: np.ndarray  # f32 [52]

    @property
    def pose_points(self) -> dict[str, PosePoint]:
        """The body points that a fit uses, by name."""
        return {
            name: PosePoint(frame, offset)
            for (name, frame), offset in zip(OFFSET_FRAMES.items(), self.pose_offsets, strict=True)
        }

    @property
    def arm_joints(self) -> list[int]:
        """Indices of ARM_JOINTS in a pose."""
        return [JOINT[name] for name in ARM_JOINTS]

    def face_points(self, values: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Interpolate values [V, C] of a body's vertices (positions, pixels) at the face points, [478, C].

        faces i32 [F, 3]: the body's triangles.
        """
        return (values[faces[self.face_triangle]] * self.face_weights[..., None]).sum(1)


@lru_cache(maxsize=1)
def read_calibration(path: Path = FILE) -> Calibration:
    """Read a calibration file. Raises UserError if it does not exist."""
    if not path.is_file():
        raise UserError(f"{path} not found; run the stage `avatar`, or restore the repository's file")
    with np.load(path, allow_pickle=False) as file:
        return Calibration(**{field.name: file[field.name] for field in fields(Calibration)})
