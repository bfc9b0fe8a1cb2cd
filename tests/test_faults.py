"""Faults during a batch: full disks, vanishing files, damaged store entries, unreachable services.

No finished work is lost, and the next run of the batch continues where the first stopped.
"""

import errno
import os
import shutil
import subprocess
import threading
import wave
from pathlib import Path

import numpy as np
import pytest
from batch_helpers import SMALL_AVATAR, all_frames, copy_home, write_batch

from stereotalker.audio.speech import from_file
from stereotalker.avatar.library import RECORD_FILE
from stereotalker.errors import Unavailable
from stereotalker.media.video_files import read_frames
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import Again
from stereotalker.store.local import MARKER, Store
from stereotalker.tasks.tracking import Tracker, TrackingError

pytestmark = pytest.mark.integration

UNSUCCESSFUL = Again(frozenset({"fail", "failed", "stopped"}))  # what `--failed` means

TWO_CLIPS = [{"id": "a", "script": "one two"}, {"id": "b", "script": "three four"}]


@pytest.fixture(params=[-50_000, 100_000, 300_000])
def small_disk(request, tmp_path, home):
    """A folder on a small disk, and a function that enlarges the disk.

    The disk becomes full while the avatar is written (by safetensors), while speech and motion are, or while frames
    are (by numpy): each library reports a full disk in its own way.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    size = (home.avatars / SMALL_AVATAR / RECORD_FILE).stat().st_size + request.param
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
        ).returncode
    ):
        pytest.skip("a small disk can be mounted by root only")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_the_batch_and_loses_no_finished_work(run_batch, tmp_path, small_disk):
    folder, enlarge = small_disk
    batch = write_batch(tmp_path, [{"id": f"c{k}", "script": "one two three", "seed": k} for k in range(3)])
    first = run_batch(batch, store=str(folder / "store"))
    assert (
        "No space left on device" in first.end.stopped
        and "run the batch again" in first.end.stopped
        and first.end.status == 3
    )
    assert {row.state for row in first.results} <= {"done", "stopped"} and first.results[-1].state == "stopped"
    assert not list(folder.rglob("*.tmp*"))  # The incomplete entry was removed.
    enlarge()
    again = run_batch(batch, store=str(folder / "store"))
    assert again.end.status == 0 and len(list((tmp_path / "out" / "clips").glob("*.mp4"))) == 3


def test_a_disk_that_is_full_at_any_stage_loses_no_clip(run_batch, tmp_path, home):
    """Store, results, home and its databases share a disk, which grows in 40 steps from nothing to enough.

    So every stage, and every handler of its error, meets the end of the disk. No run ends in an error of its own.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("a small disk can be mounted by root only")
    try:
        batch = write_batch(tmp_path, [{"id": f"c{k}", "script": "one", "seed": k} for k in range(2)])
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
        there = copy_home(home, folder / "home")
        used = shutil.disk_usage(folder).used
        needed = run_full_disk_batch(run_batch, batch, tmp_path, home)
        ends = []
        for step in range(40):
            size = used + int(needed * step / 38)
            subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)
            try:
                done = run_batch(batch, out=folder / "out", home=there, store=str(folder / "store"))
            except Unavailable:
                ends.append("not started")
                continue
            assert not [row.error for row in done.results if row.state == "failed"]
            ends.append(done.end.status)
        assert ends[-1] == 0 and 3 in ends and ends == sorted(ends, key=["not started", 3, 0].index)
        assert len(list((folder / "out" / "clips").glob("*.mp4"))) == 2
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def run_full_disk_batch(run_batch, batch, tmp_path, home) -> int:
    """Bytes that the batch needs: what it adds to a folder with room enough, and some more for databases."""
    folder = tmp_path / "roomy"
    there = copy_home(home, folder / "home")
    before = size_of(folder)
    assert run_batch(batch, out=folder / "out", home=there, store=str(folder / "store")).end.status == 0
    return int(1.3 * (size_of(folder) - before)) + 1_000_000


def size_of(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in folder.rglob("*"))


def test_an_output_folder_that_turns_read_only_stops_the_batch(run_batch, tmp_path, monkeypatch):
    batch = write_batch(tmp_path, TWO_CLIPS)
    original = Outputs.place

    def refuse(self, name, source):
        raise OSError(errno.EROFS, "Read-only file system", self.name(name))

    monkeypatch.setattr(Outputs, "place", refuse)
    first = run_batch(batch)
    assert "Read-only file system" in first.end.stopped and {row.state for row in first.results} == {"stopped"}
    monkeypatch.setattr(Outputs, "place", original)
    again = run_batch(batch)
    assert again.end.status == 0 and again.results[0].made == []  # The first run had made everything.


def write_noise(path: Path, seconds: float = 0.8) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
        file.writeframes(
            (np.random.default_rng(0).standard_normal(int(16000 * seconds)) * 3000).astype(np.int16).tobytes()
        )
    return path


def test_a_recording_that_vanishes_while_it_is_read_is_retried(run_batch, tmp_path, monkeypatch):
    recording, moved, calls = write_noise(tmp_path / "take.wav"), tmp_path / "away.wav", []

    def read_while_it_vanishes(*arguments):
        calls.append(1)
        if len(calls) == 1:
            os.rename(recording, moved)
            threading.Timer(0.5, os.rename, (moved, recording)).start()
        return from_file(*arguments)

    monkeypatch.setattr("stereotalker.production.clip_speech.from_file", read_while_it_vanishes)
    [row] = run_batch(write_batch(tmp_path, [{"id": "a", "audio": "take.wav"}])).results
    assert row.shown == "pass" and row.attempts == 2


