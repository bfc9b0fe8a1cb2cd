"""Stage `render`: the denoiser with experts."""

from __future__ import annotations

from stereotalker.params import Params
from stereotalker.render.denoiser import read_denoiser, upcycle
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.denoiser_inputs import denoiser_inputs
from stereotalker.stages.inputs import checkpoint
from stereotalker.stages.paths import DENSE, EXPERTS, PEOPLE, WEIGHTS
from stereotalker.training.renderer import train_denoiser
from stereotalker.weights import save_weights, weights_file


def run(params: Params, log: Log) -> None:
    """Add experts to the dense denoiser and train it further."""
    section = params.render
    model = upcycle(read_denoiser(DENSE), section.experts)
    data = [PEOPLE / "train", weights_file("masks", WEIGHTS), DENSE]
    start = checkpoint("render", "render", [section, params.body, params.people], data)
    inputs = denoiser_inputs(params)
    save_weights(train_denoiser(model, *inputs, section.scheduler, section.training, log, start), EXPERTS)
    start.remove()
