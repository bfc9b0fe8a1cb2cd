"""Motion denoiser: a diffusion transformer with a face stream and a body stream that attend to each other.

The body stream holds the body and the hands. Each stream has its own weights and both share one attention (Esser et al.
2024). Positions are rotary (Su et al. 2021) and count motion frames. Style, strength, timestep and whether there is
text act through adaptive layer norm (Peebles & Xie 2023). The network predicts the clean window.

B windows, T frames, S = T / SLOT slots, P face columns, K body coefficients, Q body columns, F audio features, D width,
N = T + S positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from stereotalker.acting.reference_acting import STYLES
from stereotalker.motion.features import BODY_COLUMNS, FACE_COLUMNS, from_coefficients, to_coefficients
from stereotalker.motion.language_prior import GESTURE_NAMES, SLOT, LanguagePrior
from stereotalker.store.public_models import NO_MODEL
from stereotalker.weights import FOLDER, load_weights, weights_file

_HEAD = 64  # width of an attention head


@dataclass(frozen=True)
class MotionConfig:
    features: int  # F, of the audio encoder
    window: int  # T, frames
    hidden: int  # D
    layers: int
    body: int  # K
    lora_rank: int
    language_model: str  # see LanguagePrior


@dataclass(frozen=True)
class Streams:
    """Normalized motion of a window: face f32 [B, T, P] and body f32 [B, S, K]."""

    face: torch.Tensor
    body: torch.Tensor


@dataclass(frozen=True)
class MotionConditions:
    """All inputs of the denoiser for a window, apart from the noisy motion and the timestep."""

    audio: torch.Tensor  # f32 [B, T, F]
    gesture_labels: torch.Tensor  # i64 [B, S], index into GESTURE_NAMES in the slot where a word begins, else 0
    has_text: torch.Tensor  # f32 [B], 1 where the words of the speech are known
    style: torch.Tensor  # i64 [B], index into STYLES
    strength: torch.Tensor  # f32 [B], of gestures
    context: Streams  # motion that the window must continue or reach; only read where the masks below are True
    face_mask: torch.Tensor  # bool [B, T], frames that `context` fixes
    body_mask: torch.Tensor  # bool [B, S], slots that `context` fixes


class MotionDenoiser(nn.Module):
    """Denoiser, language prior and the statistics that normalize motion, in one set of weights.

    Attribute names are keys of the saved state dict, so they stay as they are: `hear` embeds the audio features,
    `listen` mixes neighboring frames, `pool` takes frames to slots, `sign` embeds gesture classes, `control` embeds the
    global conditions and `mouth` refines the face.
    """

    # Means and deviations of the face's columns [P]; mean [Q], principal axes [K, Q] and deviations [K] of the body's.
    face_mean: torch.Tensor
    face_deviation: torch.Tensor
    body_mean: torch.Tensor
    body_axes: torch.Tensor
    body_deviation: torch.Tensor

    def __init__(self, config: MotionConfig):
        """Raises ValueError if `config.hidden` cannot be split into attention heads."""
        super().__init__()
        if config.hidden > _HEAD and config.hidden % _HEAD:
            raise ValueError(f"motion.hidden {config.hidden}; expected at most {_HEAD}, or a multiple of it")
        self.config = config
        # The pretrained language model is not saved with our weights; only its LoRA adapter is.
        self.frozen = () if config.language_model == NO_MODEL else ("prior.lm.",)
        D, K = config.hidden, config.body
        self.prior = LanguagePrior(config.features, config.language_model, config.lora_rank)
        self.register_buffer("face_mean", torch.zeros(FACE_COLUMNS))
        self.register_buffer("face_deviation", torch.ones(FACE_COLUMNS))
        self.register_buffer("body_mean", torch.zeros(BODY_COLUMNS))
        self.register_buffer("body_axes", torch.eye(K, BODY_COLUMNS))
        self.register_buffer("body_deviation", torch.ones(K))
        self.hear = nn.Sequential(nn.Linear(config.features, D), nn.GELU())
        self.listen = nn.Conv1d(D, D, 7, padding=3)  # seven frames span a syllable, which co-articulation needs
        self.face_in, self.body_in = nn.Linear(2 * FACE_COLUMNS + 1, D), nn.Linear(2 * K + 1, D)
        self.pool = nn.Linear(SLOT * D, D)
        # Embeds gesture classes. The name is a state-dict key of the shipped weights, so it keeps the old word "sign".
        self.sign = nn.Embedding(len(GESTURE_NAMES), D)
        self.style = nn.Embedding(len(STYLES), D)
        self.control = nn.Sequential(nn.Linear(66, D), nn.SiLU(), nn.Linear(D, D))
        self.blocks = nn.ModuleList(DoubleStreamBlock(D) for _ in range(config.layers))
        self.mouth = nn.Sequential(
            nn.Conv1d(2 * D, D, 3, padding=1), nn.GELU(), nn.Conv1d(D, D, 3, padding=1), nn.GELU()
        )
        self.face_norm, self.body_norm = nn.LayerNorm(D), nn.LayerNorm(D)
        self.face_out, self.body_out = nn.Linear(2 * D, FACE_COLUMNS), nn.Linear(D, K)

    def forward(self, noisy: Streams, timestep_B: torch.Tensor, conditions: MotionConditions) -> Streams:
        """Predict the clean window from a noisy one. timestep_B: i64 [B], diffusion timesteps."""
        audio_BTD = self.hear(conditions.audio)
        audio_BTD = audio_BTD + self.listen(audio_BTD.transpose(1, 2)).transpose(1, 2)
        context = conditions.context
        face_BTD = self.face_in(_with_context(noisy.face, context.face, conditions.face_mask)) + audio_BTD
        body_BSD = self.body_in(_with_context(noisy.body, context.body, conditions.body_mask)) + self.pool(
            audio_BTD.unflatten(1, (-1, SLOT)).flatten(2)
        )
        body_BSD = body_BSD + self.sign(conditions.gesture_labels)
        scalars = [_timestep_embedding(timestep_B), conditions.strength[:, None], conditions.has_text[:, None]]
        condition_BD = self.control(torch.cat(scalars, -1)) + self.style(conditions.style)
        T, S = face_BTD.shape[1], body_BSD.shape[1]
        slot_centers = torch.arange(S) * SLOT + (SLOT - 1) / 2
        angles = _rotary_angles(torch.cat([torch.arange(T), slot_centers]))
        for block in self.blocks:
            face_BTD, body_BSD = block(face_BTD, body_BSD, condition_BD, angles)
        face_BTD = self.face_norm(face_BTD)
        mouth_BTD = self.mouth(torch.cat([face_BTD, audio_BTD], -1).transpose(1, 2)).transpose(1, 2)
        return Streams(self.face_out(torch.cat([face_BTD, mouth_BTD], -1)), self.body_out(self.body_norm(body_BSD)))

    def normalize(self, face: torch.Tensor, slots: torch.Tensor) -> Streams:
        """Face columns [..., T, P] and body columns of slots [..., S, Q] -> the denoiser's normalized streams."""
        return Streams(
            (face - self.face_mean) / self.face_deviation,
            to_coefficients(slots, self.body_mean, self.body_axes, self.body_deviation),
        )

    def denormalize(self, streams: Streams) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `normalize`: face columns [..., T, P] and body columns of slots [..., S, Q]."""
        return streams.face * self.face_deviation + self.face_mean, from_coefficients(
            streams.body, self.body_mean, self.body_axes, self.body_deviation
        )


class DoubleStreamBlock(nn.Module):
    """A transformer block in which face and body have their own layers and attend to the positions of both."""

    def __init__(self, width: int):
        super().__init__()
        self.face, self.body = StreamLayers(width), StreamLayers(width)

    def forward(
        self, face_BTD: torch.Tensor, body_BSD: torch.Tensor, condition_BD: torch.Tensor, angles: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`angles`: rotary angles f32 [N, head / 2] of the face's positions, then of the body's."""
        T = face_BTD.shape[1]
        face_modulation, body_modulation = self.face.modulation(condition_BD), self.body.modulation(condition_BD)
        qkv = [
            torch.cat(pair, 2)
            for pair in zip(
                self.face.project_qkv(face_BTD, face_modulation),
                self.body.project_qkv(body_BSD, body_modulation),
                strict=True,
            )
        ]
        query, key, value = _rotate(qkv[0], angles), _rotate(qkv[1], angles), qkv[2]
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return (
            self.face.update(face_BTD, attended[:, :T], face_modulation),
            self.body.update(body_BSD, attended[:, T:], body_modulation),
        )


