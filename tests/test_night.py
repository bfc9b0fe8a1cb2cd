"""Nights: an inbox of manifests, what goes wrong around them, and the schedule that starts them."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import anyio
import numpy as np
import pytest
import tzlocal
from batch_helpers import write_batch
from mlflow import MlflowClient
from scipy.io import wavfile

from stereotalker.errors import Unavailable, UserError
from stereotalker.flows import deployments
from stereotalker.flows.deployments import MAX_TRIES, new_manifests, nightly_schedule
from stereotalker.params import TimeWindow
from stereotalker.production.admission import AdmissionControl
from stereotalker.production.clip_stages import ClipMaker
from stereotalker.production.outputs import Outputs

pytestmark = pytest.mark.integration


@pytest.fixture
def inbox(tmp_path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def run_night(tmp_path, tiny_models, home, inbox, monkeypatch):
    """A function that runs the nightly flow inline, on the inbox. Keywords change params.produce."""
    monkeypatch.setenv("STEREOTALKER_HOME", str(home.root))
    produce = deployments.produce

    def run(out=tmp_path / "out", **changes) -> dict[str, str]:
        params = tiny_models.params.with_produce(changes)
        monkeypatch.setattr(deployments, "load_params", lambda path: params)
        monkeypatch.setattr(deployments, "produce", partial(produce, executor="inline", weights=tiny_models.folder))
        return deployments.nightly.fn(str(inbox), str(out))

    return run


def drop(inbox, name, clips=1, age=0):
    """Drop a manifest into the inbox. age: s, by which it is older than the others."""
    path = write_batch(inbox, [{"id": f"c{k}", "script": "one"} for k in range(clips)], name)
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    return path


def test_a_night_of_thirty_manifests_is_finished_by_the_next_ones(
    run_night, inbox, home, tmp_path, monkeypatch, listener
):
    """The results are away for a night; then a broken renderer trips the breaker; then the window closes too early."""
    port, received = listener
    for k in range(28):
        drop(inbox, f"m{k:02}", clips=2, age=100 - k)
    (inbox / "bad1.yaml").write_text("clips: [{id: a}]")
    (inbox / "bad2.csv").write_text("id,avatar\nx,ava\n")
    for bad in ("bad1.yaml", "bad2.csv"):
        os.utime(inbox / bad, (0, 0))  # the oldest
    settings = {"notify": [f"json://127.0.0.1:{port}/"], "breaker": 2, "retries": 0}
    settings["window"] = TimeWindow(start="20:00", stop="06:30").model_dump(mode="json")
    clock = Clock(datetime(2026, 11, 29, 22, 0))
    monkeypatch.setattr("stereotalker.flows.produce.AdmissionControl", partial(AdmissionControl, now=clock))

    # The first night: the disk of the results is away.
    (tmp_path / "out").write_text("not mounted")
    first = run_night(**settings)
    assert list(first) == ["bad1.yaml", "bad2.csv", "m00.yaml"]
    assert "could not start" in first["m00.yaml"] and len(new_manifests(inbox, home)) == 28
    (tmp_path / "out").unlink()

    # The second night: after five manifests the renderer breaks. Two batches in a row end the night.
    with monkeypatch.context() as broken:
        original, calls = ClipMaker.segments, []

        def break_after_ten(self, *arguments):
            calls.append(1)
            if len(calls) > 10:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return original(self, *arguments)

        broken.setattr(ClipMaker, "segments", break_after_ten)
        second = run_night(**settings)
    assert len(second) == 7 and all("clips in a row" in second[f"m0{k}.yaml"] for k in (5, 6))
    assert len(new_manifests(inbox, home)) == 23

    # The third night: the window closes after some of them.
    clock.step = timedelta(minutes=9)
    third = run_night(**settings)
    assert "the time window closed at 06:30" in list(third.values())[-1] and len(third) < 23

    # The fourth night has time enough.
    clock.step = timedelta(0)
    clock.time = datetime(2026, 12, 2, 22, 0)
    fourth = run_night(**settings)
    assert new_manifests(inbox, home) == [] and len(third) + len(fourth) == 24  # one was begun in both
    assert len(list((tmp_path / "out").glob("m*/clips/*.mp4"))) == 56
    assert not list((tmp_path / "out").glob("*/superseded/*"))
    assert sorted(path.name for path in (inbox / "failed").iterdir()) == ["bad1.yaml.txt", "bad2.csv.txt"]
    records = [json.loads(path.read_text()) for path in (home.root / "taken").glob("*.json")]
    assert len(records) == 30 and all(record["is_finished"] for record in records)
    assert max(record["tries"] for record in records) == 2
    client = MlflowClient(home.tracking_uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "stereotalker-batches"]
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id], max_results=1000)}
    assert {f"m{k:02}" for k in range(28)} <= names
    titles = [message["title"] for message in received]
    assert sum("did not start" in title for title in titles) == 3
    assert sum("2 pass" in title for title in titles) == 28


class Clock:
    """A clock that goes on by `step` with every look."""

    def __init__(self, time: datetime):
        self.time, self.step = time, timedelta(0)

    def __call__(self) -> datetime:
        self.time += self.step
        return self.time


def test_a_manifest_that_breaks_off_again_and_again_is_given_up_with_a_note(run_night, inbox, home, monkeypatch):
    drop(inbox, "m")
    monkeypatch.setattr("stereotalker.flows.produce.BatchLog", breaking_off)
    for night in range(1, MAX_TRIES + 1):
        assert "broke off: ZeroDivisionError" in run_night()["m.yaml"]
        assert (inbox / "failed" / "m.yaml.txt").is_file() == (night == MAX_TRIES)
    assert run_night() == {}
    drop(inbox, "m", clips=2)  # It is changed, so it is new.
    monkeypatch.undo()
    assert len(new_manifests(inbox, home)) == 1


def breaking_off(*_):
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("fault", ["weights", "signing"])
def test_what_is_missing_around_a_manifest_never_marks_it(run_night, inbox, home, tiny_models, monkeypatch, fault):
    drop(inbox, "m")
    with monkeypatch.context() as broken:
        if fault == "weights":
            broken.setattr("stereotalker.models.PRODUCTION_WEIGHTS", ("audio", "nowhere"))
        else:
            broken.setattr("stereotalker.production.preflight.open_signer", expired_certificate)
        assert "could not start" in run_night()["m.yaml"]
    assert len(new_manifests(inbox, home)) == 1 and "1 pass" in run_night()["m.yaml"]


def expired_certificate(*_):
    raise UserError("provenance: studio.pem ended on 2026-11-28; renew it")


def test_a_manifest_of_which_no_clip_can_be_made_is_tried_again(run_night, inbox, home):
    """The disk of the recordings may be away."""
    (inbox / "m.yaml").write_text("clips: [{id: a, avatar: small, audio: away.wav, width: 64, height: 64}]")
    assert "1 failed" in run_night()["m.yaml"] and len(new_manifests(inbox, home)) == 1
    wavfile.write(inbox / "away.wav", 16000, (3000 * np.sin(np.arange(16000) / 9)).astype(np.int16))
    assert "1 failed" not in run_night()["m.yaml"] and new_manifests(inbox, home) == []


def test_a_manifest_that_cannot_be_read_keeps_no_other_from_being_made(run_night, inbox, monkeypatch, capsys):
    drop(inbox, "locked", age=10), drop(inbox, "open")
    original = deployments.file_digest

    def refuse(path):
        if path.name == "locked.yaml":
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(deployments, "file_digest", refuse)
    assert list(run_night()) == ["open.yaml"] and "locked.yaml cannot be read" in capsys.readouterr().out


def test_results_at_an_address_of_an_unknown_kind_mark_nothing(run_night, inbox, home):
    drop(inbox, "m")
    assert "could not start" in run_night(out="nowhere://bucket/night")["m.yaml"] and new_manifests(inbox, home)


def test_manifests_that_differ_in_their_endings_get_two_folders(run_night, inbox, tmp_path):
    drop(inbox, "m")
    (inbox / "m.jsonl").write_text('{"id": "a", "avatar": "small", "script": "one", "width": 64, "height": 64}')
    run_night()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"m-yaml", "m-jsonl"}


# ---- the schedule ----


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin", "Australia/Sydney"])
@pytest.mark.parametrize("change", ["spring", "autumn"])
def test_the_night_begins_at_the_same_local_time_on_both_sides_of_daylight_saving(zone, change):
    """By the times that Prefect's server computes from what it stores of the schedule."""
    from prefect.server.schemas.schedules import CronSchedule

    local = ZoneInfo(zone)
    first = datetime(2026, 1 if change == "spring" else 7, 1, 12, tzinfo=local)
    days = [first + timedelta(k) for k in range(366)]
    day = next(day for day in days if day.utcoffset() != (day - timedelta(1)).utcoffset())
    ours = nightly_schedule("0 20 * * *", zone)
    stored = CronSchedule(cron=ours.cron, timezone=ours.timezone)
    times = anyio.run(stored.get_dates, 6, day - timedelta(3))
    assert [time.astimezone(local).strftime("%H:%M") for time in times] == ["20:00"] * 6
    assert len({time.astimezone(local).utcoffset() for time in times}) == 2
    assert len({time.astimezone(local).date() for time in times}) == 6


