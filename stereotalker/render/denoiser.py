"""The renderer's denoiser: a diffusers UNet over pixel-unshuffled pictures, its feed-forwards replaced by guided experts.

B frames, h x w cells of p x p pixels, R regions, M reference tokens of width D. Pictures are in -1..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import nn
from torch.nn import functional

from stereotalker.body.layout import REGIONS
from stereotalker.render.experts import Guidance, PriorGuidedExperts


@dataclass(frozen=True)
class DenoiserConfig:
    patch: int
    channels: tuple[int, ...]
    heads: int
    reference_width: int
    view_experts: int


@dataclass(frozen=True)
class Conditions:
    """What the network sees besides the noisy picture, made once a batch of frames."""

    base: torch.Tensor  # f32 [B, 3p², h, w] the warp as cells: the network predicts what to add to it
    maps: torch.Tensor  # f32 [B, C, h, w] warp, visibility, normals, plate, region shares
    regions: torch.Tensor  # i64 [B, h, w] strongest region of every cell
    view: torch.Tensor  # f32 [B, 2] azimuth and elevation, rad
    reference: torch.Tensor  # f32 [B, M, D]


class ReferenceNetwork(nn.Module):
    """Portrait -> tokens that every block may attend to; runs once an avatar."""

    def __init__(self, width: int, side: int = 8):
        super().__init__()
        steps = (3, width // 4, width // 2, width, width)
        layers: list[nn.Module] = []
        for into, out in zip(steps, steps[1:], strict=False):
            layers += [nn.Conv2d(into, out, 3, 2, 1), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(side))
        self.position = nn.Parameter(torch.randn(1, side * side, width) * 0.02)
        self.norm = nn.LayerNorm(width)

    def forward(self, portrait_B3HW: torch.Tensor) -> torch.Tensor:
        """Portrait in -1..1, any size -> f32 [B, M, D]."""
        small = functional.interpolate(portrait_B3HW, (128, 128), mode="bilinear", antialias=True)
        return self.norm(self.layers(small).flatten(2).transpose(1, 2) + self.position)


class RenderDenoiser(nn.Module):
    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config = config
        cells = config.patch**2
        self.guidance = Guidance()
        self.reference = ReferenceNetwork(config.reference_width)
        cross = len(config.channels) - 1  # attention on all grids but the finest
        self.net = UNet2DConditionModel(
            in_channels=(3 + 3 + 1 + 3 + 3) * cells + len(REGIONS), out_channels=3 * cells,
            block_out_channels=config.channels, layers_per_block=1, norm_num_groups=8,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * cross),
            up_block_types=(*["CrossAttnUpBlock2D"] * cross, "UpBlock2D"),
            cross_attention_dim=config.reference_width, attention_head_dim=config.heads,
            only_cross_attention=(False, *[True] * (cross - 1), False),  # self-attention on the coarsest grid alone
        )  # fmt: skip
        for block in self.net.modules():
            if isinstance(block, BasicTransformerBlock):
                width = block.norm3.normalized_shape[0]
                block.ff = PriorGuidedExperts(width, config.view_experts, self.guidance)
        nn.init.zeros_(self.net.conv_out.weight)  # training starts at the warp
        nn.init.zeros_(self.net.conv_out.bias)

    def forward(self, noisy: torch.Tensor, timestep: torch.Tensor | int, given: Conditions) -> torch.Tensor:
        """Clean picture as cells, f32 [B, 3p², h, w]."""
        self.guidance.regions_BHW, self.guidance.view_B2 = given.regions, given.view
        stacked = torch.cat([noisy, given.maps], 1).to(memory_format=torch.channels_last)
        change = self.net(stacked, timestep, encoder_hidden_states=given.reference).sample
        return given.base + change.float()


def conditions(
    warp: torch.Tensor, visibility: torch.Tensor, normals: torch.Tensor, plate: torch.Tensor, regions: torch.Tensor,
    view: torch.Tensor, reference: torch.Tensor, patch: int,
) -> Conditions:  # fmt: skip
    """Maps in 0..1 f32 [B, C, H, W], region shares f32 [B, R, H, W], view in degrees [B, 2]. H and W divide by patch."""
    cells = [functional.pixel_unshuffle(2 * m - 1, patch) for m in (warp, visibility, normals, plate)]
    shares = functional.avg_pool2d(regions, patch)
    # A cell that holds some of the person belongs to the person: only pure background is skipped.
    strongest = torch.where(shares[:, 0] > 0.95, 0, shares[:, 1:].argmax(1) + 1)
    return Conditions(cells[0], torch.cat([*cells, shares], 1), strongest, torch.deg2rad(view), reference)
