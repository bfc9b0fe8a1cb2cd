"""Speech samples -> features that know the phonemes: transformers' Wav2Vec2Model, small, trained on frame phoneme classes.

B utterances, S samples at 16 kHz, M mel frames at 100 Hz, N feature frames at 50 Hz, F features (hidden + classes).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.audio_utils import mel_filter_bank

from stereotalker.audio.phonemes import CLASS, CLASSES, phoneme_class
from stereotalker.errors import UserError
from stereotalker.records import SAMPLE_RATE, Speech

HOP = 320  # samples between feature frames
FIELD = 400  # samples a feature frame sees before the transformer
_MELS = 80
_SILENT = 0.003  # level below which nothing is made louder
_CONTEXT_S = 1  # beyond a span, on both sides


@dataclass(frozen=True)
class EncoderConfig:
    """pretrained: None (ours, of the sizes given), or the hub id or folder of a Wav2Vec2 that is used as it is."""

    pretrained: str | None
    hidden: int
    layers: int
    convolution: int


class SpeechEncoder(nn.Module):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.frozen = ("wav2vec.",) if config.pretrained else ()
        self.wav2vec = _public(config.pretrained) if config.pretrained else _own(config)
        self.width = self.wav2vec.config.hidden_size
        self.classify = nn.Linear(self.width, len(CLASSES))

    @property
    def features(self) -> int:
        """Hidden, level, posteriors of the phoneme classes."""
        return self.width + 1 + len(CLASSES)

    def forward(self, samples_BS: torch.Tensor, level_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """level_B: of the whole speech (see `loudness_of`). Returns hidden f32 [B, N, hidden] and phoneme logits f32 [B, N, C]."""
        hidden_BNH = self.wav2vec(
            samples_BS / level_B[:, None]
        ).last_hidden_state  # unit variance, as the public models were trained
        return hidden_BNH, self.classify(hidden_BNH)

    @torch.inference_mode()
    def encode(
        self, samples: np.ndarray, first: int = 0, count: int | None = None, level: float | None = None
    ) -> np.ndarray:
        """Feature frames first..first+count-1 (None: to the end) of speech f32 [S], centred at frame_times. f32 [N, F].

        level: its `loudness_of`, where it is known.

        A frame sees a second of sound beyond the span to either side; behind the end there is silence.
        """
        if count is None:
            count = max((len(samples) - FIELD) // HOP + 1, 1) - first
        context = _CONTEXT_S * SAMPLE_RATE // HOP
        low, high = max(first - context, 0), first + count + context
        heard = samples[low * HOP : high * HOP + FIELD]
        heard = np.pad(heard, (0, high * HOP + FIELD - low * HOP - len(heard)))
        level = loudness_of(samples) if level is None else level
        hidden, logits = self(torch.from_numpy(heard[None]), torch.tensor([level], dtype=torch.float32))
        found = torch.cat([hidden, torch.from_numpy(_level(heard, hidden.shape[1])), logits.softmax(-1)], -1)
        return found[0, first - low : first - low + count].float().numpy()


def _own(config: EncoderConfig) -> Wav2Vec2Model:
    model = Wav2Vec2Model(Wav2Vec2Config(
        hidden_size=config.hidden, num_hidden_layers=config.layers, num_attention_heads=max(config.hidden // 48, 1),
        intermediate_size=4 * config.hidden, conv_dim=(config.convolution,), conv_stride=(HOP,), conv_kernel=(FIELD,),
        feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=32, num_conv_pos_embedding_groups=8,
        apply_spec_augment=False, hidden_dropout=0.1, attention_dropout=0.1, activation_dropout=0.0, layerdrop=0.0,
        mask_time_prob=0.0,
    ))  # fmt: skip
    model.feature_extractor = MelFeatures(config.convolution)
    return model


def _public(source: str) -> Wav2Vec2Model:
    """Weights of others, which do not learn. Raises UserError."""
    try:
        model = Wav2Vec2Model.from_pretrained(source)
    except OSError as error:
        raise UserError(
            f"audio.pretrained {source!r}: {str(error).splitlines()[0]}; expected null, a Wav2Vec2 model's id or its folder"
        ) from None
    model.config.apply_spec_augment = False
    stride, field = int(np.prod(model.config.conv_stride)), _field(model.config.conv_kernel, model.config.conv_stride)
    if (stride, field) != (HOP, FIELD):
        raise UserError(
            f"audio.pretrained {source!r} hears {field} samples every {stride}; expected {FIELD} every {HOP}, as facebook/wav2vec2-base-960h does"
        )
    return model.requires_grad_(False)


def _field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Samples that a stack of convolutions sees at once."""
    field, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field, step = field + (kernel - 1) * step, step * stride
    return field


