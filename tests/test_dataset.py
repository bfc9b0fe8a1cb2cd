"""The stages `speech` and `people`: splits, shards, resumption, refusals, the card; and a user's own footage."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy.io import wavfile

from stereotalker.audio.augmentation import CODECS, through_codec
from stereotalker.audio.speech import from_script
from stereotalker.audio.text_to_speech import Voice
from stereotalker.avatar.library import SHIPPED, read_avatar
from stereotalker.dataset import build
from stereotalker.dataset.build import build_people
from stereotalker.dataset.card import write_card
from stereotalker.dataset.ingest import ingest
from stereotalker.dataset.shards import DEPTH_UNIT_M, read_shard, read_shards, write_shard
from stereotalker.dataset.speech_corpus import (
    PARTS,
    REJECTED,
    build_corpus,
    is_held_out,
    read_corpus,
    read_index,
    read_sentences,
)
from stereotalker.errors import UserError
from stereotalker.media.audio_files import FFMPEG
from stereotalker.models import read_body
from stereotalker.records import SAMPLE_RATE, Speech, load, save
from stereotalker.training.samples import read_people
from tests.conftest import REAL_DATA

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("dataset")]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.tar"))}


# ---- speech --------------------------------------------------------------------------------------------------------------


def test_parts_share_no_voice_and_no_sentence(corpus, tiny_params):
    rows = {part: read_index(corpus / part) for part in PARTS}
    assert len(rows["train"]) == 8 and len(rows["held_out"]) == 4
    assert not {r.text for r in rows["train"]} & {r.text for r in rows["held_out"]}
    variants = {part: {r.voice.split("+")[1].split()[0] for r in rows[part]} for part in PARTS}
    assert not variants["train"] & variants["held_out"]
    for row, speech in zip(rows["train"], read_corpus(corpus / "train"), strict=True):
        assert speech.seconds == pytest.approx(row.seconds, abs=1e-3) and speech.phonemes


def test_the_corpus_is_a_function_of_its_seed(corpus, tiny_params, tmp_path):
    build_corpus(tmp_path / "again", tiny_params.speech, tiny_params.audio, processes=1)
    for part in PARTS:
        for one, two in zip(
            sorted((corpus / part).iterdir()), sorted((tmp_path / "again" / part).iterdir()), strict=True
        ):
            assert one.name == two.name and one.read_bytes() == two.read_bytes()


def test_many_languages_and_codecs(tiny_params, tmp_path):
    from stereotalker.params import ROOT, load_params

    languages = load_params(ROOT / "params.yaml").speech.languages
    assert len(languages) >= 12
    sentences, rejected = read_sentences(ROOT / "stereotalker" / "assets" / "sentences", languages)
    assert not rejected and set(sentences) | {"en-gb"} == set(languages)
    assert all(any(not is_held_out(t) for t in texts) for texts in sentences.values())
    some = tiny_params.speech.model_copy(
        update={"languages": ["hi", "ja", "ru", "cmn"], "utterances": 6, "held_out": 0, "codecs": 1.0}
    )
    build_corpus(tmp_path / "s", some, tiny_params.audio, processes=2)
    rows = read_index(tmp_path / "s" / "train")
    assert len(rows) == 6 and all(row.codec in CODECS for row in rows) and len({row.language for row in rows}) > 1


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_keep_time_and_length(speech, codec):
    heard = through_codec(speech.samples, codec)
    assert len(heard) == len(speech.samples) and heard.dtype == np.float32

    def level(x):
        return np.convolve(np.abs(x), np.ones(160) / 160, "same")[::160]

    assert np.corrcoef(level(heard), level(speech.samples))[0, 1] > 0.95
    assert not np.array_equal(heard, speech.samples)


def test_sentences_that_cannot_be_spoken_are_refused_with_reasons(tmp_path, tiny_params):
    (tmp_path / "en-us.txt").write_bytes("Good morning.\nДоброе утро.\n?!\n".encode() + b"caf\xe9\n")
    (tmp_path / "de.txt").write_text("Guten Morgen.\n")
    (tmp_path / "tlh.txt").write_text("nuqneH\n")
    sentences, rejected = read_sentences(tmp_path, ["en-us", "de"])
    assert sentences == {"en-us": ["Good morning."], "de": ["Guten Morgen."]}
    reasons = {(row["file"], row.get("line")): row["reason"] for row in rejected}
    assert "cyrillic letters" in reasons["en-us.txt", 2] and reasons["en-us.txt", 3] == "no letters or digits"
    assert reasons["en-us.txt", 4] == "not UTF-8 text" and "speech.languages" in reasons["tlh.txt", None]
    params = tiny_params.speech.model_copy(
        update={"sentences": tmp_path, "languages": ["en-us", "de"], "utterances": 2, "held_out": 0}
    )
    build_corpus(tmp_path / "out", params, tiny_params.audio, processes=1)
    assert (
        len((tmp_path / "out" / REJECTED).read_text().splitlines()) == 4
        and len(read_index(tmp_path / "out" / "train")) == 2
    )
    with pytest.raises(UserError, match="holds no sentence in fr-fr"):
        read_sentences(tmp_path, ["fr-fr"])
    with pytest.raises(UserError, match="not found"):
        read_sentences(tmp_path / "nowhere", ["de"])


def test_real_recordings_are_split_by_speaker_and_sentence(real_speech, tiny_params, tmp_path):
    names = ("p225_003", "p228_003", "austen_64kb-0880", "LJ001-0002", "test_it.wav")
    rows = [
        line
        for line in (real_speech / "transcripts.csv").read_text().splitlines()
        if any(name in line for name in names)
    ]
    folder = tmp_path / "shared" / "speech"
    folder.mkdir(parents=True)
    for row in rows:
        path = Path(row.split(",")[0])
        (folder.parent / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real_speech.parent / path, folder.parent / path)
    head = (real_speech / "transcripts.csv").read_text().splitlines()[0]
    (folder / "transcripts.csv").write_text(
        "\n".join([head, *rows, "speech/gone.wav,nobody,en,16000,1,Hello there.,"]) + "\n"
    )
    spoken = next(row.split(",")[0] for row in rows if "p225_003" in row)
    (folder / "untold").mkdir()
    shutil.copy(real_speech.parent / spoken, folder / "untold" / "somebody.wav")
    params = tiny_params.speech.model_copy(
        update={"utterances": 1, "held_out": 0, "recordings": folder, "untranscribed": folder / "untold"}
    )
    build_corpus(tmp_path / "s", params, tiny_params.audio, processes=1)
    texts = {part: {r.text for r in read_index(tmp_path / "s" / part) if r.kind == "real"} for part in PARTS}
    voices = {part: {r.voice for r in read_index(tmp_path / "s" / part) if r.kind == "real"} for part in PARTS}
    assert voices == {
        "train": {"ljspeech", "untold"},
        "held_out": {"vctk_p225", "vctk_p228", "librivox_austen", "picovoice_it"},
    }
    assert "" in texts["train"] and not texts["train"] & texts["held_out"]
    guessed = load(
        Speech,
        next(tmp_path / "s" / "train" / r.file for r in read_index(tmp_path / "s" / "train") if r.voice == "untold"),
    )
    assert not guessed.words and len(guessed.phonemes) > 40
    with pytest.raises(UserError, match="speech.untranscribed: .* holds no .flac"):
        build_corpus(
            tmp_path / "t",
            params.model_copy(update={"untranscribed": tmp_path / "s" / "train"}),
            tiny_params.audio,
            processes=1,
        )
    with pytest.raises(UserError, match="speech.texts: .* not found"):
        build_corpus(
            tmp_path / "t", params.model_copy(update={"texts": tmp_path / "nowhere"}), tiny_params.audio, processes=1
        )
    assert "not found" in (tmp_path / "s" / REJECTED).read_text()


# ---- people --------------------------------------------------------------------------------------------------------------


def test_bytes_depend_on_neither_processes_nor_interruptions(people, corpus, tiny_params, tmp_path):
    before = bytes_of(people)
    assert len(before) == 4 and sum("held_out" in name for name in before) == 1
    kept = people / "train" / "people-000001.tar"
    stamp = kept.stat().st_mtime_ns
    (people / "train" / "people-000000.tar").unlink()
    (people / "held_out" / "people-005000.tar").unlink()
    build_people(people, tmp_path / "avatars", tiny_params.body, tiny_params.people, corpus, processes=1)
    assert bytes_of(people) == before and kept.stat().st_mtime_ns == stamp
    assert (people / REJECTED).read_text() == ""


def test_shards_of_another_recipe_are_not_kept(people, corpus, tiny_params, tmp_path, monkeypatch):
    copy = tmp_path / "people"
    shutil.copytree(people, copy)
    made = []
    monkeypatch.setattr(build, "_write_shard", lambda job: made.append(job) or "not now")
    monkeypatch.setattr(build, "pool", lambda _: _Here())

    def make(params):
        return build_people(copy, tmp_path / "avatars", tiny_params.body, params, corpus)

    make(tiny_params.people)
    assert not made and bytes_of(copy) == bytes_of(people)
    with pytest.raises(UserError, match="not one of 4 identities could be made; the first reason: not now"):
        make(tiny_params.people.model_copy(update={"size": 48, "portrait_size": 48}))
    assert len(made) == 4 and not bytes_of(copy)


class _Here:
    """A pool of no processes."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    map = staticmethod(map)


