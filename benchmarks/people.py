"""Cost of synthetic people: time of a frame, a part of the `full` data set, and two file formats for takes.

`python -m benchmarks.people [--identities 2 4] [--only frames]`. `--identities`: numbers of identities of the parts of
the data set; `--only`: one of frames, slices, formats. Writes its figures to benchmarks/results.json, with machine and
commit.
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

from benchmarks.machine import save_figures
from stereotalker.body.model import read_body
from stereotalker.dataset.build import build_people
from stereotalker.dataset.shards import read_shard
from stereotalker.geometry import camera as cameras
from stereotalker.params import ROOT, load_params
from stereotalker.records import Motion
from stereotalker.runtime.process_pool import pool
from stereotalker.synthetic.actor import build_actor
from stereotalker.synthetic.shading import render

PEOPLE = 16  # identities whose frames are timed
_FRAMES = 4  # frames of an identity that are timed together


def frame_times(first: int, size: int) -> list[float]:
    """Milliseconds per frame of half of the PEOPLE, from the identity `first` on, at `size` px.

    One process with one thread, without supersampling; posing is included. The first repetition warms up and is not
    counted.
    """
    torch.set_num_threads(1)
    params = load_params()
    body, times = read_body(params.body), []
    for identity in range(first, first + PEOPLE // 2):
        actor = build_actor(identity, body, 128, 1)
        avatar, dressed_person = actor.avatar, actor.dressed_person
        view = cameras.look_at(np.zeros(1), np.zeros(1), np.full(1, cameras.DISTANCE_M), avatar.target, (size, size))
        still = Motion(
            np.repeat(avatar.poses[None], _FRAMES, 0),
            np.repeat(avatar.expression[None], _FRAMES, 0),
            np.zeros((_FRAMES, 3), np.float32),
            25.0,
        )
        plate = np.full((size, size, 3), 128, np.uint8)
        for repeat in range(3):
            started = time.perf_counter()
            posed = body.posed(still, dressed_person.betas, dressed_person.face)
            for t in range(_FRAMES):
                render(
                    dressed_person.figure,
                    posed.vertices[t],
                    posed.turn[t],
                    view.intrinsics[0],
                    view.extrinsics[0],
                    actor.light,
                    plate,
                )
            if repeat:
                times.append(1000 / _FRAMES * (time.perf_counter() - started))
    return times


def frames() -> dict[str, float]:
    """Time of a frame, alone and while a second process renders too."""
    figures: dict[str, float] = {}
    for size in (256, 512):
        alone = frame_times(0, size)
        with pool(__name__, 2) as workers:
            both = sum(workers.map(frame_times, (0, PEOPLE // 2), (size, size)), [])
        figures |= {
            f"people_frame_ms_{size}": float(np.median(alone)),
            f"people_frame_ms_{size}_slowest": float(np.max(alone)),
            f"people_frame_ms_{size}_beside_another": float(np.median(both)),
        }
    return figures


def slices(sizes: list[int], processes: int) -> dict[str, float]:
    """Wall time, processor time and bytes of the first identities of `full`, and of all of it by extrapolation.

    Ratios of the costs per identity near 1 mean that cost grows in proportion to the number of identities.
    """
    text = (ROOT / "params.yaml").read_text().replace("scale: mini", "scale: full")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "params.yaml").write_text(text)
        params = load_params(Path(folder) / "params.yaml")
        rows = []
        for count in sizes:
            out = Path(folder) / str(count)
            people = params.people.model_copy(update={"identities": count, "held_out": 0, "avatars": {}})
            started, processor = time.perf_counter(), _processor_seconds()
            build_people(
                out, out / "avatars", params.body, people, Path("data/speech"), processes=processes, log=lambda _: None
            )
            wall = time.perf_counter() - started
            work = _processor_seconds() - processor
            size = sum(p.stat().st_size for p in out.rglob("*.tar"))
            rows.append((count, wall, work, size))
            print(f"{count} identities: {wall:.0f} s, {work:.0f} s of processor, {size / 1e6:.0f} MB", flush=True)
    counts, seconds, works, bytes_written = np.array(rows, float).T
    total = params.people.identities + params.people.held_out
    return {
        "full_identities": total,
        "full_processes": processes,
        "full_seconds_per_identity": seconds[-1] / counts[-1],
        "full_hours": seconds[-1] / counts[-1] * total / 3600,
        "full_processor_seconds_per_identity": works[-1] / counts[-1],
        "full_gigabytes": bytes_written[-1] / counts[-1] * total / 1e9,
        "full_work_ratio": (works[-1] / counts[-1]) / (works[0] / counts[0]),
        "full_bytes_ratio": (bytes_written[-1] / counts[-1]) / (bytes_written[0] / counts[0]),
        "full_slice": [[int(n), round(s, 1), round(w, 1), int(b)] for n, s, w, b in rows],
    }


def _processor_seconds() -> float:
    """Processor time (s) of the child processes that have ended. Other jobs on the machine hardly change it."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def formats(folder: Path) -> dict[str, float]:
    """The same takes as a tar file and as a Parquet file: size, and speed of writing and reading in MB/s.

    The time to decode one shard of `folder` is measured too, for comparison.
    """
    import tarfile

    import pyarrow as arrow
    import pyarrow.parquet as parquet

    members = []
    for path in sorted(folder.glob("people-*.tar"))[:24]:
        with tarfile.open(path) as tar:
            members += [(entry.name, tar.extractfile(entry).read()) for entry in tar]
    with tempfile.TemporaryDirectory() as temporary:
        tar_file, parquet_file = Path(temporary) / "takes.tar", Path(temporary) / "takes.parquet"

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

        figures = {}
        for name, write, read, path in (
            ("tar", write_tar, read_tar, tar_file),
            ("parquet", write_parquet, read_parquet, parquet_file),
        ):
            write_seconds, read_seconds = _shortest_time(write), _shortest_time(read)
            figures |= {
                f"shard_{name}_write_mb_s": path.stat().st_size / 1e6 / write_seconds,
                f"shard_{name}_read_mb_s": path.stat().st_size / 1e6 / read_seconds,
                f"shard_{name}_mb": path.stat().st_size / 1e6,
            }
    shard = next(iter(sorted(folder.glob("people-*.tar"))))
    return figures | {"shard_decode_s": _shortest_time(lambda: read_shard(shard))}


def _shortest_time(work, repeats: int = 3) -> float:
    """Shortest wall time (s) of some calls; the others were disturbed by other work on the machine."""
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
            figures = part()
            print(json.dumps(figures, indent=2), flush=True)
            save_figures(f"people.{name}", figures)
