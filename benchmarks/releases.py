"""What releases and records cost: looking up the champion for a batch, and the record of a clip.

`python -m benchmarks.releases`. Writes its figures to benchmarks/results.json, with machine and commit.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.machine import save_figures
from stereotalker.models import Models
from stereotalker.params import load_params
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.clip import make_clip
from stereotalker.production.clip_record import complete, describe_inputs, describe_result, to_json
from stereotalker.production.clip_stages import ClipMaker, StageTimings
from stereotalker.production.manifest import Clip
from stereotalker.releases.release import shipped_files, shipped_release
from stereotalker.runtime.home import Home
from stereotalker.store.local import Store
from stereotalker.tasks.pool import LocalSlot, Pool
from stereotalker.tasks.registry import Registry, resolve

_TIMES = 9  # the median of so many calls


def measure() -> dict[str, float]:
    """Seconds for `resolve` with a release of the shipped weights, and ms for a clip's record."""
    params = load_params()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        registry = Registry(home, params.releases)
        release = replace(shipped_release(), made="2026-11-29")
        registry.promote(registry.register(release, shipped_files(), "# card"), "for the benchmark")
        source = resolve(home, params.releases)
        models = Models(params, source.folder, source.release, source.number, source.store)
        store = Store(home.store)
        maker, pool = (
            ClipMaker(models, store),
            Pool([LocalSlot(models, store)], params.produce.worker, AdmissionControl(), store),
        )
        clip = Clip(id="c", avatar="ava", script="Good morning.", width=64, height=64, fps=10)
        finished = make_clip(clip, maker, pool.render, lambda *_: None, StageTimings())

        def record() -> None:
            made = describe_inputs(maker, clip) | describe_result(maker, clip, finished)
            to_json(complete(made, "clips/c.mp4", finished.file, "benchmark", "benchmark.yaml"))

        return {
            "resolve_seconds": _seconds(lambda: resolve(home, params.releases)),
            "clip_record_ms": 1000 * _seconds(record),
        }


def _seconds(call: Callable[[], object]) -> float:
    """Median wall time of a call."""
    times = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return median(times)


if __name__ == "__main__":
    figures = measure()
    save_figures("releases", figures)
    print(json.dumps(figures, indent=1))
