"""Noise schedules: diffusers' schedulers by name, set up for prediction of the clean sample from pure noise in few steps."""

from __future__ import annotations

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin

TRAIN_TIMESTEPS = 1000
# squaredcos_cap_v2 with zero terminal SNR: the last timestep is pure noise, as sampling begins there (Lin et al. 2024).
_COMMON = {
    "num_train_timesteps": TRAIN_TIMESTEPS, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample",
    "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
}  # fmt: skip
_SCHEDULERS = {
    "ddim": lambda: DDIMScheduler(**_COMMON, clip_sample=False),
    "dpm": lambda: DPMSolverMultistepScheduler(**_COMMON, final_sigmas_type="zero"),
}


def make_scheduler(name: str) -> SchedulerMixin:
    """A fresh scheduler. Raises ValueError for a name that is not in the table."""
    if name not in _SCHEDULERS:
        raise ValueError(f"scheduler {name!r}; expected one of {', '.join(_SCHEDULERS)}")
    return _SCHEDULERS[name]()
