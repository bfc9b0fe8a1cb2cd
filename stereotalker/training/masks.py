"""Training of the mask predictor: it learns to segment the regions of a person from the control maps."""

from __future__ import annotations

import torch
from torch.nn import functional

from stereotalker.control.masks import MaskPredictor, control_cells
from stereotalker.runtime.device import autocast
from stereotalker.smplx_layout import REGIONS
from stereotalker.training.crops import Crops


def training_loss(model: MaskPredictor):
    """A function loss(crops): cross entropy of the region labels plus half the soft intersection-over-union loss."""

    def loss(crops: Crops) -> torch.Tensor:
        crops = crops.to(model.net.device)
        truth = crops.regions.long()
        with autocast(truth.device.type):
            cells = control_cells(crops.labels, crops.warp, crops.visibility, crops.normals, crops.plate, model.config)
            logits = model(cells, truth.shape[1:]).float()
        cross_entropy = functional.cross_entropy(logits, truth, label_smoothing=0.01)
        probabilities, one_hot = logits.softmax(1), functional.one_hot(truth, len(REGIONS)).permute(0, 3, 1, 2)
        intersection = (probabilities * one_hot).sum((0, 2, 3))
        union = (probabilities + one_hot).sum((0, 2, 3)) - intersection
        # Adding 1 to both avoids a division by zero for regions that are absent from the batch.
        return cross_entropy + 0.5 * (1 - (intersection + 1) / (union + 1)).mean()

    return loss
