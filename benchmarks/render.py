"""Frame rate of the renderer, cost of an expert layer, and memory of a long clip. `python -m benchmarks.render`.

Models are loaded before the clock starts; control maps and reference warp are included in the time of a frame. Writes
its figures to benchmarks/results.json, with machine and commit.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import psutil
import torch
from diffusers.models.attention import FeedForward

from benchmarks.machine import save_figures
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
    """Frames per second at 256 and 512 px, and all other figures of this benchmark."""
    torch.set_num_threads(threads)
    models = Models(load_params())
    avatar, renderer = read_avatar(Library().find("ava")), models.renderer
    speech = from_script(_SENTENCE, Voice(), -20.0)
    figures: dict[str, float] = {"render_threads": threads}
    for size in (256, 512):
        motion = models.synthesizer.motion(speech, MotionControls(0), 144, 25.0)
        view = camera.avatar_camera(avatar, CameraPath(kind="orbit", swing=15, period=4), 144, 25.0, (size, size))
        first, *rest = windows(144, renderer.params.segment)
        renderer.segment(avatar, motion, view, first, 0)
        started = time.perf_counter()
        for window in rest:
            renderer.segment(avatar, motion, view, window, 0)
        figures[f"render_fps_{size}"] = sum(w.stop - w.start for w in rest) / (time.perf_counter() - started)
    return figures | _expert_over_dense() | _memory(models)


def _expert_over_dense(width: int = 128, side: int = 32, frames: int = 4, repeats: int = 60) -> dict[str, float]:
    """Time of a layer with all experts over that of the dense layer it was upcycled from, for still and moving cameras.

    Regions have the share of background that frames usually have. The layer is that of the second grid of 256 px
    frames, which has most of the arithmetic of all feed-forward layers.
    """
    rng = np.random.default_rng(0)
    regions = np.where(rng.random((frames, side, side)) < 0.45, rng.integers(1, len(REGIONS), (frames, side, side)), 0)
    guidance, figures = Guidance(), {}
    dense, x = FeedForward(width), torch.randn(frames, side * side, width)
    layers = {
        "dense": dense,
        "dense_person": PriorGuidedExperts(dense, "none", 3, guidance),
        "both": PriorGuidedExperts(dense, "both", 3, guidance),
    }
    for camera_state, step in (("still", 0.0), ("moving", 0.01)):
        views = torch.stack([0.2 + step * torch.arange(frames), torch.zeros(frames)], 1)
        guidance.set(torch.from_numpy(np.sort(regions, 1)), views, frames)
        with torch.inference_mode(), autocast():
            # The layers take turns, so that other work on the machine slows all of them equally.
            seconds = np.array([[_seconds(layer, x) for layer in layers.values()] for _ in range(repeats)])
        dense_seconds, person_seconds, both_seconds = np.median(seconds, 0)
        figures |= {
            f"expert_over_dense_{camera_state}": both_seconds / dense_seconds,
            f"expert_over_dense_without_background_{camera_state}": both_seconds / person_seconds,
        }
    return figures | {"expert_over_dense": max(figures["expert_over_dense_still"], figures["expert_over_dense_moving"])}


def _seconds(layer: torch.nn.Module, x: torch.Tensor) -> float:
    """Wall time of one call of a layer."""
    started = time.perf_counter()
    layer(x)
    return time.perf_counter() - started


def _memory(models: Models, minutes: int = 10, every: int = 10) -> dict[str, float]:
    """Peak resident memory (GB) over 5 segments of a clip of `minutes`, and with every `every`-th later one."""
    speech = from_script(_SENTENCE, Voice(), -20.0)
    long = Speech(np.resize(speech.samples, 60 * minutes * SAMPLE_RATE), speech.loudness)
    count, process = 60 * minutes * 25, psutil.Process()
    motion = models.synthesizer.motion(long, MotionControls(0), count, 25.0)
    avatar = read_avatar(Library().find("ava"))
    view = camera.avatar_camera(avatar, CameraPath(), count, 25.0, (256, 256))
    grid, peaks = windows(count, models.renderer.params.segment), []
    for window in [*grid[:5], *grid[5::every]]:
        models.renderer.segment(avatar, motion, view, window, 0)
        peaks.append(process.memory_info().rss / 1e9)
    return {"peak_gb_10s": max(peaks[:5]), "peak_gb_10min": max(peaks)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    results = measure(parser.parse_args().threads)
    save_figures("render", results)
    print(json.dumps(results, indent=2))
