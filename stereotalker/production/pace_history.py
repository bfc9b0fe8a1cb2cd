"""The time that past clips took on this machine, from which the duration of the next batch is estimated."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

# Number of latest clips that are used. Older ones are ignored, because machines and models change.
_MAX_CLIPS = 500


@dataclass(frozen=True)
class Pace:
    """The time that one clip took. All its frames were rendered, none was found in the store."""

    pixels: int  # of one frame
    frames: int
    threads: int
    render_s: float  # worker-seconds
    other_s: float  # seconds for audio, motion, video and quality together


@dataclass(frozen=True)
class Speed:
    """Medians over past clips."""

    render: float  # seconds per pixel and frame
    other: float  # seconds per frame

    def worker_seconds(self, pixels: int, frames: int) -> float:
        """Estimated time of a clip. pixels: of one frame."""
        return frames * (pixels * self.render + self.other)


class History:
    """The file of past clips, JSON lines. Only the driver of a batch appends to it."""

    def __init__(self, path: Path):
        self._path = path

    def add(self, pace: Pace) -> None:
        """Append a clip."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(pace)) + "\n")

    def speed(self, threads: int) -> Speed | None:
        """The speed of the latest clips that were made with this number of threads; None if there is none.

        Lines that a crash cut off are ignored.
        """
        history = []
        lines = self._path.read_text(encoding="utf-8").splitlines()[-_MAX_CLIPS:] if self._path.is_file() else []
        for line in lines:
            try:
                history.append(Pace(**json.loads(line)))
            except (json.JSONDecodeError, TypeError):
                continue
        paces = [pace for pace in history if pace.threads == threads and pace.frames]
        if not paces:
            return None
        return Speed(
            median(p.render_s / (p.pixels * p.frames) for p in paces), median(p.other_s / p.frames for p in paces)
        )
