"""Stage `dense`: the renderer's denoiser without experts. `render` and `ablation` continue from it."""

from __future__ import annotations

from stereotalker.params import Params
from stereotalker.render.denoiser import DenoiserConfig, RenderDenoiser
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.denoiser_inputs import denoiser_inputs
from stereotalker.stages.inputs import checkpoint, seeded
from stereotalker.stages.paths import DENSE, PEOPLE, WEIGHTS
from stereotalker.training.renderer import train_denoiser
from stereotalker.weights import save_weights, weights_file


def run(params: Params, log: Log) -> None:
    """Train the denoiser."""
    section, options = params.render, params.dense.training
    config = DenoiserConfig(
        section.pretrained,
        section.patch,
        tuple(section.channels),
        section.heads,
        section.reference_width,
        section.view_experts,
        "none",
    )
    model = seeded(options, lambda: RenderDenoiser(config))
    data = [PEOPLE / "train", weights_file("masks", WEIGHTS)]
    start = checkpoint("dense", "dense", [params.dense, section, params.body, params.people], data)
    save_weights(train_denoiser(model, *denoiser_inputs(params), section.scheduler, options, log, start), DENSE)
    start.remove()
