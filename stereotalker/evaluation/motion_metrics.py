"""Metrics of motion quality, each with its formula. Figures of different metric versions must not be compared.

Shapes: T frames; S slots of body motion (a slot is SLOT frames); Q body columns; D feature dimensions. Times are in s.

This is version 2: the lag of lips compares overlapping frames. Version 1 compared the end with the start.

lips closed        share of p, b, m sounds in which the midline lips come nearer than CLOSED_MM over their distance at
                   rest, in any frame that overlaps the sound (+-1 frame); taken over all sounds of all utterances
lip correlation    Pearson's r of the lip aperture with the reference's, and the lag in frames that has the highest r
pause aperture     95th percentile of the lip aperture in pauses of speech, at least 0.15 s away from any sound, mm
lip vertex error   mean over frames of the largest distance of any lip vertex to the reference's, mm
                   (Richard et al. 2021)
diversity          mean standard deviation over time of the angles of head, shoulders, elbows and wrists, rad
jerk               mean norm of the third difference of the same angles, rad/s^3
beat consistency   mean over the kinematic beats of the arms of exp(-d^2 / 2 s^2), where d is the time to the next
                   onset of sound and s = 0.1 s (Li et al. 2021)
FGD                Frechet distance of gesture features (Yoon et al. 2020), which the encoder of
                   weights/gestures.safetensors computes
gesture accuracy   share of words whose gesture class is the nearest among the reference strokes (see `NearestGesture`)
drift              |spread of the last minute / spread of the first - 1|, and the shift of the mean over the spread
seams              mean speed of all joints and blend shapes from a window's border to 0.4 s behind it, over that
                   elsewhere
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
from stereotalker.acting.reference_acting import STYLES, act, lip_closure_spans
from stereotalker.audio.phonemes import phoneme_class
from stereotalker.body.model import Body
from stereotalker.media.time_lag import lag_scores
from stereotalker.motion.features import BODY_COLUMNS, body_columns, column_weights, to_slots
from stereotalker.records import SAMPLE_RATE, Motion, Speech, Timed
from stereotalker.smplx_layout import JOINT
from stereotalker.weights import FOLDER, load_weights, weights_file

VERSION = 2
# Lip aperture in mm below which the lips count as closed: lips are thick, so their midline points touch before they
# meet.
CLOSED_MM = 2.0
BEAT_S = 0.1  # standard deviation of the kernel of `beat_consistency`, s
_PAUSE_EDGE_S = 0.15  # frames closer than this to a sound (s) do not count as a pause
_ARMS = [JOINT[f"{side}_{part}"] for part in ("shoulder", "elbow", "wrist") for side in ("left", "right")]
_HEAD_AND_ARMS = [JOINT["head"], *_ARMS]


def lip_closure_rate(motion: Motion, speech: Speech, body: Body) -> float:
    """Share of p, b, m sounds with closed lips, 0..1; nan where the speech has none of them."""
    hits = closures(motion, speech, body)
    return float(np.mean(hits)) if hits else float("nan")


def closures(motion: Motion, speech: Speech, body: Body) -> list[bool]:
    """Whether the lips are closed, for every p, b, m sound that overlaps the motion."""
    aperture, hits = body.lip_aperture(motion), []
    for start, end in lip_closure_spans(speech.phonemes):
        low, high = int(start * motion.fps - 1), int(np.ceil(end * motion.fps)) + 1
        window = aperture[max(low, 0) : min(high, len(aperture))]
        if len(window):
            hits.append(bool(window.min() < CLOSED_MM))
    return hits


def pause_aperture(motion: Motion, speech: Speech, body: Body) -> np.ndarray:
    """Lip aperture in mm at every frame that lies in a pause of the speech, f32 [P]."""
    times = (np.arange(len(motion.poses)) + 0.5) / motion.fps
    quiet = np.ones(len(times), bool)
    for p in speech.phonemes:
        if phoneme_class(p.text) != "sil":
            quiet &= (times < p.start - _PAUSE_EDGE_S) | (times > p.end + _PAUSE_EDGE_S)
    return body.lip_aperture(motion)[quiet]


def lip_agreement(motion: Motion, reference: Motion, body: Body) -> tuple[float, float]:
    """Correlation of the lip apertures without lag, and the lag that has the highest correlation.

    The lag is in frames, at most 5 to either side; it is positive where the motion is late.
    """
    truth, ours = body.lip_aperture(reference), body.lip_aperture(motion)
    by_lag = lag_scores(ours, truth, 5, _correlation)
    return by_lag[0], float(max(by_lag, key=by_lag.__getitem__))


def lip_vertex_error(motion: Motion, reference: Motion, body: Body) -> float:
    """Mean over frames of the largest distance between corresponding lip vertices, mm (Richard et al. 2021)."""
    return float(np.linalg.norm(body.lips(motion) - body.lips(reference), axis=-1).max(1).mean())


def diversity(motion: Motion) -> float:
    """Mean standard deviation over time of the angles of head and arms, rad."""
    return float(motion.poses[:, _HEAD_AND_ARMS].std(0).mean())


def jerk(motion: Motion) -> float:
    """Mean norm of the third difference of the angles of head and arms, rad/s^3; 0 for fewer than 4 frames."""
    if len(motion.poses) < 4:
        return 0.0
    return float(np.linalg.norm(np.diff(motion.poses[:, _HEAD_AND_ARMS], 3, axis=0), axis=-1).mean() * motion.fps**3)


def beat_consistency(motion: Motion, speech: Speech) -> float:
    """How near the arms' kinematic beats are to onsets of sound, 0..1 (Li et al. 2021); nan without beats or onsets."""
    onset_times, beat_times = onsets(speech.samples), kinematic_beats(motion)
    if not len(onset_times) or not len(beat_times):
        return float("nan")
    distance = np.abs(beat_times[:, None] - onset_times[None]).min(1)
    return float(np.exp(-(distance**2) / (2 * BEAT_S**2)).mean())


