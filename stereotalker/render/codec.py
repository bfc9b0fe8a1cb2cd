"""Between pictures and the cells that the denoiser works on. B pictures of H x W px, cells of `factor` px, `channels` values each."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional


class PixelCodec(nn.Module):
    """Lossless: a cell is its pixels (pixel-unshuffle, Shi et al. 2016)."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor, self.channels = factor, 3 * factor**2

    def encode(self, picture_B3HW: torch.Tensor) -> torch.Tensor:
        """Picture in 0..1 -> cells about -1..1, f32 [B, channels, h, w]."""
        return functional.pixel_unshuffle(2 * picture_B3HW - 1, self.factor)

    def decode(self, cells: torch.Tensor) -> torch.Tensor:
        return functional.pixel_shuffle(cells.float(), self.factor) / 2 + 0.5


class VaeCodec(nn.Module):
    """Latents of a public autoencoder, e.g. Stable Diffusion's, by hub id or folder. It stays as it is."""

    def __init__(self, source: str):
        super().__init__()
        self.vae = AutoencoderKL.from_pretrained(source, subfolder="vae").requires_grad_(False).eval()
        self.factor, self.channels = 2 ** (len(self.vae.config.block_out_channels) - 1), self.vae.config.latent_channels

    def encode(self, picture_B3HW: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(2 * picture_B3HW - 1).latent_dist.mean.float() * self.vae.config.scaling_factor

    def decode(self, cells: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(cells / self.vae.config.scaling_factor).sample.float() / 2 + 0.5
