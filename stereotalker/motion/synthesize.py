"""Stage `motion`: speech in, SMPL-X motion out, window after window; each starts from the last frames of the one before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch.nn import functional

from stereotalker.audio.degrade import augment
from stereotalker.audio.encoder import SpeechEncoder, frame_times
from stereotalker.body.layout import ACTION, JOINT
from stereotalker.body.rotations import resample_axis_angle
from stereotalker.diffusion.sample import noise, sample
from stereotalker.diffusion.schedule import TRAIN_TIMESTEPS, make_scheduler
from stereotalker.diffusion.windows import windows
from stereotalker.motion.denoiser import POSE_FEATURES, MotionConditions, MotionDenoiser, to_features, to_motion
from stereotalker.motion.prior import SLOT, WordEmbedder
from stereotalker.params import MotionParams
from stereotalker.people.acting import STYLES, act
from stereotalker.records import SAMPLE_RATE, Motion, Speech, Timed
from stereotalker.training import autocast

# Pose features of the trunk, the neck, the head and the arms, whose swing the few-step sampler shrinks towards the mean.
_BODY = [3 * j + k for name, j in JOINT.items() if name not in ("jaw", "left_eye", "right_eye") for k in range(3)]


class Synthesizer:
    """Models in memory, ready for speech."""

    def __init__(self, encoder: SpeechEncoder, denoiser: MotionDenoiser, params: MotionParams):
        self.encoder, self.denoiser, self.params = encoder.eval(), denoiser.eval(), params
        self.embedder = WordEmbedder(denoiser.prior)

    def motion(self, speech: Speech, style: int, strength: float, seed: int, frames: int, fps: float) -> Motion:
        """`frames` frames of motion at `fps`. strength 0 (still body) to 2 scales the gestures."""
        own = self.params.fps
        count = int(np.ceil((frames / fps) * own)) + 1
        audio = features_at(self.encoder, speech.samples, count, own)
        words, known = self.embedder.slots(speech.words, -(-count // SLOT), own)
        made = np.zeros((count, POSE_FEATURES), np.float32)
        for window in windows(count, self.params.window, self.params.overlap):
            made[window.start : window.stop] = self._window(window, made, audio, words, known, style, strength, seed)
        made[:, _BODY] = made[:, _BODY].mean(0) + self.params.body_gain * (made[:, _BODY] - made[:, _BODY].mean(0))
        made[:, _BODY] = gaussian_filter1d(made[:, _BODY], self.params.body_smoothing * own, axis=0, mode="nearest")
        made = made * self.denoiser.deviation.numpy() + self.denoiser.mean.numpy()
        return resample(to_motion(made, own), frames, fps)

    @torch.inference_mode()
    def _window(self, window, made, audio, words, known, style: int, strength: float, seed: int) -> np.ndarray:
        T = self.params.window
        length = window.stop - window.start
        before, held = np.zeros((T, POSE_FEATURES), np.float32), np.zeros(T, bool)
        before[: window.overlap], held[: window.overlap] = made[window.start : window.start + window.overlap], True
        slots = slice(window.start // SLOT, window.start // SLOT + T // SLOT)
        given = MotionConditions(*(torch.from_numpy(a)[None] for a in (
            _fit(audio[window.start : window.stop], T), _fit(words[slots], T // SLOT), _fit(known[slots], T // SLOT),
        )), torch.tensor([style]), torch.tensor([strength], dtype=torch.float32), torch.from_numpy(before)[None], torch.from_numpy(held)[None])  # fmt: skip
        meaning, _ = self.denoiser.understand(given)
        start = noise((1, T, POSE_FEATURES), seed, window.index)
        clean = sample(
            lambda x, t: self.denoiser(x, torch.tensor([t]), given, meaning), start, self.params.scheduler, self.params.steps
        )[0].numpy()  # fmt: skip
        clean[: window.overlap] = before[: window.overlap]
        return clean[:length]


def features_at(encoder: SpeechEncoder, samples: np.ndarray, frames: int, fps: float) -> np.ndarray:
    """Audio features at the centres of `frames` motion frames, linear between the encoder's own, f32 [T, F]."""
    features = encoder.encode(samples)
    at = np.interp((np.arange(frames) + 0.5) / fps, frame_times(len(features)), np.arange(len(features)))
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, len(features) - 1), (at - low)[:, None].astype(np.float32)
    return features[low] * (1 - share) + features[high] * share


