"""Which gestures a speaker makes, when, and how the hands move through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stereotalker.acting.gestures import GESTURE_CLASSES, REST_POSES, GestureClass, gesture_class_of
from stereotalker.geometry.easing import minimum_jerk
from stereotalker.records import Timed


@dataclass(frozen=True)
class Gesture:
    """One gesture that a speaker makes."""

    name: str  # a key of GESTURE_CLASSES
    time: float  # of the stroke, s
    hands: tuple[str, ...]  # "left", "right" or both

    @property
    def stroke(self) -> Stroke:
        """How the hands move through it."""
        return Stroke(GESTURE_CLASSES[self.name], self.time, self.hands)


@dataclass(frozen=True)
class Stroke:
    """A gesture class that hands move through at a moment."""

    form: GestureClass
    time: float  # s
    hands: tuple[str, ...]  # "left", "right" or both
    size: float = 1.0  # factor on the speaker's amplitude

    @property
    def begins(self) -> float:
        """When the first pose of the gesture is reached, s."""
        return self.time + self.form.moves[0][0]

    @property
    def ends(self) -> float:
        """When the last pose is reached, which is then held, s."""
        return self.time + self.form.moves[-1][0]


def plan_gestures(
    words: tuple[Timed, ...], accents: np.ndarray, rate: float, handed: float, rng: np.random.Generator
) -> list[Gesture]:
    """Plan gestures: those of the lexicon on their words, and beats on the stressed syllables between them.

    accents [N]: times of stressed syllables, s. rate: gestures a second, at the most. handed: -1 uses only the left
    hand for one-handed gestures, 1 only the right one. Gestures come in order of time.
    """
    candidates = [(stroke_time(w, accents), name) for w in words if (name := gesture_class_of(w.text)) is not None]
    candidates += [(float(accent), "beat") for accent in accents]
    candidates.sort(key=lambda c: (c[0], c[1] == "beat"))
    gestures: list[Gesture] = []
    for time, name in candidates:
        gap = time - gestures[-1].time if gestures else np.inf
        min_gap = (0.55 if name != "beat" else 0.75) / rate * rng.uniform(0.8, 1.3)
        if name != "beat" and gestures and gestures[-1].name == name:
            min_gap *= 2.5  # people seldom repeat a gesture at once
        if gap < min_gap or time < 0.25:
            continue
        if name == "beat" and rng.random() < 0.35:
            name = "beat-both"
        gestures.append(Gesture(name, time, choose_hands(GESTURE_CLASSES[name], handed, rng)))
    return gestures


def stroke_time(word: Timed, accents: np.ndarray) -> float:
    """Time of a word's first stressed syllable in s; a little after the word's start if it has none."""
    inside = accents[(accents >= word.start) & (accents <= word.end)]
    return float(inside[0]) if len(inside) else word.start + min(0.12, (word.end - word.start) / 2)


def choose_hands(gesture: GestureClass, handed: float, rng) -> tuple[str, ...]:
    """The hands that make a gesture. handed: see `plan_gestures`."""
    if gesture.is_two_handed:
        return ("left", "right")
    return ("right",) if rng.random() < (1 + handed) / 2 else ("left",)


def hand_trajectories(
    strokes: list[Stroke], rest: str, amplitude: float, frames: int, fps: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Hand targets f64 [T, 16] of both hands in every frame, laid out as by `HandTarget.vector`.

    The hands rest, prepare, make the stroke, hold and retract; minimum-jerk movements join these poses. rest: a key of
    REST_POSES. amplitude: how far gestures reach from there, 1 is the usual size.
    """
    time = (np.arange(frames) + 0.5) / fps
    out = {}
    for side, home in zip(("left", "right"), REST_POSES[rest], strict=True):
        base = home.vector()
        keys: list[tuple[float, np.ndarray]] = [(-1.0, base)]
        for stroke in (s for s in strokes if side in s.hands):
            offset_m, first = rng.normal(0, 0.012, 3), stroke.begins
            if first - keys[-1][0] > 0.95:  # there is time to return to rest and to prepare again
                keys += [(keys[-1][0] + rng.uniform(0.5, 0.75), base), (first - rng.uniform(0.32, 0.42), base)]
            for delay, hand in stroke.form.moves:
                pose = _scale_reach(base, hand.vector(), amplitude * stroke.size, offset_m)
                keys.append((stroke.time + delay, pose))
            keys.append((stroke.ends + stroke.form.hold_s * rng.uniform(0.7, 1.3), keys[-1][1]))
        keys.append((keys[-1][0] + 0.65, base))
        out[side] = _interpolate(keys, time)
    return out


def _scale_reach(base: np.ndarray, key: np.ndarray, amplitude: float, offset_m: np.ndarray) -> np.ndarray:
    """Scale the way from the rest pose `base` to a key pose, both [16], by a person's amplitude, and add offset_m [3].

    The position of the wrist scales in full. Directions and hand shape scale by the square root, so that a small
    gesture still shows its shape.
    """
    out = base + np.clip(amplitude, 0, 1.25) ** 0.5 * (key - base)
    out[:3] = base[:3] + np.clip(amplitude, 0, 1.3) * (key[:3] - base[:3]) + offset_m
    return out


def _interpolate(keys: list[tuple[float, np.ndarray]], time: np.ndarray) -> np.ndarray:
    """Minimum-jerk interpolation of key poses (time in s, row [16]) at `time` [T] s -> [T, 16]."""
    key_times = np.array([k[0] for k in keys])
    key_times = np.maximum.accumulate(key_times + np.arange(len(key_times)) * 1e-6)
    rows = np.stack([k[1] for k in keys])
    index = np.clip(np.searchsorted(key_times, time, side="right") - 1, 0, len(key_times) - 2)
    span = np.maximum(key_times[index + 1] - key_times[index], 1e-3)
    phase = np.clip((time - key_times[index]) / span, 0, 1)
    phase = minimum_jerk(phase)
    out = rows[index] + phase[:, None] * (rows[index + 1] - rows[index])
    lift = 0.10 * np.linalg.norm(rows[index + 1, :3] - rows[index, :3], axis=1) * np.sin(np.pi * phase)
    out[:, 1] += lift  # hands travel along arcs
    return out
