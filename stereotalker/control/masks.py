"""Mask predictor: control maps of the body and the portrait -> soft regions of the clothed, haired person in the new view.

B frames, H x W picture, R = 8 regions, p codec patch: the network works on cells of p x p pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import nn
from torch.nn import functional

from stereotalker.records import Control
from stereotalker.runtime.device import autocast
from stereotalker.smplx_layout import REGION, REGIONS

Picture, Device = np.ndarray | torch.Tensor, str | torch.device | None
_CONTROL_CHANNELS = len(REGIONS) + 3 + 1 + 3 + 3  # labels, warp, visibility, normals, warp less background

# Of the picture's height: so deep in the body's outline background is ruled out. It is 0.1 % of the pixels there, with wrong fits 0.3 %.
_OUTLINE_OFF = 1 / 64


@dataclass(frozen=True)
class MaskConfig:
    channels: tuple[int, ...]
    patch: int


class MaskPredictor(nn.Module):
    def __init__(self, config: MaskConfig):
        super().__init__()
        self.config = config
        cells = config.patch**2
        levels = len(config.channels)
        self.net = UNet2DModel(
            in_channels=_CONTROL_CHANNELS * cells, out_channels=len(REGIONS) * cells, block_out_channels=config.channels,
            down_block_types=("DownBlock2D",) * levels, up_block_types=("UpBlock2D",) * levels, layers_per_block=1,
            norm_num_groups=min(8, *config.channels), add_attention=False,
        )  # fmt: skip

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """Control channels in 0..1 -> logits f32 [B, R, H, W]."""
        H, W = maps_BCHW.shape[-2:]
        cells = functional.pixel_unshuffle(
            _pad(maps_BCHW, self.config.patch * 2 ** len(self.config.channels)), self.config.patch
        )
        logits = functional.pixel_shuffle(self.net(cells, 0).sample.float(), self.config.patch)[..., :H, :W]
        return logits + 4.0 * maps_BCHW[:, : len(REGIONS)]  # the body's own label is the first guess

    @torch.inference_mode()
    def predict(self, control: Control) -> torch.Tensor:
        """Region probabilities of every frame, f32 [T, R, H, W], sums to one. Well inside the body's outline there is no background."""
        device = self.net.device.type
        with autocast(device):
            logits = self(
                control_channels(
                    control.labels, control.warp, control.visibility, control.normals, control.plate, device
                )
            )
        logits = logits.float()
        logits[:, REGION["background"]].masked_fill_(_well_inside(control.labels, device), -torch.inf)
        return logits.softmax(1)


def _well_inside(labels: Picture, device: Device) -> torch.Tensor:
    """Where the body's labels u8 [B, H, W] are _OUTLINE_OFF inside its outline, bool [B, H, W]. Beyond the picture the body goes on."""
    reach = max(1, round(labels.shape[1] * _OUTLINE_OFF))
    near = (torch.as_tensor(labels, device=device) == REGION["background"]).float()
    for kernel, padding in (((2 * reach + 1, 1), (reach, 0)), ((1, 2 * reach + 1), (0, reach))):
        near = functional.max_pool2d(near, kernel, 1, padding)
    return near == 0


def control_channels(
    labels: Picture, warp: Picture, visibility: Picture, normals: Picture, plate: Picture, device: Device = None
) -> torch.Tensor:
    """u8 maps [B, H, W(, 3)] -> f32 [B, C, H, W], on a device; None: where the maps are."""
    one_hot = (
        functional.one_hot(torch.as_tensor(labels, device=device).long(), len(REGIONS)).permute(0, 3, 1, 2).float()
    )
    warp_B3HW, plate_B3HW = to_float(warp, device), to_float(plate, device)
    maps = [one_hot, warp_B3HW, one_channel(visibility, device), to_float(normals, device), warp_B3HW - plate_B3HW]
    return torch.cat(maps, 1).to(memory_format=torch.channels_last)


def to_float(image: Picture, device: Device = None) -> torch.Tensor:
    """u8 [B, H, W, 3] -> f32 [B, 3, H, W] in 0..1."""
    return torch.as_tensor(image, device=device).permute(0, 3, 1, 2).float() / 255


def one_channel(mask: Picture, device: Device = None) -> torch.Tensor:
    """u8 [B, H, W] -> f32 [B, 1, H, W] in 0..1."""
    return torch.as_tensor(mask, device=device)[:, None].float() / 255


def region_iou(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Intersection over union of every region over all given frames, u8 [N, H, W] each; regions absent from both are left out."""
    found = {}
    for index, name in enumerate(REGIONS):
        p, t = predicted == index, truth == index
        if union := (p | t).sum():
            found[name] = float((p & t).sum() / union)
    return found


def _pad(maps: torch.Tensor, multiple: int) -> torch.Tensor:
    H, W = maps.shape[-2:]
    bottom, right = -H % multiple, -W % multiple
    return functional.pad(maps, (0, right, 0, bottom), mode="replicate") if bottom or right else maps
