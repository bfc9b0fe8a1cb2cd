"""Training of the renderer: the predicted clean picture is compared with the truth, most of all where viewers look.

B = runs x frames pictures of a batch of crops.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from stereotalker.control.masks import MaskPredictor, control_cells, one_channel, to_float
from stereotalker.diffusion.schedulers import TRAIN_TIMESTEPS, make_scheduler
from stereotalker.errors import UserError
from stereotalker.params import DenoiserTraining, FinishParams
from stereotalker.render.denoiser import Conditions, RenderDenoiser, conditions
from stereotalker.render.renderer import composite, person_alpha, warp_share
from stereotalker.runtime.device import autocast, to_channels_last, training_device
from stereotalker.runtime.process_group import process_number
from stereotalker.runtime.stage_log import Log
from stereotalker.smplx_layout import REGIONS
from stereotalker.training.critic import PatchCritic, critic_losses
from stereotalker.training.crops import Crops, draw_crops
from stereotalker.training.loop import Checkpoint, fit
from stereotalker.training.samples import Sample

# Weight of a pixel of each region in the loss.
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
_PURE_NOISE = 0.85  # share of runs that are trained at pure noise, where sampling begins
# Weights of squared differences and of gradient differences, relative to that of absolute differences.
_SQUARED_WEIGHT, _GRADIENT_WEIGHT = 3.0, 0.5
# Weight of differences of means over 4 x 4 px. Single threads of cloth cannot be predicted, but the brightness of the
# cloth can.
_COARSE_WEIGHT, _COARSE_PX = 2.0, 4
# Factor on the weight of what the denoiser draws. The rest is the warp's, and only its reconstruction is learnt there.
_DRAWN_WEIGHT = 3.0


def train_denoiser(
    model: RenderDenoiser,
    masks: MaskPredictor,
    people: list[Sample],
    scheduler: str,
    options: DenoiserTraining,
    log: Log,
    checkpoint: Checkpoint,
) -> RenderDenoiser:
    """Train a denoiser in place on crops of people and return it, on the device.

    Raises UserError if the size of the crops is not a multiple of what the denoiser's grids need.
    """
    _check_crop(model, options)
    model, masks = to_channels_last(model, training_device()), to_channels_last(masks, training_device())
    draw = partial(draw_crops, people, runs=options.batch, frames=options.run, size=options.crop)
    fit(model, training_loss(model, masks, scheduler), options, checkpoint, log, draw=draw)
    return model


def finish_denoiser(
    model: RenderDenoiser,
    critic: PatchCritic,
    masks: MaskPredictor,
    draw: Callable[[np.random.Generator], Crops],
    scheduler: str,
    options: FinishParams,
    log: Log,
    checkpoint: Checkpoint,
) -> None:
    """Train a denoiser further, in place, against a critic of patches. Raises UserError as `train_denoiser`.

    The result is a mean of the weights before and after (Wortsman et al. 2022, model soups). `options.new_share` is the
    share of those after.
    """
    _check_crop(model, options.training)
    pair = to_channels_last(nn.ModuleDict({"denoiser": model, "critic": critic}), training_device())
    masks = to_channels_last(masks, training_device())
    loss = finishing_loss(model, critic, masks, scheduler, options.critic)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    fit(pair, loss, options.training, checkpoint, log, draw=draw)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.lerp(start[name], p, options.new_share))
    if process_number() == 0:
        log.preview(model, options.training.steps)


def training_loss(model: RenderDenoiser, masks: MaskPredictor, scheduler: str):
    """A function loss(crops): error of the picture predicted from a random noise level."""

    def loss(crops: Crops) -> torch.Tensor:
        crops = crops.to(model.net.device)
        return _difference(_draw(model, masks, scheduler, crops), crops)

    return loss


def finishing_loss(
    model: RenderDenoiser, critic: PatchCritic, masks: MaskPredictor, scheduler: str, critic_share: float
):
    """A function loss(crops): that of `training_loss`, and the adversarial losses of the denoiser and of the critic.

    critic_share: size of the denoiser's adversarial gradient at its last layer, relative to that of the differences
    (Esser et al. 2021, VQGAN).
    """

    def loss(crops: Crops) -> torch.Tensor:
        crops = crops.to(model.net.device)
        picture, image = _draw(model, masks, scheduler, crops), to_float(crops.image)
        difference = _difference(picture, crops)
        drawn = torch.where(_is_drawn(crops) > 0, picture, image)
        with autocast(image.device.type):
            seen = to_float(crops.warp), one_channel(crops.visibility)
            adversarial, critic_loss = critic_losses(critic, drawn, image, *seen)
        last = model.net.conv_out.weight
        difference_norm, adversarial_norm = (
            torch.autograd.grad(part, last, retain_graph=True)[0].norm().detach() for part in (difference, adversarial)
        )
        weight = critic_share * difference_norm / adversarial_norm.clamp_min(1e-6)
        return difference + weight * adversarial + critic_loss

    return loss


def _check_crop(model: RenderDenoiser, options: DenoiserTraining) -> None:
    """Raise UserError if the size of the crops is not a multiple of what the denoiser's grids need."""
    if options.crop % model.multiple:
        raise UserError(
            f"a training crop of {options.crop} px; expected a multiple of {model.multiple}, "
            "which the denoiser's grids ask for"
        )


