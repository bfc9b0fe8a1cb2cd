"""What the synthetic people cost: a frame, a slice of the `full` data set, and two ways to store takes. `python -m benchmarks.people`.

Adds to benchmarks/results.json, with the machine and the commit. `--identities 2 4`: sizes of the slices; `--only frames` and so on for a part.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import keep
from stereotalker.dataset.build import build_people
from stereotalker.dataset.shards import read_shard
from stereotalker.geometry import camera as cameras
from stereotalker.models import read_body
from stereotalker.params import ROOT, load_params
from stereotalker.records import Motion
from stereotalker.runtime.process_pool import pool
from stereotalker.synthetic.actor import build_actor
from stereotalker.synthetic.shading import render

PEOPLE = 16  # identities whose frames are timed


def frame_times(first: int, size: int) -> list[float]:
    """ms of every frame of some identities in one process, one thread, without supersampling; posing included."""
    torch.set_num_threads(1)
    params = load_params()
    body, times = read_body(params.body), []
    for identity in range(first, first + PEOPLE // 2):
        actor = build_actor(identity, body, 128, 1)
        avatar, dressed = actor.avatar, actor.dressed
        view = cameras.look_at(np.zeros(1), np.zeros(1), np.full(1, cameras.DISTANCE_M), avatar.target, (size, size))
        still = Motion(
            np.repeat(avatar.poses[None], 4, 0),
            np.repeat(avatar.expression[None], 4, 0),
            np.zeros((4, 3), np.float32),
            25.0,
        )
        plate = np.full((size, size, 3), 128, np.uint8)
        for repeat in range(3):
            started = time.perf_counter()
            posed = body.posed(still, dressed.betas, dressed.face)
            for t in range(4):
                render(
                    dressed.figure,
                    posed.vertices[t],
                    posed.turn[t],
                    view.intrinsics[0],
                    view.extrinsics[0],
                    actor.light,
                    plate,
                )
            if repeat:
                times.append(250 * (time.perf_counter() - started))
    return times


def frames() -> dict[str, float]:
    found: dict[str, float] = {}
    for size in (256, 512):
        alone = frame_times(0, size)
        with pool(2) as workers:
            both = sum(workers.map(frame_times, (0, PEOPLE // 2), (size, size)), [])
        found |= {
            f"people_frame_ms_{size}": float(np.median(alone)),
            f"people_frame_ms_{size}_slowest": float(np.max(alone)),
            f"people_frame_ms_{size}_beside_another": float(np.median(both)),
        }
    return found


def slices(sizes: list[int], processes: int) -> dict[str, float]:
    """Seconds, work and bytes of the first identities of `full`; ratios near 1 say that twice as many cost twice as much."""
    text = (ROOT / "params.yaml").read_text().replace("scale: mini", "scale: full")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.yaml").write_text(text)
        params = load_params(Path(folder) / "params.yaml")
        rows = []
        for count in sizes:
            out = Path(folder) / str(count)
            own = params.people.model_copy(update={"identities": count, "held_out": 0, "avatars": {}})
            started, used = time.perf_counter(), _used()
            build_people(
                out, out / "avatars", params.body, own, Path("data/speech"), processes=processes, log=lambda _: None
            )
            rows.append(
                (
                    count,
                    time.perf_counter() - started,
                    _used() - used,
                    sum(p.stat().st_size for p in out.rglob("*.tar")),
                )
            )
            print(
                f"{count} identities: {rows[-1][1]:.0f} s, {rows[-1][2]:.0f} s of processor, {rows[-1][3] / 1e6:.0f} MB",
                flush=True,
            )
    counts, seconds, work, size = np.array(rows, float).T
    total = params.people.identities + params.people.held_out
    return {
        "full_identities": total, "full_processes": processes, "full_seconds_per_identity": seconds[-1] / counts[-1], "full_hours": seconds[-1] / counts[-1] * total / 3600,
        "full_processor_seconds_per_identity": work[-1] / counts[-1], "full_gigabytes": size[-1] / counts[-1] * total / 1e9,
        "full_work_ratio": (work[-1] / counts[-1]) / (work[0] / counts[0]), "full_bytes_ratio": (size[-1] / counts[-1]) / (size[0] / counts[0]),
        "full_slice": [[int(n), round(s, 1), round(w, 1), int(b)] for n, s, w, b in rows],
    }  # fmt: skip


def _used() -> float:
    """Seconds of processor of this process's ended children: another job on the machine hardly changes them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def formats(folder: Path) -> dict[str, float]:
    """The same takes as a tar and as a Parquet file: size, speed of writing and reading; and what decoding one shard takes beside it."""
    import tarfile

    import pyarrow as arrow
    import pyarrow.parquet as parquet

    members = []
    for path in sorted(folder.glob("people-*.tar"))[:24]:
        with tarfile.open(path) as tar:
            members += [(entry.name, tar.extractfile(entry).read()) for entry in tar]
    with tempfile.TemporaryDirectory() as place:
        tar_file, parquet_file = Path(place) / "takes.tar", Path(place) / "takes.parquet"

        def write_tar() -> None:
            with tarfile.open(tar_file, "w", format=tarfile.USTAR_FORMAT) as tar:
                for name, data in members:
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))

        def write_parquet() -> None:
            keys = [name.split(".", 1) for name, _ in members]
            table = arrow.table(
                {
                    "key": [k for k, _ in keys],
                    "file": [f for _, f in keys],
                    "data": arrow.array([d for _, d in members], arrow.binary()),
                }
            )
            parquet.write_table(table, parquet_file, compression="none", row_group_size=256)

        def read_tar() -> int:
            with tarfile.open(tar_file) as tar:
                return sum(len(tar.extractfile(entry).read()) for entry in tar)

        def read_parquet() -> int:
            return sum(
                len(x)
                for batch in parquet.ParquetFile(parquet_file).iter_batches(256, columns=["data"])
                for x in batch.column(0).to_pylist()
            )

        found = {}
        for name, write, read, path in (
            ("tar", write_tar, read_tar, tar_file),
            ("parquet", write_parquet, read_parquet, parquet_file),
        ):
            written, seen = _best(write), _best(read)
            found |= {
                f"shard_{name}_write_mb_s": path.stat().st_size / 1e6 / written,
                f"shard_{name}_read_mb_s": path.stat().st_size / 1e6 / seen,
                f"shard_{name}_mb": path.stat().st_size / 1e6,
            }
    one = next(iter(sorted(folder.glob("people-*.tar"))))
    return found | {"shard_decode_s": _best(lambda: read_shard(one))}


def _best(work, repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--identities", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=["frames", "slices", "formats"])
    options = parser.parse_args()
    parts = {
        "frames": frames,
        "slices": lambda: slices(options.identities, options.processes),
        "formats": lambda: formats(Path("data/people/train")),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            found = part()
            print(json.dumps(found, indent=2), flush=True)
            keep(f"people.{name}", found)
