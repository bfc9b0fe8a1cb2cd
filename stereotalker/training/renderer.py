"""Training of the renderer: the predicted clean picture against the truth, where people look most of all."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from stereotalker.control.masks import MaskPredictor, control_channels, one_channel, to_float
from stereotalker.diffusion.schedulers import TRAIN_TIMESTEPS, make_scheduler
from stereotalker.errors import UserError
from stereotalker.params import DenoiserTraining
from stereotalker.render.denoiser import Conditions, RenderDenoiser, conditions
from stereotalker.render.renderer import composite, composite_seen_pixels
from stereotalker.runtime.device import autocast, device
from stereotalker.smplx_layout import REGIONS
from stereotalker.training.crops import Crops, draw_crops
from stereotalker.training.loop import Log, fit
from stereotalker.training.samples import Sample

_WEIGHTS = {
    "background": 1.0,
    "hair": 1.0,
    "face": 2.5,
    "mouth": 6.0,
    "torso": 1.0,
    "arms": 1.3,
    "hands": 3.0,
    "legs": 1.0,
}
_PURE_NOISE = 0.85  # share of training at the noise that sampling begins with
_SQUARES, _EDGES = 3.0, 0.5  # weight of squared differences, and of differences of neighbours, beside the absolute ones
# Weight of differences of 4 x 4 px means: what a thread of cloth does nobody can foretell, how light the cloth is they can.
_COARSE, _COARSE_PX = 2.0, 4


def train_denoiser(
    model: RenderDenoiser,
    masks: MaskPredictor,
    people: list[Sample],
    scheduler: str,
    options: DenoiserTraining,
    log: Log,
    checkpoint: Path,
) -> RenderDenoiser:
    """Train a denoiser on crops of people. Raises UserError where crops are no whole cells."""
    if options.crop % model.multiple:
        raise UserError(
            f"a training crop of {options.crop} px; expected a multiple of {model.multiple}, which the denoiser's grids ask for"
        )
    model, masks = (net.to(device(), memory_format=torch.channels_last) for net in (model, masks))
    draw = partial(draw_crops, people, runs=options.batch, frames=options.run, size=options.crop)
    fit(model, training_loss(model, masks, scheduler), options, checkpoint, log, draw=draw)
    return model


def training_loss(model: RenderDenoiser, masks: MaskPredictor, scheduler: str):
    """loss(crops) at a random noise level."""
    schedule, weights = (
        make_scheduler(scheduler),
        torch.tensor([_WEIGHTS[name] for name in REGIONS], device=masks.net.device),
    )

    def loss(crops: Crops) -> torch.Tensor:
        crops = crops.to(weights.device)
        given, shares = _given(model, masks, crops)
        image = to_float(crops.image)
        clean = model.codec.encode(image)
        runs = len(clean) // crops.frames
        t = torch.randint(TRAIN_TIMESTEPS, (runs,))
        t = (
            torch.where(torch.rand(runs) < _PURE_NOISE, TRAIN_TIMESTEPS - 1, t)
            .repeat_interleave(crops.frames)
            .to(clean.device)
        )
        noise = (
            torch.randn(runs, *clean.shape[1:]).repeat_interleave(crops.frames, 0).to(clean.device)
        )  # in clips it hardly changes from frame to frame
        with autocast(clean.device.type):
            cells = model(schedule.add_noise(clean, noise, t), t, given)
        picture = composite_seen_pixels(model.codec.decode(cells), to_float(crops.warp), one_channel(crops.visibility))
        off = composite(picture, to_float(crops.plate), shares) - image
        weight = weights[crops.regions.long()][:, None]
        coarse = functional.avg_pool2d(weight, _COARSE_PX) * functional.avg_pool2d(off, _COARSE_PX).abs()
        return 4 * ((weight * (off.abs() + _SQUARES * off**2 + _EDGES * _steps(off))).mean() + _COARSE * coarse.mean())

    return loss


def _given(model: RenderDenoiser, masks: MaskPredictor, crops: Crops) -> tuple[Conditions, torch.Tensor]:
    kind = crops.image.device.type
    with (
        torch.no_grad(),
        autocast(kind),
    ):  # without `predict`'s rule for the body's inside, which changes next to nothing on synthetic people
        shares = (
            masks(control_channels(crops.labels, crops.warp, crops.visibility, crops.normals, crops.plate))
            .float()
            .softmax(1)
        )
    with autocast(kind):  # a run's frames have one portrait
        tokens = model.reference(2 * to_float(crops.portrait) - 1).float().repeat_interleave(crops.frames, 0)
    maps = (to_float(crops.warp), one_channel(crops.visibility), to_float(crops.normals), to_float(crops.plate), shares)
    return conditions(model.codec, *maps, crops.angles, tokens, crops.frames), shares


def _steps(x: torch.Tensor) -> torch.Tensor:
    """Absolute differences to the right and lower neighbour, summed; the shape is kept."""
    right = functional.pad((x[..., 1:] - x[..., :-1]).abs(), (0, 1))
    lower = functional.pad((x[..., 1:, :] - x[..., :-1, :]).abs(), (0, 0, 0, 1))
    return right + lower
