"""Batches as in production, with Prefect, Ray and MLflow.

Drivers and workers are killed with SIGKILL; batches are paused, cancelled, and started by a schedule.
"""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from batch_helpers import all_frames, cli, copy_home, one_thread, start_driver, write_batch
from scipy.io import wavfile

from stereotalker.flows.produce import produce
from stereotalker.media.video_files import probe
from stereotalker.store.local import Store

pytestmark = pytest.mark.integration

TWO_WORKERS = {"workers": 2, "worker": {"threads": 1, "backoff": 0.05}}


@pytest.fixture(scope="module")
def production(tmp_path_factory, tiny_models, home_template):
    """A home with a running Prefect server, and params and weights on disk for processes of their own."""
    from stereotalker.tasks.server import ensure_server, stop_server

    home = copy_home(home_template, tmp_path_factory.mktemp("production") / "home")
    (home.root / "params.json").write_text(tiny_models.params.model_dump_json())
    url = ensure_server(home)
    yield home, url
    assert stop_server(home)
    os.environ.pop("PREFECT_API_URL")


def clips(count, words="one two three four five"):
    return [{"id": f"c{k}", "script": words, "seed": k} for k in range(count)]


def runs_of(url, name):
    """The newest flow run of a batch, and its task runs as name -> state type."""
    flow = httpx.post(
        f"{url}/flow_runs/filter", json={"flow_runs": {"tags": {"all_": [name]}}, "sort": "START_TIME_DESC", "limit": 1}
    ).json()[0]
    tasks = httpx.post(
        f"{url}/task_runs/filter", json={"flow_runs": {"id": {"any_": [flow["id"]]}}, "limit": 200}
    ).json()
    return flow, {task["name"]: task["state"]["type"] for task in tasks}


def finished_entries(home):
    """Stage and key of every finished entry of the store -> time when it was finished, ns."""
    return {(entry.stage, entry.key): entry.finished_ns for entry in Store(home.store).entries()}


