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
from torch import nn
from torch.nn import functional

from stereotalker.control.cells import to_cells
from stereotalker.control.filters import max_filter
from stereotalker.diffusion.diffusers_classes import UNet2DModel
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

    multiple = 1  # the upper left corner of a part of a picture must lie on multiples of this, px

    @abstractmethod
    def predict(self, control: Control, is_inner: torch.Tensor | None = None) -> torch.Tensor:
        """Region probabilities of every frame, f32 [T, R, H, W]; they sum to one over the regions.

        is_inner bool [T, H, W]: `inner_body`, which a part of a picture needs from the whole one; None: that of
        `control`.
        """


class MaskPredictor(RegionMasks):
    """UNet from control maps to region logits. It predicts a correction of the body's own labels."""

    def __init__(self, config: MaskConfig):
        super().__init__()
        self.config = config
        self.multiple = config.patch * 2 ** (len(config.channels) - 1)
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

    def forward(self, cells: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Control maps f32 [B, C, h, w], see `control_cells`, of pictures of this size (H, W) -> f32 [B, R, H, W]."""
        # The body's own label is the starting point of the prediction.
        logits = self.net(cells, 0).sample.float() + 4.0 * cells[:, : len(REGIONS) * self.config.patch**2]
        return functional.pixel_shuffle(logits, self.config.patch)[..., : size[0], : size[1]]

    @torch.inference_mode()
    def predict(self, control: Control, is_inner: torch.Tensor | None = None) -> torch.Tensor:
        device = self.net.device
        cells = control_cells(
            control.labels, control.warp, control.visibility, control.normals, control.plate, self.config, device
        )
        with autocast(device.type):
            logits = self(cells, control.labels.shape[1:]).float()
        logits[:, REGION["background"]].masked_fill_(
            inner_body(control.labels, device) if is_inner is None else is_inner, -torch.inf
        )
        return logits.softmax(1)


def inner_body(labels: Picture, device: Device = None) -> torch.Tensor:
    """Where a pixel lies at least _MIN_INNER_DEPTH inside the body's silhouette, bool [B, H, W]. labels u8 [B, H, W].

    There the probability of background is 0. The picture's border is no outline: the body is taken to go on beyond it.
    device None: the labels stay where they are.
    """
    is_background = torch.as_tensor(labels, device=device) == REGION["background"]
    return max_filter(is_background.float(), max(1, round(labels.shape[1] * _MIN_INNER_DEPTH))) == 0


def control_cells(
    labels: Picture,
    warp: Picture,
    visibility: Picture,
    normals: Picture,
    plate: Picture,
    config: MaskConfig,
    device: Device = None,
) -> torch.Tensor:
    """Control maps, u8 [B, H, W] or [B, H, W, 3], as the network takes them: f32 [B, C, h, w], one-hot labels first.

    The values are in 0..1, but those of the last three maps, warp minus plate, in -1..1. The lower and right edges of
    the pictures are repeated as far as the network's grids ask for. device None: the maps stay where they are.
    """
    patch, multiple = config.patch, config.patch * 2 ** len(config.channels)

    def cells(picture: Picture) -> torch.Tensor:
        """A picture as u8 cells [B, h, w, _ p p]."""
        x = torch.as_tensor(picture, device=device)
        B, H, W = x.shape[:3]
        rows, columns = (
            torch.arange(-(-side // multiple) * multiple, device=x.device).clamp_max(side - 1) for side in (H, W)
        )
        if len(rows) > H or len(columns) > W:
            x = x[:, rows[:, None], columns]
        return to_cells(x.reshape(B, len(rows), len(columns), -1), patch)

    label_cells = cells(labels)[..., None, :]
    one_hot = label_cells == torch.arange(len(REGIONS), dtype=torch.uint8, device=label_cells.device)[:, None]
    colors, wall = cells(warp).float() / 255, cells(plate).float() / 255
    others = [cells(m).float() / 255 for m in (visibility, normals)]
    return torch.cat([one_hot.flatten(-2), colors, *others, colors - wall], -1).permute(0, 3, 1, 2)


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


def read_masks(folder: Path = FOLDER, data: bytes | None = None) -> MaskPredictor:
    """The mask predictor, in evaluation mode.

    data: the bytes of the file, if they are read already. Raises UserError if the weights are missing or do not match.
    """
    return load_weights(MaskPredictor, MaskConfig, weights_file("masks", folder), data)
