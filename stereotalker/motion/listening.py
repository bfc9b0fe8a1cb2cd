"""Somebody who listens: the lips stay together, eyes and head turn to who speaks, and the head nods now and then.

T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stereotalker.acting.cues import parse_cue
from stereotalker.acting.face import resting_expression
from stereotalker.geometry.easing import minimum_jerk
from stereotalker.motion.cues import TimedCue
from stereotalker.motion.features import FACE_JOINTS, MOUTH
from stereotalker.motion.post_processing import away_from_prescribed, turned_to
from stereotalker.records import Motion
from stereotalker.smplx_layout import JOINT

LIPS_S = 0.15  # in which lips come together when speech ends, and part again before it begins
_TURN_S = 0.5  # in which eyes and head turn to somebody, and back
_HEAD_SHARE = 0.6  # of the turn to somebody; the eyes make the rest
_NOD_S = 1.0  # between a nod and another movement of the head
_NOD = 0.55  # size of a listener's nod, of one that is asked for
_MOUTH = np.array(MOUTH) - 3 * len(FACE_JOINTS)  # facial actions that move mouth, jaw or tongue


@dataclass(frozen=True)
class Look:
    """Somebody is looked at."""

    start: float  # s
    end: float  # s
    azimuth: float  # degrees, positive towards the left hand of who looks


@dataclass(frozen=True)
class Listening:
    """What somebody does while others speak."""

    silent: tuple[tuple[float, float], ...] = ()  # start and end, s, of the time in which the person says nothing
    listens: tuple[tuple[float, float], ...] = ()  # of that, the time in which others speak
    looks: tuple[Look, ...] = ()  # in the order of time, one after the other
    nods: tuple[float, ...] = ()  # s

    @property
    def cues(self) -> tuple[TimedCue, ...]:
        """The nods, as cues."""
        return tuple(TimedCue(parse_cue(f"nod {_NOD}"), time) for time in self.nods)

    def beside(self, cues: Sequence[TimedCue]) -> Listening:
        """The same without nods that would lie over what a director asks of the head."""
        heads = [cue.time for cue in cues if cue.cue.head]
        return replace(self, nods=tuple(t for t in self.nods if all(abs(t - head) > _NOD_S for head in heads)))


def with_shut_lips(
    motion: Motion, silent: Sequence[tuple[float, float]], from_start: bool = False, to_end: bool = False
) -> Motion:
    """The motion whose lips rest on each other in these spans of time (start and end, s).

    from_start, to_end: whether the first and the last pose are prescribed, and stay.
    """
    free = away_from_prescribed(motion, from_start, to_end)
    weight = (free * _weight(len(motion.poses), motion.fps, silent, LIPS_S))[:, None]
    poses, expression = motion.poses.copy(), motion.expression.copy()
    poses[:, JOINT["jaw"]] *= 1 - weight
    expression[:, _MOUTH] += weight * (resting_expression()[_MOUTH] - expression[:, _MOUTH])
    return replace(motion, poses=poses.astype(np.float32), expression=expression.astype(np.float32))


def with_looks(motion: Motion, looks: Sequence[Look], from_start: bool = False, to_end: bool = False) -> Motion:
    """The motion whose eyes and head turn to others. from_start, to_end: as of `with_shut_lips`."""
    if not looks:
        return motion
    time = (np.arange(len(motion.poses)) + 0.5) / motion.fps
    weight, azimuth = np.zeros(len(time)), np.full(len(time), looks[0].azimuth)
    for look in looks:
        # From one to the next the eyes need not come back to the front.
        azimuth += minimum_jerk((time - look.start) / _TURN_S) * (look.azimuth - azimuth)
        fall = minimum_jerk((time - look.end) / _TURN_S)
        weight = np.maximum(weight, minimum_jerk((time - look.start) / _TURN_S) * (1 - fall))
    weight *= away_from_prescribed(motion, from_start, to_end)
    return turned_to(motion, azimuth, np.zeros(len(time)), weight, _HEAD_SHARE)


def _weight(frames: int, fps: float, spans: Sequence[tuple[float, float]], ease_s: float) -> np.ndarray:
    """1 within spans of time and 0 apart from them, [T]; the change lies within the spans."""
    time = (np.arange(frames) + 0.5) / fps
    weight = np.zeros(frames)
    for start, end in spans:
        rise = minimum_jerk((time - start) / ease_s) if start > 0 else np.ones(frames)
        fall = minimum_jerk((end - time) / ease_s) if end < time[-1] else np.ones(frames)
        weight = np.maximum(weight, rise * fall * ((time >= start) & (time <= end)))
    return weight
