"""The face of the reference motion: visemes with co-articulation, the resting face, blinks, gaze and brows.

Co-articulation follows Cohen & Massaro 1993: each phoneme pulls the mouth towards its viseme with a dominance that
decays in time. Lip rounding starts ahead of its vowel. Lip closures are held for the length of the phoneme and override
everything else. T frames. The jaw is one more column after the 52 ARKit actions.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from stereotalker.audio.phonemes import BILABIAL, CLASSES, VOWELS, phoneme_class
from stereotalker.records import Timed
from stereotalker.smplx_layout import ACTION, ACTIONS, JOINT

JAW_OPEN_RAD = 0.30  # angle of the jaw joint when the mouth is open as far as speech opens it
# The viseme of each phoneme class: the jaw in 0..1, then ARKit actions in 0..1. "L/R" stands for both sides.
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
_JAW_COLUMN = len(ACTIONS)  # column of the jaw, after the actions

ROUNDED = frozenset({"w", "u", "o", "sh"})  # phoneme classes with rounded lips
# Actions of a face at rest: the lips lie together and the lids are a little down.
REST_EXPRESSION: dict[str, float] = {
    "mouthSmileLeft": 0.10,
    "mouthSmileRight": 0.10,
    "mouthClose": 0.030,
    "eyeBlinkLeft": 0.10,
    "eyeBlinkRight": 0.10,
}


def resting_expression(smile: float = 1.0) -> np.ndarray:
    """Actions of a silent face, f64 [52] in 0..1. smile: factor of the resting smile."""
    expression = np.zeros(len(ACTIONS))
    for name, value in REST_EXPRESSION.items():
        expression[ACTION[name]] = value * (smile if "Smile" in name else 1.0)
    return expression


def _viseme_table() -> np.ndarray:
    """_VISEMES as an array, f64 [classes, 53]: a row for each phoneme class, the actions and then the jaw."""
    table = np.zeros((len(CLASSES), _JAW_COLUMN + 1))
    for row, name in enumerate(CLASSES):
        for action, value in _VISEMES[name].items():
            if action == "jaw":
                table[row, _JAW_COLUMN] = value
            else:
                for side in ("Left", "Right") if action.endswith("L/R") else ("",):
                    table[row, ACTION[action.removesuffix("L/R") + side]] = value
    return table


_VISEME_TABLE = _viseme_table()


def mouth_motion(
    phonemes: tuple[Timed, ...], loudness: np.ndarray, T: int, fps: float, articulation: float
) -> np.ndarray:
    """Mouth actions and the jaw of every frame by dominance blending, f64 [T, 53]; the jaw is in 0..1.

    loudness [T] in 0..1 opens the jaw. articulation: factor of the jaw's opening in vowels.
    """
    oversampling = 4  # time steps in a frame, because a lip closure may be shorter than a frame
    time = (np.arange(T * oversampling) + 0.5) / (fps * oversampling)
    total_dominance = np.full((len(time), 1), 0.15)  # the resting mouth has a small dominance everywhere
    weighted_visemes = np.zeros((len(time), _JAW_COLUMN + 1))
    closure = np.zeros(len(time))
    for phoneme in phonemes:
        name = phoneme_class(phoneme.text)
        middle, length = (phoneme.start + phoneme.end) / 2, phoneme.end - phoneme.start
        # Width of the dominance function in s. Rounded sounds start earlier: their leading side is wider by `lead`.
        width = 0.45 * length + (0.045 if name in VOWELS or name in ROUNDED else 0.030)
        lead = 1.8 if name in ROUNDED else 1.0
        is_near = np.abs(time - middle) < 4 * width * lead
        distance = time[is_near] - middle
        dominance = np.exp(-((np.abs(distance) / np.where(distance < 0, width * lead, width)) ** 2))
        viseme = _VISEME_TABLE[CLASSES.index(name)].copy()
        if name in VOWELS:
            viseme[_JAW_COLUMN] *= articulation * (1.15 if is_stressed(phoneme) else 0.88)
        weighted_visemes[is_near] += dominance[:, None] * viseme
        total_dominance[is_near] += dominance[:, None]
        if name in BILABIAL:
            ramp = 0.022  # s in which the lips close or open
            inside = np.minimum(time - (phoneme.start - 0.010), (phoneme.start + max(length, 0.05)) - time)
            closure = np.maximum(closure, np.clip(inside / ramp + 0.5, 0, 1))
    out = weighted_visemes / total_dominance
    voice_level = np.interp(time, (np.arange(T) + 0.5) / fps, loudness)
    out[:, _JAW_COLUMN] *= 0.6 + 0.4 * voice_level
    closing = np.clip(gaussian_filter1d(closure, oversampling * 0.45) * 1.25, 0, 1)[:, None]
    out = out * (1 - closing) + closing * _VISEME_TABLE[CLASSES.index("p")]
    return out.reshape(T, oversampling, -1).mean(1)


def is_stressed(phoneme: Timed) -> bool:
    """Whether a phoneme carries primary stress, as IPA or ARPAbet marks it."""
    return "ˈ" in phoneme.text or phoneme.text.endswith("1")


def add_blinks(expression: np.ndarray, pauses: np.ndarray, rng, T: int, fps: float) -> None:
    """Add a blink every 2 to 5 s to expression [T, 52], in place.

    pauses [N]: middles of pauses in s. A blink that is due within 0.7 s of a pause happens in the pause, not in a word.
    """
    due = rng.uniform(0.5, 3.0)
    while due < T / fps:
        near = pauses[np.abs(pauses - due) < 0.7]
        moment = float(near[0]) if len(near) else due
        since_blink = (np.arange(T) + 0.5) / fps - moment
        # A lid closes in 80 ms and opens in 160 ms.
        lid = np.clip(1 - np.abs(since_blink) / np.where(since_blink < 0, 0.08, 0.16), 0, 1) ** 0.7
        for side in ("Left", "Right"):
            column = ACTION[f"eyeBlink{side}"]
            expression[:, column] = np.maximum(expression[:, column], lid)
        due += rng.uniform(2.0, 5.0)


def add_gaze(
    poses: np.ndarray, expression: np.ndarray, aversion: float, pauses: np.ndarray, rng, T: int, fps: float
) -> None:
    """Write the eyes' joints into poses [T, 55, 3], and let the lids in expression [T, 52] follow them, in place.

    The eyes make saccades of one to three degrees around the camera. In pauses [N] s they glance aside with the
    probability `aversion`.
    """
    target, frame = np.zeros((T, 2)), 0
    while frame < T:
        length = int(rng.uniform(0.6, 2.5) * fps)
        looks_aside = len(pauses) and np.abs(pauses - frame / fps).min() < 0.4 and rng.random() < aversion
        angles = (
            np.array([rng.uniform(-0.10, 0.07), rng.choice([-1, 1]) * rng.uniform(0.08, 0.20)])
            if looks_aside
            else rng.normal(0, 0.03, 2) * (rng.random() < 0.6)
        )
        target[frame : frame + (min(length, int(0.9 * fps)) if looks_aside else length)] = angles
        frame += max(length, 1)
    target = gaussian_filter1d(target, 0.6, axis=0)
    for eye in ("left_eye", "right_eye"):
        poses[:, JOINT[eye], :2] = target
    for side in ("Left", "Right"):
        lid = ACTION[f"eyeBlink{side}"]
        expression[:, lid] = np.clip(np.maximum(expression[:, lid], 1.2 * np.clip(target[:, 0], 0, 1)), 0, 1)


def add_brow_raises(expression: np.ndarray, accents: np.ndarray, probability: float, T: int, fps: float, rng) -> None:
    """Raise the brows in expression [T, 52] on accents [N] s, each with a probability, in place."""
    for accent in accents[rng.random(len(accents)) < probability]:
        raised = rng.uniform(0.25, 0.55) * np.exp(-((((np.arange(T) + 0.5) / fps - accent) / 0.16) ** 2))
        for action in ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"):
            expression[:, ACTION[action]] = np.maximum(expression[:, ACTION[action]], raised)
