"""Reference motion that speech should drive: visemes with co-articulation, blinks, gaze, head and hand beats, idle sway.

Everything is a function of (phoneme and word times, loudness, style, seed). Coarticulation follows Cohen & Massaro 1993:
each phoneme pulls the mouth to its target with a dominance that decays in time; closures dominate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from stereotalker.audio.phonemes import BILABIAL, CLASSES, VOWELS, phoneme_class
from stereotalker.body.layout import ACTION, ACTIONS, JOINT, JOINTS
from stereotalker.records import SAMPLE_RATE, Motion, Speech, Timed

JAW_OPEN = 0.30  # rad of a fully open speaking jaw


@dataclass(frozen=True)
class Style:
    """How a person acts: amplitudes are factors, rates per second of speech."""

    name: str
    amplitude: float  # of hand strokes
    beats: float  # strokes a second
    handed: float  # -1 left hand only ... 1 right hand only, 0 both
    rest: str  # key of _RESTS
    head: float  # amplitude of nods and sway
    articulation: float  # of the jaw


STYLES: tuple[Style, ...] = (
    Style("presenter", 1.0, 0.8, 0.2, "together", 1.0, 1.0),
    Style("calm", 0.6, 0.4, 0.6, "low", 0.7, 0.9),
    Style("lively", 1.3, 1.1, 0.0, "apart", 1.3, 1.1),
    Style("left-handed", 1.0, 0.7, -0.8, "low", 1.0, 1.0),
    Style("storyteller", 1.2, 0.7, 0.0, "together", 1.2, 1.1),
    Style("reserved", 0.4, 0.3, 0.5, "together", 0.6, 0.85),
)

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

# Arms of the rest poses, for the left; the right mirrors them: joint -> axis-angle rad.
_RESTS: dict[str, dict[str, tuple[float, float, float]]] = {
    "together": {"shoulder": (0.20, -0.25, -1.30), "elbow": (0.60, -1.95, -0.25), "wrist": (0.25, -0.05, 0.05)},
    "low": {"shoulder": (0.15, -0.15, -1.36), "elbow": (0.45, -1.60, -0.20), "wrist": (0.20, -0.05, 0.0)},
    "apart": {"shoulder": (0.20, -0.10, -1.28), "elbow": (0.45, -1.90, -0.05), "wrist": (0.10, -0.05, 0.05)},
}
# What a stroke adds at full extent, by its meaning.
_STROKES: dict[str, dict[str, tuple[float, float, float]]] = {
    "beat": {"shoulder": (0.02, -0.10, 0.12), "elbow": (0.10, -0.40, 0.15), "wrist": (-0.25, 0.0, 0.15)},
    "spread": {"shoulder": (0.0, 0.20, 0.35), "elbow": (0.10, 0.20, 0.40), "wrist": (-0.45, 0.0, 0.20)},
    "self": {"shoulder": (0.10, -0.35, 0.05), "elbow": (0.35, -0.75, 0.10), "wrist": (0.15, -0.10, 0.0)},
    "other": {"shoulder": (0.0, -0.55, 0.30), "elbow": (-0.15, 0.45, 0.10), "wrist": (-0.50, 0.0, 0.05)},
}
_LEXICON: dict[str, str] = {
    **dict.fromkeys(("big", "huge", "large", "whole", "everything", "everyone", "world", "wide", "all", "every"), "spread"),
    **dict.fromkeys(("i", "me", "my", "mine", "myself", "we", "our", "us"), "self"),
    **dict.fromkeys(("you", "your", "yours", "there", "here", "this", "that"), "other"),
}
_REFUSALS = frozenset({"no", "not", "never", "nothing", "nobody", "don't", "can't", "won't"})


def act(speech: Speech, style: Style, seed: int, fps: float, strength: float = 1.0) -> Motion:
    """The motion of a speaker. Needs speech.phonemes; words add meaning. `strength` scales the gestures (0 still ... 2)."""
    T = max(1, round(speech.seconds * fps))
    rng = np.random.default_rng(seed)
    loudness = _loudness(speech.samples, T, fps)
    poses = np.zeros((T, len(JOINTS), 3), np.float32)
    expression = np.zeros((T, len(ACTIONS)), np.float32)
    mouth = _mouth(speech.phonemes, loudness, T, fps, style)
    expression += mouth[:, :_MOUTH]
    poses[:, JOINT["jaw"], 0] = mouth[:, _MOUTH] * JAW_OPEN
    _blink(expression, rng, T, fps)
    _gaze(poses, rng, T, fps)
    accents = _accents(speech.phonemes)
    _brows(expression, accents, T, fps, rng)
    _head(poses, speech.words, accents, loudness, style, strength, rng, T, fps)
    _arms(poses, speech.words, accents, style, strength, rng, T, fps)
    trans = np.zeros((T, 3), np.float32)
    trans[:, 0] = 0.004 * style.head * _sway(rng, T, fps, 0.15)
    return Motion(poses, np.clip(expression, 0, 1), trans, fps)


def closed_spans(phonemes: tuple[Timed, ...]) -> list[tuple[float, float]]:
    """Spans (s) in which the lips must close: p b m."""
    return [(p.start, p.end) for p in phonemes if phoneme_class(p.text) in BILABIAL]


# ---- face ----------------------------------------------------------------------------------------------------------------


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


def _mouth(phonemes: tuple[Timed, ...], loudness: np.ndarray, T: int, fps: float, style: Style) -> np.ndarray:
    """Actions and jaw [T, 53] by dominance blending, then closures held through their span."""
    rate = 4  # samples a frame: closures are shorter than a frame
    time = (np.arange(T * rate) + 0.5) / (fps * rate)
    total = np.full((len(time), 1), 0.15)  # silence pulls a little everywhere
    blend = np.zeros((len(time), _MOUTH + 1))
    shut = np.zeros(len(time))
    for phoneme in phonemes:
        name = phoneme_class(phoneme.text)
        middle, length = (phoneme.start + phoneme.end) / 2, phoneme.end - phoneme.start
        reach = 0.45 * length + (0.045 if name in VOWELS or name in ("w", "sh") else 0.030)
        lead = 1.3 if name in ("w", "u", "o", "sh") else 1.0  # rounding starts ahead of the sound
        distance = time - middle
        weight = np.exp(-((np.abs(distance) / np.where(distance < 0, reach * lead, reach)) ** 2))
        target = _TARGETS[CLASSES.index(name)].copy()
        if name in VOWELS:
            target[_MOUTH] *= style.articulation * (1.15 if "ˈ" in phoneme.text or "1" in phoneme.text else 0.9)
        blend += weight[:, None] * target
        total += weight[:, None]
        if name in BILABIAL:
            edge = 0.022
            inside = np.minimum(time - (phoneme.start - 0.010), (phoneme.start + max(length, 0.05)) - time)
            shut = np.maximum(shut, np.clip(inside / edge + 0.5, 0, 1))
    mouth = blend / total
    voice = np.interp(time, (np.arange(T) + 0.5) / fps, loudness)
    mouth[:, _MOUTH] *= 0.6 + 0.4 * voice
    closing = np.clip(gaussian_filter1d(shut, rate * 0.45) * 1.25, 0, 1)[:, None]
    mouth = mouth * (1 - closing) + closing * _TARGETS[CLASSES.index("p")]
    return mouth.reshape(T, rate, -1).mean(1)


def _loudness(samples: np.ndarray, T: int, fps: float) -> np.ndarray:
    """Smoothed level of every frame in 0..1, relative to the loudest tenth."""
    edges = np.minimum((np.arange(T + 1) * SAMPLE_RATE / fps).astype(int), len(samples))
    level = np.array([np.sqrt(np.mean(samples[a:b] ** 2)) if b > a else 0.0 for a, b in zip(edges, edges[1:], strict=False)])
    return np.clip(gaussian_filter1d(level / max(np.percentile(level, 90), 1e-4), 1.0), 0, 1)


def _blink(expression: np.ndarray, rng, T: int, fps: float) -> None:
    at = rng.uniform(0.5, 3.0)
    while at < T / fps:
        frames = (np.arange(T) + 0.5) / fps - at
        lid = np.clip(1 - np.abs(frames) / np.where(frames < 0, 0.08, 0.16), 0, 1) ** 0.7
        for side in ("Left", "Right"):
            column = ACTION[f"eyeBlink{side}"]
            expression[:, column] = np.maximum(expression[:, column], lid)
        at += rng.uniform(2.0, 5.0)


def _gaze(poses: np.ndarray, rng, T: int, fps: float) -> None:
    """Saccades of a degree or three around the camera, both eyes alike."""
    target, until = np.zeros((T, 2)), 0
    while until < T:
        length = int(rng.uniform(0.6, 2.5) * fps)
        target[until : until + length] = rng.normal(0, 0.03, 2) * (rng.random() < 0.6)
        until += max(length, 1)
    target = gaussian_filter1d(target, 0.6, axis=0)
    for eye in ("left_eye", "right_eye"):
        poses[:, JOINT[eye], :2] = target


def _brows(expression: np.ndarray, accents: np.ndarray, T: int, fps: float, rng) -> None:
    for at in accents[rng.random(len(accents)) < 0.35]:
        bump = 0.45 * np.exp(-((((np.arange(T) + 0.5) / fps - at) / 0.16) ** 2))
        for action in ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"):
            expression[:, ACTION[action]] = np.maximum(expression[:, ACTION[action]], bump)


# ---- head and arms -------------------------------------------------------------------------------------------------------


def _accents(phonemes: tuple[Timed, ...]) -> np.ndarray:
    """Times (s) of stressed vowels, at least a quarter of a second apart."""
    found: list[float] = []
    for p in phonemes:
        stressed = "ˈ" in p.text or p.text.endswith("1")
        if stressed and (not found or p.start - found[-1] > 0.25):
            found.append((p.start + p.end) / 2)
    return np.array(found)


def _sway(rng, T: int, fps: float, hertz: float) -> np.ndarray:
    """Smooth noise of unit size around the given frequency."""
    pad = int(3 * fps / hertz)
    noise = gaussian_filter1d(rng.normal(size=T + 2 * pad), fps / hertz / 5)
    return (noise / max(noise.std(), 1e-9))[pad : pad + T]


def _pulse(time: np.ndarray, stroke: float, prepare: float, hold: float, retract: float) -> np.ndarray:
    """0 -> 1 -> 0: preparation ends at `stroke`, a hold, then retraction; minimum-jerk flanks."""
    rise = np.clip((time - (stroke - prepare)) / prepare, 0, 1)
    fall = np.clip((stroke + hold + retract - time) / retract, 0, 1)
    return _min_jerk(rise) * _min_jerk(fall)


def _min_jerk(x: np.ndarray) -> np.ndarray:
    return x**3 * (10 - 15 * x + 6 * x**2)


def _head(poses, words, accents, loudness, style: Style, strength: float, rng, T: int, fps: float) -> None:
    time = (np.arange(T) + 0.5) / fps
    turn = np.stack([0.030 * _sway(rng, T, fps, 0.30), 0.050 * _sway(rng, T, fps, 0.22), 0.025 * _sway(rng, T, fps, 0.20)], 1)
    turn *= 0.35 + 0.65 * gaussian_filter1d(loudness, fps * 0.4)[:, None]
    for at in accents:
        turn[:, 0] += rng.uniform(0.02, 0.06) * _pulse(time, at, 0.18, 0.0, 0.28)
    for word in words:
        if word.text.lower().strip(".,!?;:") in _REFUSALS:
            phase = (time - word.start) / 0.55
            turn[:, 1] += 0.10 * np.sin(2 * np.pi * phase) * ((phase > 0) & (phase < 1.5))
    turn *= style.head * (0.4 + 0.6 * min(strength, 2.0))
    turn = gaussian_filter1d(turn, 0.8, axis=0)
    poses[:, JOINT["head"]] += 0.6 * turn
    poses[:, JOINT["neck"]] += 0.4 * turn
    breath = np.sin(2 * np.pi * time * 0.25 + rng.uniform(0, 6))
    poses[:, JOINT["spine3"], 0] += 0.008 * breath
    poses[:, JOINT["spine2"]] += 0.012 * style.head * np.stack([_sway(rng, T, fps, 0.12) for _ in range(3)], 1)


def _arms(poses, words, accents, style: Style, strength: float, rng, T: int, fps: float) -> None:
    time = (np.arange(T) + 0.5) / fps
    offset = {(side, joint): np.zeros((T, 3)) for side in ("left", "right") for joint in ("shoulder", "elbow", "wrist")}
    for at, meaning in _strokes(words, accents, style, rng):
        sides = _sides(meaning, style.handed, rng)
        prepare, hold, retract = rng.uniform(0.25, 0.40), rng.uniform(0.05, 0.30), rng.uniform(0.45, 0.80)
        amount = style.amplitude * strength * rng.uniform(0.7, 1.2)
        pulse = _pulse(time, at, prepare, hold, retract)[:, None]
        for side in sides:
            for joint, turn in _STROKES[meaning].items():
                offset[side, joint] = np.where(pulse > 0.02, np.maximum(np.abs(offset[side, joint]), np.abs(pulse * amount * np.array(turn))) * np.sign(turn), offset[side, joint])  # fmt: skip
    for side, mirror in (("left", np.array([1, 1, 1])), ("right", np.array([1, -1, -1]))):
        for joint, turn in _RESTS[style.rest].items():
            idle = 0.02 * np.stack([_sway(rng, T, fps, 0.2) for _ in range(3)], 1)
            moved = np.array(turn) + gaussian_filter1d(offset[side, joint], 1.0, axis=0) + idle
            poses[:, JOINT[f"{side}_{joint}"]] = moved * mirror
        curl = 0.30 + 0.06 * _sway(rng, T, fps, 0.25)
        for finger in ("index", "middle", "ring", "pinky"):
            for k in (1, 2, 3):
                poses[:, JOINT[f"{side}_{finger}{k}"], 2] = -mirror[2] * curl * (0.8 if k == 1 else 1.0)


def _strokes(words, accents, style: Style, rng) -> list[tuple[float, str]]:
    """Meaningful strokes on the words that carry them, beats on accents between, never closer than the style's rate."""
    candidates = [(w.start + 0.1, _LEXICON[w.text.lower().strip(".,!?;:")]) for w in words if w.text.lower().strip(".,!?;:") in _LEXICON]
    candidates += [(at, "beat") for at in accents]
    candidates.sort(key=lambda item: (item[0], item[1] == "beat"))
    chosen: list[tuple[float, str]] = []
    for at, meaning in candidates:
        gap = at - chosen[-1][0] if chosen else np.inf
        if gap > (0.5 if meaning != "beat" else 0.8 / style.beats * rng.uniform(0.7, 1.3)):
            chosen.append((at, meaning))
    return chosen


def _sides(meaning: str, handed: float, rng) -> tuple[str, ...]:
    if meaning == "spread" or rng.random() > 0.4 + 0.6 * abs(handed):
        return ("left", "right")
    return ("right",) if rng.random() < (1 + handed) / 2 else ("left",)
