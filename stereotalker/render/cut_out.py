"""Cuts the person out of finished frames, for transparent clips.

The background plate behind the person is known. So the share of the person in a pixel at the outline follows from its
color, from that of the plate, and from that of the person just inside of the outline. Without this a light wall, before
which the portrait was taken, would stay as a bright rim around dark hair.
"""

from __future__ import annotations

import torch

from stereotalker.control.filters import max_filter, mean_filter

_BAND_PX = 2  # width of the outline in which the share is measured, in pixels of the denoiser
_NEARBY_PX = 1  # how far inside of the outline the person's color is taken from
_MIN_INSIDE = 0.06  # share of the surroundings that must lie inside; thin parts such as fingers have no inside
# Share of the way from the plate's color to the person's below which a pixel is the plate's, and above which it is the
# person's: hair and cloth have shades of their own.
_NOTHING, _ALL = 0.2, 0.6
_MIN_DIFFERENCE = 0.15  # between the colors of person and plate; if they are more alike, nothing can be measured
_MAX_OFF = 0.1  # distance of a color from the mixtures of both within which it counts as one
_MIN_ALPHA = 0.1  # below it a color is not divided by the share, because rounding errors would grow


def cut_out(frames: torch.Tensor, plate: torch.Tensor, alpha: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """The person of frames f32 [B, 3, H, W] in 0..1, with straight alpha, f32 [B, 4, H, W].

    plate f32 [B, 3, H, W]: the background that is in the frames; alpha f32 [B, 1, H, W]: where the person may be, at
    most; scale: pixels per pixel of the denoiser.
    """
    inside = 1 - max_filter((alpha < 0.5).float(), round(_BAND_PX * scale))
    reach = round((_BAND_PX + _NEARBY_PX) * scale)
    weight = mean_filter(inside, reach)
    has_inside = (weight / _MIN_INSIDE - 0.5).clamp(0, 1)
    person = torch.lerp(frames, mean_filter(frames * inside, reach) / weight.clamp_min(1e-6), has_inside)
    way = person - plate
    length = (way**2).sum(1, keepdim=True)
    along = (((frames - plate) * way).sum(1, keepdim=True) / length.clamp_min(1e-6)).clamp(0, 1)
    # A color that is no mixture of both, such as that of a collar, is the person's.
    off = ((frames - plate - along * way) ** 2).sum(1, keepdim=True).sqrt()
    is_mixture = (2 - off / _MAX_OFF).clamp(0, 1)
    share = ((along - _NOTHING) / (_ALL - _NOTHING)).clamp(0, 1)
    is_measurable = (length.sqrt() / _MIN_DIFFERENCE - 1).clamp(0, 1) * is_mixture * has_inside * (1 - inside)
    alpha = alpha * torch.lerp(torch.ones_like(share), share, is_measurable)
    foreground = (frames - (1 - alpha) * plate) / alpha.clamp_min(_MIN_ALPHA)
    # The less there is of the person, the more its color is that of the inside.
    foreground = torch.lerp(person, foreground.clamp(0, 1), (alpha / 0.5).clamp(0, 1))
    return torch.cat([foreground, alpha], 1)
