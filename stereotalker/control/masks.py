"""The mask predictor: a UNet that turns control maps into soft region masks of the clothed person in the new view.

The body's region labels lack clothes and hair; the predicted masks include them. B: frames, H x W: picture, R = 8
regions, C: channels of the control maps, p: patch. The network works on cells of p x p pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from diffusers.models import UNet2DModel
from torch import nn
from torch.nn import functional

from stereotalker.records import Control
from stereotalker.runtime.device import autocast
from stereotalker.smplx_layout import REGION, REGIONS
from stereotalker.weights import FOLDER, load_weights, weights_file

Picture: TypeAlias = np.ndarray | torch.Tensor
Device: TypeAlias = str | torch.device | None
# One-hot labels, warp, visibility, normals, and the difference of warp and background plate.
_CONTROL_CHANNELS = len(REGIONS) + 3 + 1 + 3 + 3

# Depth inside the body's silhouette, as a fraction of the picture's height, from which on there can be no background.
# Of the pixels that lie so deep, 0.1 % are background in truth, and 0.3 % if the fit of the body is wrong.
_MIN_INNER_DEPTH = 1 / 64


@dataclass(frozen=True)
class MaskConfig:
    """Sizes of a mask predictor."""

    channels: tuple[int, ...]  # of every UNet level, the finest first
    patch: int  # px, side of a cell


class RegionMasks(nn.Module, ABC):
    """A source of region masks. The renderer takes any; `MaskPredictor` is the one that is trained."""

    @abstractmethod
    def predict(self, control: Control) -> torch.Tensor:
        """Region probabilities of every frame, f32 [T, R, H, W]; they sum to one over the regions."""


class MaskPredictor(RegionMasks):
    """UNet from control maps to region logits. It predicts a correction of the body's own labels."""

    def __init__(self, config: MaskConfig):
        super().__init__()
        self.config = config
        cells = config.patch**2
        levels = len(config.channels)
        self.net = UNet2DModel(
            in_channels=_CONTROL_CHANNELS * cells,
            out_channels=len(REGIONS) * cells,
            block_out_channels=config.channels,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            layers_per_block=1,
            norm_num_groups=min(8, *config.channels),
            add_attention=False,
        )

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """Control channels f32 [B, C, H, W], see `control_channels` -> logits f32 [B, R, H, W]."""
        H, W = maps_BCHW.shape[-2:]
        cells = functional.pixel_unshuffle(
            _pad(maps_BCHW, self.config.patch * 2 ** len(self.config.channels)), self.config.patch
        )
        logits = functional.pixel_shuffle(self.net(cells, 0).sample.float(), self.config.patch)[..., :H, :W]
        # The body's own label is the starting point of the prediction.
        return logits + 4.0 * maps_BCHW[:, : len(REGIONS)]

    @torch.inference_mode()
    def predict(self, control: Control) -> torch.Tensor:
        """Region probabilities of every frame, f32 [T, R, H, W]; they sum to one over the regions.

        Well inside the body's silhouette the probability of background is exactly 0, see _MIN_INNER_DEPTH.
        """
        device = self.net.device.type
        with autocast(device):
            logits = self(
                control_channels(
                    control.labels, control.warp, control.visibility, control.normals, control.plate, device
                )
            )
        logits = logits.float()
        logits[:, REGION["background"]].masked_fill_(_inner_body_mask(control.labels, device), -torch.inf)
        return logits.softmax(1)


def _inner_body_mask(labels: Picture, device: Device) -> torch.Tensor:
    """Where a pixel lies at least _MIN_INNER_DEPTH inside the body's silhouette, bool [B, H, W]. labels u8 [B, H, W].

    The picture's border is no outline: the body is taken to go on beyond it.
    """
    radius = max(1, round(labels.shape[1] * _MIN_INNER_DEPTH))
    near_background = (torch.as_tensor(labels, device=device) == REGION["background"]).float()
    for kernel, padding in (((2 * radius + 1, 1), (radius, 0)), ((1, 2 * radius + 1), (0, radius))):
        near_background = functional.max_pool2d(near_background, kernel, 1, padding)
    return near_background == 0


def control_channels(
    labels: Picture, warp: Picture, visibility: Picture, normals: Picture, plate: Picture, device: Device = None
) -> torch.Tensor:
    """Stack control maps, u8 [B, H, W] or [B, H, W, 3], to the network's input, f32 [B, C, H, W] in 0..1.

    The last three channels, warp minus plate, are in -1..1. device None: the maps stay where they are.
    """
    one_hot = (
        functional.one_hot(torch.as_tensor(labels, device=device).long(), len(REGIONS)).permute(0, 3, 1, 2).float()
    )
    warp_B3HW, plate_B3HW = to_float(warp, device), to_float(plate, device)
    maps = [one_hot, warp_B3HW, one_channel(visibility, device), to_float(normals, device), warp_B3HW - plate_B3HW]
    return torch.cat(maps, 1).to(memory_format=torch.channels_last)


def to_float(image: Picture, device: Device = None) -> torch.Tensor:
    """Convert a picture u8 [B, H, W, 3] to f32 [B, 3, H, W] in 0..1. device None: it stays where it is."""
    return torch.as_tensor(image, device=device).permute(0, 3, 1, 2).float() / 255


def one_channel(mask: Picture, device: Device = None) -> torch.Tensor:
    """Convert a mask u8 [B, H, W] to f32 [B, 1, H, W] in 0..1. device None: it stays where it is."""
    return torch.as_tensor(mask, device=device)[:, None].float() / 255


def region_iou(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Intersection over union of every region, over all frames together. predicted and truth: u8 [N, H, W].

    Regions that appear in neither are left out of the result.
    """
    scores = {}
    for index, name in enumerate(REGIONS):
        in_prediction, in_truth = predicted == index, truth == index
        if union := (in_prediction | in_truth).sum():
            scores[name] = float((in_prediction & in_truth).sum() / union)
    return scores


def _pad(maps: torch.Tensor, multiple: int) -> torch.Tensor:
    """Repeat the bottom and right edges of maps [B, C, H, W] until height and width are multiples of `multiple`."""
    H, W = maps.shape[-2:]
    bottom, right = -H % multiple, -W % multiple
    return functional.pad(maps, (0, right, 0, bottom), mode="replicate") if bottom or right else maps


def read_masks(folder: Path = FOLDER, data: bytes | None = None) -> MaskPredictor:
    """The mask predictor, in evaluation mode.

    data: the bytes of the file, if they are read already. Raises UserError if the weights are missing or do not match.
    """
    return load_weights(MaskPredictor, MaskConfig, weights_file("masks", folder), data)
