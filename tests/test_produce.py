"""Whole batches with tiny models: inline in this process, and with Prefect, Ray and MLflow as in production."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import yaml

from flows.produce import produce
from stereotalker.errors import UserError
from stereotalker.home import Home
from stereotalker.manifest import read_manifest
from stereotalker.params import ROOT
from stereotalker.video import probe, read_frames
from tasks.tracking import EXPERIMENTS, Tracker

SMALL = {"width": 64, "height": 64, "fps": 12.5}


def write_batch(folder, clips, name="batch"):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"defaults": SMALL | {"avatar": "ava"}, "clips": clips}))
    return path


def eight(folder, mended=False):
    (folder / "noise.wav").write_text("this is no sound")
    bad = [{"id": "unreadable", "audio": "noise.wav"}, {"id": "unknown", "avatar": "zoe", "script": "hi"}, {"id": "empty", "script": ""}]
    mend = [{"id": "unreadable", "script": "now it speaks"}, {"id": "unknown", "script": "hi there"}, {"id": "empty", "script": "words"}]
    good = [{"id": f"good-{k}", "script": "one two", "seed": k} for k in range(5)]
    rows = mend if mended else bad
    return write_batch(folder, [good[0], rows[0], good[1], rows[1], good[2], rows[2], good[3], good[4]])


@pytest.fixture
def run(tmp_path, tiny_models, home):
    def go(path, out="out", executor="inline", params=None, home=home):
        return produce(path, tmp_path / out, params or tiny_models.params, home, executor, weights=tiny_models.folder)

    return go


def test_bad_clips_are_named_and_the_others_made(run, tmp_path):
    done = run(eight(tmp_path))
    assert [r.id for r in done.results] == [c.id for c in read_manifest(tmp_path / "batch.yaml").clips]
    assert [r.id for r in done.results if not r.ok] == ["unreadable", "unknown", "empty"] and done.failed == 3
    reasons = {r.id: r.error for r in done.results}
    assert "cannot be read as audio" in reasons["unreadable"] and "expected one of ava" in reasons["unknown"] and "no letters" in reasons["empty"]
    assert len(list((tmp_path / "out" / "clips").glob("*.mp4"))) == 5
    page = done.report.read_text()
    assert page.count("<article") == 8 and "cannot be read as audio" in page and "http" not in page.replace("http-equiv", "")
    again = run(eight(tmp_path, mended=True))
    assert again.failed == 0
    assert sorted(r.id for r in again.results if r.made) == ["empty", "unknown", "unreadable"]


def test_videos_have_the_length_of_their_speech(run, tmp_path):
    done = run(write_batch(tmp_path, [{"id": "a", "script": "one two three", "fps": 23.976, "width": 96, "camera": {"kind": "orbit"}}]))
    found = probe(tmp_path / "out" / done.results[0].video)
    assert found.size == (64, 96) and abs(found.audio_seconds - found.video_seconds) <= 1 / 23.976 + 1024 / 48000
    assert found.frames == done.results[0].frames


def test_tracking_has_a_run_for_every_clip(run, tmp_path, home):
    done = run(eight(tmp_path))
    client = Tracker(home, "batch")._client
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENTS["batch"]).experiment_id])
    children = {r.info.run_name: r for r in runs if r.data.tags.get("mlflow.parentRunId") == done.run}
    assert len(children) == 8 and children["good-0"].info.status == "FINISHED" and children["empty"].info.status == "FAILED"
    assert "no letters" in children["empty"].data.tags["error"] and children["good-0"].data.metrics["frames"] > 0
    parent = client.get_run(done.run)
    assert parent.info.status == "FAILED" and parent.data.params["model.render"] and parent.data.metrics["failed"] == 3


def test_orphans_of_a_killed_driver_are_closed(home):
    tracker = Tracker(home, "batch")
    run = tracker.start("night", tags={"batch": "night"})
    other = tracker.start("other", tags={"batch": "other"})
    assert tracker.close_orphans("night") == 1
    assert [tracker._client.get_run(r).info.status for r in (run, other)] == ["KILLED", "RUNNING"]


def test_our_own_fault_is_a_row_too(run, tmp_path, monkeypatch):
    monkeypatch.setattr("stereotalker.clip.ClipMaker.motion", lambda *_: 1 / 0)
    done = run(write_batch(tmp_path, [{"id": "a", "script": "hi"}]))
    assert "unexpected ZeroDivisionError" in done.results[0].error and "Traceback" in (tmp_path / "out" / "logs" / "a.txt").read_text()


def test_missing_weights_stop_before_any_clip(run, tmp_path, tiny_models):
    with pytest.raises(UserError, match="dvc repro"):
        produce(write_batch(tmp_path, [{"id": "a", "script": "hi"}]), tmp_path / "out", tiny_models.params, Home(tmp_path / "h"), "inline", tmp_path)


def test_a_damaged_segment_is_rendered_again(run, tmp_path, home):
    path = write_batch(tmp_path, [{"id": "a", "script": "one two"}])
    first = read_frames(tmp_path / "out" / run(path).results[0].video)
    next(home.store.glob("render/*/frames.npz")).write_bytes(b"")
    shutil.rmtree(home.store / "video")
    again = run(path)
    assert again.results[0].made.count("render") == 1
    assert np.array_equal(first, read_frames(tmp_path / "out" / again.results[0].video))


# ---- the command line ----------------------------------------------------------------------------------------------------


def cli(*arguments, home, timeout=300, **more):
    environment = {**os.environ, "STEREOTALKER_HOME": str(home.root)}
    command = [sys.executable, "-m", "stereotalker.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, cwd=ROOT, **more)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["produce", "nowhere.yaml"], "manifest not found"),
        (["produce", "--avatar", "ava"], "--audio FILE or --script TEXT"),
        (["produce"], "expected a manifest"),
        (["produce", "--avatar", "ava", "--script", "x", "--workers", "0", "--executor", "inline"], "at least 1"),
        (["stage", "nonsense"], "expected one of body"),
    ],
)
def test_bad_commands_get_one_line_and_status_2(home, tmp_path, arguments, complaint):
    extra = ["--out", tmp_path / "o"] if arguments[0] == "produce" else []
    answer = cli(*arguments, *extra, home=home)
    assert answer.returncode == 2 and complaint in answer.stderr and "Traceback" not in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_a_failed_clip_is_status_1_and_a_row(home, tmp_path):
    answer = cli("produce", "--avatar", "zoe", "--script", "hi", "--executor", "inline", "--out", tmp_path / "o", home=home)
    assert answer.returncode == 1 and "expected one of ava" in answer.stdout and "Traceback" not in answer.stderr
    assert (tmp_path / "o" / "report.html").read_text().count("<article") == 1


def test_doctor_says_all_is_well(home):
    answer = cli("doctor", home=home)
    assert answer.returncode == 0, answer.stdout
    assert "MISSING" not in answer.stdout and "espeak-ng speaks" in answer.stdout and "hash as expected" in answer.stdout


# ---- production: Prefect, Ray, kill -9 -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def production(tmp_path_factory, tiny_models):
    """A home with a running Prefect server, and params and weights on disk for processes of their own."""
    from tasks.server import ensure_server, stop_server

    home = Home(tmp_path_factory.mktemp("production"))
    (home.root / "params.json").write_text(tiny_models.params.model_dump_json())
    url = ensure_server(home)
    yield home, url
    assert stop_server(home)
    os.environ.pop("PREFECT_API_URL")


DRIVER = """
import sys, pathlib
from stereotalker.params import Params
from stereotalker.home import Home
home, batch, out, weights, workers = sys.argv[1:]
home = Home(pathlib.Path(home))
params = Params.model_validate_json((home.root / "params.json").read_text())
params = params.model_copy(update={"produce": params.produce.model_copy(update={"workers": int(workers), "threads": 1})})
from flows.produce import produce
done = produce(pathlib.Path(batch), pathlib.Path(out), params, home, "ray", weights=pathlib.Path(weights))
print([(r.id, r.ok, len(r.made), r.error) for r in done.results])
"""


def driver(home, batch, out, weights, workers=2):
    arguments = [sys.executable, "-c", DRIVER, *map(str, (home.root, batch, out, weights, workers))]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def all_frames(out):
    return {path.name: read_frames(path) for path in sorted((out / "clips").glob("*.mp4"))}


def test_workers_interruptions_and_executors_give_the_same_frames(production, tmp_path, tiny_models):
    """One batch three ways: inline; two Ray workers; two Ray workers with the driver killed -9 and started again."""
    home, url = production
    clips = [{"id": f"c{k}", "script": "one two three four five", "seed": k, "avatar": "ava"} for k in range(4)]
    batch = write_batch(tmp_path, clips, "night")
    params = tiny_models.params.model_copy(update={"produce": tiny_models.params.produce.model_copy(update={"threads": 1})})
    produce(batch, tmp_path / "inline", params, Home(tmp_path / "inline-home"), "inline", weights=tiny_models.folder)

    first = driver(home, batch, tmp_path / "killed", tiny_models.folder)
    deadline = time.monotonic() + 200
    while not list(home.store.glob("video/*/done.json")):
        assert first.poll() is None and time.monotonic() < deadline, first.stdout.read()
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    finished = {p.parent.name: p.stat().st_mtime_ns for p in home.store.glob("*/*/done.json")}
    for name in (p for p in (tmp_path / "killed").rglob("*.mp4") if not p.name.startswith(".")):
        assert probe(name).frames  # whatever has its final name is whole

    second = driver(home, batch, tmp_path / "killed", tiny_models.folder)
    words, _ = second.communicate(timeout=300)
    assert second.returncode == 0, words
    assert "False" not in words.splitlines()[-1]
    for entry, made_at in finished.items():  # finished stages were not made again
        assert next(home.store.glob(f"*/{entry}/done.json")).stat().st_mtime_ns == made_at
    assert not list(home.store.glob("*/*.tmp"))

    expected, found = all_frames(tmp_path / "inline"), all_frames(tmp_path / "killed")
    assert expected.keys() == found.keys() and len(found) == 4
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    check_prefect_saw_every_clip(url)


def check_prefect_saw_every_clip(url):
    import httpx

    runs = httpx.post(f"{url}/task_runs/filter", json={"limit": 200}).json()
    finished = {run["name"] for run in runs if run["name"].startswith("clip-") and run["state"]["type"] == "COMPLETED"}
    assert {f"clip-c{k}" for k in range(4)} <= finished


def test_a_dying_worker_is_replaced(production, tmp_path, tiny_models):
    from stereotalker.clip import ClipMaker, Ledger
    from stereotalker.records import Speech, load
    from stereotalker.store import Store
    from tasks.pool import RayPool, render_all

    params = tiny_models.params.model_copy(update={"produce": tiny_models.params.produce.model_copy(update={"workers": 1, "threads": 1})})
    models = replace(tiny_models, params=params)
    store = Store(tmp_path / "store")
    pool = RayPool(params, tiny_models.folder, store)
    try:
        clip = read_manifest(write_batch(tmp_path, [{"id": "a", "script": "one two three"}])).clips[0]
        maker, ledger = ClipMaker(models, store), Ledger()
        path, avatar = maker.avatar(clip)
        key, folder = maker.speech(clip, ledger)
        motion_key, motion = maker.motion(clip, avatar, key, load(Speech, folder / "speech.safetensors"), ledger)
        jobs = maker.segments(clip, path, motion_key, motion)
        [pid] = pool.processes()
        os.kill(pid, signal.SIGKILL)
        done = render_all(pool, jobs, lambda *_: None)
        assert sum(d.frames for d in done) == jobs[-1].window.stop and pool.processes() != [pid]
    finally:
        pool.close()


def test_the_server_schedules_cron_deployments(production):
    """The pins of fastapi and sqlalchemy hold only while this passes."""
    import httpx

    _, url = production
    flow = httpx.post(f"{url}/flows/", json={"name": "nightly"}).json()
    body = {"name": "nightly", "flow_id": flow["id"], "schedules": [{"schedule": {"cron": "0 20 * * *"}, "active": True}]}
    deployment = httpx.post(f"{url}/deployments/", json=body).json()
    deadline, runs = time.monotonic() + 60, []
    while not runs and time.monotonic() < deadline:
        runs = httpx.post(f"{url}/flow_runs/filter", json={"deployments": {"id": {"any_": [deployment["id"]]}}}).json()
        time.sleep(0.5)
    assert runs and {run["state"]["type"] for run in runs} == {"SCHEDULED"}
    assert json.dumps(runs[0]["expected_start_time"])
