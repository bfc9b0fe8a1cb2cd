"""Rule-based reference motion for speech: the face, head, breath and gestures of a person who speaks.

The networks learn from this motion, and evaluation compares with it. The result depends only on phoneme and word times,
loudness, style and seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from stereotalker.acting import face
from stereotalker.acting.arm_ik import pose_arm
from stereotalker.acting.collision import keep_clear
from stereotalker.acting.gesture_planning import Gesture, hand_trajectories, plan_gestures
from stereotalker.acting.gestures import HEAD_MOVES
from stereotalker.audio.phonemes import BILABIAL, phoneme_class
from stereotalker.geometry.easing import minimum_jerk
from stereotalker.records import SAMPLE_RATE, Motion, Speech, Timed
from stereotalker.smplx_layout import ACTIONS, JOINT, JOINTS

PAUSE_S = 0.18  # a longer stretch without phonemes counts as a pause


@dataclass(frozen=True)
class Style:
    """An acting style, the personality of a speaker. Amplitudes are factors, 1 is the usual size."""

    name: str
    amplitude: float  # size of gestures
    rate: float  # gestures in a second, at the most
    handed: float  # -1: only the left hand gestures; 1: only the right hand
    rest: str  # where the hands rest, a key of gestures.REST_POSES
    head: float  # amplitude of nods and sway
    articulation: float  # amplitude of the jaw
    smile: float = 1.0  # amplitude of the resting smile
    brows: float = 0.35  # share of accents that raise the brows
    aversion: float = 0.4  # share of pauses in which the eyes look aside
    lean: float = 0.0  # forward lean of the trunk, rad
    turn: float = 0.0  # turn of the trunk to the left, rad


STYLES: tuple[Style, ...] = (
    Style("presenter", 1.0, 0.9, 0.2, "together", 1.0, 1.0),
    Style("calm", 0.65, 0.5, 0.6, "together", 0.7, 0.9, brows=0.2),
    Style("lively", 1.2, 1.2, 0.0, "apart", 1.3, 1.1, smile=1.6, brows=0.5),
    Style("left-handed", 1.0, 0.8, -0.8, "apart", 1.0, 1.0),
    Style("storyteller", 1.15, 0.8, 0.0, "steeple", 1.2, 1.1, brows=0.5, aversion=0.6),
    Style("reserved", 0.45, 0.35, 0.5, "together", 0.6, 0.85, smile=0.6, brows=0.15),
    Style("newsreader", 0.40, 0.45, 0.1, "desk", 0.8, 1.0, smile=0.8, aversion=0.05),
    Style("teacher", 1.0, 1.0, 0.7, "one-up", 1.0, 1.15, brows=0.45),
    Style("host", 1.1, 1.0, 0.3, "apart", 1.2, 1.05, smile=2.0, lean=0.03),
    Style("thinker", 0.7, 0.5, 0.4, "steeple", 0.8, 0.9, aversion=0.9, smile=0.5),
    Style("salesperson", 1.2, 1.3, 0.2, "together", 1.1, 1.1, smile=1.8, lean=0.05),
    Style("officer", 0.7, 0.6, 0.6, "low", 0.6, 1.0, smile=0.2, brows=0.1, aversion=0.1),
    Style("doctor", 0.75, 0.7, 0.3, "together", 0.8, 0.95, lean=0.04),
    Style("coach", 1.25, 1.2, 0.5, "apart", 1.3, 1.2, brows=0.4, lean=0.05),
    Style("shy", 0.40, 0.40, 0.2, "together", 0.7, 0.8, smile=1.2, aversion=0.9, turn=0.06),
    Style("elder", 0.6, 0.5, 0.5, "desk", 0.9, 0.9, brows=0.3),
    Style("guide", 1.0, 0.9, 0.5, "low", 1.0, 1.0, smile=1.3, turn=-0.07),
    Style("debater", 1.1, 1.1, 0.4, "one-up", 1.1, 1.1, smile=0.4, brows=0.45, lean=0.04),
    Style("friend", 0.85, 0.7, -0.1, "apart", 1.1, 1.0, smile=1.6, turn=0.05),
    Style("anchor-left", 0.8, 0.7, -0.6, "desk", 0.9, 1.0, aversion=0.1),
)  # fmt: skip
STYLE_INDEX: dict[str, int] = {style.name: k for k, style in enumerate(STYLES)}


def resting_pose(style: Style) -> Motion:
    """One frame of a silent person whose arms are where the style rests them."""
    return act(Speech(np.zeros(SAMPLE_RATE // 5, np.float32), -np.inf), style, 0, 25.0, 0.0).frames(0, 1)


def act(speech: Speech, style: Style, seed: int, fps: float, strength: float = 1.0, girth: float = 0.0) -> Motion:
    """Make the reference motion of a speaker.

    The face and the beats need speech.phonemes; speech.words choose the other gestures. fps: frames a second of the
    motion. strength scales the gestures, from 0 (hands at rest) to 2. girth: how much farther the person's front
    reaches than the mean body's, m.
    """
    T = max(1, round(speech.seconds * fps))
    rng = np.random.default_rng(seed)
    loudness = _loudness(speech.samples, T, fps)
    poses = np.zeros((T, len(JOINTS), 3), np.float32)
    expression = np.repeat(face.resting_expression(style.smile)[None], T, 0)
    mouth = face.mouth_motion(speech.phonemes, loudness, T, fps, style.articulation)
    speaking = np.clip(np.abs(mouth).sum(1, keepdims=True) / 0.3, 0, 1)
    expression += mouth[:, : len(ACTIONS)] - speaking * (face.resting_expression(0.5 * style.smile))
    poses[:, JOINT["jaw"], 0] = mouth[:, len(ACTIONS)] * face.JAW_OPEN_RAD
    accents, pauses = accent_times(speech.phonemes), _pauses(speech.phonemes)
    face.add_blinks(expression, pauses, rng, T, fps)
    face.add_gaze(poses, expression, style.aversion, pauses, rng, T, fps)
    face.add_brow_raises(expression, accents, style.brows, T, fps, rng)
    gestures = gesture_plan(speech, style, seed)
    _add_head_motion(poses, gestures, accents, loudness, style, strength, rng, T, fps)
    _add_arm_motion(poses, gestures, style, strength, girth, rng, T, fps)
    trans = np.zeros((T, 3), np.float32)
    weight_shift = _sway(rng, T, fps, 0.07)  # from one foot to the other
    trans[:, 0] = 0.006 * style.head * weight_shift
    poses[:, JOINT["spine1"], 2] += 0.010 * style.head * weight_shift
    return Motion(poses, np.clip(expression, 0, 1).astype(np.float32), trans, fps)


def gesture_plan(speech: Speech, style: Style, seed: int) -> list[Gesture]:
    """The gestures that `act` performs when it is called with the same arguments."""
    rng = np.random.default_rng([seed, 51])
    return plan_gestures(speech.words, accent_times(speech.phonemes), style.rate, style.handed, rng)


def lip_closure_spans(phonemes: tuple[Timed, ...]) -> list[tuple[float, float]]:
    """Spans (start, end) in s in which the lips must close: the phonemes p, b and m."""
    return [(p.start, p.end) for p in phonemes if phoneme_class(p.text) in BILABIAL]


def accent_times(phonemes: tuple[Timed, ...]) -> np.ndarray:
    """Middles of stressed phonemes in s, f64 [N], at least a quarter of a second apart."""
    accents: list[float] = []
    for p in phonemes:
        if face.is_stressed(p) and (not accents or p.start - accents[-1] > 0.25):
            accents.append((p.start + p.end) / 2)
    return np.array(accents)


def _pauses(phonemes: tuple[Timed, ...]) -> np.ndarray:
    """Middles of pauses in s, f64 [N]."""
    voiced = [p for p in phonemes if phoneme_class(p.text) != "sil"]
    return np.array(
        [(a.end + b.start) / 2 for a, b in zip(voiced, voiced[1:], strict=False) if b.start - a.end > PAUSE_S]
    )


def _loudness(samples: np.ndarray, T: int, fps: float) -> np.ndarray:
    """Smoothed level of every frame, f64 [T] in 0..1; 1 is the 90th percentile of the frames' levels."""
    edges = np.minimum((np.arange(T + 1) * SAMPLE_RATE / fps).astype(int), len(samples))
    level = np.array(
        [np.sqrt(np.mean(samples[a:b] ** 2)) if b > a else 0.0 for a, b in zip(edges, edges[1:], strict=False)]
    )
    return np.clip(gaussian_filter1d(level / max(np.percentile(level, 90), 1e-4), 1.0), 0, 1)


