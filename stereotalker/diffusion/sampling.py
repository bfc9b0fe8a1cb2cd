"""The one sampling loop, and noise that is a function of (seed, global frame index)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from stereotalker.diffusion.schedulers import make_scheduler


def sample(
    predict: Callable[[torch.Tensor, int], torch.Tensor], noise: torch.Tensor, scheduler: str, steps: int
) -> torch.Tensor:
    """From noise to a clean sample in `steps` evaluations. predict(noisy, timestep) gives the clean sample."""
    schedule = make_scheduler(scheduler)
    schedule.set_timesteps(steps)
    noisy = noise
    for timestep in schedule.timesteps:
        noisy = schedule.step(predict(noisy, int(timestep)), timestep, noisy).prev_sample
    return noisy


def noise(shape: tuple[int, ...], *seed: int) -> torch.Tensor:
    """Standard normal f32 noise named by integers."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def frame_noise(shape: tuple[int, ...], seed: int, start: int, stop: int, period: int) -> torch.Tensor:
    """Noise of frames start..stop-1, f32 [N, *shape]: slowly turning between anchors every `period` frames, unit variance.

    It depends on the seed and the frame's number in the clip alone, not on how the clip was cut into segments.
    """
    anchors: dict[int, torch.Tensor] = {}
    frames = []
    for index in range(start, stop):
        before, phase = divmod(index, period)
        for anchor in (before, before + 1):
            if anchor not in anchors:
                anchors[anchor] = noise(shape, seed, anchor)
        angle = phase / period * np.pi / 2
        frames.append(np.cos(angle) * anchors[before] + np.sin(angle) * anchors[before + 1])
    return torch.stack(frames)