def wait_for(condition, process, seconds=120):
    """Return the first true value of `condition()`. Fails when the process ends before, or after `seconds` seconds."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return result


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
def test_workers_interruptions_and_executors_give_the_same_frames(production, tmp_path, tiny_models, new_home):
    """One batch inline, and with two Ray workers and a driver that is killed with SIGKILL and started again."""
    home, url = production
    batch = write_batch(tmp_path, clips(4), "killed")
    produce(
        batch,
        tmp_path / "inline",
        one_thread(tiny_models.params),
        new_home("inline-home"),
        "inline",
        weights=tiny_models.folder,
    )

    first = start_driver(home, batch, tmp_path / "killed", tiny_models.folder, **TWO_WORKERS)
    wait_for(lambda: any(stage == "video" for stage, _ in finished_entries(home)), first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    finished = finished_entries(home)
    for name in (p for p in (tmp_path / "killed").rglob("*.mp4") if not p.name.startswith(".")):
        assert probe(name).frames  # A video under its final name is complete.
    killed, _ = runs_of(url, "killed")
    assert killed["state"]["type"] == "RUNNING"  # Nothing could report the end yet.

    second = start_driver(home, batch, tmp_path / "killed", tiny_models.folder, **TWO_WORKERS)
    words, _ = second.communicate(timeout=300)
    assert second.returncode == 0, words
    assert finished.items() <= finished_entries(home).items()  # Finished stages were not remade.
    assert not list(home.store.glob("*/*.tmp"))

    expected, result = all_frames(tmp_path / "inline"), all_frames(tmp_path / "killed")
    assert expected.keys() == result.keys() and len(result) == 4
    assert all(np.array_equal(expected[name], result[name]) for name in expected)
    flow, tasks = runs_of(url, "killed")
    assert flow["state"]["type"] == "COMPLETED" and flow["name"].startswith("killed 20")
    assert {name: tasks[name] for name in tasks if name.startswith("clip-")} == {
        f"clip-c{k}": "COMPLETED" for k in range(4)
    }
    closed = httpx.get(f"{url}/flow_runs/{killed['id']}").json()
    assert closed["state"]["type"] == "CRASHED"
    left = httpx.post(f"{url}/task_runs/filter", json={"flow_runs": {"id": {"any_": [killed["id"]]}}}).json()
    assert not {task["state"]["type"] for task in left} & {"RUNNING", "PENDING"}


def test_a_batch_continues_after_its_driver_was_killed(run_batch, tmp_path, tiny_models, home, new_home):
    """The same without Prefect and Ray: the driver is killed with SIGKILL, then the batch is run again."""
    (home.root / "params.json").write_text(tiny_models.params.model_dump_json())
    batch = write_batch(tmp_path, clips(3), "killed")
    first = start_driver(home, batch, tmp_path / "killed", tiny_models.folder, "inline", worker={"threads": 1})
    wait_for(lambda: any(stage == "video" for stage, _ in finished_entries(home)), first)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    finished = finished_entries(home)
    assert run_batch(batch, out="killed", worker={"threads": 1}).end.status == 0
    assert finished.items() <= finished_entries(home).items()  # Finished stages were not remade.
    assert not list(home.store.glob("*/*.tmp"))
    run_batch(batch, out="whole", home=new_home("whole-home"), worker={"threads": 1})
    killed, whole = all_frames(tmp_path / "killed"), all_frames(tmp_path / "whole")
    assert killed.keys() == whole.keys() and all(np.array_equal(killed[name], whole[name]) for name in killed)


@pytest.mark.xdist_group("prefect")
def test_prefect_shows_the_state_and_artifacts_of_every_clip(production, tmp_path, tiny_models):
    home, url = production
    # The header of this sound is right, so that only reading it finds the fault.
    wavfile.write(tmp_path / "broken.wav", 16000, np.full(16000, np.nan, np.float32))
    rows = [*clips(1), {"id": "mute", "audio": "broken.wav"}]
    process = start_driver(
        home, write_batch(tmp_path, rows, "states"), tmp_path / "out", tiny_models.folder, **TWO_WORKERS
    )
    words, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "broke off" not in words, words
    flow, tasks = runs_of(url, "states")
    assert flow["state"]["type"] == "FAILED" and tasks["clip-c0"] == "COMPLETED" and tasks["clip-mute"] == "FAILED"
    artifacts = httpx.post(
        f"{url}/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [flow["id"]]}}}
    ).json()
    found = {artifact["key"]: artifact for artifact in artifacts}
    assert found["progress"]["data"] == 100 and "data:image/jpeg" in found["contact-sheet"]["data"]
    assert {row["clip"]: row["state"] for row in json.loads(found["clips"]["data"])}["mute"] == "failed"


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
def test_a_batch_of_faulty_rows_alone_ends_normally(production, tmp_path, tiny_models):
    """The fault is found before the flow run starts, so that no clip is left for it."""
    home, _ = production
    rows = [{"id": "nobody", "avatar": "nobody", "script": "hi"}]
    process = start_driver(
        home, write_batch(tmp_path, rows, "faults"), tmp_path / "faults", tiny_models.folder, **TWO_WORKERS
    )
    words, _ = process.communicate(timeout=300)
    results = json.loads((tmp_path / "faults" / "results.json").read_text())
    assert process.returncode == 1 and results["stopped"] == "", words


def send_command(word, *batch, home, url):
    """Run `stereotalker WORD [BATCH]` in this process, against the Prefect server at `url` and no other."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}):
        return cli(word, *batch, home=home)


@pytest.mark.xdist_group("prefect")
def test_batches_are_paused_resumed_and_cancelled(production, tmp_path, tiny_models):
    home, url = production
    batch = write_batch(tmp_path, clips(60), "steered")
    process = start_driver(home, batch, tmp_path / "out", tiny_models.folder, workers=1, worker={"threads": 1})

    def videos():
        return len(list((tmp_path / "out" / "clips").glob("*.mp4")))

    wait_for(videos, process)
    assert send_command("pause", home=home, url=url).stdout.startswith("pause: steered")
    paused_at = wait_until_stable(videos, 3.0)  # Running clips are finished first.
    assert paused_at < 60 and process.poll() is None
    assert "found none" in send_command("pause", "another", home=home, url=url).stderr
    assert send_command("resume", "steered", home=home, url=url).returncode == 0
    wait_for(lambda: videos() > paused_at, process)
    assert send_command("cancel", home=home, url=url).returncode == 0
    words, _ = process.communicate(timeout=120)
    assert process.returncode == 3 and "cancelled" in words
    flow, _ = runs_of(url, "steered")
    assert flow["state"]["type"] == "CANCELLED"
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["clips"]
    assert len(rows) == 60 and {row["state"] for row in rows} == {"done", "stopped"}