def _sway(rng, T: int, fps: float, hertz: float) -> np.ndarray:
    """Smooth noise of unit standard deviation whose frequencies lie around `hertz`, f64 [T]."""
    pad = int(3 * fps / hertz)
    noise = gaussian_filter1d(rng.normal(size=T + 2 * pad), fps / hertz / 5)
    return (noise / max(noise.std(), 1e-9))[pad : pad + T]


def _pulse(time: np.ndarray, peak: float, rise: float, fall: float) -> np.ndarray:
    """A pulse 0 -> 1 -> 0 with minimum-jerk flanks, [T]. All times are in s; rise and fall are durations."""
    return minimum_jerk(np.minimum((time - peak + rise) / rise, (peak + fall - time) / fall))


def _add_head_motion(
    poses, gestures: list[Gesture], accents, loudness, style: Style, strength: float, rng, T: int, fps: float
) -> None:
    """Add the motion of head, neck, trunk and collar bones to poses [T, 55, 3], in place."""
    time = (np.arange(T) + 0.5) / fps
    turn = np.stack(  # rotation of the head, rad [T, 3]: pitch, yaw, roll
        [0.030 * _sway(rng, T, fps, 0.30), 0.050 * _sway(rng, T, fps, 0.22), 0.028 * _sway(rng, T, fps, 0.20)], 1
    )
    turn *= 0.35 + 0.65 * gaussian_filter1d(loudness, fps * 0.4)[:, None]
    for accent in accents:
        turn[:, 0] += rng.uniform(0.02, 0.06) * _pulse(time, accent, 0.18, 0.28)
    for gesture in gestures:
        head_move = HEAD_MOVES.get(gesture.name)
        phase = (time - gesture.time + 0.15) / 0.55
        is_active = (phase > 0) & (phase < 1.5)
        if head_move == "shake":
            turn[:, 1] += 0.11 * np.sin(2 * np.pi * phase) * is_active
        elif head_move == "nod":
            turn[:, 0] += 0.09 * np.sin(2 * np.pi * phase) ** 2 * is_active
        elif head_move == "tilt":
            turn[:, 2] += rng.choice([-1, 1]) * 0.10 * _pulse(time, gesture.time + 0.2, 0.4, 0.6)
    turn *= style.head * (0.4 + 0.6 * min(strength, 2.0))
    turn[:, 1] -= 0.8 * style.turn  # the head turns and leans back, so that the face stays with the camera
    turn[:, 0] -= 0.6 * style.lean
    turn = gaussian_filter1d(turn, 0.8, axis=0)
    poses[:, JOINT["head"]] += 0.6 * turn
    poses[:, JOINT["neck"]] += 0.4 * turn
    breath = np.sin(2 * np.pi * time * 0.25 + rng.uniform(0, 6))
    poses[:, JOINT["spine3"], 0] += 0.008 * breath + 0.5 * style.lean
    poses[:, JOINT["spine2"]] += 0.010 * style.head * np.stack([_sway(rng, T, fps, 0.12) for _ in range(3)], 1)
    poses[:, JOINT["spine2"], 0] += 0.5 * style.lean
    poses[:, JOINT["spine1"], 1] += style.turn
    for side, direction in (("left", 1), ("right", -1)):  # the shoulders rise with the breath
        poses[:, JOINT[f"{side}_collar"], 2] += direction * 0.008 * (breath + 1)


def _add_arm_motion(
    poses, gestures: list[Gesture], style: Style, strength: float, girth: float, rng, T: int, fps: float
) -> None:
    """Write the arms' and fingers' joints into poses [T, 55, 3], in place."""
    strokes = [gesture.stroke for gesture in gestures] if strength > 0 else []
    hands = hand_trajectories(strokes, style.rest, style.amplitude * strength, T, fps, rng)
    for side, rows in hands.items():  # hands that rest still move a little: the wrist in m, and the curl of the fingers
        idle = np.stack([_sway(rng, T, fps, 0.2) for _ in range(3)], 1)
        rows[:, :3] += (0.004, 0.004, 0.003) * idle
        rows[:, 9:14] += 0.04 * _sway(rng, T, fps, 0.25)[:, None]
        hands[side] = gaussian_filter1d(rows, 0.03 * fps, axis=0) if T > 4 else rows
    keep_clear(hands, girth)
    for side, rows in hands.items():
        pose_arm(side, rows, poses)
