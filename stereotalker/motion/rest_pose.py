"""The pose that a person's gestures leave from, and come back to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stereotalker.acting.arm_ik import pose_arm
from stereotalker.acting.gestures import REST_POSES
from stereotalker.acting.reference_acting import STYLES, resting_pose
from stereotalker.body.model import Body
from stereotalker.geometry.camera import project
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, JOINTS, SIDES

# Where arms can rest: name -> key of gestures.REST_POSES; None for where the portrait has them.
ARM_POSES = {"portrait": None, "clasped": "together", "sides": "sides"}

# Swivel angle of arms that hang, rad: their elbows point to the back and outwards. The acting's own lie in the trunk.
_HANGING_SWIVEL = 1.4
_TRUNK = JOINT["spine3"]
# Ends of the names of the joints of a part of the arm.
_HAND, _ELBOW = ("1", "2", "3"), ("elbow",)
# Hands whose middles lie nearer than the first distance, as the portrait's camera sees them, move as one; beyond the
# second, each moves alone. So with their depths, which are known to some 10 cm only.
_TOUCHING_M, _LEVEL_M = (0.10, 0.16), (0.30, 0.40)


@dataclass(frozen=True)
class RestPose:
    """A pose that gestures leave from, and the skeleton of the person in it."""

    poses: np.ndarray  # f32 [55, 3] axis-angle rad
    joints: np.ndarray  # f32 [55, 3] m, positions of the joints when all rotations are 0
    room: tuple[float, float] = (np.inf, np.inf)  # m from a hand outwards to the edge of the picture, as SIDES
    elbow_room: tuple[float, float] = (np.inf, np.inf)  # the same from an elbow
    # m from a hand down to the lower edge of the picture, as SIDES; negative for a hand that rests below it
    room_below: tuple[float, float] = (np.inf, np.inf)
    # How far the hands move as one, 0 to 1: 1 where they lie on each other, because the one hides the other
    together: float = 0.0
    # f64 [3] m, the portrait's camera in the trunk's frame; None for a pose that no portrait shows
    camera: np.ndarray | None = None

    @classmethod
    def of_avatar(cls, avatar: Avatar, body: Body, arms: str = "portrait") -> RestPose:
        """The pose of an avatar's portrait, with its arms as there or in another of ARM_POSES."""
        poses = avatar.poses.copy()
        if (name := ARM_POSES[arms]) is not None:
            for side, target in zip(SIDES, REST_POSES[name], strict=True):
                if name == "sides":
                    target = replace(target, swivel=_HANGING_SWIVEL)
                pose_arm(side, target.vector()[None], poses[None])
        positions, rotations = body.posed_joints(Motion.still(poses, avatar.expression), avatar.betas, avatar.surface)
        hands, elbows = ([_room(avatar, positions[0], side, part) for side in SIDES] for part in (_HAND, _ELBOW))
        joints = body.rest_joints(avatar.betas, avatar.surface)
        camera = -avatar.extrinsics[:3, :3].T @ avatar.extrinsics[:3, 3]
        return cls(
            poses,
            joints,
            room=(max(hands[0][0], 0.0), max(hands[1][0], 0.0)),
            elbow_room=(max(elbows[0][0], 0.0), max(elbows[1][0], 0.0)),
            room_below=(hands[0][1], hands[1][1]),
            together=_touch(positions[0], avatar.extrinsics[:3, :3]) if arms == "portrait" else 0.0,
            camera=None
            if arms != "portrait"
            else joints[_TRUNK] + rotations[0, _TRUNK].T @ (camera - positions[0, _TRUNK]),
        )

    @classmethod
    def of_style(cls, style: int, body: Body) -> RestPose:
        """The pose of the mean body that the motion model gestures from in an acting style."""
        poses = resting_pose(STYLES[style]).poses[0]
        return cls(poses, body.rest_joints(np.zeros(body.betas, np.float32)))


def _touch(positions: np.ndarray, to_view: np.ndarray) -> float:
    """How far the hands lie on each other, 0 to 1. positions f32 [55, 3] m of the joints; to_view f32 [3, 3]."""
    left, right = (
        positions[[k for k, name in enumerate(JOINTS) if name.startswith(side) and name.endswith(_HAND)]].mean(0)
        for side in SIDES
    )
    apart = to_view @ (left - right)
    is_near, is_level = (
        np.clip((far - distance) / (far - near), 0, 1)
        for (near, far), distance in ((_TOUCHING_M, np.linalg.norm(apart[:2])), (_LEVEL_M, abs(apart[2])))
    )
    return float(is_near * is_level)


def _room(avatar: Avatar, positions: np.ndarray, side: str, part: tuple[str, ...]) -> tuple[float, float]:
    """How far a part of an arm at rest is from the edge of the picture on its own side, and from the lower one, m.

    Negative beyond the edge. positions f32 [55, 3] m: of the avatar's joints in its portrait; part: how the names of
    the part's joints go on after the side.
    """
    rows = [k for k, name in enumerate(JOINTS) if name.startswith(side) and name.endswith(part)]
    pixels = project(positions[rows], avatar.intrinsics, avatar.extrinsics)
    # The person's left is on the right of the picture.
    px = avatar.regions.shape[1] - pixels[:, 0].max() if side == "left" else pixels[:, 0].min()
    below_px = avatar.regions.shape[0] - pixels[:, 1].max()
    m_per_px = float(pixels[:, 2].mean() / avatar.intrinsics[0, 0])
    return float(px) * m_per_px, float(below_px) * m_per_px
