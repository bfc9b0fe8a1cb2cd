"""Lays the cues of a director over a synthesized motion, and measures in the finished motion when they are done.

The arms move through a gesture as in the reference motion and come back to what the motion model makes; head and face
add their movements to it. T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from stereotalker.acting.arm_ik import pose_arm
from stereotalker.acting.collision import keep_clear
from stereotalker.acting.cues import HEAD_MOVES, HEAD_SPAN_S, Cue
from stereotalker.acting.gesture_planning import Stroke, choose_hands, hand_trajectories
from stereotalker.acting.reference_acting import STYLES
from stereotalker.geometry.easing import minimum_jerk
from stereotalker.geometry.rotations import scaled_rotation
from stereotalker.motion.arm_positions import ArmPositions
from stereotalker.motion.retargeting import CuedArms
from stereotalker.records import Motion
from stereotalker.smplx_layout import ACTION, FINGERS, JOINT, JOINTS, SIDES

# The arms leave what they do so long before the first pose of a gesture, and take so long to come back, s.
_PREPARATION_S, _RETRACTION_S = 0.42, 0.6
# How long before its stroke begins an arm follows a cue wholly, s.
_LEAD_S = 0.06
_MIN_PREPARATION_S, _MIN_RETRACTION_S = 0.28, 0.35  # at the beginning and at the end of a clip
_CHANGE_S = 0.28  # in which a hand goes from one gesture to the next
_MAX_HOLD_FACTOR = 1.3  # by which `hand_trajectories` varies holds, at most
_MIN_HOLD_S = 0.2  # how long a hand stays at the last pose of its gesture, at least
_FACE_EASE_S = 0.35  # in which a face comes back at the end of a clip
_HEAD_SHARE = 0.6  # share of a movement of the head that its joint makes; the neck makes the rest
_MAX_LAG_S = 0.2  # by which a cue may be early or late and is still found
# Head and face make a cue if they move as its plan does: Pearson's r over all axes, and the least share of the plan's
# range. Other movements go on meanwhile, so r stays below 1.
_MIN_CORRELATION, _MIN_RANGE = 0.6, 0.35
_MIN_FACE_LEVEL = 0.8  # share of its planned actions that a face must show; other actions lie over it
# A hand makes a cue if it comes so near to its planned turn and shape, rad, and to its place before the shoulder, m:
# the edge of the picture may keep it from going farther out. It has arrived when this share of the way is left.
_MAX_HAND_DIFFERENCE, _MAX_WRIST_DISTANCE_M, _ARRIVED = 0.7, 0.30, 0.35


@dataclass(frozen=True)
class TimedCue:
    """A cue at its moment: when the stroke of the hands falls, or the head has turned farthest."""

    cue: Cue
    time: float  # s


def earliest(cue: Cue) -> float:
    """How long after the start of a clip the moment of a cue can be, s."""
    arms = _MIN_PREPARATION_S - cue.arms.moves[0][0] if cue.arms else 0.0
    return max(arms, HEAD_SPAN_S[0] if cue.head else 0.0, cue.face.rise_s / 2 if cue.face else 0.0)


def latest(cue: Cue) -> float:
    """How long before the end of a clip the moment of a cue has to be, s."""
    arms = cue.arms.moves[-1][0] + _MIN_HOLD_S + _MIN_RETRACTION_S if cue.arms else 0.0
    face = cue.face.rise_s + _FACE_EASE_S if cue.face else 0.0
    return max(arms, HEAD_SPAN_S[1] if cue.head else 0.0, face)


def with_arm_cues(motion: Motion, cues: Sequence[TimedCue], style: int, seed: int) -> CuedArms | None:
    """The motion whose arms also make the cues; None if no cue moves the arms.

    style: an index into STYLES, from whose rest pose the arms gesture; seed: chooses the hand of one-handed gestures.
    """
    plan = _ArmPlan.of(cues, style, seed, len(motion.poses), motion.fps)
    if plan is None:
        return None
    poses = motion.poses.copy()
    planned = np.zeros_like(poses)
    for side in SIDES:
        pose_arm(side, plan.rows[side], planned)
        joints = [k for k, name in enumerate(JOINTS) if name.startswith(side) and _is_of_arm(name)]
        for joint in joints:
            model = Rotation.from_rotvec(poses[:, joint])
            way = model.inv() * Rotation.from_rotvec(planned[:, joint])
            poses[:, joint] = (model * scaled_rotation(way.as_rotvec(), plan.weights[side])).as_rotvec()
    return CuedArms(replace(motion, poses=poses), plan.weights)


def _is_of_arm(name: str) -> bool:
    return name[-1] in "123" or name.endswith(("shoulder", "elbow", "wrist"))


@dataclass(frozen=True)
class _ArmPlan:
    """What the arms do for the cues of a clip."""

    strokes: list[Stroke]  # of the cues that move arms, in the order of time
    rows: dict[str, np.ndarray]  # side -> hand targets f64 [T, 16], see HandTarget.vector
    weights: dict[str, np.ndarray]  # side -> [T] in 0..1, see `with_arm_cues`

    @classmethod
    def of(cls, cues: Sequence[TimedCue], style: int, seed: int, frames: int, fps: float) -> _ArmPlan | None:
        """None if no cue moves the arms."""
        rng, acting = np.random.default_rng([seed, 71]), STYLES[style]
        strokes: list[Stroke] = []
        for timed in cues:
            if form := timed.cue.arms:
                hands = (timed.cue.hand,) if timed.cue.hand else choose_hands(form, acting.handed, rng)
                strokes.append(Stroke(form, timed.time, hands, timed.cue.amount))
        if not strokes:
            return None
        strokes = [_with_short_hold(stroke, strokes[k + 1 :]) for k, stroke in enumerate(strokes)]
        rows = hand_trajectories(strokes, acting.rest, 1.0, frames, fps, rng)
        rows = {side: gaussian_filter1d(row, 0.03 * fps, axis=0) for side, row in rows.items()}
        keep_clear(rows, 0.0)
        time = (np.arange(frames) + 0.5) / fps
        weights = {side: _weight([stroke for stroke in strokes if side in stroke.hands], time) for side in SIDES}
        return cls(strokes, rows, weights)


def _with_short_hold(stroke: Stroke, later: Sequence[Stroke]) -> Stroke:
    """The stroke with a hold that ends before the same hand is needed again."""
    following = next((other for other in later if set(other.hands) & set(stroke.hands)), None)
    if following is None:
        return stroke
    longest = (following.begins - stroke.ends - _CHANGE_S) / _MAX_HOLD_FACTOR
    return replace(stroke, form=replace(stroke.form, hold_s=min(stroke.form.hold_s, max(longest, 0.0))))


def _weight(strokes: Sequence[Stroke], time: np.ndarray) -> np.ndarray:
    """How much an arm follows its strokes, [T] in 0..1: wholly from one to the next if there is no time to rest.

    It is free again at the end of the clip, however late the last stroke is.
    """
    weight = np.zeros(len(time))
    for stroke, following in zip(strokes, [*strokes, None][1:], strict=True):
        until = stroke.ends + stroke.form.hold_s / _MAX_HOLD_FACTOR
        if following and following.begins - until < _PREPARATION_S + _RETRACTION_S:
            until = following.begins
        until = max(min(until, time[-1] - _RETRACTION_S), stroke.ends + _MIN_HOLD_S)
        preparation = min(_PREPARATION_S, stroke.begins)
        rise = minimum_jerk((time - stroke.begins + preparation) / max(preparation - _LEAD_S, 1e-3))
        fall = minimum_jerk((time - until) / min(_RETRACTION_S, max(time[-1] - until, 1e-3)))
        weight = np.maximum(weight, rise * (1 - fall))
    return weight


def with_head_and_face_cues(motion: Motion, cues: Sequence[TimedCue]) -> Motion:
    """The motion whose head and face also make the cues. The eyes keep their direction while the head moves."""
    poses, expression = motion.poses.copy(), motion.expression.copy()
    time = (np.arange(len(poses)) + 0.5) / motion.fps
    turn = _planned_turn(cues, time)
    poses[:, JOINT["head"]] += _HEAD_SHARE * turn
    poses[:, JOINT["neck"]] += (1 - _HEAD_SHARE) * turn
    for eye in ("left_eye", "right_eye"):
        poses[:, JOINT[eye], :2] -= turn[:, :2]
    for timed in cues:
        if face := timed.cue.face:
            level = timed.cue.amount * _face_level(timed, time)
            for action, most in face.actions.items():
                for side in ("Left", "Right") if action.endswith("L/R") else ("",):
                    column = ACTION[action.removesuffix("L/R") + side]
                    # A face that smiles already does not smile twice.
                    expression[:, column] = np.maximum(expression[:, column], most * level)
    return replace(motion, poses=poses, expression=expression.astype(np.float32))


def _planned_turn(cues: Sequence[TimedCue], time: np.ndarray) -> np.ndarray:
    """Pitch, yaw and roll that cues add to the head, rad [T, 3]."""
    turns = (t.cue.amount * HEAD_MOVES[t.cue.head](time - t.time) for t in cues if t.cue.head)
    return sum(turns, np.zeros((len(time), 3)))


def _face_level(timed: TimedCue, time: np.ndarray) -> np.ndarray:
    """How much of a cue the face shows, [T] in 0..1: half of it at its moment, all soon after."""
    face = timed.cue.face
    assert face is not None
    rise = minimum_jerk((time - timed.time) / face.rise_s + 0.5)
    fall = minimum_jerk((time - timed.time - face.rise_s / 2 - face.hold_s) / face.fall_s)
    return rise * (1 - fall) * minimum_jerk((time[-1] - time) / _FACE_EASE_S)


# ---- what the finished motion shows ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DoneCue:
    """What a finished motion shows of a cue."""

    frame: int | None  # at which it is done; None: it cannot be found
    hands: tuple[str, ...] = ()  # that make it


def done_cues(motion: Motion, cues: Sequence[TimedCue], style: int, seed: int, joints: np.ndarray) -> list[DoneCue]:
    """What a finished motion shows of each cue.

    Hands are done when they arrive at the first pose of the gesture: turned and shaped as planned, at the same place
    before the trunk. The head is compared with the plan at every lag up to _MAX_LAG_S. A face is done when it shows
    half of what was planned, and then most of it. style, seed: as of `with_arm_cues`; joints f32 [55, 3] m: of the
    speaker, when all rotations are 0.
    """
    frames, fps = len(motion.poses), motion.fps
    time = (np.arange(frames) + 0.5) / fps
    plan = _ArmPlan.of(cues, style, seed, frames, fps)
    hands_of = _HandComparison(motion, plan, joints) if plan else None
    strokes = iter(plan.strokes if plan else [])
    planned_turn = _planned_turn(cues, time)
    head_turn = motion.poses[:, JOINT["head"]] + motion.poses[:, JOINT["neck"]]
    result = []
    for timed in cues:
        cue, lags = timed.cue, []
        hands: tuple[str, ...] = ()
        if cue.arms and hands_of:
            stroke = next(strokes)
            hands = stroke.hands
            lags += [hands_of.lag(side, stroke) for side in hands]
        if cue.head:
            span = _span(time, timed.time - HEAD_SPAN_S[0], timed.time + HEAD_SPAN_S[1])
            lags.append(_lag(head_turn, planned_turn, span, round(_MAX_LAG_S * fps)))
        if cue.face:
            lags.append(_face_lag(motion, timed, time))
        found = [lag for lag in lags if lag is not None]
        is_done = len(found) == len(lags)
        result.append(DoneCue(int(timed.time * fps) + max(found, key=abs) if is_done else None, hands))
    return result


class _HandComparison:
    """Compares the hands of a finished motion with those of a plan."""

    def __init__(self, motion: Motion, plan: _ArmPlan, joints: np.ndarray):
        self._fps, self._frames = motion.fps, len(motion.poses)
        planned = np.zeros_like(motion.poses)
        for side in SIDES:
            pose_arm(side, plan.rows[side], planned)
        self._poses = motion.poses, planned
        self._arms = {side: [ArmPositions.of(side, poses, joints) for poses in self._poses] for side in SIDES}

    def lag(self, side: str, stroke: Stroke) -> int | None:
        """By how many frames a hand arrives later than planned at a stroke's first pose; None if it does not."""
        at = min(round(stroke.begins * self._fps), self._frames - 1)
        first, last = at - round(_PREPARATION_S * self._fps), at + round(_MAX_LAG_S * self._fps)
        span = np.arange(max(first, 0), min(last + 1, self._frames))
        shown, planned = (self._difference(side, k, at, span) for k in (0, 1))
        if shown.min() > _MAX_HAND_DIFFERENCE:
            return None
        frame = span[_arrival(shown)]
        shown_arm, planned_arm = self._arms[side]
        way = shown_arm.wrist[frame] - shown_arm.shoulder[frame]
        if np.linalg.norm(way - (planned_arm.wrist[at] - planned_arm.shoulder[at])) > _MAX_WRIST_DISTANCE_M:
            return None
        return int(frame - span[_arrival(planned)])

    def _difference(self, side: str, which: int, at: int, span: np.ndarray) -> np.ndarray:
        """How far a hand is in the frames `span` [N] from its planned turn and shape at the frame `at`, rad [N].

        which: 0 is the hand of the motion, 1 that of the plan.
        """
        turn = self._arms[side][which].hand[span] * self._arms[side][1].hand[at].inv()
        fingers = list(FINGERS[side])
        bend = np.linalg.norm(self._poses[which][span][:, fingers] - self._poses[1][at, fingers], axis=2).mean(1)
        return turn.magnitude() + bend


