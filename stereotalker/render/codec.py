"""Codecs between pictures and the cells that the denoiser works on.

B pictures of H x W px; h x w cells of `factor` x `factor` px, with `channels` values each.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from stereotalker.control.cells import to_cells
from stereotalker.diffusion.diffusers_classes import AutoencoderKL
from stereotalker.store.public_models import local_folder


def as_channels(picture: torch.Tensor, factor: int) -> torch.Tensor:
    """A picture [B, C, H, W] as cells [B, C factor^2, H / factor, W / factor], which lie in memory channels last."""
    return to_cells(picture.permute(0, 2, 3, 1), factor).permute(0, 3, 1, 2)


class PixelCodec(nn.Module):
    """A lossless codec: a cell holds its pixels (pixel-unshuffle, Shi et al. 2016). It has no weights."""

    is_local = True  # a part of a picture has the same cells as in the whole picture

    def __init__(self, factor: int):
        super().__init__()
        self.factor, self.channels = factor, 3 * factor**2

    def encode(self, picture_B3HW: torch.Tensor) -> torch.Tensor:
        """Picture f32 [B, 3, H, W] in 0..1 -> cells f32 [B, channels, h, w] in -1..1. H and W divide by `factor`."""
        return as_channels(2 * picture_B3HW - 1, self.factor)

    def decode(self, cells: torch.Tensor) -> torch.Tensor:
        """Cells [B, channels, h, w] -> picture f32 [B, 3, H, W], 0..1 where the cells are in -1..1."""
        return functional.pixel_shuffle(cells.float(), self.factor) / 2 + 0.5


class VaeCodec(nn.Module):
    """Latents of a public autoencoder, for example Stable Diffusion's, given by hub id or folder. It is not trained."""

    is_local = False
    computes_in_float32 = True

    def __init__(self, source: str):
        super().__init__()
        folder = local_folder(source, "render.pretrained")
        self.vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").requires_grad_(False).eval()
        self.factor, self.channels = 2 ** (len(self.vae.config.block_out_channels) - 1), self.vae.config.latent_channels

    def encode(self, picture_B3HW: torch.Tensor) -> torch.Tensor:
        """Picture f32 [B, 3, H, W] in 0..1 -> scaled means of the latents, f32 [B, channels, h, w]."""
        return self.vae.encode(2 * picture_B3HW - 1).latent_dist.mean.float() * self.vae.config.scaling_factor

    def decode(self, cells: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, channels, h, w] -> picture f32 [B, 3, H, W], about 0..1."""
        return self.vae.decode(cells / self.vae.config.scaling_factor).sample.float() / 2 + 0.5
