"""Cues: what a director asks the speaker to do at a moment, such as `nod`, `point: left`, `count: 3` or `smile 0.8`.

A cue moves the arms, the head, the face, or two of these. Sides are those of the picture: `point: left` points to the
left edge of it, with the person's right hand.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from stereotalker.acting.arm_ik import HandTarget
from stereotalker.acting.gestures import GESTURE_CLASSES, GestureClass
from stereotalker.errors import UserError

_GRAMMAR = re.compile(r"(?P<name>[a-z][a-z -]*?)(?:\s*:\s*(?P<choice>[a-z0-9-]+))?(?:\s+(?P<amount>-?\d*\.?\d+))?")
_NUMBERS = ("one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Face:
    """What a cue does to the face: actions that rise, stay and fall."""

    actions: dict[str, float]  # ARKit action -> how much is added at full size; L/R stands for both sides
    rise_s: float
    hold_s: float
    fall_s: float


@dataclass(frozen=True)
class Cue:
    """What the speaker is to do."""

    text: str  # as it was asked for, such as "point: left"
    amount: float = 1.0  # share of its full size
    arms: GestureClass | None = None
    hand: str = ""  # "left" or "right", of the person; empty: both, or either
    head: str = ""  # a key of HEAD_MOVES
    face: Face | None = None


# The head's turn (pitch, yaw, roll) in rad at `time` s after the moment of a cue, at full size; [T] -> [T, 3].
HeadMove = Callable[[np.ndarray], np.ndarray]


def _bump(time: np.ndarray, middle: float, half: float) -> np.ndarray:
    """A smooth bump of height 1 around `middle`, which is 0 from `half` s away on."""
    return np.cos(np.clip((time - middle) / half, -1, 1) * np.pi / 2) ** 2


def _nod(time: np.ndarray) -> np.ndarray:
    """Down at the moment of the cue, and a second time less deeply."""
    pitch = 0.20 * _bump(time, 0.0, 0.24) + 0.10 * _bump(time, 0.48, 0.24)
    return np.stack([pitch, 0 * time, 0 * time], 1)


def _shake(time: np.ndarray) -> np.ndarray:
    """To one side at the moment of the cue, then to the other, and back."""
    yaw = 0.17 * _bump(time, 0.0, 0.22) - 0.17 * _bump(time, 0.26, 0.26) + 0.10 * _bump(time, 0.54, 0.24)
    return np.stack([0 * time, yaw, 0 * time], 1)


def _tilt(time: np.ndarray) -> np.ndarray:
    """To the shoulder at the moment of the cue, for half a second."""
    away = np.where(time < 0, time / 0.4, np.maximum(time - 0.5, 0) / 0.5)
    return np.stack([0 * time, 0 * time, 0.15 * _bump(away, 0.0, 1.0)], 1)


HEAD_MOVES: dict[str, HeadMove] = {"nod": _nod, "shake": _shake, "tilt": _tilt}
HEAD_SPAN_S = (0.4, 1.0)  # before and behind the moment of a cue, in which HEAD_MOVES turn the head

_FACES = {
    "smile": Face(
        {"mouthSmileL/R": 0.55, "cheekSquintL/R": 0.40, "eyeSquintL/R": 0.15, "mouthDimpleL/R": 0.12}, 0.35, 1.4, 0.8
    ),
    "frown": Face({"browDownL/R": 0.65, "eyeSquintL/R": 0.15}, 0.25, 0.9, 0.5),
    "raise brows": Face({"browInnerUp": 0.6, "browOuterUpL/R": 0.6}, 0.18, 0.5, 0.4),
}
# Hand targets are written for the left hand: x to the person's left, y up, z to the front.
_THUMB_UP = GestureClass(
    ((0.0, HandTarget((0.19, 0.52, 0.32), (-0.75, 0.1, 0.65), (-0.65, 0.0, -0.75), "thumb-up", 0.4)),), hold_s=0.6
)
_WAVE = GestureClass(
    tuple(
        (time, HandTarget((0.245 + 0.02 * side, 0.62, 0.27), (0.55 * side, 1.0, 0.0), (0.0, 0.0, 1.0), "open", 0.5))
        for time, side in ((-0.25, -1), (-0.05, 1), (0.15, -1), (0.35, 1), (0.55, -1))
    )
)
_POINT_ASIDE = GestureClass(
    ((0.0, HandTarget((0.36, 0.52, 0.22), (1.0, 0.15, 0.35), (-0.2, 0.0, 1.0), "point", 0.5)),), hold_s=0.6
)


def _arms(name: str, hand: str = "", hold_s: float | None = None) -> Cue:
    """A cue that makes a gesture class, with the movement of the head that belongs to it."""
    gesture = GESTURE_CLASSES[name]
    held = gesture if hold_s is None else replace(gesture, hold_s=hold_s)
    return Cue("", arms=held, hand=hand, head=gesture.head_move)


# Name -> choice -> cue. A cue without a choice has the choice "".
_CUES: dict[str, dict[str, Cue]] = {
    **{name: {"": _arms(name)} for name in GESTURE_CLASSES},
    **{name: {"": Cue("", head=name)} for name in HEAD_MOVES},
    **{name: {"": Cue("", face=face)} for name, face in _FACES.items()},
    "point": {
        # The person's right hand is on the left of the picture.
        "left": Cue("", arms=_POINT_ASIDE, hand="right"),
        "right": Cue("", arms=_POINT_ASIDE, hand="left"),
        "up": _arms("up", hold_s=0.5),
        "down": _arms("down", hold_s=0.5),
    },
    "count": {str(k): _arms(name, hold_s=0.6) for k, name in enumerate(_NUMBERS, 1)},
    "open hands": {"": replace(_arms("question", hold_s=0.6), head="")},
    "wave": {"": Cue("", arms=_WAVE)},
    "thumb up": {"": Cue("", arms=_THUMB_UP)},
}


def parse_cue(text: str) -> Cue:
    """The cue of a text such as `nod`, `open hands`, `count: 3` or `smile 0.8`: a name, a choice and an amount.

    Raises UserError for a cue that does not exist; the message names those that do.
    """
    if not text.strip():
        raise UserError("cue: there is nothing in the brackets; expected one such as nod")
    found = _GRAMMAR.fullmatch(" ".join(text.lower().split()))
    name = found["name"].strip() if found else ""
    if found is None or name not in _CUES:
        near = difflib.get_close_matches(name or text.lower(), _CUES, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(cue_names())}"
        raise UserError(f"cue {text!r} does not exist; {hint}")
    choices, choice = _CUES[name], found["choice"] or ""
    if choice not in choices:
        expected = f"one of {', '.join(f'{name}: {c}' for c in choices)}" if "" not in choices else f"{name} alone"
        raise UserError(f"cue {text!r}: expected {expected}")
    amount = float(found["amount"]) if found["amount"] else 1.0
    if not 0 < amount <= 1:
        raise UserError(f"cue {text!r}: its amount is {amount:g}; expected more than 0 and at most 1")
    return replace(choices[choice], text=" ".join(text.split()), amount=amount)


def cue_names() -> list[str]:
    """What can be asked for, as it is written: every cue with each of its choices."""
    return [f"{name}: {choice}" if choice else name for name, choices in _CUES.items() for choice in choices]