def resample(motion: Motion, frames: int, fps: float) -> Motion:
    """The same motion sampled at the centres of `frames` frames of another rate."""
    times = (np.arange(len(motion.poses)) + 0.5) / motion.fps
    new = (np.arange(frames) + 0.5) / fps
    if fps == motion.fps and frames <= len(motion.poses):
        return motion.frames(0, frames)
    at = [np.interp(new, times, column) for column in np.concatenate([motion.expression, motion.trans], 1).T]
    linear = np.stack(at, 1).astype(np.float32)
    split = motion.expression.shape[1]
    poses = resample_axis_angle(motion.poses, times, new)
    return Motion(poses, np.ascontiguousarray(linear[:, :split]), np.ascontiguousarray(linear[:, split:]), fps)


# ---- training ------------------------------------------------------------------------------------------------------------


JAW = 3 * JOINT["jaw"]  # pose feature: the jaw's opening
CLOSED_JAW = 0.02  # rad


@dataclass(frozen=True)
class Performance:
    """Speech somebody acted: all at the model's frame rate."""

    audio: np.ndarray  # f16 [T, F]
    motion: np.ndarray  # f32 [T, P]
    words: np.ndarray  # f16 [S, D_lm]
    known: np.ndarray  # bool [S]
    style: int
    strength: float


