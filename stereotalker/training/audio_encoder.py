"""Training of the audio encoder: it learns to classify the phonemes of augmented crops of speech.

S samples at 16 kHz, N feature frames at 50 Hz.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from stereotalker.audio.augmentation import augment, non_speech_sound
from stereotalker.audio.encoder import (
    HOP_SAMPLES,
    RECEPTIVE_FIELD_SAMPLES,
    SpeechEncoder,
    frame_times,
    phoneme_classes_at,
    speech_level,
)
from stereotalker.audio.phonemes import BILABIAL, CLASS_INDEX, CLASSES
from stereotalker.params import AudioParams
from stereotalker.records import SAMPLE_RATE, Speech
from stereotalker.runtime.device import autocast


def training_loss(model: SpeechEncoder, corpus: list[Speech], params: AudioParams):
    """A function loss(rng): cross entropy of frame phonemes on a batch of augmented crops that it draws from `rng`.

    Recorded speech is drawn twice as often as synthetic speech. Bilabials weigh more, because a viewer notices lips
    that do not close. One crop in twelve holds no speech.
    """
    is_recorded = np.array([is_real(s) for s in corpus])
    probability = np.where(is_recorded, 2.0, 1.0) * np.minimum([s.seconds for s in corpus], 12.0)
    probability /= probability.sum()
    length = int(params.seconds * SAMPLE_RATE)
    class_weights = torch.tensor([1.6 if name in BILABIAL else 1.0 for name in CLASSES])

    def loss(rng: np.random.Generator) -> torch.Tensor:
        crops, targets = zip(
            *(_crop(corpus[k], length, rng) for k in rng.choice(len(corpus), params.training.batch, p=probability)),
            strict=True,
        )
        levels = torch.tensor([speech_level(crop) for crop in crops], dtype=torch.float32)
        with autocast():
            _, logits = model(torch.from_numpy(np.stack(crops)), levels)
        target = torch.from_numpy(np.concatenate(targets))
        return functional.cross_entropy(
            logits.float().flatten(0, 1), target, weight=class_weights, label_smoothing=0.05
        )

    return loss


def is_real(speech: Speech) -> bool:
    """Whether speech was recorded, not synthesized.

    Phonemes of recordings come from the forced aligner, in ARPAbet, which has upper case."""
    return bool(speech.phonemes) and speech.phonemes[0].text.isupper()


def _crop(speech: Speech, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A crop f32 [length] and the phoneme classes i64 [N] of its frames.

    It is a stretch of the speech at another speed and pitch; one crop in twelve is sound without speech.
    """
    count = (length - RECEPTIVE_FIELD_SAMPLES) // HOP_SAMPLES + 1
    if rng.random() < 1 / 12:
        return augment(non_speech_sound(length, rng), rng), np.full(count, CLASS_INDEX["sil"], np.int64)
    speed = float(rng.uniform(0.85, 1.18))
    # A crop may begin or end up to 0.2 s outside the speech, in silence.
    source_length, pad = int(length * speed) + 1, SAMPLE_RATE // 5
    start = int(rng.integers(max(len(speech.samples) + 2 * pad - source_length, 0) + 1)) - pad
    source = np.pad(speech.samples[max(start, 0) : max(start + source_length, 0)], (max(-start, 0), 0))
    source = np.pad(source, (0, max(source_length - len(source), 0)))[:source_length]
    crop = np.interp(np.arange(length) * speed, np.arange(source_length), source)
    times = frame_times(count) * speed + start / SAMPLE_RATE
    return augment(crop, rng), phoneme_classes_at(speech, times)
