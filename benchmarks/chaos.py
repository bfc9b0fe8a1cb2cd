"""Does a night survive? A batch on a Ray cluster of two nodes; a worker, then a whole node, then the driver die by kill -9 at random moments.

`python -m benchmarks.chaos [--clips 40] [--rounds 10] [--seed 0]`. The shipped models, small pictures. Every round starts from an empty
store and must end with every clip made, no finished stage made twice, and the bytes of an undisturbed run. Writes benchmarks/chaos.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml
from ray.cluster_utils import Cluster

from benchmarks.machine import machine
from stereotalker.params import ROOT
from stereotalker.store.digests import file_digest

_WORDS = "one two three four five six seven eight nine ten eleven twelve".split()
_WORKER = "ray::_Worker"
_LONGEST_S = 900


class Night:
    """One batch in a folder of its own, made by drivers that may be killed."""

    def __init__(self, folder: Path, manifest: Path, params: Path, address: str):
        self.folder, self._address = folder, address
        self._command = [
            sys.executable,
            "-m",
            "stereotalker.cli",
            "produce",
            str(manifest),
            "--out",
            str(folder / "out"),
            "--params",
            str(params),
            "--workers",
            "2",
            "--threads",
            "1",
        ]
        self._server = {"PREFECT_API_URL": os.environ["PREFECT_API_URL"]} if "PREFECT_API_URL" in os.environ else {}

    def start(self) -> subprocess.Popen:
        own = {
            **os.environ,
            **self._server,
            "STEREOTALKER_HOME": str(self.folder / "home"),
            "RAY_ADDRESS": self._address,
            "OMP_NUM_THREADS": "1",
        }
        with open(self.folder / "driver.log", "ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log, env=own, cwd=ROOT)

    def finished(self) -> dict[str, int]:
        """Store entries that are whole -> when they were made."""
        return {
            str(p.parent.relative_to(self.folder)): p.stat().st_mtime_ns
            for p in (self.folder / "home" / "store").glob("*/*/done.json")
        }

    def videos(self) -> dict[str, str]:
        return {p.name: file_digest(p) for p in sorted((self.folder / "out" / "clips").glob("*.mp4"))}

    def states(self) -> dict[str, int]:
        rows = json.loads((self.folder / "out" / "results.json").read_text())["clips"]
        return {state: sum(row["state"] == state for row in rows) for state in {row["state"] for row in rows}}


def main(clips: int, rounds: int, seed: int) -> dict:
    from stereotalker.runtime.home import Home
    from stereotalker.tasks.server import ensure_server, stop_server

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        manifest, params = _batch(root, clips)
        home = Home(root / "server")
        ensure_server(home)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 200 * 1024**2},
        )
        other = cluster.add_node(num_cpus=1, object_store_memory=200 * 1024**2)
        try:
            calm = _night(root / "calm", manifest, params, cluster.address)
            begun = time.monotonic()
            assert _wait(calm.start(), _LONGEST_S) == 0, (calm.folder / "driver.log").read_text()[-2000:]
            seconds, expected = time.monotonic() - begun, calm.videos()
            print(f"undisturbed: {len(expected)} clips in {seconds:.0f} s, {len(calm.finished())} entries", flush=True)
            found = []
            for number in range(rounds):
                rng = random.Random(f"{seed}/{number}")
                night = _night(root / f"round-{number}", manifest, params, cluster.address)
                found.append({"round": number, **_round(night, cluster, other, rng, seconds)})
                other = found[-1].pop("node")
                videos = night.videos()
                found[-1] |= {
                    "clips": len(videos),
                    "bytes_equal": sum(videos.get(n) == d for n, d in expected.items()),
                    "entries": len(night.finished()),
                    **night.states(),
                }
                print(json.dumps(found[-1]), flush=True)
        finally:
            cluster.shutdown()
            stop_server(home)
    good = sum(
        row["clips"] == clips and row["bytes_equal"] == clips and row["repeated"] == 0 and row["status"] == 0
        for row in found
    )
    return {"clips": clips, "undisturbed_seconds": seconds, "rounds_survived": good, "rounds": found}


def _round(night: Night, cluster: Cluster, other, rng: random.Random, calm_seconds: float) -> dict:
    """Three deaths at random moments of the time a calm run takes, then the end."""
    driver, repeated, events = night.start(), 0, []
    begun, longest = time.monotonic(), calm_seconds * 0.8
    moments = sorted(rng.uniform(0.3, 0.95) * longest for _ in range(3))
    for moment, victim in zip(moments, ("worker", "node", "driver"), strict=True):
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        if driver.poll() is not None:
            break
        before = night.finished()
        if victim == "worker":
            workers = [
                p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[0].startswith(_WORKER)
            ]
            for process in rng.sample(workers, min(1, len(workers))):
                process.kill()
            events.append(f"{moment:.0f} s: {'a worker' if workers else 'no worker yet'}, {len(before)} entries")
        elif victim == "node":
            cluster.remove_node(other, allow_graceful=False)
            events.append(f"{moment:.0f} s: a node, {len(before)} entries")
            time.sleep(rng.uniform(1, 5))
            other = cluster.add_node(num_cpus=1, object_store_memory=200 * 1024**2)
        else:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            events.append(f"{moment:.0f} s: the driver, {len(before)} entries")
            driver = night.start()
        repeated += _made_again(before, night.finished())
    before = night.finished()
    status = _wait(driver, _LONGEST_S)
    repeated += _made_again(before, night.finished())
    return {
        "status": status,
        "seconds": round(time.monotonic() - begun),
        "repeated": repeated,
        "events": events,
        "node": other,
    }


def _made_again(before: dict[str, int], after: dict[str, int]) -> int:
    return sum(after.get(entry) != made for entry, made in before.items())


def _night(folder: Path, manifest: Path, params: Path, address: str) -> Night:
    folder.mkdir()
    return Night(folder, manifest, params, address)


def _batch(root: Path, clips: int) -> tuple[Path, Path]:
    rows = [
        {
            "id": f"c{k:02}",
            "avatar": ("ava", "ben", "cleo", "dan")[k % 4],
            "script": " ".join(_WORDS[k % 9 : k % 9 + 4]),
            "seed": k,
        }
        for k in range(clips)
    ]
    manifest, params = root / "night.yaml", root / "params.yaml"
    manifest.write_text(yaml.safe_dump({"defaults": {"width": 64, "height": 64, "fps": 12.5}, "clips": rows}))
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["render"]["segment"] = 10  # several segments a clip
    values["quality"] |= {"faces": 0.0, "sharpness": 0.01}  # too small for the face detector
    values["provenance"]["sign"] = (
        False  # a signature holds random numbers; everything else must be equal byte for byte
    )
    params.write_text(yaml.safe_dump(values))
    return manifest, params


def _wait(process: subprocess.Popen, seconds: float) -> int:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return -1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = main(options.clips, options.rounds, options.seed) | machine()
    (ROOT / "benchmarks" / "chaos.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
