"""Training of the motion denoiser: its examples, which the reference acting makes from speech, and its loss.

T frames, S = T / SLOT slots, P face columns, Q body columns, F audio features, C phoneme classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from stereotalker.acting.gestures import LEXICON
from stereotalker.acting.reference_acting import STYLES, act
from stereotalker.audio.augmentation import augment, non_speech_sound
from stereotalker.audio.encoder import SpeechEncoder
from stereotalker.audio.phonemes import CLASSES
from stereotalker.diffusion.schedulers import TRAIN_TIMESTEPS, make_scheduler
from stereotalker.motion.audio_features import AudioFeatures
from stereotalker.motion.denoiser import MotionConditions, MotionDenoiser, Streams
from stereotalker.motion.features import FACE_COLUMNS, JAW, MOUTH, body_columns, face_columns, principal_axes, to_slots
from stereotalker.motion.language_prior import SLOT, labels_at_slots
from stereotalker.params import MotionParams
from stereotalker.records import SAMPLE_RATE, Speech, Timed
from stereotalker.runtime.device import autocast
from stereotalker.training.language_prior import Utterance, gesture_label

CLOSED_JAW = 0.02  # rad: the mouth counts as closed if the jaw opens less
_WORDS_BY_GESTURE: dict[str, list[str]] = {}  # gesture class -> words of the lexicon that carry it
for _word, _name in LEXICON.items():
    _WORDS_BY_GESTURE.setdefault(_name, []).append(_word)


@dataclass(frozen=True)
class MotionExample:
    """Speech and the motion of the reference acting for it, at the motion model's frame rate."""

    audio_features: np.ndarray  # f16 [T, F] from the encoder, of augmented sound
    phoneme_posteriors: np.ndarray  # f16 [T, C] of the speech's own phonemes: one-hot, interpolated to the frames
    face: np.ndarray  # f32 [T, P]
    body: np.ndarray  # f32 [S, Q]
    gesture_labels: np.ndarray  # i64 [S] index into GESTURE_NAMES
    style: int  # index into STYLES
    strength: float  # of gestures
    utterance: Utterance  # the words as they were spoken, and the audio features per slot, for the language prior


