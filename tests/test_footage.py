"""A user's own footage becomes shards."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.avatar.library import SHIPPED, read_avatar
from stereotalker.dataset.ingest import ingest
from stereotalker.dataset.speech_corpus import (
    REJECTED,
)
from stereotalker.errors import UserError
from stereotalker.media.audio_files import FFMPEG
from stereotalker.records import SAMPLE_RATE
from tests.conftest import REAL_DATA

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("dataset")]


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> Path:
    """A video of a synthetic person with sound, cut hard to another person; a video without sound; a text file."""
    folder, text = tmp_path_factory.mktemp("footage"), "We open the doors at half past eight every morning."
    speech = from_script(text, Voice(), -20.0)
    wavfile.write(folder / "sound.wav", SAMPLE_RATE, np.rint(speech.samples * 32767).astype(np.int16))
    shots, half = [], int(np.ceil(speech.seconds * 12.5))
    for name in ("dan", "ben"):
        portrait = read_avatar(SHIPPED / f"{name}.safetensors").portrait[:256, 128:384]
        shots.append(
            np.stack([np.clip(portrait.astype(int) + 3 * (t % 3), 0, 255).astype(np.uint8) for t in range(half)])
        )
    raw = np.concatenate(shots).tobytes()
    command = [
        FFMPEG,
        "-v",
        "error",
        "-y",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        "256x256",
        "-r",
        "25",
        "-i",
        "pipe:",
    ]
    subprocess.run([*command, "-i", folder / "sound.wav", folder / "two shots.mp4"], input=raw, check=True)
    subprocess.run([*command, "-an", folder / "mute.mp4"], input=raw, check=True)
    noise = np.random.default_rng(0).integers(0, 255, (25, 256, 256, 3), np.uint8).tobytes()
    subprocess.run([*command, "-i", folder / "sound.wav", "-t", "1", folder / "nobody.mp4"], input=noise, check=True)
    (folder / "broken.mp4").write_bytes(b"\0" * 5000)
    (folder / "two shots.txt").write_text(text)
    (folder / "sound.wav").unlink()
    return folder


def test_footage_becomes_shards(footage, tmp_path):
    done = ingest(footage, tmp_path, "ours: drawn people", -20.0)
    assert done.shots == 2 and len(done.shards) == 2 and done.seconds == pytest.approx(2.8, abs=0.2)
    reasons = {row["file"]: row["reason"] for row in done.rejected}
    assert (
        "no audio stream" in reasons["mute.mp4"]
        and "cannot be read" in reasons["broken.mp4"]
        and "a face in 0 of" in reasons["nobody.mp4"]
    )
    assert [json.loads(line) for line in (tmp_path / REJECTED).read_text().splitlines()] == done.rejected
    rows = []
    for shard in done.shards:
        with tarfile.open(shard) as tar:
            names = tar.getnames()
            rows += [json.loads(tar.extractfile(name).read()) for name in names if name.endswith(".json")]
        assert (
            sum(name.endswith(".jpg") for name in names) == rows[-1]["frames"]
            and len({name.split(".")[0] for name in names}) == 1
        )
    assert rows[0]["frames"] == rows[1]["frames"]
    assert all(row["consent"] == "ours: drawn people" and len(row["faces"]) >= 5 for row in rows)
    assert (
        rows[0]["words"][0][0] == "we"
        and rows[1]["start"] == pytest.approx(rows[0]["seconds"])
        and rows[1]["words"][0][1] >= 0
    )
    again = ingest(footage, tmp_path / "again", "ours: drawn people", -20.0)
    assert [p.read_bytes() for p in again.shards] == [p.read_bytes() for p in done.shards]


def test_footage_of_grid_gives_audio_words_and_faces(tmp_path):
    source = REAL_DATA / "video"
    if not source.is_dir():
        pytest.skip(f"GRID clips not found at {source}; set STEREOTALKER_DATA to the folder that holds video/")
    for name in ("bbaf2n.mpg", "sbwe5n.mpg", "transcripts.csv"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(source / name, tmp_path / "in" / name)
    done = ingest(tmp_path / "in", tmp_path / "out", "GRID corpus, CC BY 4.0", -20.0)
    assert done.shots == 2 and not done.rejected
    for shard in done.shards:
        with tarfile.open(shard) as tar:
            row = json.loads(tar.extractfile(next(n for n in tar.getnames() if n.endswith(".json"))).read())
            samples = np.frombuffer(
                tar.extractfile(next(n for n in tar.getnames() if n.endswith(".wav"))).read()[44:], np.int16
            )
        assert (
            len(row["words"]) == 6
            and row["frames"] == 75
            and len(row["faces"]) >= 12
            and len(samples) == pytest.approx(3 * SAMPLE_RATE, abs=1600)
        )


def test_one_bad_transcript_refuses_one_video(footage, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b", "c"):
        shutil.copy(footage / "two shots.mp4", folder / f"{name}.mp4")
    (folder / "a.txt").write_bytes("für alle".encode("latin-1"))
    (folder / "b.txt").write_text("Nobody has said any of these words to a camera.")
    (folder / "c.txt").write_text("We open привет the doors.")
    done = ingest(folder, tmp_path / "out", "ours", -20.0)
    assert (
        [row["file"] for row in done.rejected] == ["a.mp4"]
        and "not UTF-8" in done.rejected[0]["reason"]
        and done.shots == 4
    )
    for shard in done.shards:
        with tarfile.open(shard) as tar:
            row = json.loads(tar.extractfile(next(n for n in tar.getnames() if n.endswith(".json"))).read())
        assert not row["words"] and "cannot be aligned" in row["alignment"]


def test_a_full_disk_refuses_a_video_and_goes_on(footage, tmp_path, monkeypatch):
    from stereotalker.dataset import ingest as room

    write = room.write_tar

    def full(path, members):
        if path.name.startswith("footage-a"):
            raise OSError(28, "No space left on device", str(path))
        write(path, members)

    monkeypatch.setattr(room, "write_tar", full)
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(footage / "two shots.mp4", tmp_path / "in" / f"{name}.mp4")
    done = ingest(tmp_path / "in", tmp_path / "out", "ours", -20.0)
    assert (
        done.shots == 2
        and [row["file"] for row in done.rejected] == ["a.mp4"]
        and "No space left" in done.rejected[0]["reason"]
    )


@pytest.mark.parametrize(
    ("make", "consent", "complaint"),
    [
        (lambda f: None, "  ", "consent"),
        (lambda f: None, "x", "holds no video"),
        (
            lambda f: (f / "a.mp4").write_bytes(b"x") and (f / "transcripts.csv").write_text("name,words\n"),
            "x",
            "expected columns file and text",
        ),
        (lambda f: shutil.rmtree(f), "x", "is not a folder"),
    ],
)
def test_unusable_folders_are_explained(tmp_path, make, consent, complaint):
    folder = tmp_path / "in"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError, match=complaint):
        ingest(folder, tmp_path / "out", consent, -20.0)


def test_the_command_line_says_what_happened(footage, tmp_path):
    def run(*more):
        return subprocess.run(
            [sys.executable, "-m", "stereotalker.cli", "dataset", "ingest", *more],
            capture_output=True,
            text=True,
            env={**os.environ, "STEREOTALKER_HOME": str(tmp_path)},
        )

    done = run(str(footage), "--out", str(tmp_path / "out"), "--consent", "ours")
    assert done.returncode == 1 and "2 shots" in done.stdout and "3 refused" in done.stdout
    assert run(str(tmp_path / "nowhere"), "--consent", "ours").returncode == 2


def rows_of(done) -> list[dict]:
    """The JSON of every shard."""
    rows = []
    for shard in done.shards:
        with tarfile.open(shard) as tar:
            [name] = [name for name in tar.getnames() if name.endswith(".json")]
            rows.append(json.loads(tar.extractfile(name).read()))
    return rows


def convert(source: Path, target: Path, *options) -> Path:
    """The video with other options of ffmpeg, beside its transcript."""
    target.parent.mkdir(parents=True, exist_ok=True)
    before = options[: options.index("-i")] if "-i" in options else ()
    subprocess.run([FFMPEG, "-v", "error", "-y", *before, "-i", source, *options[len(before) :], target], check=True)
    target.with_suffix(".txt").write_text((source.with_suffix(".txt")).read_text())
    return target


def test_footage_of_a_phone_is_upright(footage, tmp_path):
    """The pictures lie on their side, and the file says how they are turned."""
    lying = convert(footage / "two shots.mp4", tmp_path / "lying.mp4", "-vf", "crop=192:256,transpose=1")
    lying = lying.rename(tmp_path / "lying.mkv")
    folder = tmp_path / "in"
    folder.mkdir()
    command = [FFMPEG, "-v", "error", "-display_rotation", "90", "-i", lying, "-c", "copy", folder / "phone.mp4"]
    subprocess.run(command, check=True)
    done = ingest(folder, tmp_path / "out", "ours: drawn people", -20.0)
    rows = rows_of(done)
    assert len(rows) == 2 and not done.rejected and all(row["size"] == [256, 192] for row in rows)


def test_words_stand_where_the_pictures_are_if_the_sound_begins_later(footage, tmp_path):
    source = footage / "two shots.mp4"
    on_time = convert(source, tmp_path / "a" / "take.mkv", "-c", "copy")
    late = tmp_path / "b" / "take.mkv"
    late.parent.mkdir()
    command = [FFMPEG, "-v", "error", "-i", source, "-itsoffset", "0.6", "-i", source, "-map", "0:v", "-map", "1:a"]
    subprocess.run([*command, "-c", "copy", late], check=True)
    shutil.copy(on_time.with_suffix(".txt"), late.with_suffix(".txt"))
    words = [
        {word[0]: word[1] + row["start"] for row in rows_of(done) for word in row["words"]}
        for done in (ingest(p.parent, tmp_path / p.parent.name / "out", "ours", -20.0) for p in (on_time, late))
    ]
    shared = words[0].keys() & words[1].keys()
    assert len(shared) >= 5
    assert np.median([words[1][word] - words[0][word] for word in shared]) == pytest.approx(0.6, abs=0.06)


def test_a_varying_frame_rate_keeps_its_times(footage, tmp_path):
    """Half of the pictures of the second part are left out, as a phone in the dark does; it lasts as long as before."""
    half = "select='if(lt(t,1.4),1,not(mod(n,2)))'"
    target = convert(footage / "two shots.mp4", tmp_path / "in" / "take.mkv", "-vf", half, "-fps_mode", "vfr")
    rows = rows_of(ingest(target.parent, tmp_path / "out", "ours", -20.0))
    assert sum(row["seconds"] for row in rows) == pytest.approx(2.8, abs=0.2)
    assert all(row["frames"] == pytest.approx(row["seconds"] * row["fps"], abs=1.5) for row in rows)


def test_tables_with_a_mark_are_read_and_shadows_of_macos_passed_over(footage, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(footage / "two shots.mp4", folder / "take.mp4")
    (folder / "._take.mp4").write_bytes(b"\0\5\x16\7" + bytes(100))
    text = (footage / "two shots.txt").read_text()
    (folder / "transcripts.csv").write_text(f"file,text\ntake.mp4,{text}\n", encoding="utf-8-sig")
    done = ingest(folder, tmp_path / "out", "ours", -20.0)
    assert not done.rejected and rows_of(done)[0]["words"]


def test_a_video_whose_name_is_not_utf8_is_refused_and_the_rest_used(footage, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(footage / "two shots.mp4", folder / "take.mp4")
    shutil.copy(footage / "two shots.mp4", os.fsencode(folder) + b"/t\xe4ke.mp4")
    done = ingest(folder, tmp_path / "out", "ours", -20.0)
    assert done.shots == 2 and len(done.rejected) == 1 and "is not UTF-8" in done.rejected[0]["reason"]
