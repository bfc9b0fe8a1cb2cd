"""The renderer's denoiser: a diffusers UNet over pictures as cells, attending to the portrait and over time, its feed-forwards guided experts.

B frames (runs of T that follow each other), h x w cells of f x f pixels with C values each, R regions, M reference tokens of width D.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional

from stereotalker.render.codec import PixelCodec, VaeCodec
from stereotalker.render.experts import Guidance, PriorGuidedExperts
from stereotalker.smplx_layout import REGIONS


@dataclass(frozen=True)
class DenoiserConfig:
    pretrained: (
        str | None
    )  # Stable Diffusion 1.5 or of its kind, by hub id or folder, in place of channels and reference_width
    patch: int
    channels: tuple[int, ...]
    heads: int
    reference_width: int
    view_experts: int
    experts: str  # a key of experts.EXPERTS


@dataclass(frozen=True)
class Conditions:
    """What the network sees besides the noisy picture, made once a batch of frames."""

    base: torch.Tensor  # f32 [B, C, h, w] the warp as cells: the network predicts what to add to it
    maps: torch.Tensor  # f32 [B, _, h, w] warp, visibility, normals, plate, region shares
    regions: torch.Tensor  # i64 [B, h, w] strongest region of every cell
    view: torch.Tensor  # f32 [B, 2] azimuth and elevation, rad
    reference: torch.Tensor  # f32 [B, M, D]
    frames: int  # T


class ReferenceNetwork(nn.Module):
    """Portrait -> tokens that every block may attend to; runs once an avatar."""

    def __init__(self, width: int, side: int = 8):
        super().__init__()
        steps = (3, width // 4, width // 2, width, width)
        layers: list[nn.Module] = []
        for into, out in zip(steps, steps[1:], strict=False):
            layers += [nn.Conv2d(into, out, 3, 2, 1), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.seen = side * 2 ** (len(steps) - 1)  # px
        self.position = nn.Parameter(torch.randn(1, side * side, width) * 0.02)
        self.norm = nn.LayerNorm(width)

    def forward(self, portrait_B3HW: torch.Tensor) -> torch.Tensor:
        """Portrait in -1..1, any size -> f32 [B, M, D]."""
        small = functional.interpolate(portrait_B3HW, (self.seen, self.seen), mode="bilinear", antialias=True)
        return self.norm(self.layers(small).flatten(2).transpose(1, 2) + self.position)


class TemporalAttention(nn.Module):
    """A spatial transformer, then attention of every place over the frames that follow each other (Guo et al. 2023, AnimateDiff)."""

    def __init__(self, spatial: nn.Module, width: int, heads: int, guidance: Guidance):
        super().__init__()
        self.spatial, self.guidance = spatial, guidance
        self.norm = nn.LayerNorm(width)
        self.time = Attention(width, heads=heads, dim_head=width // heads)
        nn.init.zeros_(self.time.to_out[0].weight)
        nn.init.zeros_(self.time.to_out[0].bias)

    def forward(self, hidden_BCHW: torch.Tensor, *args, **options) -> tuple[torch.Tensor]:
        x = self.spatial(hidden_BCHW, *args, **options)[0]
        B, C, H, W = x.shape
        T = self.guidance.frames
        runs = x.view(B // T, T, C, H * W).permute(0, 3, 1, 2).reshape(-1, T, C)  # (run, place), frame, channel
        change = self.time(self.norm(runs)).view(B // T, H * W, T, C).permute(0, 2, 3, 1).reshape(B, C, H, W)
        return (x + change,)


class ResnetFeedForward(nn.Module):
    """A convolution block, then a feed-forward that becomes guided experts, for a grid without transformers; at first it adds nothing."""

    def __init__(self, convolution: nn.Module):
        super().__init__()
        self.convolution, width = convolution, convolution.out_channels
        self.norm, self.ff = nn.LayerNorm(width), FeedForward(width, activation_fn="geglu")
        nn.init.zeros_(self.ff.net[2].weight)
        nn.init.zeros_(self.ff.net[2].bias)

    def forward(self, hidden_BCHW: torch.Tensor, *args, **options) -> torch.Tensor:
        x = self.convolution(hidden_BCHW, *args, **options)
        tokens = x.flatten(2).transpose(1, 2)
        return x + self.ff(self.norm(tokens)).transpose(1, 2).view_as(x)


class RenderDenoiser(nn.Module):
    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config = config
        self.codec = VaeCodec(config.pretrained) if config.pretrained else PixelCodec(config.patch)
        self.frozen = ("codec.",)  # weights that are not ours
        self.guidance = Guidance()
        seen = (
            3 * self.codec.channels + (1 + 3) * self.codec.factor**2 + len(REGIONS)
        )  # noise, warp, plate; visibility, normals; shares
        self.net = _public(config.pretrained, seen) if config.pretrained else _own(config, seen, self.codec.channels)
        self.reference = ReferenceNetwork(self.net.config.cross_attention_dim)
        nn.init.zeros_(self.net.conv_out.weight)  # training starts at the warp
        nn.init.zeros_(self.net.conv_out.bias)
        width = self.net.config.block_out_channels[-1]
        for block in (*self.net.down_blocks, self.net.mid_block, *self.net.up_blocks):
            for k, spatial in enumerate(getattr(block, "attentions", ())):
                if spatial.norm.num_channels == width:  # over time on the coarse grids alone
                    block.attentions[k] = TemporalAttention(spatial, width, config.heads, self.guidance)
        for finest in (self.net.down_blocks[0], self.net.up_blocks[-1]):
            if not getattr(finest, "attentions", ()):
                finest.resnets[-1] = ResnetFeedForward(finest.resnets[-1])
        set_experts(self.net, config.experts, config.view_experts, self.guidance)

    @property
    def multiple(self) -> int:
        """What height and width of a picture must divide by, px."""
        return self.codec.factor * 2 ** (len(self.net.config.block_out_channels) - 1)

    def forward(self, noisy: torch.Tensor, timestep: torch.Tensor | int, given: Conditions) -> torch.Tensor:
        """Clean picture as cells, f32 [B, C, h, w]."""
        self.guidance.set(given.regions, given.view, given.frames)
        stacked = torch.cat([noisy, given.maps], 1).to(memory_format=torch.channels_last)
        change = self.net(stacked, timestep, encoder_hidden_states=given.reference).sample
        return given.base + change.float()


def _own(config: DenoiserConfig, seen: int, made: int) -> UNet2DConditionModel:
    cross = len(config.channels) - 1  # attention on all grids but the finest
    return UNet2DConditionModel(
        in_channels=seen, out_channels=made, block_out_channels=config.channels, layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * cross),
        up_block_types=(*["CrossAttnUpBlock2D"] * cross, "UpBlock2D"),
        cross_attention_dim=config.reference_width, attention_head_dim=config.heads,
        only_cross_attention=(False, *[True] * (cross - 1), False),  # self-attention on the coarsest grid alone
    )  # fmt: skip


def _public(source: str, seen: int) -> UNet2DConditionModel:
    """A public UNet whose first layer sees our maps beside the noisy picture; at first it does not mind them."""
    net = UNet2DConditionModel.from_pretrained(source, subfolder="unet")
    old = net.conv_in
    net.conv_in = nn.Conv2d(seen, old.out_channels, old.kernel_size, padding=old.padding)
    with torch.no_grad():
        net.conv_in.weight.zero_()
        net.conv_in.weight[:, : old.in_channels] = old.weight
        net.conv_in.bias.copy_(old.bias)
    return net


def set_experts(net: nn.Module, kinds: str, view_experts: int, guidance: Guidance) -> None:
    """Put guided experts, up-cycled from the dense layer that is there, in place of every feed-forward."""
    for block in net.modules():
        if isinstance(block, (BasicTransformerBlock, ResnetFeedForward)):
            dense = block.ff.dense() if isinstance(block.ff, PriorGuidedExperts) else block.ff
            block.ff = PriorGuidedExperts(dense, kinds, view_experts, guidance)


def upcycled(model: RenderDenoiser, kinds: str) -> RenderDenoiser:
    """A copy of a dense model whose layers have these experts; it computes the same until it is trained on."""
    grown = deepcopy(model)
    grown.config = replace(model.config, experts=kinds)
    set_experts(grown.net, kinds, grown.config.view_experts, grown.guidance)
    return grown


def conditions(
    codec: PixelCodec | VaeCodec, warp: torch.Tensor, visibility: torch.Tensor, normals: torch.Tensor, plate: torch.Tensor,
    regions: torch.Tensor, view: torch.Tensor, reference: torch.Tensor, frames: int,
) -> Conditions:  # fmt: skip
    """Maps in 0..1 f32 [B, _, H, W], region shares f32 [B, R, H, W], view in degrees [B, 2]. H and W divide by the denoiser's multiple."""
    base, shares = codec.encode(warp), functional.avg_pool2d(regions, codec.factor)
    exact = [functional.pixel_unshuffle(2 * m - 1, codec.factor) for m in (visibility, normals)]
    # A cell that holds more than a trace of the person belongs to the person.
    strongest = torch.where(shares[:, 0] > 0.95, 0, shares[:, 1:].argmax(1) + 1)
    return Conditions(
        base,
        torch.cat([base, *exact, codec.encode(plate), shares], 1),
        strongest,
        torch.deg2rad(view),
        reference,
        frames,
    )
