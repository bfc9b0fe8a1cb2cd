"""What 10,000 clips of 30 s in a night of ten hours take, from measured costs. `python -m benchmarks.scale`.

The cost of every stage comes from benchmarks/results.json. First the work is added up; then a simulation of the
scheduler (SimPy) makes all the clips, and says how long they take and which resource is the bottleneck. Writes its
tables to benchmarks/scale.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator
from dataclasses import dataclass, replace

import simpy

from benchmarks.machine import RESULTS
from stereotalker.params import ROOT, load_params
from stereotalker.production.preflight import CLIPS_AHEAD, SEGMENT_BYTES_PER_PIXEL, VIDEO_BYTES_PER_PIXEL

_CLIPS, _CLIP_SECONDS, _FPS, _NIGHT_S = 10_000, 30, 25, 36_000
_DRIVER_CORES = (2, 8, 32)


@dataclass(frozen=True)
class Costs:
    """Core seconds for a second of video."""

    size: str
    pixels: int  # of a frame
    audio: float
    motion: float
    render: float
    finish: float  # encoding and quality gate, in the driver
    overhead: float = 0.0  # of orchestration, core seconds of the driver for a clip


def measured_costs() -> list[Costs]:
    """Costs at 256 and 512 px as measured, and at 1080 x 1920 px: finishing in proportion to the pixels."""
    figures = json.loads(RESULTS.read_text())
    rows = []
    for side in (256, 512):
        stages = figures[f"stage_seconds_{side}"]  # every stage has one thread
        rows.append(
            Costs(
                size=f"{side} x {side}",
                pixels=side * side,
                audio=stages["audio"],
                motion=stages["motion"],
                render=stages["render"],
                finish=stages["video"] + stages["quality"],
                overhead=figures["overhead_s_per_clip"],
            )
        )
    small, middle = rows
    large = 1080 * 1920
    slope = (middle.finish - small.finish) / (middle.pixels - small.pixels)
    return [
        *rows,
        replace(
            middle,
            size="1080 x 1920",
            pixels=large,
            render=2 * _FPS * figures["render_ms_1080x1920"] / 1000,  # by two threads, see benchmarks.speed
            finish=middle.finish + slope * (large - middle.pixels),
        ),
    ]


@dataclass(frozen=True)
class Night:
    """The result of a simulation."""

    hours: float  # until the last clip is finished
    busy: dict[str, float]  # share of the time in which each resource works
    lower_bound_hours: float  # of the busiest resource alone

    @property
    def bottleneck(self) -> str:
        return max(self.busy, key=lambda name: self.busy[name])


def simulate(costs: Costs, workers: int, driver_cores: int, clips: int = _CLIPS) -> Night:
    """Make clips with workers of one thread each, as flows.produce and tasks.pool do.

    At most workers + CLIPS_AHEAD clips are in progress. A clip's motion waits for a core of the driver, its segments
    wait in the order of clips, and its end waits for a core of the driver again.
    """
    environment = simpy.Environment()
    segments = math.ceil(_CLIP_SECONDS * _FPS / load_params().render.segment)
    places = simpy.Resource(environment, workers + CLIPS_AHEAD)
    cores = simpy.Resource(environment, driver_cores)
    pool = simpy.PriorityResource(environment, workers)
    worked = {"driver's cores": 0.0, "workers": 0.0}

    def use(resource: simpy.Resource, seconds: float, name: str, **order) -> Generator:
        with resource.request(**order) as turn:
            yield turn
            yield environment.timeout(seconds)
            worked[name] += seconds

    def clip(number: int) -> Generator:
        with places.request() as turn:
            yield turn
            yield from use(cores, costs.audio * _CLIP_SECONDS + costs.overhead, "driver's cores")
            yield from use(cores, costs.motion * _CLIP_SECONDS, "driver's cores")
            share = costs.render * _CLIP_SECONDS / segments
            parts = [use(pool, share, "workers", priority=number) for _ in range(segments)]
            yield simpy.AllOf(environment, [environment.process(part) for part in parts])
            yield from use(cores, costs.finish * _CLIP_SECONDS, "driver's cores")

    for number in range(clips):
        environment.process(clip(number))
    environment.run()
    capacity = {"driver's cores": driver_cores, "workers": workers}
    return Night(
        hours=float(environment.now) / 3600,
        busy={name: worked[name] / capacity[name] / float(environment.now) for name in worked},
        lower_bound_hours=max(worked[name] / capacity[name] for name in worked) / 3600,
    )


def needed_workers(costs: Costs) -> int:
    """Workers of one thread that could render the whole night's clips in time if they never waited."""
    return math.ceil(_CLIPS * _CLIP_SECONDS * costs.render / _NIGHT_S)


def tables() -> str:
    """Both tables as Markdown."""
    lines = [
        "## Work", "",
        "| frames | rendering | workers of one thread | audio and motion | encoding and gate | store | videos |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    costs = measured_costs()
    for cost in costs:
        parts = (cost.render, cost.audio + cost.motion, cost.finish)
        hours = [_CLIPS * _CLIP_SECONDS * part / 3600 for part in parts]
        pixels = _CLIPS * _CLIP_SECONDS * _FPS * cost.pixels
        lines.append(
            f"| {cost.size} | {hours[0]:,.0f} core hours | {needed_workers(cost):,} | {hours[1]:,.0f} core hours "
            f"| {hours[2]:,.0f} core hours | {pixels * SEGMENT_BYTES_PER_PIXEL / 1e12:.1f} TB "
            f"| {pixels * VIDEO_BYTES_PER_PIXEL / 1e12:.2f} TB |"
        )
    lines += [
        "", "## Simulation", "",
        "| frames | workers | driver's cores | hours for all clips | busiest resource alone | bottleneck |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for cost in costs:
        # A tenth more than needed, for the beginning and the end of the night.
        workers = math.ceil(1.1 * needed_workers(cost))
        for cores in _DRIVER_CORES:
            night = simulate(cost, workers, cores)
            busy = f"{night.bottleneck}, {100 * night.busy[night.bottleneck]:.0f} % of the time"
            lines.append(
                f"| {cost.size} | {workers:,} | {cores} | {night.hours:.1f} | {night.lower_bound_hours:.1f} | {busy} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = tables()
    (ROOT / "benchmarks" / "scale.md").write_text(text)
    print(text)
