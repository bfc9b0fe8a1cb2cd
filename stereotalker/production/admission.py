"""Admission control of a batch: it decides whether the next piece of work may begin.

Work may have to wait (the batch is paused, or its time window is not open yet), or the batch may have to stop (the
window closed, the budget is spent, too many clips failed alike, or somebody cancelled it). Workers ask before every
segment, and the flow asks before every clip. Work that is already running is always finished.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from datetime import time as time_of_day

from stereotalker.errors import BatchStopped, error_signature
from stereotalker.params import TimeWindow

_POLL_S = 0.5  # seconds between two looks at the clock while work waits


@dataclass
class WorkerSeconds:
    """Seconds that workers have spent."""

    useful: float = 0.0  # on attempts that succeeded
    lost: float = 0.0  # on attempts that ended in a death, a time-out or an error


@dataclass
class AdmissionControl:
    """Decides whether work may begin. Thread-safe.

    `now` returns local wall time. It is called for every decision, so that a change of the clock moves the time window
    and affects nothing else.
    """

    window: TimeWindow = TimeWindow()
    budget_hours: float | None = None
    breaker: int = 5  # number of failures in a row with the same cause that stop the batch
    now: Callable[[], datetime] = datetime.now
    say: Callable[[str], None] = lambda text: None  # called once when work has to wait
    spent: WorkerSeconds = field(default_factory=WorkerSeconds)

    def __post_init__(self):
        self._lock = threading.Lock()
        self._stopped = ""
        self._hold_reason = self._announced = ""
        self._cause, self._repeats = "", 0
        self.breaker_tripped = False  # whether clip after clip failed with the same cause
        self._opens, self._closes = next_window(self.now(), self.window)

    @property
    def stopped(self) -> str:
        """Why the batch ends early; empty while it does not."""
        return self._stopped

    @property
    def waiting_for(self) -> str:
        """What work has to wait for; empty if it may begin now."""
        if self._hold_reason:
            return self._hold_reason
        return f"{self._opens:%H:%M}, when the time window opens" if self.now() < self._opens else ""

    def hold(self, reason: str) -> None:
        """Make work wait until `release`. The reason says what it waits for."""
        self._hold_reason = reason

    def release(self) -> None:
        """End the effect of `hold`."""
        self._hold_reason = ""

    def stop(self, reason: str) -> None:
        """Let no more work begin. If this is called again, the first reason is kept."""
        with self._lock:
            self._stopped = self._stopped or reason

    def check(self) -> None:
        """Raise BatchStopped if no more work may begin in this run of the batch."""
        if not self._stopped and self._closes and self.now() >= self._closes:
            self.stop(f"the time window closed at {self._closes:%H:%M}")
        if self.budget_hours is not None and (self.spent.useful + self.spent.lost) / 3600 >= self.budget_hours:
            self.stop(f"the budget of {self.budget_hours:g} worker-hours is spent")
        if self._stopped:
            raise BatchStopped(self._stopped)

    def wait(self) -> None:
        """Return when work may begin. Raise BatchStopped like `check`."""
        self.check()
        while reason := self.waiting_for:
            with self._lock:
                is_new, self._announced = reason != self._announced, reason
            if is_new:
                self.say(f"waiting for {reason}")
            time.sleep(_POLL_S)
            self.check()
        self._announced = ""

    def spend(self, seconds: float, lost: bool = False) -> None:
        """Add a worker's time to the budget. lost: the attempt did not succeed."""
        with self._lock:
            if lost:
                self.spent.lost += seconds
            else:
                self.spent.useful += seconds

    def outcome(self, error: str) -> None:
        """Record how a clip ended; `error` is empty if it was made.

        `breaker` failures in a row with the same cause stop the batch.
        """
        with self._lock:
            is_same = bool(error) and error_signature(error) == self._cause
            self._repeats = self._repeats + 1 if is_same else 1
            self._cause = error_signature(error) if error else ""
            is_tripped = error and self._repeats >= self.breaker
        if is_tripped and not self._stopped:
            self.breaker_tripped = True
            self.stop(f"{self._repeats} clips in a row failed for the same cause, the last with: {error}")


def next_window(now: datetime, window: TimeWindow) -> tuple[datetime, datetime | None]:
    """When work may begin and when it must end, as local times: the window that is open now, or else the next one.

    The end is None if the window has no `stop`.
    """
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
    """The time of day `hour` on the date of `day`."""
    return day.replace(hour=hour.hour, minute=hour.minute, second=0, microsecond=0)
