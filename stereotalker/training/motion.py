"""What the motion model learns from: speech that the rules of people/acting perform, and how far it is from that. T frames, S slots."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from stereotalker.acting.gestures import LEXICON
from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.augmentation import augment, unspoken
from stereotalker.audio.encoder import SpeechEncoder
from stereotalker.audio.phonemes import CLASSES
from stereotalker.diffusion.schedulers import TRAIN_TIMESTEPS, make_scheduler
from stereotalker.motion.audio_features import Hearing
from stereotalker.motion.denoiser import MotionConditions, MotionDenoiser, Streams
from stereotalker.motion.features import FACE_COLUMNS, JAW, MOUTH, body_columns, face_columns, principal_axes, to_slots
from stereotalker.motion.language_prior import SLOT, at_slots
from stereotalker.params import MotionParams
from stereotalker.records import SAMPLE_RATE, Speech, Timed
from stereotalker.runtime.device import autocast
from stereotalker.training.language_prior import Utterance, gesture_label

CLOSED_JAW = 0.02  # rad
_BY_SIGN: dict[str, list[str]] = {}
for _word, _name in LEXICON.items():
    _BY_SIGN.setdefault(_name, []).append(_word)


@dataclass(frozen=True)
class MotionExample:
    """Speech somebody acted, at the model's frame rate."""

    heard: np.ndarray  # f16 [T, F] as the encoder hears it
    known: np.ndarray  # f16 [T, C] one-hot phoneme classes
    face: np.ndarray  # f32 [T, P]
    body: np.ndarray  # f32 [S, Q]
    signs: np.ndarray  # i64 [S]
    style: int
    strength: float
    said: Utterance  # words as they were spoken


def make_example(corpus: list[Speech], encoder: SpeechEncoder, fps: float, seed: int) -> MotionExample:
    """Some utterances with pauses between, acted in a random style; one performance in eight is noise that nobody speaks.

    A third of the words are acted as if they were words of the lexicon, so that every sign is seen as often as the others.
    """
    rng = np.random.default_rng([seed, 21])
    speech = _joined([corpus[i] for i in rng.integers(len(corpus), size=3)], rng)
    if rng.random() < 1 / 8:
        sound = unspoken(len(speech.samples), rng)
        speech = Speech(sound, -40.0)
    style, strength = int(rng.integers(len(STYLES))), float(rng.choice([0.0, 1.0, 1.0, 1.0, rng.uniform(0.3, 2.0)]))
    acted = replace(speech, words=tuple(_as_if(word, rng) for word in speech.words))
    motion = act(acted, STYLES[style], int(rng.integers(1 << 30)), fps, strength)
    T = len(motion.poses) // SLOT * SLOT
    samples = augment(speech.samples, rng) if rng.random() < 0.7 else speech.samples
    samples = np.clip(samples, -1, 1).astype(np.float32)
    heard = Hearing(encoder, Speech(samples, speech.loudness), fps).frames(0, T)
    known = Hearing(
        encoder, Speech(samples, speech.loudness, (), speech.phonemes or (Timed("_", 0.0, 0.01),)), fps
    ).frames(0, T)[:, -len(CLASSES) :]
    signs = at_slots(
        acted.words, np.array([max(gesture_label(w.text), 0) for w in acted.words], np.int64), T // SLOT, fps
    )
    said = Utterance(speech.words, heard.reshape(-1, SLOT, heard.shape[1]).mean(1).astype(np.float16))
    return MotionExample(
        heard.astype(np.float16), known.astype(np.float16), face_columns(motion)[:T], to_slots(body_columns(motion)[:T]), signs, style, strength, said
    )  # fmt: skip


def _as_if(word: Timed, rng: np.random.Generator) -> Timed:
    names = list(_BY_SIGN)
    if rng.random() > 0.33:
        return word
    words = _BY_SIGN[names[rng.integers(len(names))]]
    return replace(word, text=words[rng.integers(len(words))])


def _joined(speeches: list[Speech], rng) -> Speech:
    """Utterances one after the other with pauses."""
    samples, words, phonemes, at = [], [], [], 0
    for speech in speeches:
        pause = int(rng.uniform(0.1, 1.5) * SAMPLE_RATE)
        samples += [np.zeros(pause, np.float32), speech.samples]
        shift = (at + pause) / SAMPLE_RATE
        words += [Timed(w.text, w.start + shift, w.end + shift) for w in speech.words]
        phonemes += [Timed(p.text, p.start + shift, p.end + shift) for p in speech.phonemes]
        at += pause + len(speech.samples)
    return Speech(np.concatenate(samples), -20.0, tuple(words), tuple(phonemes))


# ---- training ------------------------------------------------------------------------------------------------------------