def wait_until_stable(count, quiet_seconds):
    """Return `count()` once it has not changed for `quiet_seconds`. A batch that is not paused never becomes stable."""
    value, since = count(), time.monotonic()
    while time.monotonic() - since < quiet_seconds:
        time.sleep(0.1)
        if (now := count()) != value:
            value, since = now, time.monotonic()
    return value


@pytest.mark.parametrize(("signals", "status"), [(1, 3), (2, 130)])
def test_ctrl_c_finishes_running_segments_and_a_second_one_stops_at_once(tmp_path, tiny_models, home, signals, status):
    (home.root / "params.json").write_text(tiny_models.params.model_dump_json())
    batch = write_batch(tmp_path, clips(40, "nine ten eleven twelve " * 6), "hasty")
    process = start_driver(home, batch, tmp_path / "out", tiny_models.folder, "inline")
    wait_for(lambda: list((tmp_path / "out" / "clips").glob("*.mp4")), process)
    os.killpg(process.pid, signal.SIGINT)  # As from a terminal: ffmpeg and espeak-ng receive it too.
    while "finishing the running segments" not in process.stdout.readline():
        assert process.poll() is None
    if signals == 2:
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert (tmp_path / "out" / "report.html").read_text().count("<article") == 40
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {row["state"] for row in rows["clips"]} <= {"done", "stopped"} and rows["stopped"].startswith("stopped")


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
def test_the_nightly_deployment_makes_every_manifest_once(production, tmp_path):
    """The real command and Prefect: the first manifest is refused, the second is made, and neither is taken again."""
    home, url = production
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "wrong.yaml").write_text("clips: [{id: a}]")
    write_batch(inbox, [{"id": "a", "script": "one"}], "right")
    environment = {**os.environ, "STEREOTALKER_HOME": str(home.root)}
    command = [
        sys.executable,
        "-m",
        "stereotalker.cli",
        "serve",
        str(inbox),
        "--out",
        str(tmp_path / "out"),
        "--cron",
        "0 3 * * *",
    ]
    with open(tmp_path / "serve.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path)
    try:
        deployment = wait_for(lambda: httpx.get(f"{url}/deployments/name/nightly/nightly").json().get("id"), server)
        states = []
        for _ in range(2):
            run = httpx.post(f"{url}/deployments/{deployment}/create_flow_run", json={}).json()["id"]
            final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
            states.append(
                wait_for(
                    lambda run=run, final=final: (
                        (state := httpx.get(f"{url}/flow_runs/{run}").json()["state"]["type"]) in final and state
                    ),
                    server,
                    240,
                )
            )
        assert states == ["COMPLETED"] * 2, (tmp_path / "serve.log").read_text()
        schedules = httpx.get(f"{url}/deployments/{deployment}").json()["schedules"]
        assert schedules[0]["schedule"]["cron"] == "0 3 * * *" and schedules[0]["active"]
    finally:
        server.terminate()
        server.wait(60)
    assert (tmp_path / "out" / "right" / "clips" / "a.mp4").is_file()
    outcomes = {
        json.loads(path.read_text())["manifest"]: json.loads(path.read_text())["how"]
        for path in (home.root / "taken").glob("*.json")
    }
    assert "refused" in outcomes[str(inbox / "wrong.yaml")] and "1 clips" in outcomes[str(inbox / "right.yaml")]
    batches = httpx.post(f"{url}/flow_runs/filter", json={"flow_runs": {"tags": {"all_": ["right"]}}}).json()
    assert len(batches) == 1
    from stereotalker.flows.deployments import new_manifests

    assert new_manifests(inbox, home) == []
    (inbox / "wrong.yaml").write_text("clips: [{id: b}]")
    assert [path.name for path in new_manifests(inbox, home)] == ["wrong.yaml"]  # It was changed, so it is new.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "is not a folder"),
        ([".", "--cron", "tonight"], "expected five fields"),
        ([".", "--timezone", "Mars/X"], "IANA name"),
    ],
)
@pytest.mark.xdist_group("prefect")
def test_serve_refuses_bad_arguments_in_one_line(production, tmp_path, arguments, complaint):
    answer = cli("serve", *arguments, home=production[0])
    assert answer.returncode == 2 and complaint in answer.stderr and len(answer.stderr.strip().splitlines()) == 1