def _arrival(difference: np.ndarray) -> int:
    """The first of the frames in which most of a difference [N] is gone."""
    least = difference.min()
    return int(np.argmax(difference <= least + _ARRIVED * (difference[0] - least) + 1e-6))


def _span(time: np.ndarray, start: float, stop: float) -> np.ndarray:
    return np.flatnonzero((time >= start) & (time < stop))


def _face_lag(motion: Motion, timed: TimedCue, time: np.ndarray) -> int | None:
    """By how many frames a face shows half of a cue too late; None if it does not show most of it."""
    face, due = timed.cue.face, int(timed.time * motion.fps)
    assert face is not None
    columns = [ACTION[name.replace("L/R", "Left")] for name in face.actions]
    most = timed.cue.amount * np.array(list(face.actions.values()))
    level = (motion.expression[:, columns] / most).min(1)
    first, last = due - round(_MAX_LAG_S * motion.fps), due + round(face.rise_s * motion.fps)
    near = np.arange(max(first, 0), min(last + 1, len(level)))
    if level[near].max() < _MIN_FACE_LEVEL:
        return None
    rising = near[level[near] >= 0.5]
    return 0 if rising[0] == near[0] else int(rising[0]) - due  # the face may have shown it before


def _lag(track: np.ndarray, planned: np.ndarray, span: np.ndarray, most: int) -> int | None:
    """By how many frames, at most `most`, a track [T, C] lags behind a plan [T, C] in some of its frames.

    None if it does not follow.
    """
    moving = np.ptp(planned[span], 0) > 0.1 * np.ptp(planned[span], 0).max()  # what the plan moves
    aim = planned[span][:, moving] - planned[span][:, moving].mean(0)
    best: tuple[float, int] | None = None
    for lag in sorted(range(-most, most + 1), key=abs):
        rows = np.clip(span + lag, 0, len(track) - 1)
        shown = track[rows][:, moving] - track[rows][:, moving].mean(0)
        size = np.linalg.norm(shown) * np.linalg.norm(aim)
        correlation = float((shown * aim).sum() / size) if size > 1e-9 else 0.0
        if best is None or correlation > best[0] + 1e-6:
            best = correlation, lag
    assert best is not None
    has_range = np.ptp(track[span][:, moving], 0).max() >= _MIN_RANGE * np.ptp(planned[span], 0).max()
    return best[1] if best[0] >= _MIN_CORRELATION and has_range else None
