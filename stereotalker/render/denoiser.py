"""The renderer's denoiser: a diffusers UNet over cells that attends to the portrait and over time, with guided experts.

The feed-forward layers are prior-guided mixtures of experts, see `experts`. B: frames, in runs of T consecutive ones;
h x w cells of f x f px with C values each; R: regions; M reference tokens of width D.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from stereotalker.diffusion.diffusers_classes import (
    Attention,
    AttnProcessor,
    BasicTransformerBlock,
    FeedForward,
    ResnetBlock2D,
    UNet2DConditionModel,
)
from stereotalker.render.codec import PixelCodec, VaeCodec, as_channels
from stereotalker.render.experts import Guidance, PriorGuidedExperts
from stereotalker.smplx_layout import REGIONS
from stereotalker.store.public_models import local_folder
from stereotalker.weights import load_weights

# A UNet2DConditionModel. diffusers types neither the entries of its config nor its blocks.
UNet: TypeAlias = Any


@dataclass(frozen=True)
class DenoiserConfig:
    """Sizes of a denoiser."""

    # Hub id or folder of Stable Diffusion 1.5 or a similar model, which then replaces channels and reference_width.
    pretrained: str | None
    patch: int  # px, side of a cell of the PixelCodec
    channels: tuple[int, ...]  # of every UNet level, the finest first
    heads: int  # of every attention layer
    reference_width: int  # D
    view_experts: int  # number of view experts per layer
    experts: str  # a key of experts.EXPERTS


@dataclass(frozen=True)
class Conditions:
    """What the network gets besides the noisy picture, made once for a batch of frames."""

    base: torch.Tensor  # f32 [B, C, h, w] the warp as cells; the network predicts what to add to it
    maps: torch.Tensor  # f32 [B, _, h, w] warp, visibility, normals, plate and region probabilities, as cells
    regions: torch.Tensor  # i64 [B, h, w] most probable region of every cell
    view: torch.Tensor  # f32 [B, 2] azimuth and elevation of the camera, rad
    reference: torch.Tensor  # f32 [B, M, D] tokens of the portrait
    frames: int  # T


class ReferenceNetwork(nn.Module):
    """Turns the portrait into tokens for cross-attention; runs once per avatar."""

    def __init__(self, width: int, side: int = 8):
        super().__init__()
        widths = (3, width // 4, width // 2, width, width)
        layers: list[nn.Module] = []
        for width_in, width_out in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(width_in, width_out, 3, 2, 1), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.input_size = side * 2 ** (len(widths) - 1)  # px, height and width of what the layers see
        self.position = nn.Parameter(torch.randn(1, side * side, width) * 0.02)
        self.norm = nn.LayerNorm(width)

    def forward(self, portrait_B3HW: torch.Tensor) -> torch.Tensor:
        """Portrait f32 [B, 3, H, W] in -1..1, of any size -> f32 [B, M, D]."""
        small = functional.interpolate(
            portrait_B3HW, (self.input_size, self.input_size), mode="bilinear", antialias=True
        )
        return self.norm(self.layers(small).flatten(2).transpose(1, 2) + self.position)


class TemporalAttention(nn.Module):
    """A spatial transformer, then attention of every cell over the frames of its run (Guo et al. 2023, AnimateDiff).

    At first it adds nothing to the spatial transformer.
    """

    def __init__(self, spatial: nn.Module, width: int, heads: int, guidance: Guidance):
        super().__init__()
        self.spatial, self.guidance = spatial, guidance
        self.norm = nn.LayerNorm(width)
        self.time = Attention(width, heads=heads, dim_head=width // heads)
        _zero(self.time.to_out[0])

    def forward(self, hidden_BCHW: torch.Tensor, *args, **options) -> tuple[torch.Tensor]:
        x = self.spatial(hidden_BCHW, *args, **options)[0]
        B, C, H, W = x.shape
        T = self.guidance.frames
        runs = x.view(B // T, T, C, H * W).permute(0, 3, 1, 2).reshape(-1, T, C)  # (run, cell), frame, channel
        change = self.time(self.norm(runs)).view(B // T, H * W, T, C).permute(0, 2, 3, 1).reshape(B, C, H, W)
        return (x + change,)


class ResnetFeedForward(nn.Module):
    """A convolution block and a residual feed-forward, which `set_experts` replaces by guided experts.

    It gives experts to a level of the UNet that has no transformers. At first the feed-forward adds nothing.
    """

    def __init__(self, convolution: ResnetBlock2D):
        super().__init__()
        self.convolution, width = convolution, convolution.out_channels
        self.norm, self.ff = nn.LayerNorm(width), FeedForward(width, activation_fn="geglu")
        _zero(self.ff.net[2])

    def forward(self, hidden_BCHW: torch.Tensor, *args, **options) -> torch.Tensor:
        x = self.convolution(hidden_BCHW, *args, **options)
        tokens = x.flatten(2).transpose(1, 2)
        return x + self.ff(self.norm(tokens)).transpose(1, 2).view_as(x)


class RenderDenoiser(nn.Module):
    """Predicts the clean picture, as cells, from a noisy one and its conditions."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        self.config = config
        self.codec = VaeCodec(config.pretrained) if config.pretrained else PixelCodec(config.patch)
        # Prefixes of weights that come from a public model, and that our weight files do not contain.
        self.frozen = ("codec.",)
        self.guidance = Guidance()
        # Noisy picture, warp and plate as cells; visibility and normals as pixels of a cell; region probabilities.
        channels_in = 3 * self.codec.channels + (1 + 3) * self.codec.factor**2 + len(REGIONS)
        self.net = (
            _pretrained_unet(config.pretrained, channels_in)
            if config.pretrained
            else _new_unet(config, channels_in, self.codec.channels)
        )
        self.reference = ReferenceNetwork(self.net.config.cross_attention_dim)
        # With an output of zero, training starts at the warp.
        _zero(self.net.conv_out)
        width = self.net.config.block_out_channels[-1]
        for block in (*self.net.down_blocks, self.net.mid_block, *self.net.up_blocks):
            for k, spatial in enumerate(getattr(block, "attentions", ())):
                # Attention over time is only for the coarse grids, which are as wide as the coarsest.
                if spatial.norm.num_channels == width:
                    block.attentions[k] = TemporalAttention(spatial, width, config.heads, self.guidance)
        for finest in (self.net.down_blocks[0], self.net.up_blocks[-1]):
            if not getattr(finest, "attentions", ()):
                finest.resnets[-1] = ResnetFeedForward(finest.resnets[-1])
        set_experts(self.net, config.experts, config.view_experts, self.guidance)

    @property
    def multiple(self) -> int:
        """Height and width of a picture must be multiples of this, px."""
        return self.codec.factor * 2 ** (len(self.net.config.block_out_channels) - 1)

    def forward(self, noisy: torch.Tensor, timestep: torch.Tensor | int, conditioning: Conditions) -> torch.Tensor:
        """Noisy cells f32 [B, C, h, w] and diffusion timestep -> clean picture as cells, f32 [B, C, h, w]."""
        self.guidance.set(conditioning.regions, conditioning.view, conditioning.frames)
        stacked = torch.cat([noisy, conditioning.maps], 1).to(memory_format=torch.channels_last)
        change = self.net(stacked, timestep, encoder_hidden_states=conditioning.reference).sample
        return conditioning.base + change.float()