class StreamLayers(nn.Module):
    """One stream's layers in a block: modulation, attention projections and the feed-forward network."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = max(width // _HEAD, 1)
        self.norm_in, self.norm_out = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.modulate = nn.Linear(width, 6 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def modulation(self, condition_BD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Six tensors [B, 1, D].

        In order: scale and shift before attention, the gates of the two residual branches, scale and shift before the
        feed-forward network.
        """
        return self.modulate(functional.silu(condition_BD))[:, None].chunk(6, -1)

    def project_qkv(self, x_BND: torch.Tensor, modulation: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Query, key and value [B, heads, N, D / heads]."""
        x_BND = self.norm_in(x_BND) * (1 + modulation[0]) + modulation[1]
        return self.qkv(x_BND).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def update(
        self, x_BND: torch.Tensor, attended_BND: torch.Tensor, modulation: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """Add the attention's output and the feed-forward network's output to the stream."""
        x_BND = x_BND + (1 + modulation[2]) * self.out(attended_BND)
        return x_BND + (1 + modulation[3]) * self.mlp(self.norm_out(x_BND) * (1 + modulation[4]) + modulation[5])


def _with_context(noisy: torch.Tensor, context: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Join noisy columns [B, N, C], the context (0 where `mask` [B, N] is False) and the mask to [B, N, 2 C + 1]."""
    is_fixed = mask[..., None].float()
    return torch.cat([noisy, context * is_fixed, is_fixed], -1)


def _rotary_angles(position_N: torch.Tensor) -> torch.Tensor:
    """Rotary angles of positions in frames, f32 [N, head / 2] rad."""
    return position_N[:, None] * torch.exp(-math.log(500) * torch.arange(_HEAD // 2) / (_HEAD // 2))


def _rotate(x_BHNd: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Apply the rotary embedding; a head narrower than _HEAD uses the first angles only."""
    half = x_BHNd.shape[-1] // 2
    cos, sin = angles[:, :half].cos().to(x_BHNd.dtype), angles[:, :half].sin().to(x_BHNd.dtype)
    a, b = x_BHNd[..., :half], x_BHNd[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _timestep_embedding(timestep_B: torch.Tensor) -> torch.Tensor:
    """Sinusoidal features of a diffusion timestep, f32 [B, 64] (Vaswani et al. 2017)."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(32) / 32)
    angles = timestep_B.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


def read_motion(folder: Path = FOLDER, data: bytes | None = None) -> MotionDenoiser:
    """The motion denoiser with its language prior, in evaluation mode.

    data: the bytes of the file, if they are read already. Raises UserError if the weights are missing or do not match.
    """
    return load_weights(MotionDenoiser, MotionConfig, weights_file("motion", folder), data)
