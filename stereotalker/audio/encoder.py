"""Audio encoder: speech samples -> features that carry the phonemes.

It is a small Wav2Vec2Model of the transformers library, trained to classify the phoneme class of every frame.
B utterances, S samples at 16 kHz, M mel frames at 100 Hz, N feature frames at 50 Hz, F features (hidden + classes).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.audio_utils import mel_filter_bank

from stereotalker.audio.phonemes import CLASS_INDEX, CLASSES, phoneme_class
from stereotalker.errors import UserError
from stereotalker.records import SAMPLE_RATE, Speech
from stereotalker.store.public_models import local_folder
from stereotalker.weights import FOLDER, load_weights, weights_file

HOP_SAMPLES = 320  # samples between feature frames
RECEPTIVE_FIELD_SAMPLES = 400  # receptive field of a feature frame before the transformer, samples
_MELS = 80  # mel bands
_MIN_LEVEL = 0.003  # speech is divided by its level, and by no less than this, so that near silence is not amplified
_CONTEXT_S = 1  # sound that the encoder gets before and after a span, s


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of our own encoder, or a public Wav2Vec2 in its place."""

    pretrained: str | None  # None: our own model; else the hub id or the folder of a Wav2Vec2, which is not trained
    hidden: int  # width of the transformer
    layers: int  # of the transformer
    convolution: int  # channels of the convolutions over mel bands


def feature_count(hidden: int) -> int:
    """Number of features F of an encoder whose hidden state has the width `hidden`."""
    return hidden + 1 + len(CLASSES)


