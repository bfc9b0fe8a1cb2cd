"""Prior-guided mixture of experts (Stereo-Talker, arXiv 2410.23836, section 3.3), in place of a transformer's feed-forward.

Which expert works is decided by what is known, not by a learned router: view experts are mixed by a small gate over the
camera's azimuth and elevation, region experts are dispatched hard by each token's region. B frames, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from stereotalker.body.layout import REGION, REGIONS


class Guidance:
    """What is known about the frames being denoised; set before each call of the network, read by every expert layer."""

    regions_BHW: torch.Tensor  # i64, at the finest token grid
    view_B2: torch.Tensor  # azimuth and elevation, rad

    def at(self, tokens: int) -> torch.Tensor:
        """Region of every token on the grid of `tokens` cells: i64 [B, tokens]."""
        H, W = self.regions_BHW.shape[1:]
        shrink = round((H * W / tokens) ** 0.5)
        return self.regions_BHW[:, shrink // 2 :: shrink, shrink // 2 :: shrink].flatten(1)


class FeedForward(nn.Module):
    """One expert: linear, GELU, linear."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.into = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(functional.gelu(self.into(x)))


class ViewGate(nn.Module):
    """Mixing weights of the view experts, a smooth function of the camera's direction."""

    def __init__(self, experts: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, experts))

    def forward(self, view_B2: torch.Tensor) -> torch.Tensor:
        azimuth, elevation = view_B2.unbind(-1)
        features = torch.stack([azimuth.sin(), azimuth.cos(), elevation.sin(), (2 * azimuth).sin()], -1)
        return self.layers(3 * features.to(self.layers[0].weight.dtype)).softmax(-1)


class PriorGuidedExperts(nn.Module):
    """shared(x) + sum of gate * view(x) + region(x). Background tokens pass the shared expert alone."""

    def __init__(self, width: int, view_experts: int, guidance: Guidance):
        super().__init__()
        self.guidance = guidance
        self.shared = FeedForward(width, 2 * width)
        self.gate = ViewGate(view_experts)
        self.view = nn.ModuleList(FeedForward(width, width // 2) for _ in range(view_experts))
        self.region = nn.ModuleList(FeedForward(width, width) for _ in REGIONS[1:])

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        out = self.shared(x_BND)
        gate_BK = self.gate(self.guidance.view_B2)
        for k, expert in enumerate(self.view):
            out = out + gate_BK[:, k, None, None].to(out.dtype) * expert(x_BND)
        region_T = self.guidance.at(x_BND.shape[1]).flatten()
        order = torch.argsort(region_T, stable=True)
        counts = torch.bincount(region_T, minlength=len(REGIONS)).tolist()
        groups = x_BND.flatten(0, 1)[order].split(counts)
        done = [torch.zeros_like(groups[REGION["background"]])]
        done += [expert(tokens) for expert, tokens in zip(self.region, groups[1:], strict=True)]
        scattered = torch.zeros_like(out).flatten(0, 1).index_copy(0, order, torch.cat([d.to(out.dtype) for d in done]))
        return out + scattered.view_as(out)
