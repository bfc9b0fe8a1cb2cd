"""Training of the audio encoder: phoneme classes of augmented crops of speech."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from stereotalker.audio.augmentation import augment, unspoken
from stereotalker.audio.encoder import FIELD, HOP, SpeechEncoder, classes_at, frame_times, loudness_of
from stereotalker.audio.phonemes import BILABIAL, CLASS, CLASSES
from stereotalker.params import AudioParams
from stereotalker.records import SAMPLE_RATE, Speech
from stereotalker.runtime.device import autocast


def training_loss(model: SpeechEncoder, corpus: list[Speech], params: AudioParams):
    """Cross entropy of frame phonemes on augmented crops; real speech and lips that must close count more. Some crops hold no speech."""
    real = np.array([is_real(s) for s in corpus])
    chance = np.where(real, 2.0, 1.0) * np.minimum([s.seconds for s in corpus], 12.0)
    chance /= chance.sum()
    length = int(params.seconds * SAMPLE_RATE)
    importance = torch.tensor([1.6 if name in BILABIAL else 1.0 for name in CLASSES])

    def loss(rng: np.random.Generator) -> torch.Tensor:
        crops, targets = zip(
            *(_crop(corpus[k], length, rng) for k in rng.choice(len(corpus), params.training.batch, p=chance)),
            strict=True,
        )
        levels = torch.tensor([loudness_of(crop) for crop in crops], dtype=torch.float32)
        with autocast():
            _, logits = model(torch.from_numpy(np.stack(crops)), levels)
        target = torch.from_numpy(np.concatenate(targets))
        return functional.cross_entropy(logits.float().flatten(0, 1), target, weight=importance, label_smoothing=0.05)

    return loss


def is_real(speech: Speech) -> bool:
    """Recorded, not synthesised: its phonemes are the aligner's, in ARPAbet."""
    return bool(speech.phonemes) and speech.phonemes[0].text.isupper()


def _crop(speech: Speech, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sound f32 [length] and its frames' classes: a stretch at another speed and pitch, or, one time in twelve, no speech at all."""
    count = (length - FIELD) // HOP + 1
    if rng.random() < 1 / 12:
        return augment(unspoken(length, rng), rng), np.full(count, CLASS["sil"], np.int64)
    speed = float(rng.uniform(0.85, 1.18))
    need, pad = int(length * speed) + 1, SAMPLE_RATE // 5
    start = int(rng.integers(max(len(speech.samples) + 2 * pad - need, 0) + 1)) - pad
    piece = np.pad(speech.samples[max(start, 0) : max(start + need, 0)], (max(-start, 0), 0))
    piece = np.pad(piece, (0, max(need - len(piece), 0)))[:need]
    crop = np.interp(np.arange(length) * speed, np.arange(need), piece)
    times = frame_times(count) * speed + start / SAMPLE_RATE
    return augment(crop, rng), classes_at(speech, times)