class SpeechEncoder(nn.Module):
    """Wav2Vec2 and a linear classifier of phoneme classes on top of it."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.frozen = ("wav2vec.",) if config.pretrained else ()
        self.wav2vec = _load_public_model(config.pretrained) if config.pretrained else _build_model(config)
        self.width = self.wav2vec.config.hidden_size
        self.classify = nn.Linear(self.width, len(CLASSES))

    @property
    def features(self) -> int:
        """Number of features F: the hidden state, the level, and the posteriors of the phoneme classes."""
        return feature_count(self.width)

    def forward(self, samples_BS: torch.Tensor, level_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the hidden states f32 [B, N, hidden] and the logits of the phoneme classes f32 [B, N, C].

        samples_BS f32 in -1..1; level_B f32: `speech_level` of each whole utterance.
        """
        # The public models were trained on samples of unit variance.
        hidden_BNH = self.wav2vec(samples_BS / level_B[:, None]).last_hidden_state
        return hidden_BNH, self.classify(hidden_BNH)

    @torch.inference_mode()
    def encode(
        self, samples: np.ndarray, first: int = 0, count: int | None = None, level: float | None = None
    ) -> np.ndarray:
        """Features of the frames first..first+count-1 of speech f32 [S], f32 [N, F]. Their times are `frame_times`.

        count: None encodes to the end. level: `speech_level` of the whole speech; None computes it from `samples`.
        The encoder gets a second of sound before and after the span; after the end of the speech it gets silence.
        """
        if count is None:
            count = max((len(samples) - RECEPTIVE_FIELD_SAMPLES) // HOP_SAMPLES + 1, 1) - first
        context = _CONTEXT_S * SAMPLE_RATE // HOP_SAMPLES
        low, high = max(first - context, 0), first + count + context
        window = samples[low * HOP_SAMPLES : high * HOP_SAMPLES + RECEPTIVE_FIELD_SAMPLES]
        window = np.pad(window, (0, high * HOP_SAMPLES + RECEPTIVE_FIELD_SAMPLES - low * HOP_SAMPLES - len(window)))
        level = speech_level(samples) if level is None else level
        hidden, logits = self(torch.from_numpy(window[None]), torch.tensor([level], dtype=torch.float32))
        features = torch.cat([hidden, torch.from_numpy(_frame_levels(window, hidden.shape[1])), logits.softmax(-1)], -1)
        return features[0, first - low : first - low + count].float().numpy()


def _build_model(config: EncoderConfig) -> Wav2Vec2Model:
    """Our own small Wav2Vec2 with mel features in the place of its convolutions."""
    model = Wav2Vec2Model(Wav2Vec2Config(
        hidden_size=config.hidden, num_hidden_layers=config.layers, num_attention_heads=max(config.hidden // 48, 1),
        intermediate_size=4 * config.hidden,
        conv_dim=(config.convolution,), conv_stride=(HOP_SAMPLES,), conv_kernel=(RECEPTIVE_FIELD_SAMPLES,),
        feat_extract_norm="layer", do_stable_layer_norm=True,
        num_conv_pos_embeddings=32, num_conv_pos_embedding_groups=8,
        apply_spec_augment=False, hidden_dropout=0.1, attention_dropout=0.1, activation_dropout=0.0, layerdrop=0.0,
        mask_time_prob=0.0,
    ))  # fmt: skip
    model.register_module("feature_extractor", MelFeatures(config.convolution))
    return model


def _load_public_model(source: str) -> Wav2Vec2Model:
    """Load a public Wav2Vec2 and freeze it.

    Raises UserError if the model is missing, or if its frames differ from HOP_SAMPLES and RECEPTIVE_FIELD_SAMPLES.
    """
    try:
        model = Wav2Vec2Model.from_pretrained(local_folder(source, "audio.pretrained"))
    except OSError as error:
        raise UserError(
            f"audio.pretrained {source!r}: {str(error).splitlines()[0]}; "
            "expected null, a Wav2Vec2 model's id or its folder"
        ) from None
    model.config.apply_spec_augment = False
    stride = int(np.prod(model.config.conv_stride))
    field = _receptive_field(model.config.conv_kernel, model.config.conv_stride)
    if (stride, field) != (HOP_SAMPLES, RECEPTIVE_FIELD_SAMPLES):
        raise UserError(
            f"audio.pretrained {source!r} hears {field} samples every {stride}; "
            f"expected {RECEPTIVE_FIELD_SAMPLES} every {HOP_SAMPLES}, as facebook/wav2vec2-base-960h does"
        )
    return model.requires_grad_(False)


def _receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Receptive field of a stack of convolutions, samples."""
    field, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field, step = field + (kernel - 1) * step, step * stride
    return field


class MelFeatures(nn.Module):
    """Log mel bands and two convolutions, in the place of wav2vec2's seven convolutions over raw samples.

    The frames have the same HOP_SAMPLES and RECEPTIVE_FIELD_SAMPLES. Convolutions over raw samples need hours of speech
    to learn what mel bands provide from the start; docs/decisions/speech.md (021) has the measurement.
    """

    bands: torch.Tensor  # f32 [frequencies, mels]
    window: torch.Tensor  # f32 [RECEPTIVE_FIELD_SAMPLES]

    def __init__(self, width: int):
        super().__init__()
        bands = mel_filter_bank(
            RECEPTIVE_FIELD_SAMPLES // 2 + 1, _MELS, 40.0, 7600.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("bands", torch.from_numpy(bands).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(RECEPTIVE_FIELD_SAMPLES), persistent=False)
        self.first = nn.Conv1d(_MELS, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)

    def forward(self, samples_BS: torch.Tensor) -> torch.Tensor:
        """Samples f32 [B, S] -> features f32 [B, width, N]."""
        power_BFM = (
            torch.stft(
                samples_BS,
                RECEPTIVE_FIELD_SAMPLES,
                HOP_SAMPLES // 2,
                window=self.window,
                center=False,
                return_complex=True,
            )
            .abs()
            .square()
        )
        mel_BCM = torch.log(0.01 * torch.einsum("bfm,fc->bcm", power_BFM, self.bands) + 1e-6) / 4 + 1
        if self.training:
            mel_BCM = _spec_augment(mel_BCM)
        x = functional.gelu(self.first(mel_BCM))
        return functional.gelu(self.second(x))


def _spec_augment(mel_BCM: torch.Tensor) -> torch.Tensor:
    """SpecAugment (Park et al. 2019): blank two stretches of bands and two of time, others for every utterance."""
    B, C, M = mel_BCM.shape
    for axis, size, max_width in ((1, C, 12), (1, C, 12), (2, M, 20), (2, M, 20)):
        start, width = torch.rand(B, 1) * size, torch.rand(B, 1) * max_width
        index = torch.arange(size)
        blank = (index >= start) & (index < start + width)
        mel_BCM = mel_BCM.masked_fill(blank[:, :, None] if axis == 1 else blank[:, None], 0.0)
    return mel_BCM


def speech_level(samples: np.ndarray) -> float:
    """Level of speech f32 [S]: the root mean square of the frames that are not silent, at least _MIN_LEVEL.

    Pauses, and the silence before and after the speech, do not count.
    """
    frames = np.pad(samples, (0, -len(samples) % HOP_SAMPLES)).reshape(-1, HOP_SAMPLES)
    power = np.einsum("nh,nh->n", frames, frames, dtype=np.float64) / HOP_SAMPLES
    sounding = power[power > 0.01 * np.percentile(power, 95)]
    return max(float(np.sqrt(sounding.mean())) if len(sounding) else 0.0, _MIN_LEVEL)


def _frame_levels(samples: np.ndarray, count: int) -> np.ndarray:
    """Logarithmic level of the samples in each frame's field, f32 [1, N, 1].

    Hands and brows follow the level, and the phoneme classes do not contain it.
    """
    fields = np.lib.stride_tricks.sliding_window_view(samples, RECEPTIVE_FIELD_SAMPLES)[::HOP_SAMPLES][:count]
    return (np.log10(np.sqrt((fields.astype(np.float64) ** 2).mean(1)) + 1e-4) + 2).astype(np.float32)[None, :, None]


def frame_times(count: int, first: int = 0) -> np.ndarray:
    """Centers in s of the `count` feature frames from number `first` on, f64 [count]."""
    return (np.arange(first, first + count) * HOP_SAMPLES + RECEPTIVE_FIELD_SAMPLES / 2) / SAMPLE_RATE


def phoneme_classes_at(speech: Speech, times: np.ndarray) -> np.ndarray:
    """Index into CLASSES of the phoneme at each of the rising times [N] s, i64 [N]; silence between phonemes."""
    classes = np.full(len(times), CLASS_INDEX["sil"], np.int64)
    near = slice(
        bisect_left(speech.phonemes, times[0], key=lambda p: p.end),
        bisect_right(speech.phonemes, times[-1], key=lambda p: p.start),
    )
    for p in speech.phonemes[near]:
        classes[np.searchsorted(times, p.start) : np.searchsorted(times, p.end)] = CLASS_INDEX[phoneme_class(p.text)]
    return classes


def read_encoder(folder: Path = FOLDER, data: bytes | None = None) -> SpeechEncoder:
    """The audio encoder, in evaluation mode.

    data: the bytes of the file, if they are read already. Raises UserError if the weights are missing or do not match.
    """
    return load_weights(SpeechEncoder, EncoderConfig, weights_file("audio", folder), data)
