"""Cost of orchestration. `python -m benchmarks.orchestration [no-work | real | workers | many]`; without a name, all.

no-work: 100 clips that are already in the store, seconds per clip, and 50 clips that are delivered already. real: one
batch through Prefect and Ray against a bare loop over the same clips, with one worker of one thread. workers: one batch
with 1 and 2 workers of one thread. many: a manifest of 10,000 clips, of which 500 are made: seconds and the driver's
memory after 1 to 500. Writes its figures to benchmarks/results.json.
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

from benchmarks.machine import save_figures
from stereotalker.params import ROOT, Params, load_params
from stereotalker.runtime.home import Home

_SENTENCE = "Big problems become small when people talk about them."
_ROWS, _MARKS = 10_000, (1, 10, 50, 100, 500)  # clips of a long manifest, and after how many of them figures are read


class BatchContext:
    """Makes manifests in a folder, and runs them one after the other against one Prefect server."""

    def __init__(self, folder: Path):
        """Copy params.yaml to the folder, without the face check, which the smallest pictures would fail."""
        self.folder, self._runs = folder, 0
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        values["quality"] |= {"faces": 0.0}
        (folder / "params.yaml").write_text(yaml.safe_dump(values))
        self.params = load_params(folder / "params.yaml")

    def home(self, name: str) -> Home:
        """A home with an empty store, if the name is new."""
        return Home(self.folder / name)

    def manifest(self, name: str, clips: int, **common) -> Path:
        """Write a manifest of so many clips, which differ in id, avatar and seed; `common` holds all other fields."""
        rows = [{"id": f"c{k:04}", "avatar": ("ava", "ben")[k % 2], "seed": k, **common} for k in range(clips)]
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"clips": rows}))
        return path

    def produce(self, manifest: Path, params: Params, home: Home, out: str = "") -> float:
        """Produce a batch, and return the seconds that the call takes. out: name of its folder; empty: a new one."""
        from stereotalker.flows.produce import produce

        self._runs += 1
        started = time.monotonic()
        with open(os.devnull, "w", encoding="utf-8") as no_output:
            batch = produce(manifest, self.folder / (out or f"out-{self._runs}"), params, home, stream=no_output)
        assert batch.end.status in (0, 4), batch.end.summary()
        return time.monotonic() - started


def no_work(batches: BatchContext) -> dict[str, float]:
    """Seconds per clip of a batch of short clips, all of which the store already holds."""
    home = batches.home("no-work")
    manifest = batches.manifest("no-work", 100, script="Yes.", width=64, height=64, fps=5)
    batches.produce(manifest, _workers(batches.params, 1, 1), home)
    empty = batches.produce(
        batches.manifest("one", 1, script="Yes.", width=64, height=64, fps=5), _workers(batches.params, 1, 1), home
    )
    finished = batches.produce(manifest, _workers(batches.params, 1, 1), home)
    fifty = batches.manifest("fifty", 50, script="Yes.", width=64, height=64, fps=5)
    for _ in range(2):
        found_again = batches.produce(fifty, _workers(batches.params, 1, 1), home, out="fifty")
    return {"overhead_s_per_clip": (finished - empty) / 99, "found_again_s_50": found_again}


def real(batches: BatchContext) -> dict[str, float]:
    """Wall time of a batch with orchestration over that without.

    Without: the library alone makes one clip after the other with one thread. With: Prefect, Ray and MLflow, with one
    worker of one thread.
    """
    from stereotalker.media.content_credentials import open_signer
    from stereotalker.models import Models
    from stereotalker.production.admission import AdmissionControl
    from stereotalker.production.clip import make_clip
    from stereotalker.production.clip_record import describe_inputs, sign_with_record
    from stereotalker.production.clip_stages import ClipMaker, StageTimings
    from stereotalker.production.manifest import read_manifest
    from stereotalker.store.local import Store
    from stereotalker.tasks.pool import LocalSlot, Pool

    params = _workers(batches.params, 1, 1)
    manifest = batches.manifest("real", 4, script=" ".join([_SENTENCE] * 3), width=256, height=256)  # 10 s each
    store, models, home = Store(batches.folder / "bare-store"), Models(params), batches.home("bare")
    maker = ClipMaker(models, store, open_signer(params.provenance, home.credentials))
    pool = Pool([LocalSlot(models, store)], params.produce.worker, AdmissionControl(), store)
    models.renderer, models.synthesizer  # noqa: B018  (loads them before the clock starts)
    started = time.monotonic()
    for clip in read_manifest(manifest).clips:
        timings = StageTimings()
        finished = make_clip(clip, maker, pool.render, lambda *_: None, timings)
        sign_with_record(maker, clip, finished, describe_inputs(maker, clip), timings)
    bare = time.monotonic() - started
    home = batches.home("orchestrated")
    start_up = batches.produce(batches.manifest("start-up", 1, script="Yes.", width=64, height=64, fps=5), params, home)
    orchestrated = batches.produce(manifest, params, home)
    return {
        "overhead_fraction": orchestrated / bare - 1,
        "overhead_fraction_without_start_up": (orchestrated - start_up) / bare - 1,
        "bare_seconds": bare,
        "orchestrated_seconds": orchestrated,
        "batch_start_s": start_up,
    }


def workers(batches: BatchContext) -> dict[str, float]:
    """Speed-up of two workers over one, without the time to start them."""
    manifest = batches.manifest("workers", 6, script=_SENTENCE, width=256, height=256)
    small = batches.manifest("small", 1, script="Yes.", width=64, height=64, fps=5)
    seconds = {}
    for count in (1, 2):
        params, home = _workers(batches.params, count, 1), batches.home(f"workers-{count}")
        start_up = batches.produce(small, params, home)
        seconds[count] = batches.produce(manifest, params, home) - start_up
    return {
        "two_worker_speedup": seconds[1] / seconds[2],
        "one_worker_seconds": seconds[1],
        "two_workers_seconds": seconds[2],
    }


def many(batches: BatchContext) -> dict[str, float | list]:
    """Start a batch of 10,000 small clips, measure until 500 are finished, then stop it as Ctrl-C does."""
    home, params = batches.home("many"), _workers(batches.params, 2, 1)
    manifest, rows = batches.manifest("many", _ROWS, script="Yes.", width=64, height=64, fps=5), []
    clips, started, process = batches.folder / f"out-{batches._runs + 1}" / "clips", time.monotonic(), psutil.Process()

    def watch() -> None:
        import signal

        for mark in _MARKS:
            while not clips.is_dir() or len(os.listdir(clips)) < mark:
                time.sleep(0.2)
            rows.append([mark, time.monotonic() - started, process.memory_info().rss / 1e9])
        os.kill(process.pid, signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
    from stereotalker.flows.produce import produce

    with open(os.devnull, "w", encoding="utf-8") as no_output:
        batches._runs += 1
        batch = produce(manifest, batches.folder / f"out-{batches._runs}", params, home, stream=no_output)
    assert batch.end.count("stopped") + batch.end.count("pass") + batch.end.count("review") == _ROWS
    assert len(rows) == len(_MARKS), f"the batch ended after {rows}"
    return {"first_clip_of_10000_s": rows[0][1], "growth_batch": rows}


def _workers(params: Params, count: int, threads: int) -> Params:
    """The parameters with so many workers of so many threads."""
    return params.with_produce({"workers": count, "worker": {"threads": threads}})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    measures = {"no-work": no_work, "real": real, "workers": workers, "many": many}
    parser.add_argument("names", nargs="*", choices=[*measures, []], default=[])
    from stereotalker.tasks.server import ensure_server, stop_server

    with tempfile.TemporaryDirectory() as name:
        batches, server = BatchContext(Path(name)), Home(Path(name) / "server")
        ensure_server(server)
        try:
            for chosen in parser.parse_args().names or measures:
                figures = measures[chosen](batches)
                print(json.dumps({chosen: figures}), flush=True)
                save_figures(chosen, figures)
        finally:
            stop_server(server)
