"""One arm of a motion that is retargeted: where its hand goes, and how elbow, forearm and fingers follow.

An arm leaves from a pose, that of the portrait as a rule. Its hand moves as far as the hand of the acting does, within
soft limits. The elbow stays where it rests; the more the portrait shows the forearm from its end, pointing at the
camera, the more the elbow moves with the hand. The forearm would else be bared along its length, and the portrait shows
nothing of it.

Positions are in the trunk's frame: m in the rest pose's axes, as if the joint `spine3` had not turned. T frames.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

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
from stereotalker.motion.rest_pose import RestPose
from stereotalker.smplx_layout import FINGERS, JOINT, SIDES

# How far at most a hand moves from rest: out, in, up, down, to the front and to the back, m. Limits are soft.
_MAX_OUT, _MAX_IN, _MAX_UP, _MAX_DOWN, _MAX_FRONT, _MAX_BACK = 0.20, 0.14, 0.50, 0.20, 0.40, 0.10
# No hand goes farther outwards than this from the middle of the trunk, m, but for a little where it rests there.
_WIDEST, _MIN_OUT = 0.38, 0.05
# Outward room between a hand at rest and the edge of the picture that stays free, m.
_FRAME_MARGIN = 0.04
_HAND_M = 0.17  # from the wrist to the tips of the fingers, m
# Share of the arm's length that a hand may be away from the shoulder. Nearly straight arms would jitter.
_MAX_REACH = 0.965
# How strongly the elbow is drawn to its goal, against the swivel angle that it has at rest.
_ELBOW_PULL = 3.0
# Depth of an elbow before or behind its shoulder up to which raising it hardly brings it forward, m.
_SMALL_DEPTH = 0.1
# Share of a hand's way that its elbow is taken to go at least, and the nearest camera before a hand, m.
_MIN_FOLLOW, _MIN_CAMERA_DISTANCE = 0.2, 0.3
# Share of the rotations of wrist and fingers, relative to their parents, that is kept.
_WRIST_SHARE, _FINGER_SHARE = 0.5, 0.35
# Limit of a hand's rotation away from the rest pose, rad. It is soft: rotations approach it and never reach it.
_MAX_HAND_TURN = np.radians(16.0)
# Largest rotation of the wrist away from its angle at rest, rad.
_MAX_WRIST_SWING = 0.8
# The same for an arm that follows a cue: a director who asks for three fingers wants to see them.
_MAX_CUED_WRIST_SWING = 1.5
# Share of a forearm's twist that the elbow makes; the wrist makes the rest.
_ELBOW_TWIST_SHARE = 0.6
# Scapulohumeral rhythm (Inman et al. 1944): above this elevation of the upper arm, rad, the clavicle makes a third of
# what is added.
_RHYTHM_START, _RHYTHM_SHARE = np.radians(30.0), 1 / 3


class ArmRetargeting:
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
        # 1 for a forearm that points at the portrait's camera, 0 for one that the portrait shows from the side.
        self.foreshortening = 0.0
        if target.camera is not None:
            forearm, _ = unit_and_length(self.rest.wrist - self.rest.elbow)
            to_camera, _ = unit_and_length(target.camera - self.rest.wrist)
            self.foreshortening = max(float((forearm * to_camera).sum()), 0.0) ** 2

    def wrist_goal(self, arm: ArmPositions, weight: np.ndarray, cue_weight: np.ndarray) -> np.ndarray:
        """Where the target's wrist goes when the source's arm is at `arm`: [T, 3] m.

        Usually it moves as far from its rest as the source's does. Where the arm follows a cue (cue_weight [T] in
        0..1), it goes where the source's wrist is, seen from the shoulder: whoever counts does so before the chest.
        """
        wrist = arm.wrist
        moved = self.scale * (wrist - self.source_rest.wrist) * (self.outward, 1, 1)
        goal = self.rest.wrist + weight[:, None] * self._limited(moved) * (self.outward, 1, 1)
        same_place = self.rest.shoulder + self.scale * (wrist - self.source_rest.shoulder)
        # A hand that points outwards needs room for its fingers.
        fingers = np.maximum(arm.hand.apply((1.0, 0.0, 0.0))[:, 0], 0)
        rest_out, index = float(self.rest.wrist[0, 0] * self.outward), SIDES.index(self.side)
        out = np.minimum(same_place[:, 0] * self.outward - rest_out, self._room_out() - _HAND_M * fingers)
        same_place[:, 0] = (rest_out + out) * self.outward
        lowest = self.rest.wrist[0, 1] - self.target.room_below[index] + _FRAME_MARGIN
        same_place[:, 1] = np.maximum(same_place[:, 1], min(lowest, self.rest.shoulder[0, 1]))
        return goal + cue_weight[:, None] * (same_place - goal)

    def limited_goal(self, goal: np.ndarray) -> np.ndarray:
        """A goal [T, 3] m whose hand is not farther outwards than the picture has room at its depth."""
        moved = (goal - self.rest.wrist) * (self.outward, 1, 1)
        moved[:, 0] = np.minimum(moved[:, 0], self._room_out_at(moved[:, 2]))
        return self.rest.wrist + moved * (self.outward, 1, 1)

    def _limited(self, moved: np.ndarray) -> np.ndarray:
        """A hand's movement away from rest within its limits: [T, 3] m, outwards, up and to the front."""
        up = _soft_limit(moved[:, 1], _MAX_UP, _MAX_DOWN)
        flat = np.column_stack([_soft_limit(moved[:, 0], self._room_out(), _MAX_IN), up, moved[:, 2]])
        depth = _soft_limit(self._with_elbow_depth(flat), _MAX_FRONT, _MAX_BACK)
        return np.column_stack([_soft_limit(moved[:, 0], self._room_out_at(depth), _MAX_IN), up, depth])

    def _with_elbow_depth(self, moved: np.ndarray) -> np.ndarray:
        """The depth [T] m of a movement [T, 3], together with that of an elbow that moves along.

        An elbow moves on a sphere around its shoulder, so that raising it brings it forward. An elbow that rests
        behind its shoulder would first go to the back, so that it does not count.
        """
        rest_elbow = (self.rest.elbow - self.rest.shoulder)[0] * (self.outward, 1, 1)
        squared_depth = self.bones[0] ** 2 - ((rest_elbow + moved)[:, :2] ** 2).sum(1)
        forward = np.sqrt(np.maximum(squared_depth, 0) + _SMALL_DEPTH**2) - np.hypot(rest_elbow[2], _SMALL_DEPTH)
        share = self.foreshortening * float(np.clip(1 + rest_elbow[2] / _SMALL_DEPTH, 0, 1))
        return moved[:, 2] + share * (forward - moved[:, 2])

    def _room_out(self) -> float:
        """How far the hand may go outwards from rest by the picture and by the body, m."""
        rest_out = float(self.rest.wrist[0, 0] * self.outward)
        most = float(np.clip(_WIDEST - rest_out, _MIN_OUT, _MAX_OUT))
        return min(most, max(self.target.room[SIDES.index(self.side)] - _FRAME_MARGIN, 0.0))

    def _room_out_at(self, depth: np.ndarray) -> np.ndarray:
        """The same [T] m for a hand that has come forward by `depth` [T] m, and whose elbow moves along.

        The picture is narrower nearer to the camera.
        """
        room = np.full(len(depth), self._room_out())
        if self.target.camera is None:
            return room
        room = np.minimum(room, self.target.elbow_room[SIDES.index(self.side)] / max(self.foreshortening, _MIN_FOLLOW))
        camera, wrist = self.target.camera * (self.outward, 1, 1), self.rest.wrist[0] * (self.outward, 1, 1)
        edge, distance = self.target.room[SIDES.index(self.side)] - _FRAME_MARGIN, camera[2] - wrist[2]
        if distance > _MIN_CAMERA_DISTANCE and np.isfinite(edge):
            narrower = (wrist[0] + edge - camera[0]) * np.maximum(depth, 0) / distance
            room = np.minimum(room, np.maximum(edge - np.maximum(narrower, 0), 0))
        return room

    def write(
        self,
        poses: np.ndarray,
        source_poses: np.ndarray,
        wrist: np.ndarray,
        weight: np.ndarray,
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
        collar = added(rest_poses[joint["collar"]], scaled_rotation(breath.as_rotvec(), weight))
        raised = np.zeros(len(poses))
        for _ in range(2):  # the elevation depends a little on the clavicle, which depends on the elevation
            lifted = Rotation.from_rotvec(np.outer(raised, (0, 0, self.outward))) * collar
            upper_arm, forearm = self._solve(lifted, wrist, cue_weight)
            raised = _rhythm(upper_arm.apply(self._bone("shoulder", "elbow"))) - _rhythm(
                self.rest.upper_arm.apply(self._bone("shoulder", "elbow"))
            )
        hand = self._hand(source_poses, forearm, weight)
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
        for k in FINGERS[self.side]:
            change = Rotation.from_rotvec(source_rest[k]).inv() * Rotation.from_rotvec(source_poses[:, k])
            finger = added(rest_poses[k], scaled_rotation(change.as_rotvec(), _FINGER_SHARE * weight))
            poses[:, k] = _between(finger, Rotation.from_rotvec(source_poses[:, k]), cue_weight).as_rotvec()

    def _bone(self, start: str, end: str) -> np.ndarray:
        """A bone of the arm in the rest pose, [3] m."""
        return self.target.joints[JOINT[f"{self.side}_{end}"]] - self.target.joints[JOINT[f"{self.side}_{start}"]]

    def _solve(self, collar: Rotation, wrist: np.ndarray, cue_weight: np.ndarray) -> tuple[Rotation, Rotation]:
        """Rotations [T] of upper arm and forearm that bring the wrist to `wrist` [T, 3] m.

        At the rest position the arm has exactly its rotations at rest. An arm that follows a cue (cue_weight [T] in
        0..1) keeps the swivel angle that it has at rest, carried along with the line from shoulder to wrist.
        """
        clavicle = self._bone("collar", "shoulder")
        shoulder = self.target.joints[JOINT[f"{self.side}_collar"]] + collar.apply(clavicle)
        upper, lower = self.bones
        rest_axis, rest_reach = unit_and_length(self.rest.wrist - self.rest.shoulder)
        axis, reach = unit_and_length(wrist - shoulder)
        longest = max(_MAX_REACH * (upper + lower), float(rest_reach[0]))
        reach = np.minimum(reach, longest)
        # The elbow lies on a circle around the axis.
        along = (upper**2 - lower**2 + reach**2) / (2 * reach)
        radius = np.sqrt(np.maximum(upper**2 - along**2, 0))
        rest_elbow = self.rest.elbow - self.rest.shoulder
        rest_aside, _ = unit_and_length(_across(rest_elbow, rest_axis))
        carried = rotations_between(np.repeat(rest_axis, len(axis), 0), axis).apply(rest_aside)
        goal = rest_elbow + self.foreshortening * (wrist - self.rest.wrist)
        pull = _ELBOW_PULL / upper * _across(goal, axis)
        # An elbow that is drawn to the other side of the arm stays, because it would flip over.
        agreement = (1 + (carried * unit_and_length(pull)[0]).sum(1)) / 2
        aside, _ = unit_and_length(carried + ((1 - cue_weight) * agreement)[:, None] * pull)
        upper_bone = along[:, None] * axis + radius[:, None] * aside
        lower_bone = reach[:, None] * axis - upper_bone
        # Frames of a bone's direction and the arm's plane: what turns the frame at rest to this one turns the bone.
        rest_lower = self.rest.wrist - self.rest.elbow
        rest_normal, normal = np.cross(rest_axis, rest_aside), np.cross(axis, aside)
        upper_turn = frame_rotation(upper_bone, normal) * frame_rotation(rest_elbow, rest_normal).inv()
        lower_turn = frame_rotation(lower_bone, normal) * frame_rotation(rest_lower, rest_normal).inv()
        return upper_turn * self.rest.upper_arm, lower_turn * self.rest.forearm

    def _hand(self, source_poses: np.ndarray, forearm: Rotation, weight: np.ndarray) -> Rotation:
        """Rotations [T] of the hand: carried by the forearm, turned a little by the wrist, and limited."""
        wrist = JOINT[f"{self.side}_wrist"]
        change = Rotation.from_rotvec(self.source.poses[wrist]).inv() * Rotation.from_rotvec(source_poses[:, wrist])
        local = added(self.target.poses[wrist], scaled_rotation(change.as_rotvec(), _WRIST_SHARE * weight))
        turned = (forearm * local) * self.rest.hand.inv()
        return limited_rotation(turned, _MAX_HAND_TURN * (1 - self.target.together)) * self.rest.hand


def added(rest: np.ndarray, change: Rotation) -> Rotation:
    """The rotation `rest` [3], after which the child's frame turns by `change` [T]."""
    return Rotation.from_rotvec(rest) * change


def _across(vectors: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The part of vectors [T, 3] that is perpendicular to unit vectors [T, 3]."""
    return vectors - (vectors * axis).sum(1, keepdims=True) * axis


def _between(first: Rotation, second: Rotation, weight: np.ndarray) -> Rotation:
    """Rotations [T] on the way from the first to the second ones; weight [T]: 0 is the first."""
    return first * scaled_rotation((first.inv() * second).as_rotvec(), weight)


def _blend(usual: float, cued_value: float, cue_weight: np.ndarray) -> np.ndarray:
    """Between a usual value and that of an arm that follows a cue wholly, [T]."""
    return usual + cue_weight * (cued_value - usual)


def _soft_limit(x: np.ndarray, most: float | np.ndarray, least: float | np.ndarray) -> np.ndarray:
    """x with slope 1 at 0, which approaches `most` above and -`least` below."""
    bound = np.maximum(np.where(x >= 0, most, least), 1e-3)
    return bound * np.tanh(x / bound)


def _rhythm(upper_arm: np.ndarray) -> np.ndarray:
    """How far the clavicle is raised by an upper arm [T, 3], rad [T]."""
    down = -upper_arm[:, 1] / np.linalg.norm(upper_arm, axis=1)
    return _RHYTHM_SHARE * np.maximum(np.arccos(np.clip(down, -1, 1)) - _RHYTHM_START, 0)