class MelFeatures(nn.Module):
    """Log mel bands and two convolutions, in the place of wav2vec2's seven convolutions of raw sound (the same frames, HOP and FIELD).

    Hours of speech teach the latter what the former know from the start; docs/decisions/speech.md (021) has the
    measurement.
    """

    def __init__(self, width: int):
        super().__init__()
        bands = mel_filter_bank(FIELD // 2 + 1, _MELS, 40.0, 7600.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
        self.register_buffer("bands", torch.from_numpy(bands).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(FIELD), persistent=False)
        self.first = nn.Conv1d(_MELS, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)

    def forward(self, samples_BS: torch.Tensor) -> torch.Tensor:
        """f32 [B, S] -> [B, width, N]."""
        power_BFM = (
            torch.stft(samples_BS, FIELD, HOP // 2, window=self.window, center=False, return_complex=True)
            .abs()
            .square()
        )
        mel_BCM = torch.log(0.01 * torch.einsum("bfm,fc->bcm", power_BFM, self.bands) + 1e-6) / 4 + 1
        if self.training:
            mel_BCM = _masked(mel_BCM)
        x = functional.gelu(self.first(mel_BCM))
        return functional.gelu(self.second(x))


def _masked(mel_BCM: torch.Tensor) -> torch.Tensor:
    """SpecAugment (Park et al. 2019): two stretches of bands and two of time are blanked, other ones in every row."""
    B, C, M = mel_BCM.shape
    for axis, size, widest in ((1, C, 12), (1, C, 12), (2, M, 20), (2, M, 20)):
        start, width = torch.rand(B, 1) * size, torch.rand(B, 1) * widest
        at = torch.arange(size)
        blank = (at >= start) & (at < start + width)
        mel_BCM = mel_BCM.masked_fill(blank[:, :, None] if axis == 1 else blank[:, None], 0.0)
    return mel_BCM


def loudness_of(samples: np.ndarray) -> float:
    """Root mean square of the frames that sound, f32 [S]: pauses and silence around do not count."""
    frames = np.pad(samples, (0, -len(samples) % HOP)).reshape(-1, HOP)
    power = np.einsum("nh,nh->n", frames, frames, dtype=np.float64) / HOP
    sounding = power[power > 0.01 * np.percentile(power, 95)]
    return max(float(np.sqrt(sounding.mean())) if len(sounding) else 0.0, _SILENT)


def _level(samples: np.ndarray, count: int) -> np.ndarray:
    """Logarithm of the size of the samples that every frame sees, f32 [1, N, 1]: what hands and brows follow, and phonemes do not tell."""
    seen = np.lib.stride_tricks.sliding_window_view(samples, FIELD)[::HOP][:count]
    return (np.log10(np.sqrt((seen.astype(np.float64) ** 2).mean(1)) + 1e-4) + 2).astype(np.float32)[None, :, None]


def frame_times(count: int, first: int = 0) -> np.ndarray:
    """Centres (s) of `count` feature frames."""
    return (np.arange(first, first + count) * HOP + FIELD / 2) / SAMPLE_RATE


def classes_at(speech: Speech, times: np.ndarray) -> np.ndarray:
    """Phoneme class at every moment (s, rising), i64; silence where no phoneme is."""
    classes = np.full(len(times), CLASS["sil"], np.int64)
    near = slice(
        bisect_left(speech.phonemes, times[0], key=lambda p: p.end),
        bisect_right(speech.phonemes, times[-1], key=lambda p: p.start),
    )
    for p in speech.phonemes[near]:
        classes[np.searchsorted(times, p.start) : np.searchsorted(times, p.end)] = CLASS[phoneme_class(p.text)]
    return classes
