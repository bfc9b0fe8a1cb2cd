"""Retargets motion to a person's own rest pose: gestures leave from the pose of the portrait and come back to it.

The motion model gestures from the resting pose of an acting style. Here, its movements away from that pose are applied
to another pose instead, in the speaker's space: a hand moves as far, up to what the person's reach, trunk and face
allow, and the elbow follows by inverse kinematics. Joints that carry no hand add their rotations. Where the portrait
shows a hand from one side only, its rotation is limited, so that the clip shows little that the portrait does not.

Positions are in the trunk's frame: m in the rest pose's axes, as if the joint `spine3` had not turned. T frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from stereotalker.acting.collision import keep_clear
from stereotalker.body.model import Body
from stereotalker.geometry.camera import avatar_camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.geometry.easing import minimum_jerk
from stereotalker.geometry.rotations import (
    frame_rotation,
    limited_rotation,
    rotations_between,
    scaled_rotation,
    twist_angle,
    unit_and_length,
    wrapped_angle,
)
from stereotalker.motion.arm_positions import ArmPositions
from stereotalker.motion.coverage import Coverage
from stereotalker.motion.features import BODY_JOINTS
from stereotalker.motion.rest_pose import RestPose
from stereotalker.records import Avatar, Motion
from stereotalker.smplx_layout import JOINT, JOINTS, SIDES
from stereotalker.store.digests import digest

# Time in which a clip leaves the rest pose at its start, and returns to it at its end, s.
_EASE_S = 0.6
# How far at most a hand moves from rest: out, in, up, down, to the front and to the back, m. Limits are soft.
_MAX_OUT, _MAX_IN, _MAX_UP, _MAX_DOWN, _MAX_FRONT, _MAX_BACK = 0.20, 0.14, 0.45, 0.20, 0.22, 0.10
# No hand goes farther outwards than this from the middle of the trunk, m, but for a little where it rests there.
_WIDEST, _MIN_OUT = 0.38, 0.05
# Outward room between a hand at rest and the edge of the picture that stays free, m.
_FRAME_MARGIN = 0.06
_HAND_M = 0.17  # from the wrist to the tips of the fingers, m
# Share of the arm's length that a hand may be away from the shoulder. Nearly straight arms would jitter.
_MAX_REACH = 0.965
# Share of the rotations of wrist and fingers, relative to their parents, that is kept.
_WRIST_SHARE, _FINGER_SHARE = 0.5, 0.35
# Limit of a hand's rotation away from the rest pose, rad. It is soft: rotations approach it and never reach it.
_MAX_HAND_TURN = np.radians(38.0)
# Largest rotation of the wrist away from its angle at rest, rad.
_MAX_WRIST_SWING = 0.8
# The same for an arm that follows a cue: a director who asks for three fingers wants to see them.
_MAX_CUED_WRIST_SWING = 1.5
# Share of a forearm's twist that the elbow makes; the wrist makes the rest.
_ELBOW_TWIST_SHARE = 0.6
# Scapulohumeral rhythm (Inman et al. 1944): above this elevation of the upper arm, rad, the clavicle makes a third of
# what is added.
_RHYTHM_START, _RHYTHM_SHARE = np.radians(30.0), 1 / 3
# Factors on the limit of the hands' rotations, in the order in which they are tried.
_HAND_TURNS = (1.0, 0.6, 0.3)
# A factor is taken if at most this share of the hands' surface that is shown was never in the portrait.
_MAX_UNSEEN_HANDS = 0.15
# Size of the picture in which that share is measured, (height, width) px.
_COVERAGE_SIZE = (160, 160)
# Share of their movements that arms keep whose hands the portrait does not show.
_HIDDEN_ARMS_AMOUNT = 0.15
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
    coverage: Coverage | None = None  # hands turn less where they would show what the portrait does not

    @classmethod
    def of_speaker(
        cls, avatar: Avatar, body: Body, style: int, arms: str = "portrait", invents_arms: bool = False
    ) -> Retargeting:
        """From an acting style (an index into STYLES) to the pose of an avatar, with its arms in one of ARM_POSES.

        Arms whose hands the portrait does not show hardly move, unless `arms` names another place or invents_arms:
        then they gesture, from where `arms` says, or clasped.
        """
        if invents_arms and not avatar.arms and arms == "portrait":
            arms = "clasped"
        has_hands = avatar.arms or arms != "portrait"
        return cls(
            source=RestPose.of_style(style, body),
            target=RestPose.of_avatar(avatar, body, arms),
            amount=1.0 if has_hands else _HIDDEN_ARMS_AMOUNT,
            coverage=Coverage(avatar, body) if has_hands and arms == "portrait" else None,
        )

    def digest(self) -> str:
        """Equal for equal retargetings."""
        avatar = self.coverage and self.coverage.avatar
        inputs = avatar and [
            getattr(avatar, name)
            for name in ("regions", "betas", "surface", "expression", "intrinsics", "extrinsics", "target")
        ]
        return digest(
            *(a for pose in (self.source, self.target) for a in (pose.poses, pose.joints, pose.room, pose.room_below)),
            self.amount,
            inputs,
        )

    def apply(
        self,
        motion: Motion,
        start: Motion | None = None,
        end: Motion | None = None,
        cued: CuedArms | None = None,
    ) -> Motion:
        """The motion from and to the speaker's rest pose, or from and to given poses (of one frame each).

        cued: the same motion with arms that follow cues. How far hands turn elsewhere does not depend on it.
        """
        result, hand_turn = motion, 1.0
        eases = start is None, end is None
        for hand_turn in _HAND_TURNS:
            result = retarget(motion, self.source, self.target, self.amount, hand_turn, *eases)
            if self.coverage is None or self._unseen_hands(result) <= _MAX_UNSEEN_HANDS:
                break
        if cued:
            result = retarget(cued.motion, self.source, self.target, self.amount, hand_turn, *eases, cued.weights)
        return _with_end_poses(result, start, end)

    def _unseen_hands(self, motion: Motion) -> float:
        """Share of the hands in the picture of the portrait's own camera that the portrait does not show."""
        assert self.coverage is not None
        view = avatar_camera(self.coverage.avatar, CameraPath(), len(motion.poses), motion.fps, _COVERAGE_SIZE)
        return np.nan_to_num(self.coverage.unseen(motion, view).hands)


