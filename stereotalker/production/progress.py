"""The progress display of a batch: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table

from stereotalker.production.report import CLIP_STATES

_MAX_ROWS = 20  # of the table, so that it fits on a terminal


@dataclass
class _Row:
    """State of one clip. done, total: frames while the stage is "render"."""

    stage: str = "waiting"
    done: int = 0
    total: int = 0
    started: float = 0.0  # time.monotonic() when rendering began
    note: str = ""


class Display:
    """Shows the stage of every clip. Called from many threads. A context manager.

    clips: ids; stream: text stream to print to, stderr if None.
    """

    def __init__(self, clips: list[str], stream=None):
        self._rows = {clip: _Row() for clip in clips}
        self._console = Console(file=stream or sys.stderr)
        self._lock, self._started = threading.Lock(), time.monotonic()
        self._live = (
            Live(get_renderable=self._table, console=self._console, refresh_per_second=4)
            if self._console.is_terminal
            else None
        )

    def __enter__(self) -> Display:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self._live:
            self._live.__exit__(*error)

    def __call__(self, clip: str, stage: str, done: int, total: int, note: str = "") -> None:
        """Report that a clip is in a stage, of which `done` of `total` units are done. See segments.Progress."""
        with self._lock:
            row = self._rows[clip]
            if stage == "render" and row.stage != "render":
                row.started = time.monotonic()
            is_new_stage = stage != row.stage
            row.stage, row.done, row.total, row.note = stage, done, total, note
        if self._live is None and (is_new_stage or (stage == "render" and done)):
            count = f" {done}/{total} frames, {self._speed(row):.1f} frames/s" if stage == "render" and done else ""
            self._console.print(
                f"[{time.strftime('%H:%M:%S')}] {clip}: {stage}{count}{' - ' + note if note else ''}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def _speed(self, row: _Row) -> float:
        """Frames per second since rendering began."""
        return row.done / max(time.monotonic() - row.started, 1e-3)

    def _table(self) -> Table:
        with self._lock:
            finished = sum(row.stage in CLIP_STATES for row in self._rows.values())
            left = (time.monotonic() - self._started) / finished * (len(self._rows) - finished) if finished else None
            time_left = "time left unknown" if left is None else f"time left {_clock(left)}"
            table = Table(title=f"{finished} of {len(self._rows)} clips, {time_left}")
            for column in ("clip", "stage", "frames", "frames/s"):
                table.add_column(column)
            listed = [(c, r) for c, r in self._rows.items() if r.stage not in ("waiting", "pass", "review")]
            for clip, row in listed[-_MAX_ROWS:]:
                is_rendering = row.stage == "render" and row.done
                table.add_row(
                    clip,
                    row.note or row.stage,
                    f"{row.done}/{row.total}" if is_rendering else "",
                    f"{self._speed(row):.1f}" if is_rendering else "",
                )
            return table


def _clock(seconds: float) -> str:
    """HH:MM:SS; a day or more wraps around."""
    return time.strftime("%H:%M:%S", time.gmtime(seconds))
