"""How time and memory grow with length, size, workers and batch. `python -m benchmarks.growth [length | size | plot]`.

length: clips of 10 s to an hour at 64 x 64 px and 5 fps, from the script to the judged video, with one thread. size:
square frames of 256 to 2,160 px, with two threads. Each point is measured in a process of its own. plot: draws these,
and the growth with workers and batch that benchmarks.orchestration measured, to docs/growth.png. Without a name all
three. Figures are written to benchmarks/results.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.machine import RESULTS, save_figures
from stereotalker.params import ROOT

_LENGTHS_S, _SIZES_PX = (10, 60, 600, 3600), (256, 512, 1024, 1536, 2160)
# Prints the seconds and the peak memory (GB) of one clip. Arguments: its seconds, and a folder for the store.
_LENGTH = """
import resource, sys, time
from pathlib import Path
from stereotalker.models import Models
from stereotalker.params import load_params
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.clip import make_clip
from stereotalker.production.clip_stages import ClipMaker, StageTimings
from stereotalker.production.manifest import Clip
from stereotalker.store.local import Store
from stereotalker.tasks.pool import LocalSlot, Pool
params = load_params().with_produce({"worker": {"threads": 1}})
models, store = Models(params), Store(Path(sys.argv[2]))
pool = Pool([LocalSlot(models, store)], params.produce.worker, AdmissionControl(), store)
def make(name, script):
    clip = Clip(id=name, avatar="ava", script=script, width=64, height=64, fps=5)
    return make_clip(clip, ClipMaker(models, store), pool.render, lambda *_: None, StageTimings()).frames / 5
make("warm-up", "One two three.")
started = time.monotonic()
sentence = "Big problems become small when people talk about them, and the whole world may listen. "  # five seconds
seconds = make("clip", sentence * (int(sys.argv[1]) // 5))
print(seconds, time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""
# Prints the milliseconds a frame and the peak memory (GB) of 16 frames. Argument: the frames' height and width.
_SIZE = """
import resource, sys, time
import torch
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.avatar.library import Library, read_avatar
from stereotalker.diffusion.windows import Window
from stereotalker.geometry import camera
from stereotalker.geometry.camera_path import CameraPath
from stereotalker.models import Models
from stereotalker.motion.synthesize import MotionControls
from stereotalker.params import load_params
torch.set_num_threads(2)
models, avatar, size = Models(load_params()), read_avatar(Library().find("ava")), int(sys.argv[1])
speech = from_script("Big problems become small when people talk about them.", Voice(), -20.0)
motion = models.synthesizer.motion(speech, MotionControls(0), 32, 25.0)
view = camera.avatar_camera(avatar, CameraPath(), 32, 25.0, (size, size))
models.renderer.segment(avatar, motion, view, Window(0, 0, 16, 0), 0)
started = time.perf_counter()
models.renderer.segment(avatar, motion, view, Window(1, 16, 32, 0), 0)
print(1000 * (time.perf_counter() - started) / 16, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def length() -> dict[str, list]:
    """Rows of seconds of video, seconds that it took, and peak GB."""
    rows = []
    for seconds in _LENGTHS_S:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_numbers(_LENGTH, str(seconds), folder))
        print(rows[-1], flush=True)
    return {"growth_length": rows}


def size() -> dict[str, list]:
    """Rows of px of a side, milliseconds a frame, and peak GB."""
    return {"growth_size": [[side, *_numbers(_SIZE, str(side))] for side in _SIZES_PX]}


def plot() -> None:
    """Draw the four plots, each with a line through the last point that grows in proportion."""
    figures = json.loads(RESULTS.read_text())
    workers = [[1, figures["one_worker_seconds"]], [2, figures["two_workers_seconds"]]]
    plots = (
        ("a clip, against its length", "video, s", "s", figures["growth_length"], 1),
        ("a frame, against its area", "megapixels", "ms", [[s * s / 1e6, *r] for s, *r in figures["growth_size"]], 1),
        ("six clips, against workers", "workers", "s", workers, -1),
        ("a batch of 10,000, against finished clips", "clips", "s", figures["growth_batch"], 1),
    )
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    for axis, (title, x_label, unit, rows, exponent) in zip(axes.flat, plots, strict=True):
        table = np.array(rows)
        x, y = table[:, 0], table[:, 1]
        axis.loglog(x, y, "o-", color="tab:blue", label=f"time, {unit}")
        axis.loglog(x, y[-1] * (x / x[-1]) ** exponent, ":", color="gray", label="in proportion")
        axis.set(title=title, xlabel=x_label, ylabel=unit)
        axis.set_xticks(x, [f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in x])
        axis.set_yticks([y.min(), y.max()], [f"{y.min():.0f}", f"{y.max():.0f}"])
        axis.minorticks_off()
        if table.shape[1] > 2:
            memory = axis.twinx()
            memory.plot(x, table[:, 2], "s--", color="tab:orange")
            memory.set(ylabel="memory, GB", ylim=(0, 1.3 * table[:, 2].max()))
            axis.plot([], [], "s--", color="tab:orange", label="memory, GB")
        axis.legend(loc="upper left" if exponent > 0 else "upper right", fontsize=8)
    figure.savefig(ROOT / "docs" / "growth.png", dpi=100)


def _numbers(code: str, *arguments: str) -> list[float]:
    """Run code in a process of its own; returns the numbers that it prints last."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return [float(word) for word in done.stdout.strip().splitlines()[-1].split()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    measures = {"length": length, "size": size}
    parser.add_argument("names", nargs="*", choices=[*measures, "plot", []], default=[])
    chosen = parser.parse_args().names or [*measures, "plot"]
    for name in measures:
        if name in chosen:
            save_figures(f"growth.{name}", measures[name]())
    if "plot" in chosen:
        plot()
