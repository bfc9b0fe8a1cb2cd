"""What orchestration costs. `python -m benchmarks.orchestration [no-work | real | workers | many]`; without a name all of them.

no-work: 100 clips that are already in the store, seconds a clip. real: one batch through Prefect and Ray against a bare loop over the same
clips, one worker of one thread. workers: the same batch with 1 and 2 workers of one thread. many: a manifest of 5,000 clips, seconds to the
first clip and the driver's memory after 100 and after 500 clips. Writes its keys into benchmarks/results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path

import psutil
import yaml

from benchmarks.machine import keep
from stereotalker.params import ROOT, Params, load_params
from stereotalker.runtime.home import Home

_SENTENCE = "Big problems become small when people talk about them."
_FIRST, _MANY = 100, 500


class BatchContext:
    """One home with a server, and small batches in it."""

    def __init__(self, folder: Path):
        self.folder, self._runs = folder, 0
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        values["quality"] |= {"faces": 0.0}
        (folder / "params.yaml").write_text(yaml.safe_dump(values))
        self.params = load_params(folder / "params.yaml")

    def home(self, name: str) -> Home:
        return Home(self.folder / name)

    def batch(self, name: str, clips: int, **common) -> Path:
        rows = [{"id": f"c{k:04}", "avatar": ("ava", "ben")[k % 2], "seed": k, **common} for k in range(clips)]
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"clips": rows}))
        return path

    def produce(self, manifest: Path, params: Params, home: Home, executor: str = "ray") -> float:
        """Seconds from the call to the report."""
        from stereotalker.flows.produce import produce

        self._runs += 1
        with open(os.devnull, "w") as quiet:
            done = produce(manifest, self.folder / f"out-{self._runs}", params, home, executor, stream=quiet)
        assert done.end.status in (0, 4), done.end.summary()
        return done.end.wall_seconds


def no_work(bench: BatchContext) -> dict[str, float]:
    """The same one-second clip a hundred times over (ids and seeds equal nothing but the store's answers)."""
    home = bench.home("no-work")
    manifest = bench.batch("no-work", 100, script="Yes.", width=64, height=64, fps=5)
    bench.produce(manifest, _workers(bench.params, 1, 2), home)
    empty = bench.produce(
        bench.batch("one", 1, script="Yes.", width=64, height=64, fps=5), _workers(bench.params, 1, 2), home
    )
    return {"overhead_s_per_clip": (bench.produce(manifest, _workers(bench.params, 1, 2), home) - empty) / 99}


def real(bench: BatchContext) -> dict[str, float]:
    """Bare: the library alone, one clip after the other, one thread. Orchestrated: Prefect, Ray and MLflow with one worker of one thread."""
    from stereotalker.media.content_credentials import open_signer
    from stereotalker.models import Models
    from stereotalker.production.admission import AdmissionControl
    from stereotalker.production.clip import ClipMaker, StageTimings, make_clip
    from stereotalker.production.manifest import read_manifest
    from stereotalker.store.local import Store
    from stereotalker.tasks.pool import LocalSlot, Pool

    params = _workers(bench.params, 1, 1)
    manifest = bench.batch("real", 4, script=_SENTENCE, width=256, height=256)
    store, models, home = Store(bench.folder / "bare-store"), Models(params), bench.home("bare")
    maker = ClipMaker(models, store, open_signer(params.provenance, home.credentials))
    pool = Pool([LocalSlot(models, store)], params.produce.worker, AdmissionControl(), store)
    models.renderer, models.synthesizer  # noqa: B018  (loaded before the clock starts)
    begun = time.monotonic()
    for clip in read_manifest(manifest).clips:
        timings = StageTimings()
        maker.sign(clip, make_clip(clip, maker, pool.render, lambda *_: None, timings), timings)
    bare = time.monotonic() - begun
    home = bench.home("orchestrated")
    start_up = bench.produce(bench.batch("start-up", 1, script="Yes.", width=64, height=64, fps=5), params, home)
    whole = bench.produce(manifest, params, home)
    return {
        "overhead_fraction": whole / bare - 1,
        "overhead_fraction_without_start_up": (whole - start_up) / bare - 1,
        "bare_seconds": bare,
        "orchestrated_seconds": whole,
        "start_up_seconds": start_up,
    }


def workers(bench: BatchContext) -> dict[str, float]:
    manifest = bench.batch("workers", 6, script=_SENTENCE, width=256, height=256)
    small = bench.batch("small", 1, script="Yes.", width=64, height=64, fps=5)
    seconds = {}
    for count in (1, 2):
        params, home = _workers(bench.params, count, 1), bench.home(f"workers-{count}")
        start_up = bench.produce(small, params, home)
        seconds[count] = bench.produce(manifest, params, home) - start_up
    return {
        "two_worker_speedup": seconds[1] / seconds[2],
        "one_worker_seconds": seconds[1],
        "two_workers_seconds": seconds[2],
    }


def many(bench: BatchContext) -> dict[str, float]:
    """Begin a batch of 5,000, watch it for 500 clips, then stop it as Ctrl-C does."""
    home, params = bench.home("many"), _workers(bench.params, 2, 1)
    manifest, memory, first = bench.batch("many", 5000, script="Yes.", width=64, height=64, fps=5), {}, []
    clips, begun, me = bench.folder / f"out-{bench._runs + 1}" / "clips", time.monotonic(), psutil.Process()

    def watch() -> None:
        import signal

        while True:
            count = len(os.listdir(clips)) if clips.is_dir() else 0
            if count and not first:
                first.append(time.monotonic() - begun)
            for mark in (_FIRST, _MANY):
                if count >= mark and mark not in memory:
                    memory[mark] = me.memory_info().rss / 1e9
            if count >= _MANY:
                os.kill(me.pid, signal.SIGINT)
                return
            time.sleep(0.2)

    threading.Thread(target=watch, daemon=True).start()
    from stereotalker.flows.produce import produce

    with open(os.devnull, "w") as quiet:
        bench._runs += 1
        done = produce(manifest, bench.folder / f"out-{bench._runs}", params, home, stream=quiet)
    assert done.end.count("stopped") + done.end.count("pass") + done.end.count("review") == 5000
    return {"first_clip_of_5000_s": first[0], "driver_gb_at_100": memory[_FIRST], "driver_gb_at_500": memory[_MANY]}


def _workers(params: Params, count: int, threads: int) -> Params:
    return params.with_produce({"workers": count, "worker": {"threads": threads}})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    measures = {"no-work": no_work, "real": real, "workers": workers, "many": many}
    parser.add_argument("names", nargs="*", choices=[*measures, []], default=[])
    from stereotalker.tasks.server import ensure_server, stop_server

    with tempfile.TemporaryDirectory() as name:
        bench, server = BatchContext(Path(name)), Home(Path(name) / "server")
        ensure_server(server)
        try:
            for chosen in parser.parse_args().names or measures:
                found = measures[chosen](bench)
                print(json.dumps({chosen: found}), flush=True)
                keep(chosen, found)
        finally:
            stop_server(server)