def make_example(corpus: list[Speech], encoder: SpeechEncoder, fps: float, seed: int) -> MotionExample:
    """A motion example of three utterances with pauses between them, acted in a random style.

    One example in eight holds sound without speech. A third of the words are acted as if they were words of the
    lexicon, so that all gesture classes are about equally frequent. Equal seeds give equal examples.
    """
    rng = np.random.default_rng([seed, 21])
    speech = _joined([corpus[i] for i in rng.integers(len(corpus), size=3)], rng)
    if rng.random() < 1 / 8:
        sound = non_speech_sound(len(speech.samples), rng)
        speech = Speech(sound, -40.0)
    style, strength = int(rng.integers(len(STYLES))), float(rng.choice([0.0, 1.0, 1.0, 1.0, rng.uniform(0.3, 2.0)]))
    acted_speech = replace(speech, words=tuple(_with_random_gesture(word, rng) for word in speech.words))
    motion = act(acted_speech, STYLES[style], int(rng.integers(1 << 30)), fps, strength)
    T = len(motion.poses) // SLOT * SLOT
    samples = augment(speech.samples, rng) if rng.random() < 0.7 else speech.samples
    samples = np.clip(samples, -1, 1).astype(np.float32)
    audio_features = AudioFeatures(encoder, Speech(samples, speech.loudness), fps).frames(0, T)
    # Sound without speech gets one short phoneme of silence, because a speech without phonemes would get the encoder's
    # posteriors.
    phonemes = speech.phonemes or (Timed("_", 0.0, 0.01),)
    with_phonemes = Speech(samples, speech.loudness, (), phonemes)
    phoneme_posteriors = AudioFeatures(encoder, with_phonemes, fps).frames(0, T)[:, -len(CLASSES) :]
    word_labels = np.array([max(gesture_label(w.text), 0) for w in acted_speech.words], np.int64)
    slots = audio_features.reshape(-1, SLOT, audio_features.shape[1]).mean(1)
    return MotionExample(
        audio_features=audio_features.astype(np.float16),
        phoneme_posteriors=phoneme_posteriors.astype(np.float16),
        face=face_columns(motion)[:T],
        body=to_slots(body_columns(motion)[:T]),
        gesture_labels=labels_at_slots(acted_speech.words, word_labels, T // SLOT, fps),
        style=style,
        strength=strength,
        utterance=Utterance(speech.words, slots.astype(np.float16)),
    )


def _with_random_gesture(word: Timed, rng: np.random.Generator) -> Timed:
    """The word, or with probability 0.33 a word of the lexicon at its time, with every gesture class equally likely."""
    names = list(_WORDS_BY_GESTURE)
    if rng.random() > 0.33:
        return word
    words = _WORDS_BY_GESTURE[names[rng.integers(len(names))]]
    return replace(word, text=words[rng.integers(len(words))])


def _joined(speeches: list[Speech], rng) -> Speech:
    """The utterances one after the other, each after a pause of 0.1 to 1.5 s."""
    samples, words, phonemes, length = [], [], [], 0
    for speech in speeches:
        pause = int(rng.uniform(0.1, 1.5) * SAMPLE_RATE)
        samples += [np.zeros(pause, np.float32), speech.samples]
        shift = (length + pause) / SAMPLE_RATE
        words += [Timed(w.text, w.start + shift, w.end + shift) for w in speech.words]
        phonemes += [Timed(p.text, p.start + shift, p.end + shift) for p in speech.phonemes]
        length += pause + len(speech.samples)
    return Speech(np.concatenate(samples), -20.0, tuple(words), tuple(phonemes))


def training_loss(model: MotionDenoiser, examples: list[MotionExample], params: MotionParams):
    """A function loss(rng): error of the predicted clean window on a batch that it draws from `rng`.

    It sums squared errors of the motion, of its velocity, and of the body's acceleration. Where the mouth is closed,
    errors of the mouth weigh six times as much, because a viewer notices lips that do not close. Sets the model's
    statistics from the examples.
    """
    set_statistics(model, examples)
    scheduler, weights = make_scheduler(params.scheduler), _face_weights()
    body_weights = (model.body_deviation / model.body_deviation.mean()).sqrt()
    closed_jaw = (CLOSED_JAW - model.face_mean[JAW]) / model.face_deviation[JAW]
    scheduler.set_timesteps(params.steps)
    sampling_timesteps = scheduler.timesteps.numpy()

    def loss(rng: np.random.Generator) -> torch.Tensor:
        conditions, clean = _batch(model, examples, params, rng)
        B = len(clean.face)
        # Most timesteps are those that sampling uses.
        use_sampling = rng.random(B) < 0.7
        t = torch.from_numpy(
            np.where(use_sampling, rng.choice(sampling_timesteps, B), rng.integers(0, TRAIN_TIMESTEPS, B))
        )
        noisy = Streams(
            *(
                scheduler.add_noise(x, torch.from_numpy(rng.standard_normal(x.shape, np.float32)), t)
                for x in (clean.face, clean.body)
            )
        )
        with autocast():
            predicted = model(noisy, t, conditions)
        face, body = predicted.face.float() - clean.face, predicted.body.float() - clean.body
        closed_weights = 1 + 5 * (clean.face[..., JAW, None] < closed_jaw) * (weights > 1)
        face_loss = (face.square() * weights * closed_weights).mean() + 2 * (face.diff(dim=1).square() * weights).mean()
        body_loss = (
            (body.square() * body_weights).mean()
            + 2 * (body.diff(dim=1).square() * body_weights).mean()
            + (body.diff(n=2, dim=1).square() * body_weights).mean()
        )
        return face_loss + 2 * body_loss

    return loss


def _batch(
    model: MotionDenoiser, examples: list[MotionExample], params: MotionParams, rng: np.random.Generator
) -> tuple[MotionConditions, Streams]:
    """Conditions and clean motion of random windows.

    Words are left out of some windows. 70 % of the windows continue frames that are fixed, 15 % start in a pinned pose,
    the others are free at the start; 15 % of all have a pinned pose near the end.
    """
    windows = [
        _draw_window(examples[index], params, rng) for index in rng.integers(len(examples), size=params.training.batch)
    ]
    audio, gesture_labels, has_text, style, strength, face, body, face_mask, body_mask = (
        torch.from_numpy(np.stack(column)) for column in zip(*windows, strict=True)
    )
    clean = model.normalize(face, body)
    return MotionConditions(audio, gesture_labels, has_text, style, strength, clean, face_mask, body_mask), clean


def _draw_window(
    example: MotionExample, params: MotionParams, rng: np.random.Generator
) -> tuple[np.ndarray | np.float32 | int, ...]:
    """A random window of an example, see `_batch`: the fields of MotionConditions, with face and body as context."""
    T, S = params.window, params.window // SLOT
    first = int(rng.integers(max(len(example.body) - S, 0) + 1))
    frames, slots = slice(first * SLOT, first * SLOT + T), slice(first, first + S)
    audio = _fit_length(example.audio_features[frames], T).astype(np.float32)
    if rng.random() < params.phonemes_known:
        audio[:, -example.phoneme_posteriors.shape[1] :] = _fit_length(example.phoneme_posteriors[frames], T)
    has_text, gesture_labels = rng.random() >= params.word_dropout, _fit_length(example.gesture_labels[slots], S)
    # Without text, 30 % of the labels remain: at inference the prior still predicts some from the sound.
    gesture_labels = gesture_labels * (has_text | (rng.random(S) < 0.3))
    face_mask, body_mask = np.zeros(T, bool), np.zeros(S, bool)
    start_case = rng.random()
    if start_case < 0.7:
        face_mask[: params.overlap], body_mask[: params.overlap // SLOT] = True, True
    elif start_case < 0.85:
        body_mask[:2] = True
    if rng.random() < 0.15:
        pinned = S - 2 - int(rng.integers(S // 2))
        body_mask[pinned : pinned + 2] = True
    return (
        audio,
        gesture_labels,
        np.float32(has_text),
        example.style,
        np.float32(example.strength),
        _fit_length(example.face[frames], T),
        _fit_length(example.body[slots], S),
        face_mask,
        body_mask,
    )


def _fit_length(values: np.ndarray, length: int) -> np.ndarray:
    """The first `length` rows; if there are fewer, the last row is repeated."""
    return np.concatenate([values[:length], np.repeat(values[-1:], max(length - len(values), 0), 0)])


def set_statistics(model: MotionDenoiser, examples: list[MotionExample]) -> None:
    """Set the model's means, deviations and body axes from the examples it will be trained on."""
    faces = np.concatenate([example.face for example in examples])
    deviation = faces.std(0)
    mean, axes, body_deviation = principal_axes(
        np.concatenate([example.body for example in examples]), model.config.body
    )
    for buffer, value in (
        (model.face_mean, faces.mean(0)),
        (model.face_deviation, np.where(deviation < 1e-4, 1.0, deviation)),
        (model.body_mean, mean),
        (model.body_axes, axes),
        (model.body_deviation, body_deviation),
    ):
        buffer.copy_(torch.from_numpy(value))


def _face_weights() -> torch.Tensor:
    """Weight of every face column in the loss, f32 [P]: mouth and jaw count more than the rest of the face."""
    weights = torch.ones(FACE_COLUMNS)
    weights[MOUTH] = 3.0
    weights[JAW] = 12.0
    return weights
