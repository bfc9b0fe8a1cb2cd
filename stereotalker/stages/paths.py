"""Where the stages read and write, relative to the working directory."""

from __future__ import annotations

from pathlib import Path

DATA = Path("data")  # data sets, and weights that only other stages need
ARTIFACTS = Path("artifacts")  # what a release can be made of
WEIGHTS = ARTIFACTS / "weights"
BODY = ARTIFACTS / "body"
AVATARS = ARTIFACTS / "avatars"
CALIBRATION = ARTIFACTS / "detector"
CURVES = ARTIFACTS / "curves"  # of finished trainings, a folder for each stage
METRICS = Path("metrics")

TEST_SET = DATA / "test_set"
SPEECH = DATA / "speech"
PEOPLE = DATA / "people"
PHOTOGRAPHS = DATA / "photographs"
DENSE = DATA / "dense.safetensors"
EXPERTS = DATA / "render.safetensors"  # the denoiser with experts, which `finish` continues from
ABLATED = DATA / "ablation"  # weights of the denoisers with other experts
LOGS = DATA / "logs"  # curves and previews, a folder for each stage