def perform(corpus: list[Speech], encoder: SpeechEncoder, embedder: WordEmbedder, fps: float, seed: int) -> Performance:
    """Some utterances with pauses between, acted in a random style; one performance in twelve is noise that nobody speaks."""
    rng = np.random.default_rng([seed, 21])
    speech = _joined([corpus[i] for i in rng.integers(len(corpus), size=3)], rng)
    if rng.random() < 1 / 12:
        speech = Speech((rng.normal(size=len(speech.samples)) * 10 ** rng.uniform(-4, -1)).astype(np.float32), -40.0)
    style, strength = int(rng.integers(len(STYLES))), float(rng.choice([0.0, 1.0, 1.0, 1.0, rng.uniform(0.3, 2.0)]))
    motion = act(speech, STYLES[style], int(rng.integers(1 << 30)), fps, strength)
    count = len(motion.poses) // SLOT * SLOT
    heard = augment(speech.samples, rng) if speech.words and rng.random() < 0.7 else speech.samples
    words, known = embedder.slots(speech.words, count // SLOT, fps)
    audio = features_at(encoder, np.clip(heard, -1, 1).astype(np.float32), count, fps)
    return Performance(audio.astype(np.float16), to_features(motion)[:count], words.astype(np.float16), known, style, strength)


def training_loss(model: MotionDenoiser, performances: list[Performance], params: MotionParams):
    """Error of the clean window and of its velocity; the mouth counts most, and a mouth that must be shut four times over.

    Also pulls projected audio towards its words' embeddings.
    """
    _set_statistics(model, performances)
    schedule, weights = make_scheduler(params.scheduler), _feature_weights()
    shut = (CLOSED_JAW - model.mean[JAW]) / model.deviation[JAW]

    def loss(rng: np.random.Generator) -> torch.Tensor:
        given, clean = _training_batch(model, performances, params, rng)
        B = len(clean)
        t = torch.from_numpy(np.where(rng.random(B) < 0.15, TRAIN_TIMESTEPS - 1, rng.integers(0, TRAIN_TIMESTEPS, B)))
        noisy = schedule.add_noise(clean, torch.from_numpy(rng.standard_normal(clean.shape, np.float32)), t)
        with autocast():
            meaning, projected = model.understand(given)
            predicted = model(noisy, t, given, meaning)
        predicted, projected = predicted.float(), projected.float()
        closing = 1 + 3 * (clean[..., JAW, None] < shut) * (weights > 1)
        error = ((predicted - clean).square() * weights * closing).mean()
        speed = ((predicted.diff(dim=1) - clean.diff(dim=1)).square() * weights).mean()
        spoken = given.words.abs().sum(-1) > 0
        alignment = (1 - functional.cosine_similarity(projected, given.words, dim=-1))[spoken].mean() if spoken.any() else 0.0
        return error + 2 * speed + 0.3 * alignment

    return loss


def _training_batch(model, performances, params: MotionParams, rng) -> tuple[MotionConditions, torch.Tensor]:
    T, rows = params.window, []
    for index in rng.integers(len(performances), size=params.training.batch):
        p = performances[index]
        start = int(rng.integers(max(len(p.motion) - T, 0) // SLOT + 1)) * SLOT
        slots = slice(start // SLOT, start // SLOT + T // SLOT)
        held = np.zeros(T, bool)
        held[: params.overlap if rng.random() < 0.7 else 0] = True
        heard = rng.random() >= params.word_dropout
        known = _fit(p.known[slots], T // SLOT) & heard
        motion = np.concatenate([p.motion[start : start + T], np.repeat(p.motion[-1:], max(T - len(p.motion), 0), 0)])
        rows.append((_fit(p.audio[start : start + T], T).astype(np.float32), _fit(p.words[slots], T // SLOT).astype(np.float32), known, p.style, np.float32(p.strength), motion, held))  # fmt: skip
    audio, words, known, style, strength, motion, held = (torch.from_numpy(np.stack(c)) for c in zip(*rows, strict=True))
    clean = (motion - model.mean) / model.deviation
    return MotionConditions(audio, words, known, style, strength, clean, held), clean


def _fit(values: np.ndarray, length: int) -> np.ndarray:
    """Cut, or pad with zeros at the end, to `length` rows."""
    return np.concatenate([values[:length], np.zeros((max(length - len(values), 0), *values.shape[1:]), values.dtype)])


def _set_statistics(model: MotionDenoiser, performances: list[Performance]) -> None:
    frames = np.concatenate([p.motion for p in performances])
    deviation = frames.std(0)
    model.mean.copy_(torch.from_numpy(frames.mean(0)))
    model.deviation.copy_(torch.from_numpy(np.where(deviation < 1e-4, 1.0, deviation)))


def _feature_weights() -> torch.Tensor:
    weights = torch.ones(POSE_FEATURES)
    actions = POSE_FEATURES - 3 - len(ACTION)
    weights[JAW] = 12.0
    weights[[actions + i for name, i in ACTION.items() if name.startswith(("mouth", "jaw", "tongue"))]] = 3.0
    fingers = [3 * j + k for name, j in JOINT.items() if name[-1] in "123" and name.startswith(("left", "right")) for k in range(3)]
    weights[fingers] = 0.3
    return weights


def _joined(speeches: list[Speech], rng) -> Speech:
    """Utterances one after the other with pauses."""
    samples, words, phonemes, at = [], [], [], 0
    for speech in speeches:
        pause = int(rng.uniform(0.1, 1.2) * SAMPLE_RATE)
        samples += [np.zeros(pause, np.float32), speech.samples]
        shift = (at + pause) / SAMPLE_RATE
        words += [Timed(w.text, w.start + shift, w.end + shift) for w in speech.words]
        phonemes += [Timed(p.text, p.start + shift, p.end + shift) for p in speech.phonemes]
        at += pause + len(speech.samples)
    return Speech(np.concatenate(samples), -20.0, tuple(words), tuple(phonemes))
