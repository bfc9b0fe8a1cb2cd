"""The face of the reference motion: visemes with co-articulation, resting face, blinks, gaze, brows.

Co-articulation follows Cohen & Massaro 1993: each phoneme pulls the mouth to its target with a dominance that decays in time; rounding
starts ahead of its vowel, closures are held and win. T frames; the jaw is one more column behind the 52 actions.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from stereotalker.audio.phonemes import BILABIAL, CLASSES, VOWELS, phoneme_class
from stereotalker.records import Timed
from stereotalker.smplx_layout import ACTION, ACTIONS, JOINT

JAW_OPEN = 0.30  # rad of a fully open speaking jaw
# Mouth targets of a phoneme class: jaw 0..1, then ARKit actions. "L/R" stands for both sides.
_VISEMES: dict[str, dict[str, float]] = {
    "sil": {},
    "p": {"mouthPressL/R": 0.35, "mouthRollLower": 0.15, "mouthRollUpper": 0.15},
    "m": {"mouthPressL/R": 0.30, "mouthRollLower": 0.10, "mouthRollUpper": 0.10},
    "f": {"jaw": 0.10, "mouthRollLower": 0.55, "mouthUpperUpL/R": 0.25},
    "th": {"jaw": 0.20, "mouthLowerDownL/R": 0.15, "tongueOut": 0.15},
    "t": {"jaw": 0.18, "mouthLowerDownL/R": 0.15},
    "n": {"jaw": 0.18, "mouthLowerDownL/R": 0.10},
    "s": {"jaw": 0.08, "mouthStretchL/R": 0.25, "mouthLowerDownL/R": 0.25, "mouthUpperUpL/R": 0.10},
    "sh": {"jaw": 0.12, "mouthFunnel": 0.55, "mouthPucker": 0.15},
    "k": {"jaw": 0.28}, "h": {"jaw": 0.30},
    "l": {"jaw": 0.28, "mouthLowerDownL/R": 0.10},
    "r": {"jaw": 0.20, "mouthFunnel": 0.30, "mouthPucker": 0.15},
    "w": {"jaw": 0.12, "mouthPucker": 0.80, "mouthFunnel": 0.25},
    "j": {"jaw": 0.15, "mouthStretchL/R": 0.25},
    "i": {"jaw": 0.25, "mouthStretchL/R": 0.40, "mouthSmileL/R": 0.12},
    "e": {"jaw": 0.50, "mouthStretchL/R": 0.25},
    "ae": {"jaw": 0.85, "mouthStretchL/R": 0.15, "mouthLowerDownL/R": 0.10},
    "aa": {"jaw": 0.95},
    "ah": {"jaw": 0.50},
    "er": {"jaw": 0.35, "mouthFunnel": 0.30},
    "o": {"jaw": 0.60, "mouthFunnel": 0.50, "mouthPucker": 0.25},
    "u": {"jaw": 0.25, "mouthPucker": 0.75, "mouthFunnel": 0.20},
}  # fmt: skip
_MOUTH = len(ACTIONS)  # column of the jaw behind the actions

ROUNDED = frozenset({"w", "u", "o", "sh"})
REST: dict[str, float] = {
    "mouthSmileLeft": 0.10,
    "mouthSmileRight": 0.10,
    "mouthClose": 0.030,
    "eyeBlinkLeft": 0.10,
    "eyeBlinkRight": 0.10,
}  # lips lie together, lids a little down


def resting(smile: float = 1.0) -> np.ndarray:
    """Actions of a face that says nothing, f64 [52]."""
    out = np.zeros(len(ACTIONS))
    for name, value in REST.items():
        out[ACTION[name]] = value * (smile if "Smile" in name else 1.0)
    return out


def _viseme_table() -> np.ndarray:
    table = np.zeros((len(CLASSES), _MOUTH + 1))
    for row, name in enumerate(CLASSES):
        for action, value in _VISEMES[name].items():
            if action == "jaw":
                table[row, _MOUTH] = value
            else:
                for side in ("Left", "Right") if action.endswith("L/R") else ("",):
                    table[row, ACTION[action.removesuffix("L/R") + side]] = value
    return table


_TARGETS = _viseme_table()


def mouth(phonemes: tuple[Timed, ...], loudness: np.ndarray, T: int, fps: float, articulation: float) -> np.ndarray:
    """Actions and jaw [T, 53] (jaw 0..1) by dominance blending, closures held through their span. loudness [T] in 0..1."""
    rate = 4  # samples a frame: closures are shorter than a frame
    time = (np.arange(T * rate) + 0.5) / (fps * rate)
    total = np.full((len(time), 1), 0.15)  # silence pulls a little everywhere
    blend = np.zeros((len(time), _MOUTH + 1))
    shut = np.zeros(len(time))
    for phoneme in phonemes:
        name = phoneme_class(phoneme.text)
        middle, length = (phoneme.start + phoneme.end) / 2, phoneme.end - phoneme.start
        reach = 0.45 * length + (0.045 if name in VOWELS or name in ROUNDED else 0.030)
        lead = 1.8 if name in ROUNDED else 1.0
        near = np.abs(time - middle) < 4 * reach * lead
        distance = time[near] - middle
        weight = np.exp(-((np.abs(distance) / np.where(distance < 0, reach * lead, reach)) ** 2))
        target = _TARGETS[CLASSES.index(name)].copy()
        if name in VOWELS:
            target[_MOUTH] *= articulation * (1.15 if stressed(phoneme) else 0.88)
        blend[near] += weight[:, None] * target
        total[near] += weight[:, None]
        if name in BILABIAL:
            edge = 0.022
            inside = np.minimum(time - (phoneme.start - 0.010), (phoneme.start + max(length, 0.05)) - time)
            shut = np.maximum(shut, np.clip(inside / edge + 0.5, 0, 1))
    out = blend / total
    voice = np.interp(time, (np.arange(T) + 0.5) / fps, loudness)
    out[:, _MOUTH] *= 0.6 + 0.4 * voice
    closing = np.clip(gaussian_filter1d(shut, rate * 0.45) * 1.25, 0, 1)[:, None]
    out = out * (1 - closing) + closing * _TARGETS[CLASSES.index("p")]
    return out.reshape(T, rate, -1).mean(1)


def stressed(phoneme: Timed) -> bool:
    """Primary stress, as IPA or ARPAbet marks it."""
    return "ˈ" in phoneme.text or phoneme.text.endswith("1")


def blink(expression: np.ndarray, pauses: np.ndarray, rng, T: int, fps: float) -> None:
    """Every 2 to 5 s, rather in pauses (s) than within words."""
    at = rng.uniform(0.5, 3.0)
    while at < T / fps:
        near = pauses[np.abs(pauses - at) < 0.7]
        moment = float(near[0]) if len(near) else at
        frames = (np.arange(T) + 0.5) / fps - moment
        lid = np.clip(1 - np.abs(frames) / np.where(frames < 0, 0.08, 0.16), 0, 1) ** 0.7
        for side in ("Left", "Right"):
            column = ACTION[f"eyeBlink{side}"]
            expression[:, column] = np.maximum(expression[:, column], lid)
        at += rng.uniform(2.0, 5.0)


def gaze(
    poses: np.ndarray, expression: np.ndarray, aversion: float, pauses: np.ndarray, rng, T: int, fps: float
) -> None:
    """Saccades of a degree or three around the camera, glances aside in pauses; lids follow the eyes."""
    target, until = np.zeros((T, 2)), 0
    while until < T:
        length = int(rng.uniform(0.6, 2.5) * fps)
        thinking = len(pauses) and np.abs(pauses - until / fps).min() < 0.4 and rng.random() < aversion
        look = (
            np.array([rng.uniform(-0.10, 0.07), rng.choice([-1, 1]) * rng.uniform(0.08, 0.20)])
            if thinking
            else rng.normal(0, 0.03, 2) * (rng.random() < 0.6)
        )
        target[until : until + (min(length, int(0.9 * fps)) if thinking else length)] = look
        until += max(length, 1)
    target = gaussian_filter1d(target, 0.6, axis=0)
    for eye in ("left_eye", "right_eye"):
        poses[:, JOINT[eye], :2] = target
    for side in ("Left", "Right"):
        down = ACTION[f"eyeBlink{side}"]
        expression[:, down] = np.clip(np.maximum(expression[:, down], 1.2 * np.clip(target[:, 0], 0, 1)), 0, 1)


def brows(expression: np.ndarray, accents: np.ndarray, often: float, T: int, fps: float, rng) -> None:
    """Raised on some accents (s)."""
    for at in accents[rng.random(len(accents)) < often]:
        raised = rng.uniform(0.25, 0.55) * np.exp(-((((np.arange(T) + 0.5) / fps - at) / 0.16) ** 2))
        for action in ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"):
            expression[:, ACTION[action]] = np.maximum(expression[:, ACTION[action]], raised)
