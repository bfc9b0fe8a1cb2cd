"""Prior-guided mixture of experts (Stereo-Talker, arXiv 2410.23836, section 3.3), in place of every feed-forward.

Which expert works is decided by what is known, not by a learned router: view experts are mixed by a small gate over the
camera's azimuth and elevation, region experts are dispatched hard by each token's region. Tokens of pure background pass by.
B frames, V views (frames that follow each other, seen from the same side), N tokens a frame, M tokens that work, D width,
P tokens of the view that has most, K view experts, R region experts, H hidden units.

Experts are up-cycled (Komatsuzaki et al., 2023) from a dense feed-forward: its hidden units are dealt out, a quarter becomes every view
expert's start, a quarter every region expert's, the rest is shared. At first the sum is the dense layer, and the active size stays its.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models.attention import FeedForward
from torch import nn
from torch.nn import functional

from stereotalker.errors import UserError
from stereotalker.smplx_layout import REGION, REGIONS

EXPERTS = {
    "none": (False, False),
    "view": (True, False),
    "region": (False, True),
    "both": (True, True),
}  # which kinds there are
_SHARE = 4  # of the hidden units, one part in so many goes to an expert
REGION_EXPERTS = [
    name for name in REGIONS[1:] if name != "legs"
]  # legs, seldom in a picture, are clothed as the torso is
EXPERT_OF = torch.tensor([-1, *(REGION_EXPERTS.index("torso" if name == "legs" else name) for name in REGIONS[1:])])
_CENTRES, _WIDTH = 0.5, 0.35  # rad of azimuth: where the outer view experts begin, and how far each reaches


@dataclass(frozen=True)
class Dispatch:
    """Who works on one grid of tokens, made once a call of the network."""

    tokens: torch.Tensor  # i64 [M] of B x N, those that are not background, frame by frame
    slots: torch.Tensor  # i64 [M] their rows of V x P, where every view has places for as many
    most: int  # P
    order: torch.Tensor  # i64 [M] them sorted by their region's expert
    regions: list[int]  # [R] how many every one has


class Guidance:
    """What is known about the frames being denoised; set before each call of the network, read by its expert and time layers."""

    def set(self, regions_BHW: torch.Tensor, view_B2: torch.Tensor, frames: int) -> None:
        """regions i64 at the finest token grid; azimuth and elevation, rad; how many frames follow each other."""
        self.regions_BHW, self.frames = regions_BHW, frames
        self.views_V2, self._view_B = torch.unique_consecutive(view_B2, dim=0, return_inverse=True)
        self._dispatched: dict[int, Dispatch] = {}

    def at(self, tokens: int) -> torch.Tensor:
        """Region of every token on the grid of `tokens` cells, i64 [B, tokens]: a coarse cell with any of the person belongs to the person."""
        H, W = self.regions_BHW.shape[1:]
        shrink = round((H * W / tokens) ** 0.5)
        if shrink == 1:
            return self.regions_BHW.flatten(1)
        blocks = functional.unfold(
            self.regions_BHW[:, None].float(), shrink, stride=shrink
        ).long()  # [B, cells of a block, tokens]
        shares = torch.stack([(blocks == k).sum(1) for k in range(1, len(REGIONS))], 1)
        return torch.where(shares.sum(1) > 0, shares.argmax(1) + 1, REGION["background"])

    def dispatch(self, tokens: int) -> Dispatch:
        if tokens not in self._dispatched:
            region_BN = self.at(tokens)
            working_BN = region_BN != REGION["background"]
            expert_M = EXPERT_OF.to(region_BN.device)[region_BN[working_BN]]
            count_V = torch.bincount(self._view_B, working_BN.sum(1), len(self.views_V2)).long()
            most = int(count_V.max())
            shift_V = most * torch.arange(len(count_V), device=count_V.device) - (count_V.cumsum(0) - count_V)
            slots = torch.arange(len(expert_M), device=count_V.device) + shift_V.repeat_interleave(
                count_V, output_size=len(expert_M)
            )
            self._dispatched[tokens] = Dispatch(
                working_BN.flatten().nonzero().flatten(), slots, most,
                torch.argsort(expert_M, stable=True), torch.bincount(expert_M, minlength=len(REGION_EXPERTS)).tolist(),
            )  # fmt: skip
        return self._dispatched[tokens]


class ViewGate(nn.Module):
    """Mixing weights of the view experts, a smooth function of the camera's direction; at first each stands at its own azimuth."""

    def __init__(self, experts: int):
        super().__init__()
        self.layer = nn.Linear(4, experts)
        centres = torch.linspace(-_CENTRES, _CENTRES, experts)
        with torch.no_grad():  # softmax of Gaussians' logarithms
            self.layer.weight.zero_()
            self.layer.weight[:, 0] = centres / _WIDTH**2
            self.layer.bias.copy_(-(centres**2) / (2 * _WIDTH**2))

    def forward(self, view_V2: torch.Tensor) -> torch.Tensor:
        azimuth, elevation = view_V2.to(self.layer.weight.dtype).unbind(-1)
        return self.layer(torch.stack([azimuth, elevation, azimuth**2, elevation**2], -1)).softmax(-1)


