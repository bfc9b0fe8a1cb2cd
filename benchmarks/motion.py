"""Speed and peak memory of motion synthesis, with models loaded, for 10 s to an hour of speech.

`python -m benchmarks.motion [--threads 2]`. Every length is measured in its own process, because peak memory never
falls within one. Writes its figures to benchmarks/results.json. Speed is seconds of motion per second of wall time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from benchmarks.machine import save_figures
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.models import Models
from stereotalker.motion.synthesize import MotionControls
from stereotalker.params import load_params
from stereotalker.records import SAMPLE_RATE, Speech

_SENTENCE = "Big problems become small when people talk about them, and the whole world may listen."
LENGTHS = (10, 60, 3600)  # of the speech, s


def measure(seconds: int, threads: int) -> dict[str, float]:
    """Wall time (s) and peak memory (GB) of one recording of so many seconds without a text."""
    torch.set_num_threads(threads)
    synthesizer = Models(load_params()).synthesizer
    spoken = from_script(_SENTENCE, Voice(), -20.0).samples
    speech = Speech(np.resize(spoken, seconds * SAMPLE_RATE), -20.0)
    synthesizer.motion(Speech(speech.samples[: 5 * SAMPLE_RATE], -20.0), MotionControls(0), 125, 25.0)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, time.monotonic()
    synthesizer.motion(speech, MotionControls(0), seconds * 25, 25.0)
    return {
        "wall": time.monotonic() - started,
        "before_gb": before,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=int)
    options = parser.parse_args()
    if options.seconds:
        print(json.dumps(measure(options.seconds, options.threads)))
        sys.exit()
    by_length = {}
    for seconds in LENGTHS:
        process = subprocess.run(
            [sys.executable, "-m", "benchmarks.motion", "--seconds", str(seconds), "--threads", str(options.threads)],
            stdout=subprocess.PIPE,
            check=True,
        )
        by_length[seconds] = json.loads(process.stdout.splitlines()[-1])
        wall, peak = by_length[seconds]["wall"], by_length[seconds]["peak_gb"]
        print(f"{seconds:5} s  {seconds / wall:5.1f} times real time, peak {peak:.2f} GB", flush=True)
    figures = {"motion_realtime_factor": 60 / by_length[60]["wall"], "motion_threads": options.threads}
    figures |= {f"motion_realtime_factor_{s}s": s / by_length[s]["wall"] for s in LENGTHS} | {
        f"motion_peak_gb_{s}s": by_length[s]["peak_gb"] for s in LENGTHS
    }
    save_figures("motion", figures)
