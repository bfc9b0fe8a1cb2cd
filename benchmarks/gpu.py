"""Frames a second on a GPU, by size and batch, and samples a second in training. `python -m benchmarks.gpu`.

Needs the installed package alone, and ends after --seconds (480): what there was no time for is null. Each batch is
tried until the memory ends. The pictures are compared with those that the processor makes of the same frames in the
same batches (PSNR). Prints the figures, and writes them to --out after every table. `--tiny` does the same on the
processor with small frames, as a check of the script.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import machine_info
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.avatar.library import Library, read_avatar
from stereotalker.diffusion.windows import Window
from stereotalker.errors import is_out_of_memory
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.models import Models
from stereotalker.motion.synthesize import MotionControls
from stereotalker.params import load_params
from stereotalker.records import Avatar, Motion, Speech
from stereotalker.render.denoiser import RenderDenoiser, read_denoiser
from stereotalker.render.renderer import Renderer
from stereotalker.synthetic.actor import build_actor
from stereotalker.synthetic.takes import CaptureSetup, capture_take
from stereotalker.training.crops import draw_crops
from stereotalker.training.renderer import training_loss
from stereotalker.training.samples import to_sample
from stereotalker.weights import weights_file

_SENTENCE = "Big problems become small when people talk about them."
_FPS = 25.0
_LAST_CELL_S = 90  # seconds kept for the last cell of a table, because a cell that has begun is finished


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    device: str
    sizes: tuple[int, ...]  # px of a square frame
    batches: tuple[int, ...]  # frames that the network sees at once
    runs: int  # of one batch, in the measured part
    crop: int  # px of a training crop
    training_batches: tuple[int, ...]
    steps: int  # of training, after two that are not measured


GPU = Plan("cuda", (256, 512, 1024), (8, 16, 32, 64, 128), 2, 160, (24, 96, 384), 8)
TINY = Plan("cpu", (64,), (2, 4), 1, 64, (1,), 1)


def measure(plan: Plan, seconds: float) -> Iterator[dict]:
    """Yield all figures, see the module, after every table. seconds: time after which no cell of a table is begun."""
    deadline = time.monotonic() + seconds - _LAST_CELL_S
    models, avatar = Models(load_params()), read_avatar(Library().find("ava"))
    speech = from_script(_SENTENCE, Voice(), -20.0)
    motion = models.synthesizer.motion(speech, MotionControls(0), max(plan.batches) * (plan.runs + 1), _FPS)
    figures = {
        "device": torch.cuda.get_device_name() if plan.device == "cuda" else "cpu",
        "torch": torch.__version__,
        **machine_info(),
        "frames_per_second": {},
        "psnr_to_processor_db": {},
    }
    for size in plan.sizes:
        figures["frames_per_second"][size] = dict(_rates(models, avatar, motion, size, plan, deadline))
        yield figures
    figures["training_samples_per_second"] = dict(_training(models, speech, plan, deadline))
    yield figures
    for size in plan.sizes:
        figures["psnr_to_processor_db"][size] = _psnr(models, avatar, motion, size, plan, deadline)
        yield figures


def _renderer(models: Models, device: str, batch: int) -> Renderer:
    """A renderer on a device, with batches of so many frames, and segments that are at least as long."""
    params = models.params.render
    params = params.model_copy(update={"batch": batch, "segment": max(params.segment, batch)})
    return Renderer(models.body, models.renderer.masks, models.renderer.denoiser, params, device)


def _psnr(models: Models, avatar: Avatar, motion: Motion, size: int, plan: Plan, deadline: float) -> float | str | None:
    """PSNR between the device's and the processor's pictures of two runs of the smallest batch, dB, or "equal"."""
    if time.monotonic() > deadline:
        return None
    batch = plan.batches[0]
    view = camera.avatar_camera(avatar, CameraPath(), len(motion.poses), _FPS, (size, size))
    frames = [
        _renderer(models, device, batch).segment(avatar, motion, view, Window(0, 0, 2 * batch, 0), 0)
        for device in (plan.device, "cpu")
    ]
    error = float(((frames[0].astype(float) - frames[1]) ** 2).mean())
    return 10 * float(np.log10(255**2 / error)) if error else "equal"


def _rates(
    models: Models, avatar: Avatar, motion: Motion, size: int, plan: Plan, deadline: float
) -> Iterator[tuple[int, float | None]]:
    """Batch -> frames a second of whole segments, control maps included; None where memory or time ends."""
    view = camera.avatar_camera(avatar, CameraPath(), len(motion.poses), _FPS, (size, size))
    has_room = True
    for batch in plan.batches:
        rate = None
        if has_room and time.monotonic() < deadline:
            try:
                renderer, frames = _renderer(models, plan.device, batch), batch * plan.runs
                renderer.segment(avatar, motion, view, Window(0, 0, batch, 0), 0)
                started = time.perf_counter()
                renderer.segment(avatar, motion, view, Window(1, batch, batch + frames, 0), 0)
                rate = frames / (time.perf_counter() - started)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                has_room = False
        renderer = None  # its memory is free before the next batch
        _empty_cache(plan)
        yield batch, rate


def _training(models: Models, speech: Speech, plan: Plan, deadline: float) -> Iterator[tuple[int, float | None]]:
    """Batch -> pictures a second in training steps of the denoiser; None where memory or time ends."""
    setup = CaptureSetup(size=plan.crop, cameras=2, frames=2, fps=5.0, swing=20.0, supersample=1)
    take = capture_take(build_actor(1, models.body, plan.crop, 1), models.body, speech, 0, 0, setup)
    people = [to_sample(take, models.body, 0, 0.0)]
    model: RenderDenoiser = read_denoiser(weights_file("render", models.folder)).to(plan.device).train()
    loss = training_loss(model, deepcopy(models.renderer.masks).to(plan.device), models.params.render.scheduler)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    has_room = True
    for batch in plan.training_batches:
        rate = None
        if has_room and time.monotonic() < deadline:
            try:
                draw = partial(draw_crops, people, runs=batch, frames=setup.frames, size=plan.crop)
                seconds = [_step(loss, optimizer, draw(np.random.default_rng(k))) for k in range(plan.steps + 2)][2:]
                rate = batch * setup.frames / float(np.median(seconds))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                has_room = False
                optimizer.zero_grad(set_to_none=True)
        _empty_cache(plan)
        yield batch, rate


def _empty_cache(plan: Plan) -> None:
    if plan.device == "cuda":
        torch.cuda.empty_cache()


def _step(loss, optimizer: torch.optim.Optimizer, crops) -> float:
    """Seconds of one step of training."""
    started = time.perf_counter()
    value = loss(crops)
    value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    value.item()  # waits for the GPU
    return time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    for results in measure(TINY if options.tiny else GPU, options.seconds):
        text = json.dumps(results, indent=2)
        if options.out:
            options.out.write_text(text + "\n")
    print(text)