def onsets(samples: np.ndarray) -> np.ndarray:
    """Times (s) at which speech f32 [S] at SAMPLE_RATE grows louder.

    They are the peaks of the rise of the level in dB, measured at 100 Hz, at least 150 ms apart.
    """
    hop = SAMPLE_RATE // 100
    level = 10 * np.log10((samples[: len(samples) // hop * hop].reshape(-1, hop) ** 2).mean(1) + 1e-7)
    level_rise = np.maximum(np.gradient(gaussian_filter1d(level, 3.0)), 0)
    peaks, _ = find_peaks(level_rise, height=0.5, distance=15)
    return (peaks + 0.5) / 100


def kinematic_beats(motion: Motion) -> np.ndarray:
    """Times (s) at which the arms come to rest or turn back: minima of their speed that follow a movement."""
    speed = np.linalg.norm(np.diff(motion.poses[:, _ARMS], axis=0), axis=-1).sum(1) * motion.fps
    if len(speed) < 5:
        return np.zeros(0)
    minima, _ = find_peaks(-gaussian_filter1d(speed, 1.0), prominence=0.5)
    return (minima + 1) / motion.fps


def drift(motion: Motion, span: float = 60.0) -> tuple[float, float]:
    """Change between the first and the last `span` s of the angles of head and arms.

    Returns the relative change of their spread (standard deviation over time), and the shift of their mean over the
    spread.
    """
    n = int(span * motion.fps)
    first, last = motion.poses[:n, _HEAD_AND_ARMS], motion.poses[-n:, _HEAD_AND_ARMS]
    spread = first.std(0).mean()
    return float(abs(last.std(0).mean() / spread - 1)), float(np.abs(last.mean(0) - first.mean(0)).mean() / spread)


def seams(motion: Motion, borders: np.ndarray) -> float:
    """Mean speed just behind the borders of windows over that elsewhere; 1 is right, nan without a border.

    borders: the first new frame of every window but the first, int [N].
    """
    speed = np.linalg.norm(np.diff(motion.poses, axis=0), axis=-1).mean(1) + np.abs(
        np.diff(motion.expression, axis=0)
    ).mean(1)
    is_near_border = np.zeros(len(speed), bool)
    for border in borders[(borders > 0) & (borders <= len(speed))]:
        is_near_border[border - 1 : border + round(0.4 * motion.fps)] = True
    return float(speed[is_near_border].mean() / speed[~is_near_border].mean()) if is_near_border.any() else float("nan")


# ---- gesture classes -------------------------------------------------------------------------------------------------

# Stretch of motion that is compared around a word: s before it, s after it, and s by which it may be shifted either
# way.
_BEFORE_S, _AFTER_S, _MAX_SHIFT_S = 0.2, 0.8, 0.4


class NearestGesture:
    """Recognizes the gesture class of a motion around a word.

    It is the class of the nearest reference stroke in the same style. The distance is the mean squared difference
    of the angles of arms and fingers from 0.2 s before to 0.8 s after the word, at the best shift within +-0.4 s.
    """

    def __init__(self, style: int, fps: float, takes: int = 6):
        self._fps = fps
        self._names, strokes = [], []
        for name in GESTURE_CLASSES:
            word = next((w for w, gesture in LEXICON.items() if gesture == name), None)
            if word is None:  # beats belong to no word
                continue
            for seed in range(takes):
                # 1.2 s is 0.12 s after the start of the word in the reference acting.
                strokes.append(self._window(self._reference_acting(word, style, seed), 1.2))
                self._names.append(name)
        self._strokes = np.stack(strokes)

    def _reference_acting(self, word: str, style: int, seed: int) -> Motion:
        silence = Speech(np.zeros(3 * SAMPLE_RATE, np.float32), -np.inf, (Timed(word, 1.08, 1.5),))
        return act(silence, STYLES[style], seed, self._fps)

    def _window(self, motion: Motion, time: float) -> np.ndarray:
        frames = round((time - _BEFORE_S) * self._fps) + np.arange(round((_BEFORE_S + _AFTER_S) * self._fps))
        return _arm_and_finger_angles(motion)[np.clip(frames, 0, len(motion.poses) - 1)]

    def nearest(self, motion: Motion, at: float) -> str:
        """Name of the gesture class that is made around the time `at` (s)."""
        shifts = np.arange(-_MAX_SHIFT_S, _MAX_SHIFT_S + 1e-6, 1 / self._fps)
        windows = np.stack([self._window(motion, at + shift) for shift in shifts])
        distance = ((windows[:, None] - self._strokes[None]) ** 2).mean((2, 3))
        return self._names[int(np.unravel_index(distance.argmin(), distance.shape)[1])]


def _arm_and_finger_angles(motion: Motion) -> np.ndarray:
    """f32 [T, columns] rad. Fingers weigh less than arms, because there are thirty of them."""
    arms = motion.poses[:, _ARMS].reshape(len(motion.poses), -1)
    fingers = motion.poses[:, JOINT["left_index1"] :].reshape(len(motion.poses), -1)
    return np.concatenate([arms, 0.35 * fingers], 1)


# ---- Frechet gesture distance ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GestureConfig:
    """Size of a GestureAutoencoder."""

    width: int  # channels of the hidden convolutions
    features: int  # dimensions of the bottleneck
    window: int  # slots of a window


class GestureAutoencoder(nn.Module):
    """Reconstructs windows of body motion through a small bottleneck. The Frechet distance compares its encodings."""

    mean: torch.Tensor  # f32 [Q], of the training's windows
    scale: torch.Tensor  # f32 [], their spread

    def __init__(self, config: GestureConfig):
        super().__init__()
        self.config = config
        W = config.width
        self.register_buffer("mean", torch.zeros(BODY_COLUMNS))
        self.register_buffer("scale", torch.ones(()))
        self.encoder = nn.Sequential(
            nn.Conv1d(BODY_COLUMNS, W, 4, 2, 1),
            nn.GELU(),
            nn.Conv1d(W, W, 4, 2, 1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(W * config.window // 4, config.features),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.features, W * config.window // 4),
            nn.Unflatten(1, (W, config.window // 4)),
            nn.ConvTranspose1d(W, W, 4, 2, 1),
            nn.GELU(),
            nn.ConvTranspose1d(W, BODY_COLUMNS, 4, 2, 1),
        )

    def normalize(self, slots_BSQ: torch.Tensor) -> torch.Tensor:
        """Body columns less their mean, weighted by their visual importance, f32 [B, Q, S]."""
        return ((slots_BSQ - self.mean) * torch.from_numpy(column_weights()) / self.scale).transpose(1, 2)

    @torch.inference_mode()
    def features(self, motions: list[Motion]) -> np.ndarray:
        """Encodings of every window of every motion; windows overlap by half. f32 [N, features]."""
        return self.encoder(self.normalize(torch.from_numpy(self.windows(motions)))).numpy()

    def windows(self, motions: list[Motion]) -> np.ndarray:
        """Windows of all motions, f32 [N, S, Q]; motions shorter than a window have none."""
        S, windows = self.config.window, []
        for motion in motions:
            slots = to_slots(body_columns(motion))
            windows += [slots[start : start + S] for start in range(0, len(slots) - S + 1, S // 2)]
        return np.stack(windows) if windows else np.zeros((0, S, BODY_COLUMNS), np.float32)


def gesture_autoencoder_loss(model: GestureAutoencoder, motions: list[Motion], batch: int):
    """Set the model's mean and scale, and return loss(rng): the mean squared error of `batch` random windows."""
    windows = model.windows(motions)
    model.mean.copy_(torch.from_numpy(windows.mean((0, 1))))
    model.scale.copy_(torch.tensor(float(((windows - windows.mean((0, 1))) * column_weights()).std())))

    def loss(rng: np.random.Generator) -> torch.Tensor:
        target = model.normalize(torch.from_numpy(windows[rng.integers(len(windows), size=batch)]))
        return (model.decoder(model.encoder(target)) - target).square().mean()

    return loss


def frechet(ours: np.ndarray, truth: np.ndarray) -> float:
    """Frechet distance of two sets of features [N, D]: |difference of means|^2 + tr(A + B - 2 (A B)^1/2)."""
    A, B = (np.cov(x, rowvar=False) + 1e-6 * np.eye(x.shape[1]) for x in (ours, truth))
    return float(((ours.mean(0) - truth.mean(0)) ** 2).sum() + np.trace(A + B - 2 * sqrtm(A @ B).real))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; 0 where either stands still, but for rounding errors."""
    if min(a.std(), b.std()) < 1e-4:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def read_gesture_autoencoder(folder: Path = FOLDER) -> GestureAutoencoder:
    """The trained autoencoder of a weights folder. Only evaluation uses it."""
    return load_weights(GestureAutoencoder, GestureConfig, weights_file("gestures", folder))
