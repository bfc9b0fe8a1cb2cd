"""Admission control: time windows, budgets, the breaker for repeated failures, pausing and stopping."""

import threading
from datetime import datetime, time, timedelta

import pytest

from stereotalker.errors import BatchStopped, error_signature
from stereotalker.params import TimeWindow
from stereotalker.production.admission import AdmissionControl, next_window

NIGHT = TimeWindow(start=time(20), stop=time(6, 30))
DAY = datetime(2026, 11, 23)


@pytest.mark.parametrize(
    ("window", "now", "opens", "closes"),
    [
        (NIGHT, 15, 20, 30.5),
        (NIGHT, 21, 21, 30.5),
        (NIGHT, 3, 3, 6.5),
        (NIGHT, 7, 20, 30.5),
        (TimeWindow(start=time(9), stop=time(17)), 8, 9, 17),
        (TimeWindow(start=time(9), stop=time(17)), 12, 12, 17),
        (TimeWindow(start=time(9), stop=time(17)), 18, 33, 41),
        (TimeWindow(stop=time(6)), 22, 22, 30),
        (TimeWindow(start=time(20)), 15, 20, None),
        (TimeWindow(start=time(20)), 21, 21, None),
        (TimeWindow(), 4, 4, None),
    ],
)
def test_next_window_opens_and_closes_at_the_configured_times(window, now, opens, closes):
    def on_day(hours):
        return None if hours is None else DAY + timedelta(hours=hours)

    assert next_window(on_day(now), window) == (on_day(opens), on_day(closes))


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


def test_a_closed_window_stays_closed_when_the_clock_jumps_back():
    clock = Clock(DAY + timedelta(hours=21))
    admission = AdmissionControl(NIGHT, now=clock)
    admission.wait()
    # The clock is set back by more than a year: the window is closed for now, but the batch has not ended.
    clock.now -= timedelta(days=400)
    assert "when the time window opens" in admission.waiting_for
    clock.now += timedelta(days=400, hours=2)
    admission.wait()
    clock.now += timedelta(days=3)  # The clock jumps ahead, past the end of the window.
    with pytest.raises(BatchStopped, match="closed at 06:30"):
        admission.wait()
    clock.now -= timedelta(days=3)
    with pytest.raises(BatchStopped):  # A batch that has ended does not start again.
        admission.check()


def test_admission_waits_until_the_window_opens():
    clock = Clock(DAY + timedelta(hours=19, minutes=59, seconds=59))
    admission = AdmissionControl(NIGHT, now=clock)
    assert admission.waiting_for.startswith("20:00")
    clock.now += timedelta(seconds=1)
    admission.wait()


def test_the_budget_includes_lost_worker_hours():
    admission = AdmissionControl(budget_hours=1)
    admission.spend(1800)
    admission.check()
    admission.spend(1800, lost=True)
    with pytest.raises(BatchStopped, match="budget of 1 worker-hours"):
        admission.check()


def test_the_breaker_stops_only_after_the_same_cause_in_a_row():
    admission = AdmissionControl(breaker=3)
    for error in ("x 1 died", "x 2 died", "", "x 3 died", "y", "x 4 died", "x 5 died"):
        admission.outcome(error)
    admission.check()
    admission.outcome("x 6 died")
    with pytest.raises(BatchStopped, match="3 clips in a row failed for the same cause, the last with: x 6 died"):
        admission.check()


def test_error_signatures_ignore_names_and_numbers():
    assert error_signature("audio file /a/b.wav not found; row 3") == error_signature(
        "audio file /c.wav not found; row 71"
    )
    assert (
        error_signature("avatar 'zoe' is unknown")
        == error_signature("avatar 'max' is unknown")
        != error_signature("avatar missing")
    )


def test_a_wait_is_reported_once_and_ends_on_release_or_stop():
    messages = []
    admission = AdmissionControl(say=messages.append)
    admission.hold("a button")
    threading.Timer(1.2, admission.release).start()
    admission.wait()
    admission.hold("a button")
    threading.Timer(0.2, admission.stop, ("cancelled",)).start()
    with pytest.raises(BatchStopped, match="cancelled"):
        admission.wait()
    assert messages == ["waiting for a button"] * 2


def test_hold_and_release_work_and_the_first_stop_reason_is_kept():
    admission = AdmissionControl()
    admission.hold("a button")
    assert admission.waiting_for == "a button"
    admission.release()
    admission.wait()
    admission.stop("first")
    admission.stop("second")
    assert admission.stopped == "first"