def training_loss(model: MotionDenoiser, examples: list[MotionExample], params: MotionParams):
    """Error of the clean window, of its velocity, and of the body's acceleration; a mouth that must be shut counts six times over."""
    set_statistics(model, examples)
    schedule, weights = make_scheduler(params.scheduler), _face_weights()
    visible = (model.body_deviation / model.body_deviation.mean()).sqrt()
    shut = (CLOSED_JAW - model.face_mean[JAW]) / model.face_deviation[JAW]
    schedule.set_timesteps(params.steps)
    asked = schedule.timesteps.numpy()  # where sampling will ask

    def loss(rng: np.random.Generator) -> torch.Tensor:
        given, clean = _batch(model, examples, params, rng)
        B = len(clean.face)
        t = torch.from_numpy(np.where(rng.random(B) < 0.7, rng.choice(asked, B), rng.integers(0, TRAIN_TIMESTEPS, B)))
        noisy = Streams(
            *(
                schedule.add_noise(x, torch.from_numpy(rng.standard_normal(x.shape, np.float32)), t)
                for x in (clean.face, clean.body)
            )
        )
        with autocast():
            made = model(noisy, t, given)
        face, body = made.face.float() - clean.face, made.body.float() - clean.body
        closing = 1 + 5 * (clean.face[..., JAW, None] < shut) * (weights > 1)
        face_loss = (face.square() * weights * closing).mean() + 2 * (face.diff(dim=1).square() * weights).mean()
        body_loss = (
            (body.square() * visible).mean()
            + 2 * (body.diff(dim=1).square() * visible).mean()
            + (body.diff(n=2, dim=1).square() * visible).mean()
        )
        return face_loss + 2 * body_loss

    return loss


def _batch(
    model: MotionDenoiser, examples: list[MotionExample], params: MotionParams, rng: np.random.Generator
) -> tuple[MotionConditions, Streams]:
    """Windows at random. Words are withheld from some; windows follow frames that are held, end in a pinned pose, or do neither."""
    T, S, rows = params.window, params.window // SLOT, []
    for index in rng.integers(len(examples), size=params.training.batch):
        p = examples[index]
        first = int(rng.integers(max(len(p.body) - S, 0) + 1))
        frames, slots = slice(first * SLOT, first * SLOT + T), slice(first, first + S)
        audio = _fit(p.heard[frames], T).astype(np.float32)
        if rng.random() < params.phonemes_known:
            audio[:, -p.known.shape[1] :] = _fit(p.known[frames], T)
        told, signs = rng.random() >= params.word_dropout, _fit(p.signs[slots], S)
        signs = signs * (told | (rng.random(S) < 0.3))
        held_face, held_body = np.zeros(T, bool), np.zeros(S, bool)
        start = rng.random()
        if start < 0.7:
            held_face[: params.overlap], held_body[: params.overlap // SLOT] = True, True
        elif start < 0.85:
            held_body[:2] = True
        if rng.random() < 0.15:
            at = S - 2 - int(rng.integers(S // 2))
            held_body[at : at + 2] = True
        rows.append(
            (
                audio,
                signs,
                np.float32(told),
                p.style,
                np.float32(p.strength),
                _fit(p.face[frames], T),
                _fit(p.body[slots], S),
                held_face,
                held_body,
            )
        )
    audio, signs, told, style, strength, face, body, held_face, held_body = (
        torch.from_numpy(np.stack(c)) for c in zip(*rows, strict=True)
    )
    clean = model.normalised(face, body)
    return MotionConditions(audio, signs, told, style, strength, clean, held_face, held_body), clean


def _fit(values: np.ndarray, length: int) -> np.ndarray:
    """Cut, or lengthened by the last row, to `length` rows."""
    return np.concatenate([values[:length], np.repeat(values[-1:], max(length - len(values), 0), 0)])


def set_statistics(model: MotionDenoiser, examples: list[MotionExample]) -> None:
    """Means, deviations and the body's axes, from what will be learnt."""
    faces = np.concatenate([p.face for p in examples])
    deviation = faces.std(0)
    mean, axes, spread = principal_axes(np.concatenate([p.body for p in examples]), model.config.body)
    for buffer, value in (
        (model.face_mean, faces.mean(0)), (model.face_deviation, np.where(deviation < 1e-4, 1.0, deviation)),
        (model.body_mean, mean), (model.body_axes, axes), (model.body_deviation, spread),
    ):  # fmt: skip
        buffer.copy_(torch.from_numpy(value))


def _face_weights() -> torch.Tensor:
    weights = torch.ones(FACE_COLUMNS)
    weights[MOUTH] = 3.0
    weights[JAW] = 12.0
    return weights
