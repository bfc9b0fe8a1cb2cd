"""The gate that all work of a batch passes: pause, time window, budget, breaker, and the word to stop.

Workers ask before every segment, the flow before every clip. What is running when the gate closes is finished.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from datetime import time as time_of_day

from stereotalker.errors import SAME_CAUSE, Stopped, cause
from stereotalker.params import TimeWindow

_TICK_S = 0.5


@dataclass
class Hours:
    """What workers' time went into, in seconds."""

    useful: float = 0.0
    lost: float = 0.0  # attempts that ended in a death, a time-out or an error


@dataclass
class AdmissionControl:
    """Thread-safe. `now` is local wall time, asked anew every time: a clock that jumps moves the window, and nothing else."""

    window: TimeWindow = TimeWindow()
    budget_hours: float | None = None
    breaker: int = 5  # failures in a row with the same cause that stop the batch
    now: Callable[[], datetime] = datetime.now
    say: Callable[[str], None] = lambda text: None  # told once when work has to wait
    spent: Hours = field(default_factory=Hours)

    def __post_init__(self):
        self._lock = threading.Lock()
        self._stopped = ""
        self._held = self._said = ""
        self._cause, self._repeats = "", 0
        self._opening, self._closing = next_window(self.now(), self.window)

    @property
    def stopped(self) -> str:
        """Why the batch ends early; empty while it does not."""
        return self._stopped

    @property
    def waiting_for(self) -> str:
        """What keeps the gate shut for now; empty when it is open."""
        if self._held:
            return self._held
        return f"{self._opening:%H:%M}, when the time window opens" if self.now() < self._opening else ""

    def hold(self, reason: str) -> None:
        self._held = reason

    def release(self) -> None:
        self._held = ""

    def stop(self, reason: str) -> None:
        """Nothing more is begun. The first reason stays."""
        with self._lock:
            self._stopped = self._stopped or reason

    def check(self) -> None:
        """Raises Stopped if nothing may be begun any more."""
        if not self._stopped and self._closing and self.now() >= self._closing:
            self.stop(f"the time window closed at {self._closing:%H:%M}")
        if self.budget_hours is not None and (self.spent.useful + self.spent.lost) / 3600 >= self.budget_hours:
            self.stop(f"the budget of {self.budget_hours:g} worker-hours is spent")
        if self._stopped:
            raise Stopped(self._stopped)

    def wait(self) -> None:
        """Come back when work may begin. Raises Stopped."""
        self.check()
        while reason := self.waiting_for:
            with self._lock:
                new, self._said = reason != self._said, reason
            if new:
                self.say(f"waiting for {reason}")
            time.sleep(_TICK_S)
            self.check()
        self._said = ""

    def spend(self, seconds: float, lost: bool = False) -> None:
        with self._lock:
            if lost:
                self.spent.lost += seconds
            else:
                self.spent.useful += seconds

    def outcome(self, error: str) -> None:
        """Tell how a clip ended (empty: well). The same cause `breaker` times in a row stops the batch with one message."""
        with self._lock:
            same = bool(error) and cause(error) == self._cause
            self._repeats = self._repeats + 1 if same else 1
            self._cause = cause(error) if error else ""
            tripped = error and self._repeats >= self.breaker
        if tripped:
            self.stop(f"{self._repeats} clips in a row {SAME_CAUSE}, the last with: {error}")


def next_window(now: datetime, window: TimeWindow) -> tuple[datetime, datetime | None]:
    """When work may begin and when it must end: the window that is open now, or the next one. No `stop`: no end."""
    if window.stop is None:
        return max(now, _at(now, window.start)) if window.start else now, None
    for day in (-1, 0, 1):
        opens = _at(now + timedelta(days=day), window.start) if window.start else now
        closes = _at(opens, window.stop)
        closes += timedelta(days=closes <= opens)
        if closes > now:
            return max(now, opens), closes
    raise AssertionError("a daily window always opens again within two days")


def _at(day: datetime, hour: time_of_day) -> datetime:
    return day.replace(hour=hour.hour, minute=hour.minute, second=0, microsecond=0)
