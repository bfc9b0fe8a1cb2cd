"""Stage `masks`: the mask predictor."""

from __future__ import annotations

from functools import partial

from stereotalker.control.masks import MaskConfig, MaskPredictor
from stereotalker.params import Params
from stereotalker.runtime.device import to_channels_last, training_device
from stereotalker.runtime.stage_log import Log
from stereotalker.stages.inputs import checkpoint, seeded
from stereotalker.stages.paths import PEOPLE, PHOTOGRAPHS, WEIGHTS
from stereotalker.training.crops import draw_mixed
from stereotalker.training.loop import fit
from stereotalker.training.masks import training_loss
from stereotalker.training.photographs import read_photographs
from stereotalker.training.samples import read_people
from stereotalker.weights import save_weights, weights_file


def run(params: Params, log: Log) -> None:
    """Train the mask predictor on people and photographs."""
    section, folders = params.masks, [PEOPLE / "train", PHOTOGRAPHS / "train"]
    model = seeded(section.training, lambda: MaskPredictor(MaskConfig(tuple(section.channels), params.render.patch)))
    people, pictures = read_people(folders[0], params.body, params.people), read_photographs(folders[1])
    model = to_channels_last(model, training_device())
    draw = partial(
        draw_mixed, people, pictures, params.photographs.share, runs=section.training.batch, frames=1, size=section.crop
    )
    start = checkpoint(
        "masks", "masks", [section, params.render, params.body, params.people, params.photographs], folders
    )
    fit(model, training_loss(model), section.training, start, log, draw=draw)
    save_weights(model, weights_file("masks", WEIGHTS))
    start.remove()
