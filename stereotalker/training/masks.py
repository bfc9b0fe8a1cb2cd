"""Training of the mask predictor."""

from __future__ import annotations

import torch
from torch.nn import functional

from stereotalker.control.masks import MaskPredictor, control_channels
from stereotalker.runtime.device import autocast
from stereotalker.smplx_layout import REGIONS
from stereotalker.training.crops import Crops


def training_loss(model: MaskPredictor):
    """loss(crops): cross entropy plus soft intersection over union."""

    def loss(crops: Crops) -> torch.Tensor:
        crops = crops.to(model.net.device)
        truth = crops.regions.long()
        with autocast(truth.device.type):
            logits = model(
                control_channels(crops.labels, crops.warp, crops.visibility, crops.normals, crops.plate)
            ).float()
        entropy = functional.cross_entropy(logits, truth, label_smoothing=0.01)
        share, one_hot = logits.softmax(1), functional.one_hot(truth, len(REGIONS)).permute(0, 3, 1, 2)
        overlap = (share * one_hot).sum((0, 2, 3))
        union = (share + one_hot).sum((0, 2, 3)) - overlap
        return entropy + 0.5 * (1 - (overlap + 1) / (union + 1)).mean()

    return loss
