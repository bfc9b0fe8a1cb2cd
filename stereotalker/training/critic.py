"""A critic of patches, which learns to tell drawn pixels from true ones while the renderer learns to deceive it.

A loss of differences alone makes the renderer draw the mean of all that could be there, which looks blurred. The critic
judges patches of 38 px (Isola et al. 2017, PatchGAN). B pictures of S x S px.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

_WIDTHS = (48, 96, 128)
_CELL_PX = 2 ** len(_WIDTHS)  # side of the cells that are judged


class PatchCritic(nn.Module):
    """Judges every cell of a picture, given the warp and its visibility: above 0 is true, below 0 is drawn."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        width = 3 + 3 + 1
        for wider in _WIDTHS:
            layers += [spectral_norm(nn.Conv2d(width, wider, 4, 2, 1)), nn.LeakyReLU(0.2)]
            width = wider
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, 1, 3, 1, 1)))

    def forward(self, picture: torch.Tensor, warp: torch.Tensor, visibility: torch.Tensor) -> torch.Tensor:
        """Pictures and warps f32 [B, 3, S, S] and visibility f32 [B, 1, S, S] in 0..1 -> f32 [B, 1, S / 8, S / 8]."""
        return self.layers(2 * torch.cat([picture, warp, visibility], 1) - 1)


def critic_losses(
    critic: PatchCritic, drawn: torch.Tensor, image: torch.Tensor, warp: torch.Tensor, visibility: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The renderer's loss, whose gradient does not reach the critic, and the critic's, which does not reach `drawn`.

    drawn, image and warp f32 [B, 3, S, S], visibility f32 [B, 1, S, S], in 0..1. Where a pixel of `drawn` equals
    `image`, there is nothing to judge: only cells that hold another pixel count. Hinge losses (Lim and Ye 2017).
    """
    differs = (drawn.detach() != image).any(1, keepdim=True).float()
    weight = functional.max_pool2d(differs, _CELL_PX)
    weight = weight / weight.sum().clamp_min(1)
    critic.requires_grad_(False)
    renderer_loss = -(weight * critic(drawn, warp, visibility).float()).sum()
    critic.requires_grad_(True)
    judged_drawn = critic(drawn.detach(), warp, visibility).float()
    judged_true = critic(image, warp, visibility).float()
    critic_loss = (weight * (functional.relu(1 + judged_drawn) + functional.relu(1 - judged_true))).sum()
    return renderer_loss, critic_loss
