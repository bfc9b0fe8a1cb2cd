"""Where a detector's points lie on our body, and how people hold themselves: measured on rendered synthetic people.

The detector runs on rendered heads and its points are cast back onto the surface; its body points become offsets from our joints;
the acting of all personalities gives the prior of arms and fingers. Stage `avatar` writes the file, fits only read it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stereotalker.errors import UserError
from stereotalker.params import ROOT
from stereotalker.smplx_layout import JOINT, SIDES

FACE_M = 0.165  # from the chin to the upper edge of the forehead, of the mean shape
FILE = ROOT / "stereotalker" / "assets" / "DETECTOR_FREE.npz"
ARM_JOINTS = tuple(f"{side}_{name}" for side in SIDES for name in ("collar", "shoulder", "elbow", "wrist"))
TRUNK_JOINTS = ("spine1", "spine2", "spine3")
OFFSET_FRAMES = {
    "shoulder": "{side}_collar",
    "elbow": "{side}_shoulder",
    "wrist": "{side}_elbow",
    "hip": "pelvis",
}  # that offsets turn with
FINGERS = ("thumb", "index", "middle", "ring", "pinky")  # in the order in which the detector counts them
HAND_JOINTS = ("wrist", *(f"{finger}{k}" for finger in FINGERS for k in (1, 2, 3, 3)))  # the last of each is its tip
MIRROR = {"left": 1.0, "right": -1.0}


class PosePoint(NamedTuple):
    """A body point of the detector: how far it lies from our joint, in the frame of a joint. Left side; the right one mirrors x."""

    frame: str
    offset: np.ndarray  # f32 [3] m


@dataclass(frozen=True)
class Calibration:
    face_triangle: np.ndarray  # i64 [478]
    face_weights: np.ndarray  # f32 [478, 3] barycentric
    face_spread: np.ndarray  # f32 [478] median distance of single casts, in face heights
    face_template: np.ndarray  # f32 [478, 3] m, on the mean body at rest
    head_offset: np.ndarray  # f32 [3, 3] takes the detector's head rotation to ours
    pose_offsets: np.ndarray  # f32 [shoulder elbow wrist hip, 3] m
    tips: np.ndarray  # f32 [5, 3] from the last joint of each finger, in lengths of the bone before it; left hand, the right one mirrors x
    arm_examples: np.ndarray  # f32 [N, 24] rad: arms of the acting that differ
    trunk_mean: np.ndarray  # f32 [3, 3] rad
    arm_mean: np.ndarray  # f32 [24]
    arm_scale: np.ndarray  # f32 [24, 24] Cholesky factor of the covariance
    hand_mean: np.ndarray  # f32 [2, 45]
    hand_scale: np.ndarray  # f32 [2, 45, 45]
    expression_mean: np.ndarray  # f32 [52]

    @property
    def pose_points(self) -> dict[str, PosePoint]:
        return {
            name: PosePoint(frame, offset)
            for (name, frame), offset in zip(OFFSET_FRAMES.items(), self.pose_offsets, strict=True)
        }

    @property
    def arm_joints(self) -> list[int]:
        return [JOINT[name] for name in ARM_JOINTS]

    def face_points(self, values: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Values [V, C] of a body's vertices (places, pixels) at the face's points, [478, C]; faces i32 [F, 3] the body's."""
        return (values[faces[self.face_triangle]] * self.face_weights[..., None]).sum(1)


@lru_cache(maxsize=1)
def read_calibration(path: Path = FILE) -> Calibration:
    if not path.is_file():
        raise UserError(f"{path} not found; run the stage `avatar`, or restore the repository's file")
    with np.load(path, allow_pickle=False) as file:
        return Calibration(**{field.name: file[field.name] for field in fields(Calibration)})