def test_a_shard_says_everything(people, corpus, tiny_params):
    takes = list(read_shards(people / "train"))
    assert [take.identity for take in takes] == [0, 1, 2]
    take = takes[0]
    assert take.image.shape == (3, 1, 64, 64, 3) and len(take.camera) == 3 and take.keypoints.shape == (3, 1, 106, 3)
    assert take.speech.words and take.speech.phonemes and take.person["outfit"] and take.avatar.betas.shape == (20,)
    assert take.speech.samples.std() > 0.01 and take.motion.poses.shape == (1, 55, 3)
    with tarfile.open(people / "train" / "people-000000.tar") as tar:
        names = tar.getnames()
        told = json.loads(tar.extractfile("000000-0.json").read())
    assert {name.split(".")[0] for name in names} == {"000000-0"} and "000000-0.c2.t0000.depth.png" in names
    assert (
        told["utterance"]["file"] in {row.file for row in read_index(corpus / "train")}
        and told["regions"][3] == "mouth"
    )


def test_shards_come_back_as_they_went(people, tmp_path):
    take = read_shard(people / "train" / "people-000001.tar")[0]
    write_shard(tmp_path / "again.tar", [take], [{}])
    [again] = read_shard(tmp_path / "again.tar")
    for name in ("regions", "keypoints"):
        assert np.array_equal(getattr(take, name), getattr(again, name))
    near = np.isfinite(take.depth)
    assert (
        np.array_equal(near, np.isfinite(again.depth))
        and np.abs(take.depth[near] - again.depth[near]).max() <= DEPTH_UNIT_M
    )
    assert np.array_equal(take.avatar.portrait, again.avatar.portrait) and np.array_equal(
        take.motion.poses, again.motion.poses
    )
    assert np.abs(take.image.astype(int) - again.image).mean() < 2
    assert np.array_equal(take.camera[1].extrinsics, again.camera[1].extrinsics) and take.gestures == again.gestures