def retarget(
    motion: Motion,
    source: RestPose,
    target: RestPose,
    amount: float = 1.0,
    hand_turn: float = 1.0,
    ease_in: bool = True,
    ease_out: bool = True,
    cue_weights: dict[str, np.ndarray] | None = None,
) -> Motion:
    """Apply a motion's movements away from the pose `source` to the pose `target`.

    amount: share of the arms' movements that is kept; hand_turn: factor on the limit of the hands' rotations; both 0
    to 1. ease_in, ease_out: whether the motion begins, and ends, in the pose `target`. cue_weights: see
    `CuedArms`; an arm that follows a cue keeps its whole movement, with its wrist and its fingers.
    """
    ease = _ease(len(motion.poses), motion.fps, ease_in, ease_out)
    cue_weights = cue_weights or {side: np.zeros(len(ease)) for side in SIDES}
    weights = {side: np.maximum(amount * ease, cue_weights[side]) for side in SIDES}
    poses = motion.poses.copy()
    for joint in _TRUNK_JOINTS:
        poses[:, joint] = _added(target.poses[joint], scaled_rotation(motion.poses[:, joint], ease)).as_rotvec()
    arms = {side: _ArmChain(side, source, target) for side in SIDES}
    chains = {side: ArmPositions.of(side, motion.poses, source.joints) for side in SIDES}
    wrists = {side: arms[side].wrist_goal(chains[side], weights[side], cue_weights[side]) for side in SIDES}
    _keep_clear(wrists, arms)
    for side in SIDES:
        arms[side].write(
            poses, motion.poses, wrists[side], weights[side], hand_turn, cue_weights[side], chains[side].hand
        )
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


def _added(rest: np.ndarray, change: Rotation) -> Rotation:
    """The rotation `rest` [3], after which the child's frame turns by `change` [T]."""
    return Rotation.from_rotvec(rest) * change


def _soft_limit(x: np.ndarray, most: float | np.ndarray, least: float | np.ndarray) -> np.ndarray:
    """x with slope 1 at 0, which approaches `most` above and -`least` below."""
    bound = np.maximum(np.where(x >= 0, most, least), 1e-3)
    return bound * np.tanh(x / bound)


