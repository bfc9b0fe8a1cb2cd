"""Stage `ablation`: the same dense denoiser with other experts or none, trained as `render` does, for comparison."""

from __future__ import annotations

from stereotalker.params import Params
from stereotalker.render.denoiser import read_denoiser, upcycle
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.denoiser_inputs import denoiser_inputs
from stereotalker.stages.inputs import checkpoint
from stereotalker.stages.paths import ABLATED, DENSE, PEOPLE, WEIGHTS
from stereotalker.training.renderer import train_denoiser
from stereotalker.weights import save_weights, weights_file


def run(params: Params, log: Log) -> None:
    """Train one denoiser for each kind of experts."""
    section, inputs = params.render, denoiser_inputs(params)
    data = [PEOPLE / "train", weights_file("masks", WEIGHTS), DENSE]
    for kinds in params.ablation.experts:
        model = upcycle(read_denoiser(DENSE), kinds)
        start = checkpoint("ablation", kinds, [section, params.body, params.people], data)
        trained = train_denoiser(model, *inputs, section.scheduler, section.training, log.part(kinds), start)
        save_weights(trained, ABLATED / f"{kinds}.safetensors")
        start.remove()