def _draw(model: RenderDenoiser, masks: MaskPredictor, scheduler: str, crops: Crops) -> torch.Tensor:
    """The picture f32 [B, 3, S, S] that the denoiser predicts from a random noise level, composited as in clips."""
    schedule = make_scheduler(scheduler)
    render_conditions, mask_probabilities = _render_conditions(model, masks, crops)
    clean = model.codec.encode(to_float(crops.image))
    runs = len(clean) // crops.frames
    t = torch.randint(TRAIN_TIMESTEPS, (runs,))
    t = (
        torch.where(torch.rand(runs) < _PURE_NOISE, TRAIN_TIMESTEPS - 1, t)
        .repeat_interleave(crops.frames)
        .to(clean.device)
    )
    # All frames of a run share their noise, because in clips the noise hardly changes from frame to frame.
    noise = torch.randn(runs, *clean.shape[1:]).repeat_interleave(crops.frames, 0).to(clean.device)
    with autocast(clean.device.type):
        latents = model(schedule.add_noise(clean, noise, t), t, render_conditions)
    share = warp_share(one_channel(crops.visibility), crops.labels[:, None])
    warp, plate = to_float(crops.warp), to_float(crops.plate)
    return composite(model.codec.decode(latents), warp, plate, person_alpha(mask_probabilities), share)


def _difference(picture: torch.Tensor, crops: Crops) -> torch.Tensor:
    """Loss of the differences between a picture f32 [B, 3, S, S] and the truth, by region and visibility."""
    error = picture - to_float(crops.image)
    region_weights = torch.tensor([_WEIGHTS[name] for name in REGIONS], device=error.device)
    weight = region_weights[crops.regions.long()][:, None] * (1 + (_DRAWN_WEIGHT - 1) * _is_drawn(crops))
    coarse = functional.avg_pool2d(weight, _COARSE_PX) * functional.avg_pool2d(error, _COARSE_PX).abs()
    fine = weight * (error.abs() + _SQUARED_WEIGHT * error**2 + _GRADIENT_WEIGHT * _gradient(error))
    return 4 * (fine.mean() + _COARSE_WEIGHT * coarse.mean())


def _is_drawn(crops: Crops) -> torch.Tensor:
    """1 on pixels that show the denoiser's picture in part or in full, see `warp_share`; f32 [B, 1, S, S]."""
    return (warp_share(one_channel(crops.visibility), crops.labels[:, None]) < 1).float()


def _render_conditions(model: RenderDenoiser, masks: MaskPredictor, crops: Crops) -> tuple[Conditions, torch.Tensor]:
    """The denoiser's conditions, and the region probabilities f32 [B, R, S, S] of the frozen mask predictor."""
    device_type = crops.image.device.type
    # `MaskPredictor.predict` has a rule for the inside of the body that is left out here: on synthetic people it
    # changes almost nothing.
    with torch.no_grad(), autocast(device_type):
        cells = control_cells(crops.labels, crops.warp, crops.visibility, crops.normals, crops.plate, masks.config)
        mask_probabilities = masks(cells, crops.labels.shape[1:]).float().softmax(1)
    with autocast(device_type):  # the frames of a run share one portrait, so its tokens are computed once and repeated
        tokens = model.reference(2 * to_float(crops.portrait) - 1).float().repeat_interleave(crops.frames, 0)
    maps = (
        to_float(crops.warp),
        one_channel(crops.visibility),
        to_float(crops.normals),
        to_float(crops.plate),
        mask_probabilities,
    )
    return conditions(model.codec, *maps, crops.angles, tokens, crops.frames), mask_probabilities


def _gradient(x: torch.Tensor) -> torch.Tensor:
    """Sum of the absolute differences to the right and the lower neighbor, in the shape of `x`; 0 beyond the border."""
    right = functional.pad((x[..., 1:] - x[..., :-1]).abs(), (0, 1))
    lower = functional.pad((x[..., 1:, :] - x[..., :-1, :]).abs(), (0, 0, 0, 1))
    return right + lower
