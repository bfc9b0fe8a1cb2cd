from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from batch_helpers import cli, write_batch
from PIL import Image
from scipy.io import wavfile

from stereotalker.avatar.library import Library
from stereotalker.errors import ClipError, UserError
from stereotalker.media import audio_files
from stereotalker.models import Models
from stereotalker.production import preflight
from stereotalker.production.manifest import read_manifest
from stereotalker.production.outputs import Outputs
from stereotalker.production.pace_history import History, Pace
from stereotalker.production.preflight import plan, prepare
from stereotalker.runtime.home import Home

pytestmark = pytest.mark.integration

NOON = datetime(2026, 11, 23, 12)


@pytest.fixture
def planned(tmp_path, tiny_params, home):
    def go(clips, history=None, params=tiny_params):
        return plan(
            read_manifest(write_batch(tmp_path, clips)),
            params,
            Library(home.avatars),
            history or History(tmp_path / "none"),
            NOON,
        )

    return go


def test_every_clip_is_looked_at_and_its_fault_named(planned, tmp_path):
    wavfile.write(tmp_path / "ok.wav", 16000, np.zeros(32000, np.int16))
    wavfile.write(tmp_path / "long.wav", 8, np.zeros(100_000, np.uint8))
    (tmp_path / "noise.wav").write_text("no sound")
    names = ("ok.wav", "noise.wav", "gone.wav", "long.wav")
    found = planned(
        [
            *({"id": name, "audio": name} for name in names),
            {"id": "mute", "script": "..."},
            {"id": "zoe", "avatar": "zoe", "script": "hi"},
        ]
    )
    faults = {p.clip.id: p.fault for p in found.clips}
    assert (
        not faults["ok.wav"]
        and "cannot be read as audio" in faults["noise.wav"]
        and "not found" in faults["gone.wav"]
        and "expected 0.2 s to 3 h" in faults["long.wav"]
    )
    assert "no letters" in faults["mute"] and "a picture file or one of small, ava" in faults["zoe"]
    assert next(p for p in found.clips if p.clip.id == "ok.wav").frames == 25  # 2 s at 12.5
    assert "FAULT" in found.text() and "1 of 6 clips can be made" in found.text()


def test_portraits_and_backgrounds_are_opened(planned, tmp_path):
    Image.new("RGB", (50, 50)).save(tmp_path / "tiny.png")
    (tmp_path / "text.png").write_text("no picture")
    clips = {
        "tiny": {"avatar": "tiny.png"}, "text": {"avatar": "text.png"}, "gone": {"avatar": "gone.png"}, "wall": {"background": "text.png"}, "nowhere": {"background": "gone.jpg"},
        "fine": {"background": "tiny.png"},
    }  # fmt: skip
    faults = {
        p.clip.id: p.fault for p in planned([{"id": name, "script": "hi"} | clip for name, clip in clips.items()]).clips
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


def test_the_estimate_comes_from_past_clips(planned, tmp_path, tiny_params):
    history, threads = History(tmp_path / "h.jsonl"), tiny_params.produce.worker.threads
    assert planned([{"id": "a", "script": "one two three"}], history).wall_seconds is None
    for render_s in (1.0, 2.0, 30.0):
        history.add(Pace(64 * 64, 10, threads, render_s, 0.5))
    with open(tmp_path / "h.jsonl", "a") as file:
        file.write('{"pixels": 4')  # a line that a crash cut off
    found = planned([{"id": "a", "script": "one two three"}], history, tiny_params.with_produce({"workers": 2}))
    frames = found.clips[0].frames
    assert found.wall_seconds == pytest.approx(frames * (0.2 + 0.05) / 2)
    assert History(tmp_path / "h.jsonl").speed(threads + 1) is None


def test_priorities_and_deadlines_order_the_work(planned, tmp_path, tiny_params):
    history = History(tmp_path / "h.jsonl")
    history.add(Pace(64 * 64, 1, tiny_params.produce.worker.threads, 3600.0, 0.0))
    clips = [
        {"id": "plain"},
        {"id": "late", "deadline": "13:00"},
        {"id": "soon", "deadline": 1201},
        {"id": "dated", "deadline": "2026-11-24T08:00:00"},
        {"id": "first", "priority": 5},
    ]
    found = planned([clip | {"script": "one two three"} for clip in clips], history)
    assert [p.clip.id for p in found.clips] == ["first", "late", "soon", "dated", "plain"]
    assert any("late will miss its deadline 2026-11-23 13:00" in warning for warning in found.warnings)


def test_the_room_is_checked_with_every_fault_at_once(tmp_path, tiny_models):
    manifest = read_manifest(write_batch(tmp_path, [{"id": "a", "script": "hi"}]))
    params = tiny_models.params.with_produce({"store": "/sys/stereotalker/store"})
    with pytest.raises(UserError) as caught:
        prepare(
            manifest, Outputs("/sys/stereotalker/out"), Models(params, tmp_path / "no-weights"), Home(tmp_path / "home")
        )
    words = str(caught.value)
    assert (
        "--out /sys/stereotalker/out cannot be written" in words
        and "produce.store /sys/stereotalker/store cannot be written" in words
        and "dvc repro" in words
    )
    assert len(words.splitlines()) == 3


def test_a_disk_that_is_too_small_is_told_before_any_compute(tmp_path, home, tiny_models, monkeypatch):
    monkeypatch.setattr(preflight, "_DISK_BYTES_PER_PIXEL", 1e15)
    manifest = read_manifest(write_batch(tmp_path, [{"id": "a", "script": "hi"}]))
    found = prepare(manifest, Outputs(tmp_path / "out"), tiny_models, home)
    assert any(
        "make room" in warning for warning in found.warnings
    )  # no refusal: much of it may be in the store already


def test_too_little_memory_is_a_note(planned, tiny_params):
    found = planned([{"id": "a", "script": "hi"}], params=tiny_params.with_produce({"workers": 5000}))
    assert any("segments may have to be halved" in warning for warning in found.warnings)
    assert not replace(found, local=False).warnings


def test_dry_run_makes_nothing(tmp_path, home):
    batch = write_batch(tmp_path, [{"id": "a", "script": "hi"}, {"id": "b", "avatar": "zoe", "script": "hi"}])
    answer = cli(
        "produce", batch, "--out", tmp_path / "out", "--dry-run", "--start", "20:00", "--stop", "06:30", home=home
    )
    assert (
        answer.returncode == 1 and "1 of 2 clips can be made" in answer.stdout and "FAULT avatar 'zoe'" in answer.stdout
    )
    assert not list((tmp_path / "out").iterdir()) and not list(home.store.glob("*/*"))


@pytest.mark.parametrize(
    "arguments",
    [["--start", "25:00"], ["--budget", "-1"], ["--workers", "0"], ["--previews", "4"], ["--out", "s4://x/y"]],
)
def test_bad_options_are_one_line(tmp_path, home, arguments):
    answer = cli("produce", write_batch(tmp_path, [{"id": "a", "script": "hi"}]), "--dry-run", *arguments, home=home)
    assert answer.returncode == 2 and len(answer.stderr.strip().splitlines()) == 1 and "Traceback" not in answer.stderr


def test_headers_tell_the_length(tmp_path):
    wavfile.write(tmp_path / "a.wav", 8000, np.zeros((4000, 2), np.int16))
    assert audio_files.media_seconds(tmp_path / "a.wav") == pytest.approx(0.5)
    with pytest.raises(ClipError, match="expected 0.2 s"):
        wavfile.write(tmp_path / "b.wav", 8000, np.zeros(80, np.int16))
        audio_files.media_seconds(tmp_path / "b.wav")