class _ArmChain:
    """One arm: how it rests in the source and in the target."""

    def __init__(self, side: str, source: RestPose, target: RestPose):
        self.side, self.source, self.target = side, source, target
        self.outward = 1.0 if side == "left" else -1.0
        self.source_rest = ArmPositions.of(side, source.poses[None], source.joints)
        self.rest = ArmPositions.of(side, target.poses[None], target.joints)
        joint = [JOINT[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist")]
        bones = np.linalg.norm(np.diff(target.joints[joint], axis=0), axis=1)
        self.bones = float(bones[0]), float(bones[1])
        source_bones = np.linalg.norm(np.diff(source.joints[joint], axis=0), axis=1)
        self.scale = float(bones.sum() / source_bones.sum())

    def wrist_goal(self, arm: ArmPositions, weight: np.ndarray, cue_weight: np.ndarray) -> np.ndarray:
        """Where the target's wrist goes when the source's arm is at `arm`: [T, 3] m.

        Usually it moves as far from its rest as the source's does. Where the arm follows a cue (cue_weight [T] in
        0..1), it goes where the source's wrist is, seen from the shoulder: whoever counts does so before the chest.
        """
        wrist = arm.wrist
        moved = self.scale * (wrist - self.source_rest.wrist) * (self.outward, 1, 1)
        rest_out = float(self.rest.wrist[0, 0] * self.outward)
        room_out = np.clip(_WIDEST - rest_out, _MIN_OUT, _MAX_OUT)
        room_out = min(room_out, max(self.target.room[SIDES.index(self.side)] - _FRAME_MARGIN, 0.0))
        limited = np.stack(
            [
                _soft_limit(moved[:, 0], room_out, _MAX_IN),
                _soft_limit(moved[:, 1], _MAX_UP, _MAX_DOWN),
                _soft_limit(moved[:, 2], _MAX_FRONT, _MAX_BACK),
            ],
            1,
        )
        goal = self.rest.wrist + weight[:, None] * limited * (self.outward, 1, 1)
        same_place = self.rest.shoulder + self.scale * (wrist - self.source_rest.shoulder)
        # A hand that points outwards needs room for its fingers.
        fingers = np.maximum(arm.hand.apply((1.0, 0.0, 0.0))[:, 0], 0)
        out = np.minimum(same_place[:, 0] * self.outward - rest_out, room_out - _HAND_M * fingers)
        same_place[:, 0] = (rest_out + out) * self.outward
        lowest = self.rest.wrist[0, 1] - self.target.room_below[SIDES.index(self.side)] + _FRAME_MARGIN
        same_place[:, 1] = np.maximum(same_place[:, 1], min(lowest, self.rest.shoulder[0, 1]))
        return goal + cue_weight[:, None] * (same_place - goal)

    def write(
        self,
        poses: np.ndarray,
        source_poses: np.ndarray,
        wrist: np.ndarray,
        weight: np.ndarray,
        hand_turn: float,
        cue_weight: np.ndarray,
        cued_hand: Rotation,
    ) -> None:
        """Write the joints of the arm and the hand into poses [T, 55, 3], in place.

        source_poses [T, 55, 3]: the source's motion; wrist [T, 3] m: goals, see `wrist_goal`; cue_weight [T] in
        0..1: how much the arm follows a cue; cued_hand [T]: how the hand is turned then, in the trunk's frame.
        """
        rest_poses, source_rest = self.target.poses, self.source.poses
        joint = {name: JOINT[f"{self.side}_{name}"] for name in ("collar", "shoulder", "elbow", "wrist")}
        breath = Rotation.from_rotvec(source_rest[joint["collar"]]).inv() * Rotation.from_rotvec(
            source_poses[:, joint["collar"]]
        )
        collar = _added(rest_poses[joint["collar"]], scaled_rotation(breath.as_rotvec(), weight))
        raised = np.zeros(len(poses))
        for _ in range(2):  # the elevation depends a little on the clavicle, which depends on the elevation
            lifted = Rotation.from_rotvec(np.outer(raised, (0, 0, self.outward))) * collar
            upper_arm, forearm = self._solve(lifted, wrist)
            raised = _rhythm(upper_arm.apply(self._bone("shoulder", "elbow"))) - _rhythm(
                self.rest.upper_arm.apply(self._bone("shoulder", "elbow"))
            )
        hand = self._hand(source_poses, forearm, weight, hand_turn)
        hand = _between(hand, cued_hand, cue_weight)
        twist = twist_angle(forearm.inv() * hand, self._bone("elbow", "wrist")) - twist_angle(
            self.rest.forearm.inv() * self.rest.hand, self._bone("elbow", "wrist")
        )
        axis = self._bone("elbow", "wrist") / np.linalg.norm(self._bone("elbow", "wrist"))
        forearm = forearm * Rotation.from_rotvec(np.outer(_ELBOW_TWIST_SHARE * wrapped_angle(twist), axis))
        local = forearm.inv() * hand
        rest_local = Rotation.from_rotvec(rest_poses[joint["wrist"]])
        swing = _blend(_MAX_WRIST_SWING, _MAX_CUED_WRIST_SWING, cue_weight)
        local = rest_local * limited_rotation(rest_local.inv() * local, swing)
        poses[:, joint["collar"]] = lifted.as_rotvec()
        poses[:, joint["shoulder"]] = (lifted.inv() * upper_arm).as_rotvec()
        poses[:, joint["elbow"]] = (upper_arm.inv() * forearm).as_rotvec()
        poses[:, joint["wrist"]] = local.as_rotvec()
        for k, name in enumerate(JOINTS):
            if name.startswith(self.side) and name[-1] in "123":
                change = Rotation.from_rotvec(source_rest[k]).inv() * Rotation.from_rotvec(source_poses[:, k])
                finger = _added(rest_poses[k], scaled_rotation(change.as_rotvec(), _FINGER_SHARE * weight))
                cued_finger = Rotation.from_rotvec(source_poses[:, k])
                poses[:, k] = _between(finger, cued_finger, cue_weight).as_rotvec()

    def _bone(self, start: str, end: str) -> np.ndarray:
        """A bone of the arm in the rest pose, [3] m."""
        return self.target.joints[JOINT[f"{self.side}_{end}"]] - self.target.joints[JOINT[f"{self.side}_{start}"]]

    def _solve(self, collar: Rotation, wrist: np.ndarray) -> tuple[Rotation, Rotation]:
        """Rotations [T] of upper arm and forearm that bring the wrist to `wrist` [T, 3] m.

        The elbow keeps the swivel angle that it has at rest, carried along with the line from shoulder to wrist. At the
        rest position the arm has exactly its rotations at rest.
        """
        clavicle = self._bone("collar", "shoulder")
        shoulder = self.target.joints[JOINT[f"{self.side}_collar"]] + collar.apply(clavicle)
        upper, lower = self.bones
        rest_axis, rest_reach = unit_and_length(self.rest.wrist - self.rest.shoulder)
        axis, reach = unit_and_length(wrist - shoulder)
        longest = max(_MAX_REACH * (upper + lower), float(rest_reach[0]))
        reach = np.minimum(reach, longest)
        along = (upper**2 - lower**2 + reach**2) / (2 * reach)
        radius = np.sqrt(np.maximum(upper**2 - along**2, 0))
        rest_elbow = self.rest.elbow - self.rest.shoulder
        aside = rest_elbow - (rest_elbow * rest_axis).sum(1, keepdims=True) * rest_axis
        aside, _ = unit_and_length(aside)
        carried = rotations_between(np.repeat(rest_axis, len(axis), 0), axis).apply(np.repeat(aside, len(axis), 0))
        upper_bone = along[:, None] * axis + radius[:, None] * carried
        lower_bone = reach[:, None] * axis - upper_bone
        # Frames of a bone's direction and the arm's plane: what turns the frame at rest to this one turns the bone.
        rest_lower = self.rest.wrist - self.rest.elbow
        rest_normal, normal = np.cross(rest_axis, aside), np.cross(axis, carried)
        upper_turn = frame_rotation(upper_bone, normal) * frame_rotation(rest_elbow, rest_normal).inv()
        lower_turn = frame_rotation(lower_bone, normal) * frame_rotation(rest_lower, rest_normal).inv()
        return upper_turn * self.rest.upper_arm, lower_turn * self.rest.forearm

    def _hand(self, source_poses: np.ndarray, forearm: Rotation, weight: np.ndarray, hand_turn: float) -> Rotation:
        """Rotations [T] of the hand: carried by the forearm, turned a little by the wrist, and limited."""
        wrist = JOINT[f"{self.side}_wrist"]
        change = Rotation.from_rotvec(self.source.poses[wrist]).inv() * Rotation.from_rotvec(source_poses[:, wrist])
        local = _added(self.target.poses[wrist], scaled_rotation(change.as_rotvec(), _WRIST_SHARE * weight))
        turned = (forearm * local) * self.rest.hand.inv()
        return limited_rotation(turned, _MAX_HAND_TURN * hand_turn) * self.rest.hand


def _between(first: Rotation, second: Rotation, weight: np.ndarray) -> Rotation:
    """Rotations [T] on the way from the first to the second ones; weight [T]: 0 is the first."""
    return first * scaled_rotation((first.inv() * second).as_rotvec(), weight)


def _blend(usual: float, cued_value: float, cue_weight: np.ndarray) -> np.ndarray:
    """Between a usual value and that of an arm that follows a cue wholly, [T]."""
    return usual + cue_weight * (cued_value - usual)


def _keep_clear(wrists: dict[str, np.ndarray], arms: dict[str, _ArmChain]) -> None:
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


def _rhythm(upper_arm: np.ndarray) -> np.ndarray:
    """How far the clavicle is raised by an upper arm [T, 3], rad [T]."""
    down = -upper_arm[:, 1] / np.linalg.norm(upper_arm, axis=1)
    return _RHYTHM_SHARE * np.maximum(np.arccos(np.clip(down, -1, 1)) - _RHYTHM_START, 0)
