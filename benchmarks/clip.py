"""Time of one clip of 10 s at 25 fps, 256 x 256 and 512 x 512 px, with models loaded. `python -m benchmarks.clip`.

Its segments are rendered by workers of one thread each, which here are threads of one process with models of their own.
Writes its figures to benchmarks/results.json, with machine and commit; the table in the README is copied from there.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.machine import save_figures
from stereotalker.media.video_files import probe
from stereotalker.models import Models
from stereotalker.params import load_params
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.clip import FinishedClip, make_clip
from stereotalker.production.clip_stages import ClipMaker, StageTimings
from stereotalker.production.manifest import Clip
from stereotalker.store.local import Store
from stereotalker.tasks.pool import LocalSlot, Pool

_SENTENCE = "Big problems become small when people talk about them, and the whole world may listen. "


def measure(seconds: float, workers: int) -> dict[str, float | str | dict[str, float]]:
    """Warm up on a short clip, then time clips of both sizes from their script to the judged file.

    stage_seconds_SIZE: what every stage took for a second of video; of all workers together for `render`.
    """
    params = load_params().with_produce({"worker": {"threads": 1}})
    models = [Models(params) for _ in range(workers)]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        maker, pool = (
            ClipMaker(models[0], store),
            Pool([LocalSlot(m, store) for m in models], params.produce.worker, AdmissionControl(), store),
        )

        def make(name: str, script: str, size: int) -> tuple[float, StageTimings, FinishedClip]:
            clip = Clip(id=name, avatar="ava", script=script, width=size, height=size)
            timings = StageTimings()
            started = time.monotonic()
            finished = make_clip(clip, maker, pool.render, lambda *_: None, timings)
            return time.monotonic() - started, timings, finished

        make("warm-up", "One two three, and four, and five, and six.", 256)  # a segment for each worker
        repeats = max(1, round(seconds / 5))  # the sentence lasts about five seconds
        wall, timings, finished = make("clip", _SENTENCE * repeats, 256)
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        video = probe(finished.file)
        assert video.frames == finished.frames
        # Another sentence, so that its sound and motion are not found in the store.
        _, large_timings, large = make("large", _SENTENCE.replace("Big", "Great") * repeats, 512)
        large_seconds = probe(large.file).video_seconds
    return {
        "wall_per_second_256": wall / video.video_seconds,
        "clip_render_fps_256": workers * video.frames / timings.seconds["render"],
        "motion_realtime_factor_clip": video.video_seconds / timings.seconds["motion"],
        "video_seconds": video.video_seconds,
        "peak_gb": peak_gb,
        "stage_seconds_256": _by_second(timings, video.video_seconds),
        "stage_seconds_512": _by_second(large_timings, large_seconds),
        "workers": workers,
    }


def _by_second(timings: StageTimings, seconds: float) -> dict[str, float]:
    """Seconds of every stage for a second of video."""
    return {stage: value / seconds for stage, value in timings.seconds.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    results = measure(options.seconds, options.workers)
    save_figures("clip", results)
    print(json.dumps(results, indent=2))
