"""What past clips took on this machine, so that the next batch can be estimated."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

_LAST = 500  # clips that count: machines and models change


@dataclass(frozen=True)
class Pace:
    """One clip that was really made."""

    pixels: int  # of a frame
    frames: int
    threads: int
    render_s: float
    other_s: float  # audio, motion, video, quality


@dataclass(frozen=True)
class Speed:
    """Medians of past clips."""

    render: float  # s for a pixel of a frame
    other: float  # s for a frame

    def worker_seconds(self, pixels: int, frames: int) -> float:
        return frames * (pixels * self.render + self.other)


class History:
    """A JSONL file of the home, appended by the driver alone."""

    def __init__(self, path: Path):
        self._path = path

    def add(self, pace: Pace) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a") as file:
            file.write(json.dumps(asdict(pace)) + "\n")

    def speed(self, threads: int) -> Speed | None:
        """From the last clips made with this number of threads; None without any. A line cut off by a crash is passed over."""
        found = []
        for line in self._path.read_text().splitlines()[-_LAST:] if self._path.is_file() else ():
            try:
                found.append(Pace(**json.loads(line)))
            except (json.JSONDecodeError, TypeError):
                continue
        paces = [pace for pace in found if pace.threads == threads and pace.frames]
        if not paces:
            return None
        return Speed(
            median(p.render_s / (p.pixels * p.frames) for p in paces), median(p.other_s / p.frames for p in paces)
        )
