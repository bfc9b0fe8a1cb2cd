"""How fast motion is made and what memory it takes: seconds of motion a second, models loaded, and the peak from 10 s to an hour of speech.

`python -m benchmarks.motion [--threads 2]`. Every length is measured in a process of its own; benchmarks/results.json keeps the other figures.
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

from benchmarks.machine import keep
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.models import Models
from stereotalker.motion.synthesize import MotionControls
from stereotalker.params import load_params
from stereotalker.records import SAMPLE_RATE, Speech

_SENTENCE = "Big problems become small when people talk about them, and the whole world may listen."
LENGTHS = (10, 60, 3600)  # s


def measure(seconds: int, threads: int) -> dict[str, float]:
    """Wall time and peak memory of one recording without a text."""
    torch.set_num_threads(threads)
    synthesizer = Models(load_params()).synthesizer
    spoken = from_script(_SENTENCE, Voice(), -20.0)[0].samples
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
    found = {}
    for seconds in LENGTHS:
        answer = subprocess.run(
            [sys.executable, "-m", "benchmarks.motion", "--seconds", str(seconds), "--threads", str(options.threads)],
            stdout=subprocess.PIPE,
            check=True,
        )
        found[seconds] = json.loads(answer.stdout.splitlines()[-1])
        print(
            f"{seconds:5} s  {seconds / found[seconds]['wall']:5.1f} times real time, peak {found[seconds]['peak_gb']:.2f} GB",
            flush=True,
        )
    figures = {"motion_realtime_factor": 60 / found[60]["wall"], "motion_threads": options.threads}
    figures |= {f"motion_realtime_factor_{s}s": s / found[s]["wall"] for s in LENGTHS} | {
        f"motion_peak_gb_{s}s": found[s]["peak_gb"] for s in LENGTHS
    }
    keep("motion", figures)
