"""Whole batches with tiny models, inline in this process. test_orchestration.py runs them with Prefect and Ray."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from batch_helpers import cli, write_batch
from scipy.io import wavfile

from stereotalker.errors import UserError
from stereotalker.flows.produce import produce
from stereotalker.media.video_files import probe, read_frames
from stereotalker.production.manifest import read_manifest
from stereotalker.runtime.home import Home
from stereotalker.runtime.process_identity import identity
from stereotalker.tasks.tracking import EXPERIMENTS, Tracker

pytestmark = pytest.mark.integration


def write_eight_clips(folder, mended=False):
    """Write a manifest of five good clips and three bad ones, or of the same clips with the bad ones mended."""
    (folder / "noise.wav").write_text("this is no sound")
    bad = [
        {"id": "unreadable", "audio": "noise.wav"},
        {"id": "unknown", "avatar": "zoe", "script": "hi"},
        {"id": "empty", "script": ""},
    ]
    mend = [
        {"id": "unreadable", "script": "now it speaks"},
        {"id": "unknown", "script": "hi there"},
        {"id": "empty", "script": "words"},
    ]
    good = [{"id": f"good-{k}", "script": "one two", "seed": k} for k in range(5)]
    rows = mend if mended else bad
    return write_batch(folder, [good[0], rows[0], good[1], rows[1], good[2], rows[2], good[3], good[4]])


def test_bad_clips_are_reported_and_the_others_made(run_batch, tmp_path):
    done = run_batch(write_eight_clips(tmp_path))
    assert [r.id for r in done.results] == [c.id for c in read_manifest(tmp_path / "batch.yaml").clips]
    assert [r.id for r in done.results if not r.ok] == ["unreadable", "unknown", "empty"] and done.failed == 3
    reasons = {r.id: r.error for r in done.results}
    assert (
        "cannot be read as audio" in reasons["unreadable"]
        and "a picture file or one of small, ava" in reasons["unknown"]
        and "no letters" in reasons["empty"]
    )
    assert len(list((tmp_path / "out" / "clips").glob("*.mp4"))) == 5
    page = Path(done.report).read_text()
    assert (
        page.count("<article") == 8
        and "cannot be read as audio" in page
        and "http" not in page.replace("http-equiv", "")
    )
    again = run_batch(write_eight_clips(tmp_path, mended=True))
    assert again.failed == 0
    assert sorted(r.id for r in again.results if r.made) == ["empty", "unknown", "unreadable"]


def test_videos_have_the_length_of_their_speech(run_batch, tmp_path):
    done = run_batch(
        write_batch(
            tmp_path, [{"id": "a", "script": "one two three", "fps": 23.976, "width": 96, "camera": {"kind": "orbit"}}]
        )
    )
    film = probe(tmp_path / "out" / done.results[0].video)
    assert film.size == (64, 96) and abs(film.audio_seconds - film.video_seconds) <= 1 / 23.976 + 1024 / 48000
    assert film.frames == done.results[0].frames


def test_a_stereo_clip_holds_the_views_of_both_eyes(run_batch, tmp_path):
    rows = [
        {"id": "one", "script": "one", "seed": 5},
        {"id": "beside", "script": "one", "seed": 5, "stereo": {"pupils": 90}},
        {"id": "below", "script": "one", "seed": 5, "stereo": {"layout": "over-under", "pupils": 90}},
    ]
    one, beside, below = (tmp_path / "out" / row.video for row in run_batch(write_batch(tmp_path, rows)).results)
    assert [probe(path).size for path in (one, beside, below)] == [(64, 64), (64, 128), (128, 64)]
    wide, high = read_frames(beside)[0].astype(int), read_frames(below)[0].astype(int)

    def difference(a, b):
        return np.abs(a - b).mean()

    left, right, above, below = wide[:, :64], wide[:, 64:], high[:64], high[64:]
    # The left eye is on the left, and above. The views differ a little by their compression in H.264.
    assert difference(left, above) < 0.8 * difference(left, below) and difference(right, below) < 0.8 * difference(
        right, above
    )


def test_motion_controls_are_accepted_and_a_wrong_transcript_asks_for_review(run_batch, tmp_path, speech):
    wavfile.write(tmp_path / "a.wav", 16000, speech.samples)
    directed = {
        "style": "coach",
        "gaze": "camera",
        "emotion": [{"time": 0, "name": "happy", "amount": 0.5}],
        "start_pose": "rest",
        "end_pose": "rest",
    }
    rows = [
        {"id": "plain", "audio": "a.wav"},
        {"id": "directed", "audio": "a.wav", **directed},
        {"id": "misread", "audio": "a.wav", "transcript": "Nobody ever said these words in front of anyone."},
        {"id": "posed", "audio": "a.wav", "start_pose": "a.wav"},
        {"id": "still", "script": "one", "body": "still"},
    ]
    plain, directed, misread, posed, still = run_batch(write_batch(tmp_path, rows)).results
    assert plain.ok and directed.ok and still.ok and not posed.ok and "is not a motion" in posed.error
    assert "the transcript is not what is said" in "; ".join(misread.reasons)


def test_a_missed_deadline_and_a_preview_are_in_the_result(run_batch, tmp_path):
    [row] = run_batch(
        write_batch(tmp_path, [{"id": "a", "script": "one", "deadline": "2020-01-01T06:30:00"}]), previews=32
    ).results
    assert row.verdict == "pass" and row.reasons[0].endswith("h after its deadline") and row.preview == "previews/a.mp4"
    assert probe(tmp_path / "out" / "previews" / "a.mp4").size == (32, 32) and probe(
        tmp_path / "out" / row.video
    ).size == (64, 64)


def test_only_clips_rendered_whole_enter_the_pace_history(run_batch, tmp_path, home):
    batch = write_batch(tmp_path, [{"id": "a", "script": "one two three"}])
    run_batch(batch)
    shutil.rmtree(next(home.store.glob("render/*")))
    shutil.rmtree(home.store / "video")
    shutil.rmtree(tmp_path / "out")
    again = run_batch(batch).results[0]
    assert 0 < again.rendered < again.frames
    assert len(home.history.read_text().splitlines()) == 1


def test_every_clip_has_a_tracking_run(run_batch, tmp_path, home):
    done = run_batch(write_eight_clips(tmp_path))
    client = Tracker(home, "batch")._client
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENTS["batch"]).experiment_id])
    children = {r.info.run_name: r for r in runs if r.data.tags.get("mlflow.parentRunId") == done.run}
    assert (
        len(children) == 8
        and children["good-0"].info.status == "FINISHED"
        and children["empty"].info.status == "FAILED"
    )
    assert "no letters" in children["empty"].data.tags["error"] and children["good-0"].data.metrics["frames"] > 0
    parent = client.get_run(done.run)
    assert parent.info.status == "FAILED" and parent.data.params["model.render"] and parent.data.metrics["failed"] == 3


def test_tracking_runs_of_a_killed_driver_are_closed(home):
    tracker, dead_owner = Tracker(home, "batch"), identity().split("/")[0] + "/999999999/1"
    runs = [
        tracker.start(name, tags={"owner": owner})
        for name, owner in (("dead", dead_owner), ("ours", identity()), ("elsewhere", "another-host/1/1"))
    ]
    assert tracker.close_orphans() == 1
    assert [tracker._client.get_run(run_batch).info.status for run_batch in runs] == ["KILLED", "RUNNING", "RUNNING"]


def test_an_internal_error_is_reported_as_a_failed_clip(run_batch, tmp_path, monkeypatch):
    monkeypatch.setattr("stereotalker.production.clip_stages.ClipMaker.performers", lambda *_: 1 / 0)
    done = run_batch(write_batch(tmp_path, [{"id": "a", "script": "hi"}]))
    assert (
        "unexpected ZeroDivisionError" in done.results[0].error
        and "Traceback" in (tmp_path / "out" / "logs" / "a.txt").read_text()
    )


def test_missing_weights_stop_the_batch_before_any_clip(run_batch, tmp_path, tiny_models):
    with pytest.raises(UserError, match="dvc repro"):
        produce(
            write_batch(tmp_path, [{"id": "a", "script": "hi"}]),
            tmp_path / "out",
            tiny_models.params,
            Home(tmp_path / "h"),
            "inline",
            tmp_path,
        )


def test_a_damaged_segment_is_rendered_again(run_batch, tmp_path, home):
    path = write_batch(tmp_path, [{"id": "a", "script": "one two"}])
    first = read_frames(tmp_path / "out" / run_batch(path).results[0].video)
    next(home.store.glob("render/*/frames.npy.zst")).write_bytes(b"")
    shutil.rmtree(home.store / "video")
    shutil.rmtree(tmp_path / "out")
    again = run_batch(path)
    assert again.results[0].made.count("render") == 1
    assert np.array_equal(first, read_frames(tmp_path / "out" / again.results[0].video))


# ---- the command line ----


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["produce", "nowhere.yaml"], "manifest not found"),
        (["produce", "--avatar", "ava"], "--audio FILE or --script TEXT"),
        (["produce"], "expected a manifest"),
        (
            ["produce", "--avatar", "ava", "--script", "x", "--workers", "0", "--executor", "inline"],
            "workers: Input should be greater than 0",
        ),
        (["produce", "--avatar", "ava", "--script", "x", "--set", "voice"], "--set 'voice'; expected KEY=VALUE"),
        (
            ["produce", "--avatar", "ava", "--script", "x", "--set", "voice=[a"],
            "expected KEY=VALUE with a value in YAML",
        ),
        (["produce", "--avatar", "ava", "--script", "x", "--set", "audio=a.wav"], "there is an option for it"),
        (["produce", "nowhere.yaml", "--set", "voice=kumo"], "--set and consent belong to the short form"),
        (["stage", "nonsense"], "expected one of body"),
    ],
)
def test_bad_commands_end_with_one_line_and_status_2(home, tmp_path, arguments, complaint):
    extra = ["--out", tmp_path / "o"] if arguments[0] == "produce" else []
    answer = cli(*arguments, *extra, home=home)
    assert answer.returncode == 2 and complaint in answer.stderr and "Traceback" not in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_any_key_of_a_clip_can_be_set_without_a_manifest(home):
    keys = ["--set", "width=512", "--set", "cues=[{gesture: nod, time: 0.4}]", "--set", "language=de"]
    answer = cli("produce", "--avatar", "ava", "--script", "Guten Morgen.", *keys, "--dry-run", home=home)
    assert answer.returncode == 0 and "512 x 256" in answer.stdout, answer.stderr


def test_a_failed_clip_gives_status_1_and_a_row_in_the_report(home, tmp_path):
    answer = cli(
        "produce", "--avatar", "zoe", "--script", "hi", "--executor", "inline", "--out", tmp_path / "o", home=home
    )
    assert (
        answer.returncode == 1
        and "a picture file or one of small, ava" in answer.stdout
        and "Traceback" not in answer.stderr
    )
    assert (tmp_path / "o" / "report.html").read_text().count("<article") == 1


def test_doctor_finds_no_fault(home):
    answer = cli("doctor", home=home)
    assert answer.returncode == 0, answer.stdout
    assert (
        "MISSING" not in answer.stdout and "espeak-ng speaks" in answer.stdout and "hash as expected" in answer.stdout
    )