def test_without_a_zone_the_machines_own_is_taken(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    tzlocal.reload_localzone()
    try:
        assert nightly_schedule("0 20 * * *", None).timezone == "Asia/Kolkata"
    finally:
        monkeypatch.undo()
        tzlocal.reload_localzone()


@pytest.mark.parametrize(("cron", "zone"), [("0 20 * *", None), ("0 20 * * *", "Mars/Olympus")])
def test_a_schedule_that_cannot_be_used_is_refused(cron, zone):
    with pytest.raises(UserError, match="expected"):
        nightly_schedule(cron, zone)


# ---- one driver an output folder ----


def test_a_second_driver_of_an_output_folder_is_told_who_has_it(tmp_path):
    from stereotalker.production.output_lock import lock_outputs

    code = (
        "import sys, time\nfrom stereotalker.production.output_lock import lock_outputs\n"
        "from stereotalker.production.outputs import Outputs\n"
        "with lock_outputs(Outputs(sys.argv[1]), 'first'):\n print('locked', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(Unavailable, match=f"is being written by the batch first, process {other.pid} on .*, since"):
        with lock_outputs(Outputs(tmp_path), "second"):
            pass
    other.kill(), other.wait()
    with lock_outputs(Outputs(tmp_path), "second"):  # The system has released the lock of the killed process.
        pass
    assert not list(tmp_path.glob(".batch.json"))
