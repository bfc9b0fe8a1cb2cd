"""Noise schedulers of the diffusers library by name, configured for models that predict the clean sample.

They sample from pure noise in few steps.
"""

from __future__ import annotations

from typing import Any

from stereotalker.diffusion.diffusers_classes import DDIMScheduler, DPMSolverMultistepScheduler

TRAIN_TIMESTEPS = 1000
# Zero terminal SNR: the last timestep is pure noise, because sampling begins with pure noise (Lin et al. 2024).
_COMMON = {
    "num_train_timesteps": TRAIN_TIMESTEPS, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample",
    "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
}  # fmt: skip
_SCHEDULERS = {
    "ddim": lambda: DDIMScheduler(**_COMMON, clip_sample=False),
    "dpm": lambda: DPMSolverMultistepScheduler(**_COMMON, final_sigmas_type="zero"),
}


def make_scheduler(name: str) -> Any:
    """A new scheduler, "ddim" or "dpm"; diffusers gives them no common type. Raises ValueError for any other name."""
    if name not in _SCHEDULERS:
        raise ValueError(f"scheduler {name!r}; expected one of {', '.join(_SCHEDULERS)}")
    return _SCHEDULERS[name]()
