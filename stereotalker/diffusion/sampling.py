"""The sampling loop that all diffusion models share, and noise that depends only on a seed and the index of a frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from stereotalker.diffusion.schedulers import make_scheduler


def sample(
    predict: Callable[[torch.Tensor, int], torch.Tensor], noise: torch.Tensor, scheduler: str, steps: int
) -> torch.Tensor:
    """Denoise: from `noise` to a clean sample of the same shape in `steps` evaluations.

    predict(noisy, timestep) returns the model's estimate of the clean sample. scheduler: a name that `make_scheduler`
    knows; it raises ValueError for others.
    """
    schedule = make_scheduler(scheduler)
    schedule.set_timesteps(steps)
    noisy = noise
    for timestep in schedule.timesteps:
        noisy = schedule.step(predict(noisy, int(timestep)), timestep, noisy).prev_sample
    return noisy


def noise(shape: tuple[int, ...], *seed: int) -> torch.Tensor:
    """Standard normal noise f32 of the given shape; the integers in `seed` determine it."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def frame_noise(shape: tuple[int, ...], seed: int, start: int, stop: int, period: int) -> torch.Tensor:
    """Noise of the frames start..stop-1, f32 [N, *shape], which changes slowly from frame to frame.

    There is independent noise, an anchor, every `period` frames. A frame between two anchors gets a mixture of them by
    sine and cosine, which keeps the variance at 1. The noise depends only on the seed and the number of the frame in
    the clip, not on how the clip is cut into segments.
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
