#!/usr/bin/env bash
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 diffusers==0.42.1
cd "$folder"
# DDIMScheduler clips the predicted clean sample to -1..1 by default (clip_sample=True). That suits pictures. A model
# that predicts other data, such as joint angles in units of their standard deviation, loses everything beyond one
# deviation, without an error. DPMSolverMultistepScheduler with the same settings does not clip.
"$folder/env/bin/python" - <<'PY'
import diffusers
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

truth = torch.tensor([[-3.0, 0.5, 2.0]])


def result(scheduler):
    scheduler.set_timesteps(4)
    x = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        x = scheduler.step(truth, t, x).prev_sample  # a model that is always right
    return [round(value, 2) for value in x.flatten().tolist()]


ddim = result(DDIMScheduler(prediction_type="sample"))
free = result(DDIMScheduler(prediction_type="sample", clip_sample=False))
dpm = result(DPMSolverMultistepScheduler(prediction_type="sample"))
print("diffusers", diffusers.__version__, "truth", truth.flatten().tolist())
print("DDIM", ddim, "unclipped", free, "DPM", dpm)
assert max(map(abs, ddim)) <= 1.01
assert abs(free[0] + 3) < 0.05 and abs(free[2] - 2) < 0.05
PY
echo "seen: DDIM clips predictions of the sample to -1..1 by default"
