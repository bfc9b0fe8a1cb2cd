"""How good a motion is. Every measure with its formula and its version; a number of another version does not compare. T frames.

version 1
lips closed        share of p, b, m in which the midline lips come nearer than CLOSED_MM over their distance at rest, in a frame that
                   overlaps the sound (+-1 frame); over all sounds of all utterances
lip correlation    Pearson's r of the lip aperture with the reference's, and the lag in frames with the highest r
pause aperture     95th percentile of the lip aperture in pauses of speech, 0.15 s away from any sound, mm
lip vertex error   mean over frames of the largest distance of any lip vertex to the reference's, mm (Richard et al. 2021)
diversity          mean deviation in time of the angles of head, shoulders, elbows and wrists, rad
jerk               mean size of the third difference of the same angles, rad/s^3
beat consistency   mean over the arms' slowest moments of exp(-d^2 / 2 s^2), d the time to the next onset of sound, s = 0.1 s (Li et al. 2021)
FGD                Frechet distance of gesture features (Yoon et al. 2020) by the encoder of weights/gestures.safetensors
gesture accuracy   share of words whose sign is the nearest among all signs' reference strokes (see `Signs`)
drift              |spread of the last minute / spread of the first - 1|, and the shift of the mean over the spread
seams              mean speed of all joints and actions from a window's border to 0.4 s behind it, over that elsewhere
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks
from torch import nn

from stereotalker.acting.gestures import GESTURE_CLASSES, LEXICON
from stereotalker.acting.reference_acting import STYLES, act, closed_spans
from stereotalker.audio.phonemes import phoneme_class
from stereotalker.body.model import Body
from stereotalker.models import weights_file
from stereotalker.motion.features import BODY_COLUMNS, body_columns, importance, to_slots
from stereotalker.records import SAMPLE_RATE, Motion, Speech, Timed
from stereotalker.smplx_layout import JOINT
from stereotalker.weights import FOLDER, load_weights

VERSION = 1
CLOSED_MM = 2.0  # lips whose midline points are nearer than this touch, as thick as they are
BEAT_S, _PAUSE_EDGE_S = 0.1, 0.15
_ARMS = [JOINT[f"{side}_{part}"] for part in ("shoulder", "elbow", "wrist") for side in ("left", "right")]
_MOVED = [JOINT["head"], *_ARMS]


def lips_closed(motion: Motion, speech: Speech, body: Body) -> float:
    """NaN where nothing must close."""
    hits = closures(motion, speech, body)
    return float(np.mean(hits)) if hits else float("nan")


def closures(motion: Motion, speech: Speech, body: Body) -> list[bool]:
    """For every p, b, m: were the lips closed?"""
    aperture, hits = body.lip_aperture(motion), []
    for start, end in closed_spans(speech.phonemes):
        low, high = int(start * motion.fps - 1), int(np.ceil(end * motion.fps)) + 1
        window = aperture[max(low, 0) : min(high, len(aperture))]
        if len(window):
            hits.append(bool(window.min() < CLOSED_MM))
    return hits


def pause_aperture(motion: Motion, speech: Speech, body: Body) -> np.ndarray:
    """Lip aperture (mm) in the frames of pauses."""
    times = (np.arange(len(motion.poses)) + 0.5) / motion.fps
    quiet = np.ones(len(times), bool)
    for p in speech.phonemes:
        if phoneme_class(p.text) != "sil":
            quiet &= (times < p.start - _PAUSE_EDGE_S) | (times > p.end + _PAUSE_EDGE_S)
    return body.lip_aperture(motion)[quiet]


def lip_agreement(motion: Motion, reference: Motion, body: Body) -> tuple[float, float]:
    """Correlation of the aperture without lag, and the lag (frames, positive: late) of the highest."""
    truth, ours = body.lip_aperture(reference), body.lip_aperture(motion)
    by_lag = {lag: _correlation(truth, np.roll(ours, -lag)) for lag in range(-5, 6)}
    return by_lag[0], float(max(by_lag, key=by_lag.get))


def lip_vertex_error(motion: Motion, reference: Motion, body: Body) -> float:
    """mm."""
    return float(np.linalg.norm(body.lips(motion) - body.lips(reference), axis=-1).max(1).mean())


def diversity(motion: Motion) -> float:
    return float(motion.poses[:, _MOVED].std(0).mean())


def jerk(motion: Motion) -> float:
    if len(motion.poses) < 4:
        return 0.0
    return float(np.linalg.norm(np.diff(motion.poses[:, _MOVED], 3, axis=0), axis=-1).mean() * motion.fps**3)


def beat_consistency(motion: Motion, speech: Speech) -> float:
    """NaN where nothing moves or nothing sounds."""
    heard, moved = onsets(speech.samples), slow_moments(motion)
    if not len(heard) or not len(moved):
        return float("nan")
    distance = np.abs(moved[:, None] - heard[None]).min(1)
    return float(np.exp(-(distance**2) / (2 * BEAT_S**2)).mean())


def onsets(samples: np.ndarray) -> np.ndarray:
    """Times (s) at which speech grows louder: peaks of the rise of the level in dB, at 100 Hz, at least 150 ms apart."""
    hop = SAMPLE_RATE // 100
    level = 10 * np.log10((samples[: len(samples) // hop * hop].reshape(-1, hop) ** 2).mean(1) + 1e-7)
    vertical_shift = np.maximum(np.gradient(gaussian_filter1d(level, 3.0)), 0)
    peaks, _ = find_peaks(vertical_shift, height=0.5, distance=15)
    return (peaks + 0.5) / 100


def slow_moments(motion: Motion) -> np.ndarray:
    """Times (s) at which the arms come to rest or turn back: minima of their speed after a move."""
    speed = np.linalg.norm(np.diff(motion.poses[:, _ARMS], axis=0), axis=-1).sum(1) * motion.fps
    if len(speed) < 5:
        return np.zeros(0)
    valleys, _ = find_peaks(-gaussian_filter1d(speed, 1.0), prominence=0.5)
    return (valleys + 1) / motion.fps


def drift(motion: Motion, span: float = 60.0) -> tuple[float, float]:
    """First and last `span` s compared: relative change of the spread, and shift of the mean over the spread."""
    n = int(span * motion.fps)
    first, last = motion.poses[:n, _MOVED], motion.poses[-n:, _MOVED]
    spread = first.std(0).mean()
    return float(abs(last.std(0).mean() / spread - 1)), float(np.abs(last.mean(0) - first.mean(0)).mean() / spread)


def seams(motion: Motion, borders: np.ndarray) -> float:
    """borders: the first new frame of every window but the first."""
    speed = np.linalg.norm(np.diff(motion.poses, axis=0), axis=-1).mean(1) + np.abs(
        np.diff(motion.expression, axis=0)
    ).mean(1)
    at = np.zeros(len(speed), bool)
    for border in borders[(borders > 0) & (borders <= len(speed))]:
        at[border - 1 : border + round(0.4 * motion.fps)] = True
    return float(speed[at].mean() / speed[~at].mean()) if at.any() else float("nan")


# ---- signs ---------------------------------------------------------------------------------------------------------------

_BEFORE_S, _AFTER_S, _SHIFTS_S = 0.2, 0.8, 0.4


class NearestGesture:
    """Tells which sign a body makes around a word: the nearest of every sign's reference strokes in the same style.

    Distances are of arms' and fingers' angles from 0.2 s before to 0.8 s after, at the best shift of +-0.4 s.
    """

    def __init__(self, style: int, fps: float, takes: int = 6):
        self._fps = fps
        self._names, strokes = [], []
        for name in GESTURE_CLASSES:
            word = next((w for w, sign in LEXICON.items() if sign == name), None)
            if word is None:  # beats belong to no word
                continue
            for seed in range(takes):
                strokes.append(self._strip(self._acted(word, style, seed), 1.2))
                self._names.append(name)
        self._strokes = np.stack(strokes)

    def _acted(self, word: str, style: int, seed: int) -> Motion:
        still = Speech(np.zeros(3 * SAMPLE_RATE, np.float32), -np.inf, (Timed(word, 1.08, 1.5),))
        return act(still, STYLES[style], seed, self._fps)

    def _strip(self, motion: Motion, at: float) -> np.ndarray:
        frames = round((at - _BEFORE_S) * self._fps) + np.arange(round((_BEFORE_S + _AFTER_S) * self._fps))
        return _seen(motion)[np.clip(frames, 0, len(motion.poses) - 1)]

    def nearest(self, motion: Motion, at: float) -> str:
        """Name of the sign that is made around `at` s."""
        shifts = np.arange(-_SHIFTS_S, _SHIFTS_S + 1e-6, 1 / self._fps)
        strips = np.stack([self._strip(motion, at + shift) for shift in shifts])
        distance = ((strips[:, None] - self._strokes[None]) ** 2).mean((2, 3))
        return self._names[int(np.unravel_index(distance.argmin(), distance.shape)[1])]


def _seen(motion: Motion) -> np.ndarray:
    """Angles of arms and fingers, fingers a good deal less, since there are thirty of them."""
    arms = motion.poses[:, _ARMS].reshape(len(motion.poses), -1)
    fingers = motion.poses[:, JOINT["left_index1"] :].reshape(len(motion.poses), -1)
    return np.concatenate([arms, 0.35 * fingers], 1)


# ---- Frechet gesture distance --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GestureConfig:
    width: int
    features: int
    window: int  # slots


class GestureAutoencoder(nn.Module):
    """Windows of body motion in and out through a few numbers; the encoder's are what the Frechet distance is measured on."""

    def __init__(self, config: GestureConfig):
        super().__init__()
        self.config = config
        W = config.width
        self.register_buffer("mean", torch.zeros(BODY_COLUMNS))
        self.register_buffer("scale", torch.ones(()))
        self.encoder = nn.Sequential(
            nn.Conv1d(BODY_COLUMNS, W, 4, 2, 1), nn.GELU(), nn.Conv1d(W, W, 4, 2, 1), nn.GELU(), nn.Flatten(), nn.Linear(W * config.window // 4, config.features)
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(config.features, W * config.window // 4), nn.Unflatten(1, (W, config.window // 4)),
            nn.ConvTranspose1d(W, W, 4, 2, 1), nn.GELU(), nn.ConvTranspose1d(W, BODY_COLUMNS, 4, 2, 1),
        )  # fmt: skip

    def seen(self, slots_BSQ: torch.Tensor) -> torch.Tensor:
        """Body columns as much as they are seen, [B, Q, S]."""
        return ((slots_BSQ - self.mean) * torch.from_numpy(importance()) / self.scale).transpose(1, 2)

    @torch.inference_mode()
    def features(self, motions: list[Motion]) -> np.ndarray:
        """Of every window of every motion, half overlapping. f32 [N, features]."""
        return self.encoder(self.seen(torch.from_numpy(self.windows(motions)))).numpy()

    def windows(self, motions: list[Motion]) -> np.ndarray:
        """f32 [N, S, Q]."""
        S, found = self.config.window, []
        for motion in motions:
            slots = to_slots(body_columns(motion))
            found += [slots[at : at + S] for at in range(0, len(slots) - S + 1, S // 2)]
        return np.stack(found) if found else np.zeros((0, S, BODY_COLUMNS), np.float32)


def gestures_loss(model: GestureAutoencoder, motions: list[Motion], batch: int):
    """Mean squared error of reconstruction."""
    windows = model.windows(motions)
    model.mean.copy_(torch.from_numpy(windows.mean((0, 1))))
    model.scale.copy_(torch.tensor(float(((windows - windows.mean((0, 1))) * importance()).std())))

    def loss(rng: np.random.Generator) -> torch.Tensor:
        seen = model.seen(torch.from_numpy(windows[rng.integers(len(windows), size=batch)]))
        return (model.decoder(model.encoder(seen)) - seen).square().mean()

    return loss


def frechet(ours: np.ndarray, truth: np.ndarray) -> float:
    """Of two sets of features [N, D]: |difference of means|^2 + tr(A + B - 2 (A B)^1/2)."""
    A, B = (np.cov(x, rowvar=False) + 1e-6 * np.eye(x.shape[1]) for x in (ours, truth))
    return float(((ours.mean(0) - truth.mean(0)) ** 2).sum() + np.trace(A + B - 2 * sqrtm(A @ B).real))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if min(a.std(), b.std()) < 1e-4:  # stands still, but for rounding
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def read_gestures(folder: Path = FOLDER) -> GestureAutoencoder:
    """Of evaluation alone."""
    return load_weights(GestureAutoencoder, GestureConfig, weights_file("gestures", folder))
