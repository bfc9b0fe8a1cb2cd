"""Training of the renderer: the predicted clean picture against the truth, where people look most of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from stereotalker.body.layout import REGIONS
from stereotalker.control.masks import MaskPredictor, control_channels, to_float
from stereotalker.diffusion.schedule import TRAIN_TIMESTEPS, make_scheduler
from stereotalker.errors import UserError
from stereotalker.params import Lesson, RenderParams
from stereotalker.people.crops import Crops, draw_crops
from stereotalker.render.denoiser import Conditions, RenderDenoiser, conditions, upcycled
from stereotalker.render.renderer import composite, one_channel, painted
from stereotalker.training import Log, autocast, fit

_WEIGHTS = {"background": 1.0, "hair": 1.0, "face": 2.5, "mouth": 6.0, "torso": 1.0, "arms": 1.3, "hands": 3.0, "legs": 1.0}
_PURE_NOISE = 0.85  # share of training at the noise that sampling begins with
_SQUARES, _EDGES = 3.0, 0.5  # weight of squared differences, and of differences of neighbours, beside the absolute ones
# Weight of differences of 4 x 4 px means: what a thread of cloth does nobody can foretell, how light the cloth is they can.
_COARSE, _COARSE_PX = 2.0, 4


def training_loss(model: RenderDenoiser, masks: MaskPredictor, people: list, scheduler: str, lesson: Lesson):
    """loss(rng) on a batch of crops, at a random noise level. Raises UserError where crops are no whole cells."""
    if lesson.crop % model.multiple:
        raise UserError(f"a training crop of {lesson.crop} px; expected a multiple of {model.multiple}, which the denoiser's grids ask for")
    schedule = make_scheduler(scheduler)
    weights = torch.tensor([_WEIGHTS[name] for name in REGIONS])

    def loss(rng: np.random.Generator) -> torch.Tensor:
        crops = draw_crops(people, rng, lesson.training.batch, lesson.run, lesson.crop)
        given, shares = _given(model, masks, crops)
        image = to_float(crops.image)
        clean = model.codec.encode(image)
        t = rng.integers(0, TRAIN_TIMESTEPS, lesson.training.batch)
        t = torch.from_numpy(np.where(rng.random(len(t)) < _PURE_NOISE, TRAIN_TIMESTEPS - 1, t).repeat(lesson.run))
        noise = torch.from_numpy(rng.standard_normal((lesson.training.batch, *clean.shape[1:]), np.float32))
        noise = noise.repeat_interleave(lesson.run, 0)  # in clips it hardly changes from frame to frame
        with autocast():
            cells = model(schedule.add_noise(clean, noise, t), t, given)
        picture = painted(model.codec.decode(cells), to_float(crops.warp), one_channel(crops.visibility))
        off = composite(picture, to_float(crops.plate), shares) - image
        weight = weights[torch.from_numpy(crops.regions).long()][:, None]
        coarse = functional.avg_pool2d(weight, _COARSE_PX) * functional.avg_pool2d(off, _COARSE_PX).abs()
        return 4 * ((weight * (off.abs() + _SQUARES * off**2 + _EDGES * _steps(off))).mean() + _COARSE * coarse.mean())

    return loss


def grown(dense: RenderDenoiser, masks: MaskPredictor, people: list, params: RenderParams, kinds: str, log: Log, checkpoint: Path) -> RenderDenoiser:
    """A trained dense denoiser with experts of these kinds, trained on."""
    model = upcycled(dense, kinds).to(memory_format=torch.channels_last)
    fit(model, training_loss(model, masks, people, params.scheduler, params.lesson), params.lesson.training, checkpoint, log)
    return model


def _given(model: RenderDenoiser, masks: MaskPredictor, crops: Crops) -> tuple[Conditions, torch.Tensor]:
    with torch.no_grad(), autocast():
        shares = masks(control_channels(crops.labels, crops.warp, crops.visibility, crops.normals, crops.plate)).float().softmax(1)
    with autocast():  # a run's frames have one portrait
        tokens = model.reference(2 * to_float(crops.portrait[:: crops.frames]) - 1).float().repeat_interleave(crops.frames, 0)
    maps = (to_float(crops.warp), one_channel(crops.visibility), to_float(crops.normals), to_float(crops.plate), shares)
    return conditions(model.codec, *maps, torch.from_numpy(crops.angles), tokens, crops.frames), shares


def _steps(x: torch.Tensor) -> torch.Tensor:
    """Absolute differences to the right and lower neighbour, summed; the shape is kept."""
    right = functional.pad((x[..., 1:] - x[..., :-1]).abs(), (0, 1))
    lower = functional.pad((x[..., 1:, :] - x[..., :-1, :]).abs(), (0, 0, 0, 1))
    return right + lower
