"""Motion denoiser: two streams of a diffusion transformer, face and body with hands, that attend to each other.

Blocks after Esser et al. 2024 (each stream its own weights, one attention over both), positions after Su et al. 2021 in frames, knobs by
adaptive layer norm (Peebles & Xie 2023). It predicts the clean window. B windows, T frames, S = T / SLOT slots, P face columns, K body
coefficients, F audio features, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from stereotalker.acting.reference_acting import STYLES
from stereotalker.motion.features import BODY_COLUMNS, FACE_COLUMNS, from_coefficients, to_coefficients
from stereotalker.motion.language_prior import GESTURE_NAMES, NO_MODEL, SLOT, LanguagePrior

_HEAD = 64  # width of an attention head


@dataclass(frozen=True)
class MotionConfig:
    features: int  # of the audio encoder
    window: int
    hidden: int
    layers: int
    body: int
    lora_rank: int
    language_model: str


@dataclass(frozen=True)
class Streams:
    """face f32 [B, T, P] and body f32 [B, S, K], both normalised."""

    face: torch.Tensor
    body: torch.Tensor


@dataclass(frozen=True)
class MotionConditions:
    """All that is known of a window. Of `before`, frames and slots that are not held say nothing."""

    audio: torch.Tensor  # f32 [B, T, F]
    signs: torch.Tensor  # i64 [B, S], index of prior.SIGN_NAMES where a word begins
    told: torch.Tensor  # f32 [B], 1 where the words are known
    style: torch.Tensor  # i64 [B]
    strength: torch.Tensor  # f32 [B]
    before: Streams
    held_face: torch.Tensor  # bool [B, T]
    held_body: torch.Tensor  # bool [B, S]


class MotionDenoiser(nn.Module):
    def __init__(self, config: MotionConfig):
        super().__init__()
        if config.hidden > _HEAD and config.hidden % _HEAD:
            raise ValueError(f"motion.hidden {config.hidden}; expected at most {_HEAD}, or a multiple of it")
        self.config = config
        self.frozen = () if config.language_model == NO_MODEL else ("prior.lm.",)  # only its adapter is ours
        D, K = config.hidden, config.body
        self.prior = LanguagePrior(config.features, config.language_model, config.lora_rank)
        self.register_buffer("face_mean", torch.zeros(FACE_COLUMNS))
        self.register_buffer("face_deviation", torch.ones(FACE_COLUMNS))
        self.register_buffer("body_mean", torch.zeros(BODY_COLUMNS))
        self.register_buffer("body_axes", torch.eye(K, BODY_COLUMNS))
        self.register_buffer("body_deviation", torch.ones(K))
        self.hear = nn.Sequential(nn.Linear(config.features, D), nn.GELU())
        self.listen = nn.Conv1d(D, D, 7, padding=3)  # a syllable's neighbourhood: co-articulation
        self.face_in, self.body_in = nn.Linear(2 * FACE_COLUMNS + 1, D), nn.Linear(2 * K + 1, D)
        self.pool = nn.Linear(SLOT * D, D)
        self.sign = nn.Embedding(len(GESTURE_NAMES), D)
        self.style = nn.Embedding(len(STYLES), D)
        self.control = nn.Sequential(nn.Linear(66, D), nn.SiLU(), nn.Linear(D, D))
        self.blocks = nn.ModuleList(Block(D) for _ in range(config.layers))
        self.mouth = nn.Sequential(
            nn.Conv1d(2 * D, D, 3, padding=1), nn.GELU(), nn.Conv1d(D, D, 3, padding=1), nn.GELU()
        )
        self.face_norm, self.body_norm = nn.LayerNorm(D), nn.LayerNorm(D)
        self.face_out, self.body_out = nn.Linear(2 * D, FACE_COLUMNS), nn.Linear(D, K)

    def forward(self, noisy: Streams, timestep_B: torch.Tensor, given: MotionConditions) -> Streams:
        """The clean window."""
        heard_BTD = self.hear(given.audio)
        heard_BTD = heard_BTD + self.listen(heard_BTD.transpose(1, 2)).transpose(1, 2)
        face_BTD = self.face_in(_with_held(noisy.face, given.before.face, given.held_face)) + heard_BTD
        body_BSD = self.body_in(_with_held(noisy.body, given.before.body, given.held_body)) + self.pool(
            heard_BTD.unflatten(1, (-1, SLOT)).flatten(2)
        )
        body_BSD = body_BSD + self.sign(given.signs)
        knobs = torch.cat([_waves(timestep_B), given.strength[:, None], given.told[:, None]], -1)
        knobs_BD = self.control(knobs) + self.style(given.style)
        T, S = face_BTD.shape[1], body_BSD.shape[1]
        turns = _turns(torch.cat([torch.arange(T), torch.arange(S) * SLOT + (SLOT - 1) / 2]))
        for block in self.blocks:
            face_BTD, body_BSD = block(face_BTD, body_BSD, knobs_BD, turns)
        face_BTD = self.face_norm(face_BTD)
        mouth_BTD = self.mouth(torch.cat([face_BTD, heard_BTD], -1).transpose(1, 2)).transpose(1, 2)
        return Streams(self.face_out(torch.cat([face_BTD, mouth_BTD], -1)), self.body_out(self.body_norm(body_BSD)))

    def normalised(self, face: torch.Tensor, slots: torch.Tensor) -> Streams:
        """Face columns [..., T, P] and body columns of slots [..., S, Q], as the denoiser knows them."""
        return Streams(
            (face - self.face_mean) / self.face_deviation,
            to_coefficients(slots, self.body_mean, self.body_axes, self.body_deviation),
        )

    def columns(self, made: Streams) -> tuple[torch.Tensor, torch.Tensor]:
        """The way back of `normalised`."""
        return made.face * self.face_deviation + self.face_mean, from_coefficients(
            made.body, self.body_mean, self.body_axes, self.body_deviation
        )


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.face, self.body = Half(width), Half(width)

    def forward(
        self, face_BTD: torch.Tensor, body_BSD: torch.Tensor, knobs_BD: torch.Tensor, turns: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        T = face_BTD.shape[1]
        face_knobs, body_knobs = self.face.knobs(knobs_BD), self.body.knobs(knobs_BD)
        asked = [
            torch.cat(pair, 2)
            for pair in zip(self.face.ask(face_BTD, face_knobs), self.body.ask(body_BSD, body_knobs), strict=True)
        ]
        query, key, value = _rotated(asked[0], turns), _rotated(asked[1], turns), asked[2]
        seen = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.face.take(face_BTD, seen[:, :T], face_knobs), self.body.take(body_BSD, seen[:, T:], body_knobs)


class Half(nn.Module):
    """One stream's part of a block: what it asks and tells the attention, and what it makes of the answer."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = max(width // _HEAD, 1)
        self.norm_in, self.norm_out = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.modulate = nn.Linear(width, 6 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def knobs(self, knobs_BD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.modulate(functional.silu(knobs_BD))[:, None].chunk(6, -1)

    def ask(self, x_BND: torch.Tensor, knobs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Query, key and value [B, heads, N, D / heads]."""
        x_BND = self.norm_in(x_BND) * (1 + knobs[0]) + knobs[1]
        return self.qkv(x_BND).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def take(self, x_BND: torch.Tensor, seen_BND: torch.Tensor, knobs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        x_BND = x_BND + (1 + knobs[2]) * self.out(seen_BND)
        return x_BND + (1 + knobs[3]) * self.mlp(self.norm_out(x_BND) * (1 + knobs[4]) + knobs[5])


def _with_held(noisy: torch.Tensor, before: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    known = held[..., None].float()
    return torch.cat([noisy, before * known, known], -1)


def _turns(position_N: torch.Tensor) -> torch.Tensor:
    """Rotary angles of positions in frames, f32 [N, head / 2]."""
    return position_N[:, None] * torch.exp(-math.log(500) * torch.arange(_HEAD // 2) / (_HEAD // 2))


def _rotated(x_BHNd: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    half = x_BHNd.shape[-1] // 2
    cos, sin = turns[:, :half].cos().to(x_BHNd.dtype), turns[:, :half].sin().to(x_BHNd.dtype)
    a, b = x_BHNd[..., :half], x_BHNd[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _waves(timestep_B: torch.Tensor) -> torch.Tensor:
    """Sinusoidal features of a diffusion timestep, f32 [B, 64] (Vaswani et al. 2017)."""
    rates = torch.exp(-math.log(10_000) * torch.arange(32) / 32)
    angles = timestep_B.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)
