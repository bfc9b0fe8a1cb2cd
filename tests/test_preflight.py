"""The checks before a batch: every fault is named, and time, disk and memory are estimated, before any compute."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from batch_helpers import cli, write_batch
from PIL import Image
from scipy.io import wavfile

from stereotalker.avatar.library import Library
from stereotalker.errors import ClipError, Unavailable, UserError
from stereotalker.media import audio_files
from stereotalker.models import Models
from stereotalker.production import preflight
from stereotalker.production.manifest import read_manifest
from stereotalker.production.outputs import Outputs
from stereotalker.production.pace_history import History, Pace
from stereotalker.production.preflight import plan, prepare
from stereotalker.runtime import machine
from stereotalker.runtime.home import Home

pytestmark = pytest.mark.integration

NOON = datetime(2026, 11, 23, 12)


@pytest.fixture
def plan_batch(tmp_path, tiny_params, home):
    """A function that plans a batch of the given clips at noon."""

    def run_plan(clips, history=None, params=tiny_params, executor="ray"):
        return plan(
            read_manifest(write_batch(tmp_path, clips)),
            params,
            Library(home.avatars),
            history or History(tmp_path / "none"),
            NOON,
            executor,
        )

    return run_plan


def test_every_clip_is_checked_and_its_fault_named(plan_batch, tmp_path):
    wavfile.write(tmp_path / "ok.wav", 16000, np.zeros(32000, np.int16))
    wavfile.write(tmp_path / "long.wav", 8, np.zeros(100_000, np.uint8))
    (tmp_path / "noise.wav").write_text("no sound")
    names = ("ok.wav", "noise.wav", "gone.wav", "long.wav")
    result = plan_batch(
        [
            *({"id": name, "audio": name} for name in names),
            {"id": "mute", "script": "..."},
            {"id": "zoe", "avatar": "zoe", "script": "hi"},
        ]
    )
    faults = {p.clip.id: p.fault for p in result.clips}
    assert (
        not faults["ok.wav"]
        and "cannot be read as audio" in faults["noise.wav"]
        and "not found" in faults["gone.wav"]
        and "expected 0.2 s to 3 h" in faults["long.wav"]
    )
    assert "no letters" in faults["mute"] and "a picture file or one of small, ava" in faults["zoe"]
    assert next(p for p in result.clips if p.clip.id == "ok.wav").frames == 25  # 2 s at 12.5 frames a second
    assert "FAULT" in result.text() and "1 of 6 clips can be made" in result.text()


def test_portraits_and_backgrounds_are_checked(plan_batch, tmp_path):
    Image.new("RGB", (50, 50)).save(tmp_path / "tiny.png")
    (tmp_path / "text.png").write_text("no picture")
    clips = {
        "tiny": {"avatar": "tiny.png"},
        "text": {"avatar": "text.png"},
        "gone": {"avatar": "gone.png"},
        "wall": {"background": "text.png"},
        "nowhere": {"background": "gone.jpg"},
        "fine": {"background": "tiny.png"},
    }
    faults = {
        p.clip.id: p.fault
        for p in plan_batch([{"id": name, "script": "hi"} | clip for name, clip in clips.items()]).clips
    }
    assert (
        "50 x 50 px; expected at least 256" in faults["tiny"]
        and "not a picture" in faults["text"]
        and "No such file" in faults["gone"]
    )
    assert (
        faults["wall"].startswith("background ")
        and "not a picture" in faults["wall"]
        and "No such file" in faults["nowhere"]
        and not faults["fine"]
    )


def test_the_estimate_comes_from_past_clips(plan_batch, tmp_path, tiny_params):
    history, threads = History(tmp_path / "h.jsonl"), tiny_params.produce.worker.threads
    assert plan_batch([{"id": "a", "script": "one two three"}], history).wall_seconds is None
    for render_s in (1.0, 2.0, 30.0):
        history.add(Pace(64 * 64, 10, threads, render_s, 0.5))
    with open(tmp_path / "h.jsonl", "a") as file:
        file.write('{"pixels": 4')  # An incomplete line, as a crash leaves it.
    result = plan_batch([{"id": "a", "script": "one two three"}], history, tiny_params.with_produce({"workers": 2}))
    frames = result.clips[0].frames
    assert result.wall_seconds == pytest.approx(frames * (0.2 + 0.05) / 2)
    assert History(tmp_path / "h.jsonl").speed(threads + 1) is None


def test_priorities_and_deadlines_order_the_work(plan_batch, tmp_path, tiny_params):
    history = History(tmp_path / "h.jsonl")
    history.add(Pace(64 * 64, 1, tiny_params.produce.worker.threads, 3600.0, 0.0))
    clips = [
        {"id": "plain"},
        {"id": "late", "deadline": "13:00"},
        {"id": "soon", "deadline": 1201},
        {"id": "dated", "deadline": "2026-11-24T08:00:00"},
        {"id": "first", "priority": 5},
    ]
    result = plan_batch([clip | {"script": "one two three"} for clip in clips], history)
    assert [p.clip.id for p in result.clips] == ["first", "late", "soon", "dated", "plain"]
    assert any("late will miss its deadline 2026-11-23 13:00" in warning for warning in result.warnings)


def test_folders_and_weights_are_checked_and_all_faults_reported_at_once(tmp_path, tiny_models):
    manifest = read_manifest(write_batch(tmp_path, [{"id": "a", "script": "hi"}]))
    params = tiny_models.params.with_produce({"store": "/sys/stereotalker/store"})
    with pytest.raises(UserError) as caught:
        prepare(
            manifest, Outputs("/sys/stereotalker/out"), Models(params, tmp_path / "no-weights"), Home(tmp_path / "home")
        )
    message = str(caught.value)
    assert (
        "--out /sys/stereotalker/out cannot be written" in message
        and "produce.store /sys/stereotalker/store cannot be written" in message
        and "dvc repro" in message
    )
    assert len(message.splitlines()) == 3


def test_a_disk_that_is_too_small_gives_a_warning(tmp_path, home, tiny_models, monkeypatch):
    monkeypatch.setattr(preflight, "SEGMENT_BYTES_PER_PIXEL", 1e15)
    manifest = read_manifest(write_batch(tmp_path, [{"id": "a", "script": "hi"}]))
    result = prepare(manifest, Outputs(tmp_path / "out"), tiny_models, home)
    # This is no error, because much of the work may be in the store already.
    assert any("make room" in warning for warning in result.warnings)


def test_too_little_memory_gives_a_warning_for_local_runs(plan_batch, tiny_params):
    result = plan_batch([{"id": "a", "script": "hi"}], params=tiny_params.with_produce({"workers": 5000}))
    assert any("segments may have to be halved" in warning for warning in result.warnings)
    assert not replace(result, local=False).warnings


def test_workers_are_as_many_as_the_machine_has_room_for(plan_batch, tiny_params, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(preflight, "usable_cores", lambda: 6)

    def workers(width=64, gigabytes=64, executor="ray", **worker):
        monkeypatch.setattr(preflight, "usable_memory", lambda: gigabytes * 1e9)
        params = tiny_params.with_produce({"worker": {"threads": 1, **worker}})
        assert params.produce.workers is None
        clips = [{"id": "a", "script": "hi", "width": width, "height": width}]
        return plan_batch(clips, params=params, executor=executor).workers

    assert workers() == 6 and workers(threads=2) == 3 and workers(threads=8) == 1 and workers(executor="inline") == 1
    assert workers(gigabytes=12) == 4 and workers(2000, gigabytes=12) == 2 and workers(gigabytes=1) == 1
    for count, gpus, expected in ((2, 0.5, 4), (2, 1, 2), (3, 0.7, 3), (8, 0.1, 6), (5, 2, 2), (0, 1, 1)):
        monkeypatch.setattr(preflight.torch.cuda, "device_count", lambda count=count: count)
        assert workers(gpus=gpus) == expected
    with pytest.raises(Unavailable, match="expected a number"):
        workers(address="ray-head:6379")
    assert workers(address="ray-head:6379", executor="inline") == 1
    monkeypatch.setenv("RAY_ADDRESS", "ray-head:6379")
    with pytest.raises(Unavailable, match="ray-head:6379"):
        workers()
    for wrong in (0, "many"):
        with pytest.raises(UserError, match="workers"):
            tiny_params.with_produce({"workers": wrong})


def test_a_containers_limits_of_memory_count(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(machine, "_MEMORY_LIMITS", (tmp_path / "memory.max", tmp_path / "none"))
    whole = machine.usable_memory()
    (tmp_path / "memory.max").write_text("1000000\n")
    assert machine.usable_memory() == 1_000_000 < whole and machine.usable_cores() >= 1


def test_a_moving_camera_takes_more_disk(plan_batch):
    clip = {"id": "a", "script": "hi"}
    orbit = {"kind": "orbit", "swing": 10}
    still, moving, retake = (
        plan_batch([clip | change]).disk_bytes
        for change in ({}, {"camera": orbit}, {"retakes": [{"start": 0, "end": 1, "camera": orbit}]})
    )
    assert 1.5 * still < moving == retake
    assert still < plan_batch([clip | {"background": "transparent"}]).disk_bytes


def test_a_dry_run_writes_nothing(tmp_path, home):
    batch = write_batch(tmp_path, [{"id": "a", "script": "hi"}, {"id": "b", "avatar": "zoe", "script": "hi"}])
    result = cli(
        "produce", batch, "--out", tmp_path / "out", "--dry-run", "--start", "20:00", "--stop", "06:30", home=home
    )
    assert (
        result.returncode == 1 and "1 of 2 clips can be made" in result.stdout and "FAULT avatar 'zoe'" in result.stdout
    )
    assert not (tmp_path / "out").exists() and not home.store.exists() and not home.credentials.exists()


@pytest.mark.parametrize(
    "arguments",
    [["--start", "25:00"], ["--budget", "-1"], ["--workers", "0"], ["--previews", "4"], ["--out", "s4://x/y"]],
)
def test_bad_options_are_refused_in_one_line(tmp_path, home, arguments):
    answer = cli("produce", write_batch(tmp_path, [{"id": "a", "script": "hi"}]), "--dry-run", *arguments, home=home)
    assert answer.returncode == 2 and len(answer.stderr.strip().splitlines()) == 1 and "Traceback" not in answer.stderr


def test_the_length_of_a_recording_is_read_from_its_header(tmp_path):
    wavfile.write(tmp_path / "a.wav", 8000, np.zeros((4000, 2), np.int16))
    assert audio_files.media_seconds(tmp_path / "a.wav") == pytest.approx(0.5)
    with pytest.raises(ClipError, match="expected 0.2 s"):
        wavfile.write(tmp_path / "b.wav", 8000, np.zeros(80, np.int16))
        audio_files.media_seconds(tmp_path / "b.wav")