def test_damaged_shards_are_named(people, tmp_path):
    whole = (people / "train" / "people-000000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut.tar"):
        read_shard(tmp_path / "cut.tar")
    (tmp_path / "noise.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match="noise.tar is not a shard"):
        read_shard(tmp_path / "noise.tar")


def test_what_cannot_be_made_is_refused_and_the_rest_goes_on(people, corpus, tiny_params, tmp_path, monkeypatch):
    """A disk that is full for one shard, and background pictures of which one is broken."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    shutil.copy(people / "recipe", pictures / "not-a-picture.png")
    from PIL import Image

    Image.new("RGB", (90, 60), (10, 120, 40)).save(pictures / "green.png")

    def write(path, takes, extras):
        if "000001" in path.name:
            raise OSError(28, "No space left on device", str(path))
        write_shard(path, takes, extras)

    monkeypatch.setattr(build, "write_shard", write)
    monkeypatch.setattr(build, "pool", lambda _: _Here())
    params = tiny_params.people.model_copy(
        update={"backgrounds": pictures, "identities": 3, "size": 32, "portrait_size": 32}
    )
    build_people(tmp_path / "p", tmp_path / "avatars", tiny_params.body, params, corpus)
    rows = [json.loads(line) for line in (tmp_path / "p" / REJECTED).read_text().splitlines()]
    assert rows[0]["file"] == "not-a-picture.png" and "cannot be read as a picture" in rows[0]["reason"]
    assert rows[1]["identity"] == 1 and "No space left" in rows[1]["reason"] and len(rows) == 2
    assert len(bytes_of(tmp_path / "p")) == 3


@pytest.mark.slow
def test_a_really_full_disk(corpus, tiny_params, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("a small disk can be mounted by root only")
    try:
        params = tiny_params.people.model_copy(update={"size": 48, "portrait_size": 48})
        said = []
        build_people(
            folder / "people", tmp_path / "avatars", tiny_params.body, params, corpus, processes=2, log=said.append
        )
        shards = bytes_of(folder / "people")
        assert 0 < len(shards) < 4 and any("No space left" in line for line in said)
        assert not list(folder.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
        build_people(folder / "people", tmp_path / "avatars", tiny_params.body, params, corpus, processes=2)
        assert len(bytes_of(folder / "people")) == 4 and shards.items() <= bytes_of(folder / "people").items()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_changed_speech_makes_new_shards(people, corpus, tiny_params, tmp_path, monkeypatch):
    for name in ("people", "speech"):
        shutil.copytree(corpus.parent / name, tmp_path / name)
    made = []
    monkeypatch.setattr(build, "_write_shard", lambda job: made.append(job) or "not now")
    monkeypatch.setattr(build, "pool", lambda _: _Here())
    file = next((tmp_path / "speech" / "train").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(UserError, match="not now"):
        build_people(
            tmp_path / "people", tmp_path / "avatars", tiny_params.body, tiny_params.people, tmp_path / "speech"
        )
    assert len(made) == 4


def test_empty_data_is_explained(tiny_params, tmp_path):
    body = read_body(tiny_params.body)
    with pytest.raises(UserError, match="run `stereotalker stage speech` first"):
        write_card(tmp_path / "card", tmp_path / "people", tmp_path / "speech", body, tiny_params.people)
    with pytest.raises(UserError, match="holds no shard of takes"):
        read_people(tmp_path / "people" / "train", tiny_params.body, tiny_params.people)


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\nfrom stereotalker.runtime.process_pool import pool\n"
        "def work(_):\n    print(os.getpid(), flush=True)\n    time.sleep(600)\n"
        "if __name__ == '__main__':\n    with pool(1) as workers:\n        list(workers.map(work, [0]))\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs([worker], timeout=20)
    assert not alive


def test_speech_without_times_is_refused(tiny_params, tmp_path):
    for part in PARTS:
        (tmp_path / "speech" / part).mkdir(parents=True)
        save(Speech(np.zeros(8000, np.float32), -20.0), tmp_path / "speech" / part / "silent.safetensors")
        (tmp_path / "speech" / part / "utterances.jsonl").write_text(
            '{"file": "silent.safetensors", "kind": "real", "language": "en", "voice": "x", "text": "", "seconds": 0.5}\n'
        )
    with pytest.raises(UserError, match="no speech with phoneme times"):
        build_people(
            tmp_path / "p",
            tmp_path / "avatars",
            tiny_params.body,
            tiny_params.people.model_copy(update={"identities": 2}),
            tmp_path / "speech",
            processes=1,
        )


def test_training_reads_takes_with_wrong_fits(people, tiny_params):
    samples = read_people(people / "train", tiny_params.body, tiny_params.people, most=2)
    assert [s.identity for s in samples] == [0, 1] and samples[0].warp.shape == (3, 64, 64, 3)
    exact = read_people(people / "train", tiny_params.body, tiny_params.people, most=1, wrong=0.0)[0]
    assert not np.array_equal(exact.warp, samples[0].warp) and np.array_equal(exact.image, samples[0].image)


def test_the_card_counts_what_is_there(people, corpus, tiny_params, tmp_path):
    figures = write_card(tmp_path, people, corpus, read_body(tiny_params.body), tiny_params.people)
    assert figures.identities == {"train": 3, "held_out": 1} and figures.frames == 13 and len(figures.people) == 4
    text = (tmp_path / "card.md").read_text()
    assert "identities | 4: 3 to train on, 1 held out" in text and "| outfit |" in text and "## Limits" in text
    from PIL import Image

    assert (
        Image.open(tmp_path / "people.jpg").size == (640, 160)
        and Image.open(tmp_path / "speaking.jpg").size[0] == 12 * 176
    )
    rows = (tmp_path / "attributes.csv").read_text().splitlines()
    assert (
        rows[0] == "attribute,value,people"
        and sum(int(r.rsplit(",", 1)[1]) for r in rows[1:] if r.startswith("tone,")) == 4
    )


# ---- footage -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> Path:
    """Three videos: one of our people with sound, cut hard to another person; one without sound; one that is no video."""
    folder, text = tmp_path_factory.mktemp("footage"), "We open the doors at half past eight every morning."
    speech = from_script(text, Voice(), -20.0)[0]
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