def test_a_killed_worker_is_replaced_and_its_segment_remade(home, tmp_path, tiny_models):
    """A real Ray actor is killed with SIGKILL between two clips."""
    from stereotalker.avatar.library import Library
    from stereotalker.errors import UserError
    from stereotalker.models import Models
    from stereotalker.production.admission import AdmissionControl
    from stereotalker.production.clip import make_clip
    from stereotalker.production.clip_stages import ClipMaker, StageTimings
    from stereotalker.production.manifest import read_manifest
    from stereotalker.store.local import Store
    from stereotalker.tasks.cluster import Cluster
    from stereotalker.tasks.pool import Pool

    params = one_thread(tiny_models.params)
    with pytest.raises(UserError, match="a worker needs 1 CPUs and 4 GPUs"):
        greedy = Models(params.with_produce({"worker": {"gpus": 4}}), tiny_models.folder)
        Cluster(greedy, 1, str(tmp_path / "store"), tmp_path / "store")
    models, store = Models(params, tiny_models.folder), Store(tmp_path / "store")
    cluster, admission = Cluster(models, 1, str(store), tmp_path / "store"), AdmissionControl()
    [slot] = cluster.slots
    pool = Pool([slot], params.produce.worker, admission, store)
    pool.prepare(5)
    try:
        deadline = time.monotonic() + 120
        while slot.process is None and time.monotonic() < deadline:
            time.sleep(0.5)
        prepared = slot.process
        assert prepared is not None
        maker = ClipMaker(models, store, library=Library(home.avatars))
        first, second = read_manifest(write_batch(tmp_path, clips(2))).clips
        make_clip(first, maker, pool.render, lambda *_: None, StageTimings())
        assert slot.process == prepared
        os.kill(prepared, signal.SIGKILL)
        assert (
            make_clip(second, maker, pool.render, lambda *_: None, StageTimings()).frames and admission.spent.lost > 0
        )
    finally:
        pool.close()
        cluster.close()


@pytest.mark.xdist_group("prefect")
def test_a_notice_is_sent_through_a_prefect_block(production, listener):
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    from stereotalker.tasks.notify import notify

    port, received = listener
    body = {"title": "{{subject}}", "text": "{{body}}"}
    CustomWebhookNotificationBlock(name="night", url=f"http://127.0.0.1:{port}/", json_data=body).save(
        "night", overwrite=True
    )
    notify(["custom-webhook/night"], "night: done", "report.html")
    assert received == [{"title": "night: done", "text": "report.html"}]


@pytest.mark.xdist_group("prefect")
def test_the_prefect_page_uses_this_server(production):
    _, url = production
    assert httpx.get(url.replace("/api", "/ui-settings")).json()["api_url"] == url


@pytest.mark.xdist_group("prefect")
def test_the_server_schedules_cron_deployments(production):
    """This test decides which versions of fastapi and sqlalchemy pyproject.toml may allow."""
    _, url = production
    flow = httpx.post(f"{url}/flows/", json={"name": "cron"}).json()
    body = {"name": "cron", "flow_id": flow["id"], "schedules": [{"schedule": {"cron": "0 20 * * *"}, "active": True}]}
    deployment = httpx.post(f"{url}/deployments/", json=body).json()
    deadline, runs = time.monotonic() + 60, []
    while not runs and time.monotonic() < deadline:
        runs = httpx.post(f"{url}/flow_runs/filter", json={"deployments": {"id": {"any_": [deployment["id"]]}}}).json()
        time.sleep(0.5)
    assert runs and {run["state"]["type"] for run in runs} == {"SCHEDULED"}
