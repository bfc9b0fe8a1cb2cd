"""How fast frames are made, models loaded, control maps and warp included; what an expert layer costs; whether memory stays. `python -m benchmarks.render`.

Adds to benchmarks/results.json, with the machine and the commit.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import psutil
import torch
from diffusers.models.attention import FeedForward

from benchmarks.machine import keep
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.avatar.library import Library, read_avatar
from stereotalker.diffusion.windows import windows
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.models import Models
from stereotalker.motion.synthesize import MotionControls
from stereotalker.params import load_params
from stereotalker.records import SAMPLE_RATE, Speech
from stereotalker.render.experts import Guidance, PriorGuidedExperts
from stereotalker.runtime.device import autocast
from stereotalker.smplx_layout import REGIONS

_SENTENCE = "Big problems become small when people talk about them, and the whole world may listen."


def measure(threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    models = Models(load_params())
    avatar, renderer = read_avatar(Library().find("ava")), models.renderer
    speech = from_script(_SENTENCE, Voice(), -20.0)[0]
    found: dict[str, float] = {"render_threads": threads}
    for size in (256, 512):
        motion = models.synthesizer.motion(speech, MotionControls(0), 144, 25.0)
        view = camera.around(avatar, CameraPath(kind="orbit", swing=15, period=4), 144, 25.0, (size, size))
        first, *rest = windows(144, renderer.params.segment)
        renderer.segment(avatar, motion, view, first, 0)
        started = time.perf_counter()
        for window in rest:
            renderer.segment(avatar, motion, view, window, 0)
        found[f"render_fps_{size}"] = sum(w.stop - w.start for w in rest) / (time.perf_counter() - started)
    return found | _expert_over_dense() | _memory(models)


def _expert_over_dense(width: int = 128, side: int = 32, frames: int = 4, repeats: int = 60) -> dict[str, float]:
    """The time of a layer with all experts over that of the dense layer it was made of, on the frames' usual share of background, by how the camera moves.

    The layer is that of 256 px frames' second grid, which has most of the feed-forwards' arithmetic.
    """
    rng = np.random.default_rng(0)
    regions = np.where(rng.random((frames, side, side)) < 0.45, rng.integers(1, len(REGIONS), (frames, side, side)), 0)
    guidance, found = Guidance(), {}
    dense, x = FeedForward(width), torch.randn(frames, side * side, width)
    layers = {
        "dense": dense,
        "dense_person": PriorGuidedExperts(dense, "none", 3, guidance),
        "both": PriorGuidedExperts(dense, "both", 3, guidance),
    }
    for camera_is, step in (("still", 0.0), ("moving", 0.01)):
        views = torch.stack([0.2 + step * torch.arange(frames), torch.zeros(frames)], 1)
        guidance.set(torch.from_numpy(np.sort(regions, 1)), views, frames)
        with torch.inference_mode(), autocast():
            taken = np.array(
                [[_seconds(layer, x) for layer in layers.values()] for _ in range(repeats)]
            )  # in turns: what else runs meets all alike
        plain, person, both = np.median(taken, 0)
        found |= {
            f"expert_over_dense_{camera_is}": both / plain,
            f"expert_over_dense_without_background_{camera_is}": both / person,
        }
    return found | {"expert_over_dense": max(found["expert_over_dense_still"], found["expert_over_dense_moving"])}


def _seconds(layer: torch.nn.Module, x: torch.Tensor) -> float:
    started = time.perf_counter()
    layer(x)
    return time.perf_counter() - started


def _memory(models: Models, minutes: int = 10, every: int = 10) -> dict[str, float]:
    """Resident memory after 10 s of a clip of `minutes`, and the most over every tenth segment to its end."""
    speech = from_script(_SENTENCE, Voice(), -20.0)[0]
    long = Speech(np.resize(speech.samples, 60 * minutes * SAMPLE_RATE), speech.loudness)
    count, process = 60 * minutes * 25, psutil.Process()
    motion = models.synthesizer.motion(long, MotionControls(0), count, 25.0)
    avatar = read_avatar(Library().find("ava"))
    view = camera.around(avatar, CameraPath(), count, 25.0, (256, 256))
    grid, peaks = windows(count, models.renderer.params.segment), []
    for window in [*grid[:5], *grid[5::every]]:
        models.renderer.segment(avatar, motion, view, window, 0)
        peaks.append(process.memory_info().rss / 1e9)
    return {"peak_gb_10s": max(peaks[:5]), "peak_gb_10min": max(peaks)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    results = measure(parser.parse_args().threads)
    keep("render", results)
    print(json.dumps(results, indent=2))
