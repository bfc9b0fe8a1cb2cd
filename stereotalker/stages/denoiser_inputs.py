"""What every denoiser of the renderer is trained with."""

from __future__ import annotations

from stereotalker.control.masks import MaskPredictor, read_masks
from stereotalker.params import Params
from stereotalker.stages.paths import PEOPLE, WEIGHTS
from stereotalker.training.samples import Sample, read_people


def denoiser_inputs(params: Params) -> tuple[MaskPredictor, list[Sample]]:
    """The mask predictor and the samples with which every denoiser of the renderer is trained."""
    return read_masks(WEIGHTS), read_people(PEOPLE / "train", params.body, params.people)
