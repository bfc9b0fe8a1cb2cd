"""Retargets motion to a person's own rest pose: gestures leave from the pose of the portrait and come back to it.

The motion model gestures from the resting pose of an acting style. Here, its movements away from that pose are applied
to another pose instead, in the speaker's space: a hand moves as far, up to what the person's reach, trunk and face
allow, and the elbow follows by inverse kinematics. Joints that carry no hand add their rotations. The portrait shows a
hand from one side only, so its rotation is limited.

Positions are in the trunk's frame: m in the rest pose's axes, as if the joint `spine3` had not turned. T frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from stereotalker.acting.collision import keep_clear
from stereotalker.body.model import Body
from stereotalker.geometry.easing import minimum_jerk
from stereotalker.geometry.rotations import scaled_rotation
from stereotalker.motion.arm_positions import ArmPositions
from stereotalker.motion.arm_retargeting import ArmRetargeting, added
from stereotalker.motion.features import BODY_JOINTS
from stereotalker.motion.rest_pose import RestPose
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, SIDES
from stereotalker.store.digests import digest

# Time in which a clip leaves the rest pose at its start, and returns to it at its end, s.
_EASE_S = 0.6
# Share of their movements that arms keep that are crossed, or whose hands the portrait does not show.
_HIDDEN_ARMS_AMOUNT = 0.06
# Joints whose rotations the rest pose and the motion share by composition.
_TRUNK_JOINTS = [JOINT[name] for name in ("pelvis", "spine1", "spine2", "spine3", "neck", "head")]


@dataclass(frozen=True)
class CuedArms:
    """A motion whose arms follow the cues of a director at times."""

    motion: Motion
    weights: dict[str, np.ndarray]  # side -> how much its arm follows a cue, [T] in 0..1


@dataclass(frozen=True)
class Retargeting:
    """How the motion of a clip is fitted to its speaker."""

    source: RestPose  # from which the motion model gestures
    target: RestPose  # from which the speaker gestures
    amount: float = 1.0  # share of the arms' movements that is kept, 0 to 1

    @classmethod
    def of_speaker(
        cls, avatar: Avatar, body: Body, style: int, arms: str = "portrait", invents_arms: bool = False
    ) -> Retargeting:
        """From an acting style (an index into STYLES) to the pose of an avatar, with its arms in one of ARM_POSES.

        Arms that are crossed, or whose hands the portrait does not show, hardly move, unless `arms` names another place
        or invents_arms: then they gesture, from where `arms` says, or clasped.
        """
        if invents_arms and not avatar.arms and arms == "portrait":
            arms = "clasped"
        has_hands = avatar.arms or arms != "portrait"
        return cls(
            source=RestPose.of_style(style, body),
            target=RestPose.of_avatar(avatar, body, arms),
            amount=1.0 if has_hands else _HIDDEN_ARMS_AMOUNT,
        )

    def digest(self) -> str:
        """Equal for equal retargetings."""
        return digest(*(value for pose in (self.source, self.target) for value in vars(pose).values()), self.amount)

    def apply(
        self,
        motion: Motion,
        start: Motion | None = None,
        end: Motion | None = None,
        cued: CuedArms | None = None,
    ) -> Motion:
        """The motion from and to the speaker's rest pose, or from and to given poses (of one frame each).

        cued: the same motion with arms that follow cues.
        """
        cued = cued or CuedArms(motion, {})
        eases = start is None, end is None
        result = retarget(cued.motion, self.source, self.target, self.amount, *eases, cued.weights)
        return _with_end_poses(result, start, end)


def retarget(
    motion: Motion,
    source: RestPose,
    target: RestPose,
    amount: float = 1.0,
    ease_in: bool = True,
    ease_out: bool = True,
    cue_weights: dict[str, np.ndarray] | None = None,
) -> Motion:
    """Apply a motion's movements away from the pose `source` to the pose `target`.

    amount: share of the arms' movements that is kept, 0 to 1; ease_in, ease_out: whether the motion begins, and ends,
    in the pose `target`. cue_weights: see `CuedArms`; an arm that follows a cue keeps its whole movement, with its
    wrist and its fingers.
    """
    ease = _ease(len(motion.poses), motion.fps, ease_in, ease_out)
    cue_weights = cue_weights or {side: np.zeros(len(ease)) for side in SIDES}
    weights = {side: np.maximum(amount * ease, cue_weights[side]) for side in SIDES}
    poses = motion.poses.copy()
    for joint in _TRUNK_JOINTS:
        poses[:, joint] = added(target.poses[joint], scaled_rotation(motion.poses[:, joint], ease)).as_rotvec()
    arms = {side: ArmRetargeting(side, source, target) for side in SIDES}
    chains = {side: ArmPositions.of(side, motion.poses, source.joints) for side in SIDES}
    wrists = {side: arms[side].wrist_goal(chains[side], weights[side], cue_weights[side]) for side in SIDES}
    _move_together(wrists, arms, target.together * (1 - np.maximum(cue_weights["left"], cue_weights["right"])))
    _keep_clear(wrists, arms)
    for side in SIDES:
        arms[side].write(poses, motion.poses, wrists[side], weights[side], cue_weights[side], chains[side].hand)
    return replace(motion, poses=poses.astype(np.float32), trans=motion.trans * ease[:, None].astype(np.float32))


def _with_end_poses(motion: Motion, start: Motion | None, end: Motion | None) -> Motion:
    """The motion with its body in a given pose (a motion of one frame) at its start or end, approached in _EASE_S.

    The face is left alone: the motion model has fixed it for the moment of the given pose only, and speech moves it.
    """
    poses, trans = motion.poses.copy(), motion.trans.copy()
    time = np.arange(len(poses)) / motion.fps
    for pose, distance in ((start, time), (end, time[::-1])):
        if pose is None:
            continue
        weight = (1 - minimum_jerk(distance / _EASE_S)).astype(np.float32)
        for joint in (JOINT[name] for name in BODY_JOINTS):
            way = Rotation.from_rotvec(poses[:, joint]).inv() * Rotation.from_rotvec(pose.poses[0, joint])
            poses[:, joint] = (
                Rotation.from_rotvec(poses[:, joint]) * scaled_rotation(way.as_rotvec(), weight)
            ).as_rotvec()
        trans += weight[:, None] * (pose.trans[0] - trans)
    return replace(motion, poses=poses, trans=trans)


def _ease(frames: int, fps: float, ease_in: bool, ease_out: bool) -> np.ndarray:
    """The weight of the movement in every frame, [T]: 1, and a minimum-jerk ramp from or to 0 at an eased end."""
    time = np.arange(frames) / fps
    x = np.ones(frames)
    for is_eased, distance in ((ease_in, time), (ease_out, time[::-1])):
        if is_eased:
            x = np.minimum(x, np.clip(distance / _EASE_S, 0, 1))
    return minimum_jerk(x)


def _move_together(wrists: dict[str, np.ndarray], arms: dict[str, ArmRetargeting], share: np.ndarray) -> None:
    """Give the goals [T, 3] m of both wrists the same movement, as far as `share` [T] in 0..1 says, in place.

    It is the mean of their movements, in which the hand that moves more counts more.
    """
    moved = {side: wrist - arms[side].rest.wrist for side, wrist in wrists.items()}
    distance = {side: np.linalg.norm(way, axis=1, keepdims=True) for side, way in moved.items()}
    total = np.maximum(distance["left"] + distance["right"], 1e-9)
    mean = sum(distance[side] * moved[side] for side in SIDES) / total
    for side, wrist in wrists.items():
        goal = arms[side].limited_goal(arms[side].rest.wrist + mean)
        wrist += share[:, None] * (goal - arms[side].rest.wrist - moved[side])


def _keep_clear(wrists: dict[str, np.ndarray], arms: dict[str, ArmRetargeting]) -> None:
    """Move goals [T, 3] m out of trunk, face and each other, in place; a person's rest pose counts as clear."""
    rows = {}
    for side, wrist in wrists.items():
        arm = arms[side]
        mirror = np.array([arm.outward, 1.0, 1.0])
        fingers = arm.rest.hand.apply((arm.outward, 0.0, 0.0))[0] * mirror
        both = np.concatenate([arm.rest.wrist, wrist]) * mirror
        rows[side] = np.concatenate([both, np.tile(fingers, (len(both), 1)), np.zeros((len(both), 10))], 1)
    before = {side: row[:, :3].copy() for side, row in rows.items()}
    keep_clear(rows, 0.0)
    for side, wrist in wrists.items():
        push = rows[side][:, :3] - before[side]
        wrist += (push[1:] - push[:1]) * (arms[side].outward, 1, 1)
