"""Stage `finish`: the last training of the denoiser, on people and photographs, against a critic of patches."""

from __future__ import annotations

from functools import partial

from stereotalker.params import Params
from stereotalker.render.denoiser import read_denoiser
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.denoiser_inputs import denoiser_inputs
from stereotalker.stages.inputs import checkpoint, seeded
from stereotalker.stages.paths import EXPERTS, PEOPLE, PHOTOGRAPHS, WEIGHTS
from stereotalker.training.critic import PatchCritic
from stereotalker.training.crops import draw_mixed
from stereotalker.training.photographs import read_photographs
from stereotalker.training.renderer import finish_denoiser
from stereotalker.weights import save_weights, weights_file


def run(params: Params, log: Log) -> None:
    """Train the denoiser with experts further."""
    section, training = params.finish, params.finish.training
    model, critic = read_denoiser(EXPERTS), seeded(training, PatchCritic)
    predictor, samples = denoiser_inputs(params)
    draw = partial(
        draw_mixed,
        samples,
        read_photographs(PHOTOGRAPHS / "train"),
        params.photographs.share,
        runs=training.batch,
        frames=training.run,
        size=training.crop,
    )
    data = [PEOPLE / "train", PHOTOGRAPHS / "train", weights_file("masks", WEIGHTS), EXPERTS]
    start = checkpoint(
        "finish", "finish", [section, params.render, params.body, params.people, params.photographs], data
    )
    finish_denoiser(model, critic, predictor, draw, params.render.scheduler, section, log, start)
    save_weights(model, weights_file("render", WEIGHTS))
    start.remove()
