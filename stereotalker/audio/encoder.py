"""Speech samples -> features that know the phonemes: transformers' Wav2Vec2Model, small, trained on frame phoneme classes.

B utterances, S samples at 16 kHz, N feature frames at 50 Hz, F features (hidden + classes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import Wav2Vec2Config, Wav2Vec2Model

from stereotalker.audio.degrade import augment
from stereotalker.audio.phonemes import CLASS, CLASSES, phoneme_class
from stereotalker.params import AudioParams
from stereotalker.records import SAMPLE_RATE, Speech
from stereotalker.training import autocast

HOP = 320  # samples between feature frames
FIELD = 400  # samples a feature frame sees before the transformer
_CHUNK_S, _CONTEXT_S = 20, 1  # long speech is encoded in chunks with context on both sides


@dataclass(frozen=True)
class EncoderConfig:
    hidden: int
    layers: int
    convolution: int


class SpeechEncoder(nn.Module):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.wav2vec = Wav2Vec2Model(Wav2Vec2Config(
            hidden_size=config.hidden, num_hidden_layers=config.layers, num_attention_heads=max(config.hidden // 48, 1),
            intermediate_size=4 * config.hidden, conv_dim=_channels(config.convolution), feat_extract_norm="layer",
            do_stable_layer_norm=True, num_conv_pos_embeddings=32, num_conv_pos_embedding_groups=8,
            apply_spec_augment=False, hidden_dropout=0.1, attention_dropout=0.1, activation_dropout=0.0, layerdrop=0.0,
            mask_time_prob=0.0,
        ))  # fmt: skip
        self.classify = nn.Linear(config.hidden, len(CLASSES))

    @property
    def features(self) -> int:
        return self.config.hidden + len(CLASSES)

    def forward(self, samples_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns hidden f32 [B, N, hidden] and phoneme logits f32 [B, N, C]."""
        level = samples_BS.square().mean(1, keepdim=True).sqrt().clamp(min=0.003)
        hidden_BNH = self.wav2vec(samples_BS / level * 0.1).last_hidden_state
        return hidden_BNH, self.classify(hidden_BNH)

    @torch.inference_mode()
    def encode(self, samples: np.ndarray) -> np.ndarray:
        """Features of speech of any length in flat memory: f32 [S] -> f32 [N, F], frame n centred at frame_times(N)[n]."""
        chunk, context = _CHUNK_S * SAMPLE_RATE, _CONTEXT_S * SAMPLE_RATE
        total = max((len(samples) - FIELD) // HOP + 1, 1)
        padded = np.pad(samples, (0, max(FIELD - len(samples), 0)))
        parts = []
        for start in range(0, total * HOP, chunk):
            low = max(start - context, 0)
            hidden, logits = self(torch.from_numpy(padded[None, low : start + chunk + context + FIELD]))
            frames = torch.cat([hidden, logits.softmax(-1)], -1)[0].float().numpy()
            first = (start - low) // HOP
            parts.append(frames[first : first + min(chunk // HOP, total - start // HOP)])
        return np.concatenate(parts)


def _channels(widest: int) -> tuple[int, ...]:
    """Narrow where the rate is high (3.2 kHz), wide where it is low (50 Hz): a quarter of the time of equal widths."""
    return (widest // 4, widest // 4, widest // 2, widest // 2, widest, widest, widest)


def frame_times(count: int) -> np.ndarray:
    """Centres (s) of feature frames."""
    return (np.arange(count) * HOP + FIELD / 2) / SAMPLE_RATE


def frame_classes(speech: Speech, count: int) -> np.ndarray:
    """Phoneme class of every feature frame, i64 [N]; silence where no phoneme is."""
    classes = np.full(count, CLASS["sil"], np.int64)
    times = frame_times(count)
    for p in speech.phonemes:
        classes[(times >= p.start) & (times < p.end)] = CLASS[phoneme_class(p.text)]
    return classes


def training_loss(model: SpeechEncoder, corpus: list[Speech], params: AudioParams):
    """Cross entropy of frame phonemes on augmented crops, every utterance equally likely but real ones three times."""
    weights = np.array([3.0 if s.phonemes[0].text.isupper() else 1.0 for s in corpus])
    length = int(params.seconds * SAMPLE_RATE)

    def loss(rng: np.random.Generator) -> torch.Tensor:
        crops, targets = [], []
        for index in rng.choice(len(corpus), params.training.batch, p=weights / weights.sum()):
            crop, classes = _crop(corpus[index], length, rng)
            crops.append(crop)
            targets.append(classes)
        with autocast():
            _, logits = model(torch.from_numpy(np.stack(crops)))
        return functional.cross_entropy(logits.float().flatten(0, 1), torch.from_numpy(np.concatenate(targets)), label_smoothing=0.05)

    return loss


def _crop(speech: Speech, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    samples = np.pad(speech.samples, (HOP * 10, max(length - len(speech.samples), 0) + HOP * 10))
    classes = frame_classes(speech, len(samples) // HOP)
    classes = np.concatenate([np.zeros(10, np.int64), classes])  # as many frames of silence as were padded in front
    start = int(rng.integers((len(samples) - length) // HOP + 1))
    count = (length - FIELD) // HOP + 1
    crop = augment(samples[start * HOP : start * HOP + length], rng)
    return crop, classes[start : start + count]
