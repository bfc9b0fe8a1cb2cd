"""Milliseconds a frame beside an earlier build and Wav2Lip's generator. `python -m benchmarks.speed --before FOLDER`.

--before: a checkout of an earlier commit, for example by `git worktree add`; --wav2lip: a checkout of Wav2Lip's
repository, whose generator runs at random weights in float32 on one mouth crop of 96 px. Each build runs in processes
of its own, in turns, with one thread: so other work on the machine slows all of them equally. Models are loaded and
a few frames are rendered before the clock starts. A figure is the median of the rounds, with minimum and maximum.
Writes its figures to benchmarks/results.json, with machine and commit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.machine import save_figures
from stereotalker.params import ROOT

_ROUNDS = 5
# Renders 8 frames, then 48 with a fixed camera, and prints the milliseconds a frame of the latter. It uses only what
# earlier builds have, too. Arguments: threads, height, width, and the file for the frames.
_RENDER = """
import resource, sys, time
import numpy as np, torch
threads, height, width, file = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(threads)
from stereotalker.avatar.library import Library, read_avatar
from stereotalker.diffusion.windows import Window
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.models import Models
from stereotalker.params import load_params
from stereotalker.records import Motion
models, motion = Models(load_params()), Motion(**np.load(sys.argv[5]), fps=25.0)
avatar = read_avatar(Library().find("ava"))
view = camera.avatar_camera(avatar, CameraPath(), len(motion.poses), 25.0, (height, width))
models.renderer.segment(avatar, motion, view, Window(0, 0, 8, 0), 0)
started = time.perf_counter()
frames = models.renderer.segment(avatar, motion, view, Window(1, 48, 96, 0), 0)
milliseconds = 1000 * (time.perf_counter() - started) / 48
np.save(file, frames)
print(milliseconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""
_WAV2LIP = """
import time, torch
from models.wav2lip import Wav2Lip
torch.set_num_threads(1)
model, sound, face = Wav2Lip().eval(), torch.rand(4, 1, 80, 16), torch.rand(4, 6, 96, 96)
with torch.inference_mode():
    model(sound, face)
    started = time.perf_counter()
    for _ in range(5):
        model(sound, face)
print(1000 * (time.perf_counter() - started) / 20, 0)
"""


def measure(before: Path | None, wav2lip: Path | None, rounds: int) -> dict[str, float | list[float]]:
    """All figures; see the module. Those of a build that is not given are left out."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        motion = _motion(folder / "motion.npz")
        runs: dict[str, list[tuple[float, float]]] = {}
        frames: dict[str, np.ndarray] = {}

        def render(key: str, build: Path, threads: int, height: int, width: int) -> None:
            """Render with a build, and note time and memory under the key."""
            file = folder / f"{key}.npy"
            arguments = [*map(str, (threads, height, width)), str(file), str(motion)]
            runs.setdefault(key, []).append(_run(_RENDER, build, arguments))
            frames[key] = np.load(file)

        for _ in range(rounds):
            for size in (256, 512):
                render(f"{size}", ROOT, 1, size, size)
                if before:
                    render(f"before_{size}", before, 1, size, size)
            if wav2lip:
                runs.setdefault("wav2lip", []).append(_run(_WAV2LIP, wav2lip, []))
            render("1080x1920", ROOT, 2, 1920, 1080)
    figures: dict[str, float | list[float]] = {}
    for key, values in runs.items():
        times = [milliseconds for milliseconds, _ in values]
        figures[f"render_ms_{key}"] = float(np.median(times))
        figures[f"render_ms_{key}_range"] = [min(times), max(times)]
    figures["fps_1080x1920"] = float(1000 / np.median([milliseconds for milliseconds, _ in runs["1080x1920"]]))
    figures["peak_gb_1080x1920"] = max(gigabytes for _, gigabytes in runs["1080x1920"])
    if before:
        for size in ("256", "512"):
            figures[f"ratio_before_{size}"] = figures[f"render_ms_before_{size}"] / figures[f"render_ms_{size}"]
            figures[f"psnr_to_before_{size}"], figures[f"changed_share_{size}"] = _difference(
                frames[size], frames[f"before_{size}"]
            )
    if wav2lip:
        figures["ratio_wav2lip_256"] = figures["render_ms_256"] / figures["render_ms_wav2lip"]
    return figures


def _motion(file: Path) -> Path:
    """Write a motion of four seconds, which all builds render."""
    from stereotalker.audio.speech import from_script
    from stereotalker.audio.text_to_speech import Voice
    from stereotalker.models import Models
    from stereotalker.motion.synthesize import MotionControls
    from stereotalker.params import load_params

    speech = from_script("Big problems become small when people talk about them.", Voice(), -20.0)
    motion = Models(load_params()).synthesizer.motion(speech, MotionControls(0), 100, 25.0)
    np.savez(file, poses=motion.poses, expression=motion.expression, trans=motion.trans)
    return file


def _run(code: str, folder: Path, arguments: list[str]) -> tuple[float, float]:
    """Run code with a checkout's modules; returns the two numbers that it prints last."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = done.stdout.strip().splitlines()[-1].split()
    return float(first), float(second)


def _difference(frames: np.ndarray, before: np.ndarray) -> tuple[float, float]:
    """PSNR of the pixels that differ at all, dB, and their share; frames and before u8 [T, H, W, 3]."""
    differs = (frames != before).any(-1)
    error = (frames.astype(float) - before)[differs]
    return float(10 * np.log10(255**2 / max((error**2).mean(), 1e-9))), float(differs.mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--wav2lip", type=Path)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    options = parser.parse_args()
    results = measure(*(path and path.resolve() for path in (options.before, options.wav2lip)), options.rounds)
    save_figures("speed", results)
    print(json.dumps(results, indent=2))