def _new_unet(config: DenoiserConfig, channels_in: int, channels_out: int) -> UNet:
    """A UNet with random weights: attention on all grids but the finest, self-attention on the coarsest grid alone."""
    attending = len(config.channels) - 1
    return UNet2DConditionModel(
        in_channels=channels_in,
        out_channels=channels_out,
        block_out_channels=config.channels,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * attending),
        up_block_types=(*["CrossAttnUpBlock2D"] * attending, "UpBlock2D"),
        cross_attention_dim=config.reference_width,
        attention_head_dim=config.heads,
        only_cross_attention=(False, *[True] * (attending - 1), False),
    )


def _pretrained_unet(source: str, channels_in: int) -> UNet:
    """A public UNet whose first layer takes our maps beside the noisy picture. At first it ignores them."""
    net = UNet2DConditionModel.from_pretrained(local_folder(source, "render.pretrained"), subfolder="unet")
    old = net.conv_in
    net.conv_in = nn.Conv2d(channels_in, old.out_channels, old.kernel_size, padding=old.padding)
    with torch.no_grad():
        net.conv_in.weight.zero_()
        net.conv_in.weight[:, : old.in_channels] = old.weight
        net.conv_in.bias.copy_(old.bias)
    return net


def _zero(layer: nn.Module) -> None:
    """Set a layer's weights and bias to zero, so that its output is zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def set_experts(net: nn.Module, kinds: str, view_experts: int, guidance: Guidance) -> None:
    """Replace every feed-forward of the network by guided experts that are up-cycled from it.

    kinds: a key of experts.EXPERTS. Raises UserError if a layer has experts other than the shared one already.
    """
    for block in net.modules():
        if isinstance(block, (BasicTransformerBlock, ResnetFeedForward)):
            dense = block.ff.to_dense() if isinstance(block.ff, PriorGuidedExperts) else block.ff
            block.register_module("ff", PriorGuidedExperts(dense, kinds, view_experts, guidance))


def use_plain_attention(model: RenderDenoiser) -> None:
    """Compute attention by plain matrix products, in place; the results differ by rounding.

    On a CPU and for the short sequences of a model of our own that saves 7 of 80 ms a frame of 256 px, compared with
    torch's fused attention.
    """
    for layer in model.net.modules():
        if isinstance(layer, Attention):
            layer.set_processor(AttnProcessor())


def upcycle(model: RenderDenoiser, kinds: str) -> RenderDenoiser:
    """A copy of a dense model whose layers have experts. It computes the same as the dense one until it is trained.

    kinds: a key of experts.EXPERTS. Raises UserError if the model has experts already.
    """
    result = deepcopy(model)
    result.config = replace(model.config, experts=kinds)
    set_experts(result.net, kinds, result.config.view_experts, result.guidance)
    return result


def conditions(
    codec: PixelCodec | VaeCodec,
    warp: torch.Tensor,
    visibility: torch.Tensor,
    normals: torch.Tensor,
    plate: torch.Tensor,
    regions: torch.Tensor,
    view: torch.Tensor,
    reference: torch.Tensor,
    frames: int,
) -> Conditions:
    """Make the network's conditions of a batch of frames. H and W must be multiples of the denoiser's `multiple`.

    warp, normals, plate f32 [B, 3, H, W] and visibility f32 [B, 1, H, W] in 0..1; regions f32 [B, R, H, W]: region
    probabilities; view f32 [B, 2]: azimuth and elevation, degrees; reference f32 [B, M, D]; frames: T.
    """
    base, region_probs = codec.encode(warp), functional.avg_pool2d(regions, codec.factor)
    pixel_maps = [as_channels(2 * m - 1, codec.factor) for m in (visibility, normals)]
    # A cell that holds more than a trace of the person belongs to the person.
    strongest = torch.where(region_probs[:, 0] > 0.95, 0, region_probs[:, 1:].argmax(1) + 1)
    return Conditions(
        base=base,
        maps=torch.cat([base, *pixel_maps, codec.encode(plate), region_probs], 1),
        regions=strongest,
        view=torch.deg2rad(view),
        reference=reference,
        frames=frames,
    )


def read_denoiser(file: Path, data: bytes | None = None) -> RenderDenoiser:
    """The renderer's denoiser in a file, in evaluation mode.

    data: the bytes of the file, if they are read already. Raises UserError if the weights are missing or do not match.
    """
    return load_weights(RenderDenoiser, DenoiserConfig, file, data)
