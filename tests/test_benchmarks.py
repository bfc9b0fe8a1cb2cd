"""Benchmark scripts that need machines which tests do not have: they must at least run."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.scale import Costs, simulate
from stereotalker.params import ROOT


@pytest.mark.integration
@pytest.mark.parametrize("seconds", [600, 0])
def test_the_gpu_script_runs_on_the_processor(tmp_path, seconds):
    """What it has no time for is null."""
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--seconds", str(seconds), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(out.read_text())
    rates = [*figures["frames_per_second"]["64"].values(), figures["training_samples_per_second"]["1"]]
    assert figures["device"] == "cpu" and len(rates) == 3
    if seconds:
        assert all(rate > 0 for rate in rates) and figures["psnr_to_processor_db"] == {"64": "equal"}
    else:
        assert rates == [None] * 3 and figures["psnr_to_processor_db"] == {"64": None}


def test_the_simulated_night_agrees_with_arithmetic():
    costs = Costs("small", 1, audio=0.0, motion=0.1, render=2.0, finish=0.5)
    alone = simulate(costs, workers=1, driver_cores=1, clips=3)
    # One worker renders one clip after the other. Before it the first motion is made, and after it the last video.
    assert alone.hours * 3600 == pytest.approx(30 * (0.1 + 3 * 2.0 + 0.5))
    assert alone.bottleneck == "workers" and alone.lower_bound_hours * 3600 == pytest.approx(30 * 3 * 2.0)
    # Many workers wait for the one core that encodes.
    crowded = simulate(costs, workers=64, driver_cores=1, clips=64)
    assert crowded.bottleneck == "driver's cores"
    assert crowded.lower_bound_hours <= crowded.hours < 1.2 * crowded.lower_bound_hours
    assert simulate(costs, workers=64, driver_cores=8, clips=64).hours < crowded.hours