class ExpertBank(nn.Module):
    """E gated feed-forwards (GEGLU, Shazeer 2020) of H hidden units; the output has no bias of its own."""

    def __init__(self, experts: int, width: int, hidden: int):
        super().__init__()
        self.into = nn.Parameter(torch.empty(experts, 2 * hidden, width))  # value, then gate
        self.bias = nn.Parameter(torch.empty(experts, 2 * hidden))
        self.out = nn.Parameter(torch.empty(experts, width, hidden))

    @torch.no_grad()
    def copy(self, dense: FeedForward, units: slice) -> None:
        """Every expert begins as these hidden units of a dense layer."""
        project, H = dense.net[0].proj, dense.net[2].in_features
        rows = torch.cat([torch.arange(H)[units], H + torch.arange(H)[units]])
        self.into.copy_(project.weight[rows])
        self.bias.copy_(project.bias[rows])
        self.out.copy_(dense.net[2].weight[:, units])


def geglu(x: torch.Tensor, into: torch.Tensor, bias: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """A gated feed-forward of tokens [M, D]; or of tokens [V, P, D], where the weights have a first dimension V, too."""
    value, gate = _linear(x, into.to(x.dtype), bias.to(x.dtype)).chunk(2, -1)
    return _linear(value * functional.gelu(gate), out.to(x.dtype))


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if weight.dim() == 2:
        return functional.linear(x, weight, bias)
    return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias[:, None], x, weight.mT)


class PriorGuidedExperts(nn.Module):
    """shared(x) + (view experts' parameters mixed by the gate)(x) + (the region's expert)(x); 0 for tokens of the background."""

    def __init__(self, dense: FeedForward, kinds: str, view_experts: int, guidance: Guidance):
        super().__init__()
        self.guidance = guidance
        width, hidden = dense.net[2].out_features, dense.net[2].in_features
        by_view, by_region = EXPERTS[kinds]
        share = hidden // _SHARE
        shared = hidden - share * (by_view + by_region)
        self.shared = ExpertBank(1, width, shared)
        self.shared.copy(dense, slice(0, shared))
        self.bias = nn.Parameter(dense.net[2].bias.detach().clone())
        self.view, self.region = None, None
        if by_view:
            self.gate = ViewGate(view_experts)
            self.view = ExpertBank(view_experts, width, share)
            self.view.copy(dense, slice(shared, shared + share))
        if by_region:
            self.region = ExpertBank(len(REGION_EXPERTS), width, share)
            self.region.copy(dense, slice(hidden - share, hidden))

    @torch.no_grad()
    def dense(self) -> FeedForward:
        """The plain layer that this one is while it has no experts but the shared one. Raises UserError where it has others."""
        if self.view is not None or self.region is not None:
            raise UserError("only a denoiser without experts can be given some; train the stage `dense` again")
        _, width, hidden = self.shared.out.shape
        plain = FeedForward(width, inner_dim=hidden)
        plain.net[0].proj.weight.copy_(self.shared.into[0])
        plain.net[0].proj.bias.copy_(self.shared.bias[0])
        plain.net[2].weight.copy_(self.shared.out[0])
        plain.net[2].bias.copy_(self.bias)
        return plain

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        who = self.guidance.dispatch(x_BND.shape[1])
        x_MD = x_BND.flatten(0, 1)[who.tokens]
        if self.view is None:
            y_MD = geglu(x_MD, self.shared.into[0], self.shared.bias[0], self.shared.out[0])
        else:  # shared and view experts see the same tokens: one layer a view, of as many tokens each
            layers = self._by_view()
            V, D = len(layers[0]), x_MD.shape[1]
            x_VPD = x_MD.new_zeros(V * who.most, D).index_copy_(0, who.slots, x_MD).view(V, who.most, D)
            y_MD = geglu(x_VPD, *layers).flatten(0, 1)[who.slots]
        y_MD = y_MD + self.bias.to(y_MD.dtype)
        if self.region is not None:
            groups = x_MD[who.order].split(who.regions)
            parts = [
                geglu(x, self.region.into[r], self.region.bias[r], self.region.out[r])
                for r, x in enumerate(groups)
                if len(x)
            ]
            y_MD = y_MD.index_add(0, who.order, torch.cat(parts).to(y_MD.dtype)) if parts else y_MD
        out = torch.zeros(x_BND.shape[0] * x_BND.shape[1], y_MD.shape[1], dtype=y_MD.dtype, device=y_MD.device)
        return out.index_copy(0, who.tokens, y_MD).view_as(x_BND)

    def _by_view(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The shared expert and the view experts' mix side by side, as one layer for every view."""
        with torch.autocast(
            self.bias.device.type, enabled=False
        ):  # in bfloat16 a slow camera would move the mix by jerks
            gate_VK = self.gate(self.guidance.views_V2.float())
            mixed = [
                torch.einsum("vk,k...->v...", gate_VK, p.float())
                for p in (self.view.into, self.view.bias, self.view.out)
            ]
        shared = [p.expand(len(gate_VK), *p.shape[1:]) for p in (self.shared.into, self.shared.bias, self.shared.out)]
        beside = [
            torch.cat([a.unflatten(1, (2, -1)), b.unflatten(1, (2, -1))], 2).flatten(1, 2)
            for a, b in zip(shared[:2], mixed[:2], strict=True)
        ]
        return beside[0], beside[1], torch.cat([shared[2], mixed[2]], 2)  # values of both, then gates of both
