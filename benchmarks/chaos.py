"""Fault injection: does a batch survive when workers, nodes and the driver are killed, and disk and store go away?

`python -m benchmarks.chaos [--clips 20] [--rounds 10] [--seed 0]`, as root, because a small disk is mounted. The batch
runs on a Ray cluster of two nodes, with the shipped models, small pictures, signing, and a store on S3. In every round,
at random moments, a worker, a node and the driver get SIGKILL, the disk of the local copies is full for 20 s, and the
S3 server is away for 20 s. A driver that stopped by itself is started again, as an operator would. A round starts from
an empty store, and must end with every clip made, no finished stage made twice, and the frames of an undisturbed run.
Writes benchmarks/chaos.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import boto3
import psutil
import yaml
from moto.server import ThreadedMotoServer
from ray.cluster_utils import Cluster

from benchmarks.machine import machine_info
from stereotalker.media.video_files import read_frames
from stereotalker.params import ROOT
from stereotalker.store.digests import digest
from stereotalker.store.local import Store

_WORDS = "one two three four five six seven eight nine ten eleven twelve".split()
_WORKER_PROCESS = "ray::RenderWorker"  # how the command line of a worker process starts
_MAX_SECONDS = 900  # time limit of a run, s
_AWAY_S = 20  # seconds for which the disk is full, and for which the S3 server is away
_DISK_BYTES = 512 * 1024**2  # of the disk of the local copies
_BUCKET = "night"
_NODE_MEMORY = 200 * 1024**2  # object store of a Ray node, bytes


class Switch:
    """A TCP relay to the S3 server. While it is off, connections are closed and none is accepted."""

    def __init__(self, target: int):
        self._target, self._is_on, self._connections = target, True, set[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def off_for(self, seconds: float) -> None:
        """Be off for some seconds."""
        self._is_on = False
        for connection in list(self._connections):
            connection.close()
        time.sleep(seconds)
        self._is_on = True

    def _accept(self) -> None:
        while True:
            inner, _ = self._listener.accept()
            if not self._is_on:
                inner.close()
                continue
            outer = socket.create_connection(("127.0.0.1", self._target))
            self._connections |= {inner, outer}
            for source, sink in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for connection in (source, sink):
            self._connections.discard(connection)
            connection.close()


class BatchRun:
    """A batch in its own folder, made by driver processes that may be killed and started again."""

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
            "--store",
            f"s3://{_BUCKET}/{folder.name}",
        ]
        self._server = {"PREFECT_API_URL": os.environ["PREFECT_API_URL"]} if "PREFECT_API_URL" in os.environ else {}

    def start(self) -> subprocess.Popen:
        """Start a driver process, which goes on where a killed one stopped."""
        environment = {
            **os.environ,
            **self._server,
            "STEREOTALKER_HOME": str(self.folder / "home"),
            "RAY_ADDRESS": self._address,
            "OMP_NUM_THREADS": "1",
        }
        with open(self.folder / "driver.log", "ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log, env=environment, cwd=ROOT)

    def finished(self) -> dict[tuple[str, str], int]:
        """Stage and key of complete store entries -> time of their completion, ns."""
        return {(e.stage, e.key): e.finished_ns for e in Store(self.folder / "home" / "store").entries()}

    def videos(self) -> dict[str, str]:
        """File name -> digest of the frames of every finished clip. Signatures hold random numbers."""
        return {p.name: digest(read_frames(p)) for p in sorted((self.folder / "out" / "clips").glob("*.mp4"))}

    def fill_disk_for(self, seconds: float) -> None:
        """Leave no room on the disk of the local copies for some seconds."""
        ballast = self.folder / "home" / "store" / "ballast"
        with open(ballast, "wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
            except OSError:
                pass
        time.sleep(seconds)
        ballast.unlink()

    def states(self) -> dict[str, int]:
        """State of a clip in results.json -> number of clips."""
        rows = json.loads((self.folder / "out" / "results.json").read_text())["clips"]
        return {state: sum(row["state"] == state for row in rows) for state in {row["state"] for row in rows}}


def main(clips: int, rounds: int, seed: int) -> dict:
    """Make the batch undisturbed, then in so many rounds with kills. Returns the content of chaos.json."""
    from stereotalker.runtime.home import Home
    from stereotalker.tasks.server import ensure_server, stop_server

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        switch = _start_s3()
        manifest, params = _write_batch(root, clips)
        home = Home(root / "server")
        ensure_server(home)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": _NODE_MEMORY},
        )
        second_node = cluster.add_node(num_cpus=1, object_store_memory=_NODE_MEMORY)
        try:
            undisturbed = _new_run(root / "calm", manifest, params, cluster.address)
            started = time.monotonic()
            status = _wait(undisturbed.start(), _MAX_SECONDS)
            assert status == 0, (undisturbed.folder / "driver.log").read_text()[-2000:]
            seconds, expected = time.monotonic() - started, undisturbed.videos()
            print(
                f"undisturbed: {len(expected)} clips in {seconds:.0f} s, {len(undisturbed.finished())} entries",
                flush=True,
            )
            rows = []
            for number in range(rounds):
                rng = random.Random(f"{seed}/{number}")
                run = _new_run(root / f"round-{number}", manifest, params, cluster.address)
                rows.append({"round": number, **_run_with_harm(run, cluster, second_node, rng, seconds, switch)})
                second_node = rows[-1].pop("node")
                videos = run.videos()
                rows[-1] |= {
                    "clips": len(videos),
                    "frames_equal": sum(videos.get(n) == d for n, d in expected.items()),
                    "entries": len(run.finished()),
                    **run.states(),
                }
                print(json.dumps(rows[-1]), flush=True)
        finally:
            cluster.shutdown()
            stop_server(home)
            for store in root.glob("*/home/store"):
                subprocess.run(["umount", "-l", store])
    survived = sum(
        row["clips"] == clips and row["frames_equal"] == clips and row["repeated"] == 0 and row["status"] == 0
        for row in rows
    )
    return {"clips": clips, "undisturbed_seconds": seconds, "rounds_survived": survived, "rounds": rows}


def _run_with_harm(
    run: BatchRun, cluster: Cluster, second_node, rng: random.Random, undisturbed_seconds: float, switch: Switch
) -> dict:
    """Run a batch with five harms at random moments. Returns a row of chaos.json with the cluster's new node.

    The moments lie before the time that an undisturbed run takes. Where the driver ends well before one, the later
    harms are left out.
    """
    driver, repeated, events = run.start(), 0, []
    started, latest = time.monotonic(), undisturbed_seconds * 0.8
    harms = ["worker", "node", "driver", "disk", "S3"]
    rng.shuffle(harms)
    moments = sorted(rng.uniform(0.3, 0.95) * latest for _ in harms)
    for moment, victim in zip(moments, harms, strict=True):
        time.sleep(max(0.0, started + moment - time.monotonic()))
        if driver.poll() == 0:
            break
        before = run.finished()
        events.append(f"{time.monotonic() - started:.0f} s: {victim}, {len(before)} entries")
        if victim == "worker":
            processes = psutil.process_iter(["cmdline"])
            workers = [p for p in processes if (p.info["cmdline"] or [""])[0].startswith(_WORKER_PROCESS)]
            for process in rng.sample(workers, min(1, len(workers))):
                process.kill()
        elif victim == "node":
            cluster.remove_node(second_node, allow_graceful=False)
            time.sleep(rng.uniform(1, 5))
            second_node = cluster.add_node(num_cpus=1, object_store_memory=_NODE_MEMORY)
        elif victim == "driver":
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            driver = run.start()
        elif victim == "disk":
            run.fill_disk_for(_AWAY_S)
        else:
            switch.off_for(_AWAY_S)
        repeated += _count_repeated(before, run.finished())
        if driver.poll() not in (None, 0):  # it stopped with a message
            events.append(f"{time.monotonic() - started:.0f} s: the driver had stopped and is started again")
            driver = run.start()
    before = run.finished()
    status = _wait(driver, _MAX_SECONDS)
    if status not in (0, -1):
        events.append("the driver stopped and is started again")
        status = _wait(run.start(), _MAX_SECONDS)
    repeated += _count_repeated(before, run.finished())
    return {
        "status": status,
        "seconds": round(time.monotonic() - started),
        "repeated": repeated,
        "events": events,
        "node": second_node,
    }


def _start_s3() -> Switch:
    """Start an S3 server on loopback, and a switch before it that all processes use through their environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it prints every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    switch = Switch(server.get_host_and_port()[1])
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{switch.port}",
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_DEFAULT_REGION="us-east-1",
    )
    boto3.client("s3").create_bucket(Bucket=_BUCKET)
    return switch


def _count_repeated(before: dict[str, int], after: dict[str, int]) -> int:
    """Store entries that were complete before and have been made again, or are gone."""
    return sum(after.get(entry) != completed for entry, completed in before.items())


def _new_run(folder: Path, manifest: Path, params: Path, address: str) -> BatchRun:
    store = folder / "home" / "store"
    store.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", store], check=True)
    return BatchRun(folder, manifest, params, address)


def _write_batch(root: Path, clips: int) -> tuple[Path, Path]:
    """Write the manifest and the parameters of the batch, and return their paths."""
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
    params.write_text(yaml.safe_dump(values))
    return manifest, params


def _wait(process: subprocess.Popen, seconds: float) -> int:
    """Exit status of a process; -1 where it has to be killed after so many seconds."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return -1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = main(options.clips, options.rounds, options.seed) | machine_info()
    (ROOT / "benchmarks" / "chaos.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
