"""The pose that a person's gestures leave from, and come back to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stereotalker.acting.arm_ik import pose_arm
from stereotalker.acting.gestures import REST_POSES
from stereotalker.acting.reference_acting import STYLES, resting_pose
from stereotalker.body.model import Body
from stereotalker.geometry.camera import project
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINTS, SIDES

# Where arms can rest: name -> key of gestures.REST_POSES; None for where the portrait has them.
ARM_POSES = {"portrait": None, "clasped": "together", "sides": "sides"}


@dataclass(frozen=True)
class RestPose:
    """A pose that gestures leave from, and the skeleton of the person in it."""

    poses: np.ndarray  # f32 [55, 3] axis-angle rad
    joints: np.ndarray  # f32 [55, 3] m, positions of the joints when all rotations are 0
    room: tuple[float, float] = (np.inf, np.inf)  # m from a hand outwards to the edge of the picture, as SIDES
    # m from a hand down to the lower edge of the picture, as SIDES; negative for a hand that rests below it
    room_below: tuple[float, float] = (np.inf, np.inf)

    @classmethod
    def of_avatar(cls, avatar: Avatar, body: Body, arms: str = "portrait") -> RestPose:
        """The pose of an avatar's portrait, with its arms as there or in another of ARM_POSES."""
        poses = avatar.poses.copy()
        if (name := ARM_POSES[arms]) is not None:
            for side, target in zip(SIDES, REST_POSES[name], strict=True):
                pose_arm(side, target.vector()[None], poses[None])
        posed = body.posed_joints(Motion.still(poses, avatar.expression), avatar.betas, avatar.surface)[0][0]
        left, right = (_room(avatar, posed, side) for side in SIDES)
        joints = body.rest_joints(avatar.betas, avatar.surface)
        return cls(poses, joints, (max(left[0], 0.0), max(right[0], 0.0)), (left[1], right[1]))

    @classmethod
    def of_style(cls, style: int, body: Body) -> RestPose:
        """The pose of the mean body that the motion model gestures from in an acting style."""
        poses = resting_pose(STYLES[style]).poses[0]
        return cls(poses, body.rest_joints(np.zeros(body.betas, np.float32)))


def _room(avatar: Avatar, joints: np.ndarray, side: str) -> tuple[float, float]:
    """How far a hand at rest is from the edge of the picture on its own side, and from the lower one, m.

    Negative beyond the edge.

    joints f32 [55, 3] m: of the avatar in its portrait.
    """
    hand = [k for k, name in enumerate(JOINTS) if name.startswith(side) and name[-1] in "123"]
    pixels = project(joints[hand], avatar.intrinsics, avatar.extrinsics)
    # The person's left is on the right of the picture.
    px = avatar.regions.shape[1] - pixels[:, 0].max() if side == "left" else pixels[:, 0].min()
    below_px = avatar.regions.shape[0] - pixels[:, 1].max()
    m_per_px = float(pixels[:, 2].mean() / avatar.intrinsics[0, 0])
    return float(px) * m_per_px, float(below_px) * m_per_px
