"""Motion denoiser: a transformer over a window of SMPL-X motion, conditioned on audio, language, style and the frames before.

B windows, T frames, P = 220 pose features, F audio features, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stereotalker.body.layout import ACTIONS, JOINTS
from stereotalker.motion.prior import SLOT, LanguagePrior
from stereotalker.people.acting import STYLES
from stereotalker.records import Motion

POSE_FEATURES = len(JOINTS) * 3 + len(ACTIONS) + 3


@dataclass(frozen=True)
class MotionConfig:
    features: int  # of the audio encoder
    window: int
    hidden: int
    layers: int
    lora_rank: int


@dataclass(frozen=True)
class MotionConditions:
    """All that is known of a window. style i64 [B], strength f32 [B]; before: normalised frames [B, T, P], held: bool [B, T]."""

    audio: torch.Tensor  # f32 [B, T, F]
    words: torch.Tensor  # f32 [B, S, D_lm]
    known: torch.Tensor  # bool [B, S]
    style: torch.Tensor
    strength: torch.Tensor
    before: torch.Tensor
    held: torch.Tensor


class MotionDenoiser(nn.Module):
    def __init__(self, config: MotionConfig):
        super().__init__()
        self.config = config
        D = config.hidden
        self.prior = LanguagePrior(config.features, config.lora_rank)
        self.register_buffer("mean", torch.zeros(POSE_FEATURES))
        self.register_buffer("deviation", torch.ones(POSE_FEATURES))
        self.noisy = nn.Linear(POSE_FEATURES, D)
        self.before = nn.Linear(POSE_FEATURES + 1, D)
        self.hear = nn.Sequential(nn.Linear(config.features, D), nn.GELU())
        self.listen = nn.Conv1d(D, D, 7, padding=3)  # a syllable's neighbourhood: co-articulation
        self.meaning = nn.Linear(self.prior.width, D)
        self.style = nn.Embedding(len(STYLES), D)
        self.control = nn.Sequential(nn.Linear(65, D), nn.SiLU(), nn.Linear(D, D))
        self.position = nn.Parameter(torch.randn(1, config.window, D) * 0.02)
        layer = nn.TransformerEncoderLayer(D, max(D // 64, 1), 4 * D, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, config.layers, norm=nn.LayerNorm(D), enable_nested_tensor=False)
        self.face = nn.Sequential(nn.Conv1d(2 * D, D, 3, padding=1), nn.GELU(), nn.Conv1d(D, D, 3, padding=1), nn.GELU())
        self.out_body, self.out_face = nn.Linear(D, POSE_FEATURES), nn.Linear(D, POSE_FEATURES)

    def understand(self, given: MotionConditions) -> tuple[torch.Tensor, torch.Tensor]:
        """The language prior's features, computed once a window: f32 [B, S, D_lm], and the audio's projections."""
        pooled = given.audio.unflatten(1, (-1, SLOT)).mean(2)
        return self.prior(pooled, given.words, given.known)

    def forward(self, noisy_BTP: torch.Tensor, timestep_B: torch.Tensor, given: MotionConditions, meaning: torch.Tensor) -> torch.Tensor:
        """The clean window, normalised, f32 [B, T, P]."""
        T = noisy_BTP.shape[1]
        heard = self.hear(given.audio)
        heard = heard + self.listen(heard.transpose(1, 2)).transpose(1, 2)
        held = given.held[..., None].float()
        x = self.noisy(noisy_BTP) + self.before(torch.cat([given.before * held, held], -1)) + heard
        x = x + self.meaning(meaning).repeat_interleave(SLOT, 1)[:, :T] + self.position[:, :T]
        knobs = torch.cat([_waves(timestep_B), given.strength[:, None]], -1)
        x = x + (self.control(knobs) + self.style(given.style))[:, None]
        x = self.body(x)
        face = self.face(torch.cat([x, heard], -1).transpose(1, 2)).transpose(1, 2)
        return self.out_body(x) + self.out_face(face)


def _waves(timestep_B: torch.Tensor) -> torch.Tensor:
    """Sinusoidal features of a diffusion timestep, f32 [B, 64] (Vaswani et al. 2017)."""
    rates = torch.exp(-math.log(10_000) * torch.arange(32) / 32)
    angles = timestep_B.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def to_features(motion: Motion) -> np.ndarray:
    """Motion -> f32 [T, P]."""
    return np.concatenate([motion.poses.reshape(len(motion.poses), -1), motion.expression, motion.trans], 1)


def to_motion(features: np.ndarray, fps: float) -> Motion:
    """f32 [T, P] -> Motion; expressions are kept within 0..1."""
    poses, expression, trans = np.split(features.astype(np.float32), np.cumsum([len(JOINTS) * 3, len(ACTIONS)]), axis=1)
    return Motion(np.ascontiguousarray(poses).reshape(-1, len(JOINTS), 3), np.clip(expression, 0, 1), np.ascontiguousarray(trans), fps)