def test_a_recording_that_changes_while_it_is_read_never_enters_the_store(run_batch, tmp_path, monkeypatch, home):
    recording = write_noise(tmp_path / "take.wav")

    def read_while_it_grows(*arguments):
        result = from_file(*arguments)
        with open(recording, "ab") as file:
            file.write(b"x")
        return result

    monkeypatch.setattr("stereotalker.production.clip_speech.from_file", read_while_it_grows)
    batch = write_batch(tmp_path, [{"id": "a", "audio": "take.wav"}])
    [row] = run_batch(batch, retries=0).results
    assert row.state == "failed" and "changed while it was read" in row.error and not list(home.store.glob("audio/*"))
    monkeypatch.undo()
    assert run_batch(batch, again=UNSUCCESSFUL).end.status == 0


@pytest.mark.parametrize("stage", ["audio", "motion", "render", "video", "quality", "provenance", "avatar"])
def test_a_damaged_store_entry_of_any_stage_is_remade(run_batch, tmp_path, home, stage):
    batch = write_batch(tmp_path, TWO_CLIPS[:1])
    run_batch(batch)
    before = all_frames(tmp_path / "out")
    entry = next(home.store.glob(f"{stage}/*"))
    for file in entry.iterdir():
        if file.name != MARKER:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    shutil.rmtree(tmp_path / "out")  # A clip that is finished and delivered needs no entry.
    if stage == "render":
        shutil.rmtree(home.store / "video")  # With its video, a clip needs no segments.
    again = run_batch(batch)
    # The results of a clip do not list the avatar among its stages.
    assert again.end.status == 0 and (stage in again.results[0].made or stage == "avatar")
    assert Store(home.store).find(stage, entry.name)
    after = all_frames(tmp_path / "out")
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)


def test_the_same_failure_on_many_clips_stops_the_batch_with_one_message(run_batch, tmp_path, monkeypatch):
    monkeypatch.setattr("stereotalker.production.clip_stages.ClipMaker.performers", lambda *_: 1 / 0)
    done = run_batch(write_batch(tmp_path, [{"id": f"c{k}", "script": "hi"} for k in range(9)]), breaker=3)
    assert [row.state for row in done.results] == ["failed"] * 3 + ["stopped"] * 6
    assert (
        done.end.stopped.startswith("3 clips in a row failed for the same cause")
        and "ZeroDivisionError" in done.end.stopped
        and done.end.status == 1
    )


def test_only_failed_clips_are_remade_on_request(run_batch, tmp_path):
    first = run_batch(write_batch(tmp_path, [TWO_CLIPS[0], {"id": "b", "avatar": "zoe", "script": "hi"}]))
    assert first.end.status == 1
    again = run_batch(write_batch(tmp_path, [TWO_CLIPS[0], TWO_CLIPS[1]]), again=UNSUCCESSFUL)
    assert again.end.status == 0 and str(again.results[0]) == str(first.results[0]) and again.results[1].made
    with pytest.raises(ValueError, match="need the results of an earlier run"):
        run_batch(write_batch(tmp_path, TWO_CLIPS), out="elsewhere", again=UNSUCCESSFUL)


def test_an_unreachable_tracking_server_costs_records_and_no_clips(run_batch, tmp_path, monkeypatch, capsys):
    original = Tracker.note

    def refuse_clips(self, run_batch, params=None, **options):
        if params and "avatar" in params:
            raise TrackingError("connection refused")
        original(self, run_batch, params, **options)

    monkeypatch.setattr(Tracker, "note", refuse_clips)
    assert run_batch(write_batch(tmp_path, TWO_CLIPS)).end.status == 0
    # The message comes once, not for every clip.
    assert capsys.readouterr().err.count("MLflow did not take the record") == 1


def test_a_transient_fault_is_retried_and_then_reported(run_batch, tmp_path, monkeypatch):
    def stale(*_):
        raise OSError(errno.ESTALE, "Stale file handle", "/mnt/takes")

    monkeypatch.setattr("stereotalker.tasks.clip.RETRY_S", 0.01)
    monkeypatch.setattr("stereotalker.production.clip.ClipMaker.speech", stale)
    [row] = run_batch(write_batch(tmp_path, TWO_CLIPS[:1]), retries=2).results
    assert row.state == "failed" and row.attempts == 3 and "Stale file handle" in row.error


def test_two_batches_share_one_store_at_the_same_time(run_batch, tmp_path, new_home):
    """Two batches of the same clips run at once, each with its own home."""
    batch, statuses = write_batch(tmp_path, TWO_CLIPS), []
    threads = [
        threading.Thread(
            target=lambda k=k: statuses.append(
                run_batch(batch, out=f"out{k}", home=new_home(f"h{k}"), store=str(tmp_path / "store")).end.status
            )
        )
        for k in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0, 0]
    for name in ("a", "b"):
        assert np.array_equal(*(read_frames(tmp_path / f"out{k}" / "clips" / f"{name}.mp4") for k in range(2)))
