"""The shards of synthetic people: their bytes, what they hold, and what is refused."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from stereotalker.body.model import read_body
from stereotalker.dataset import build
from stereotalker.dataset.build import build_people
from stereotalker.dataset.card import write_card
from stereotalker.dataset.shards import DEPTH_UNIT_M, read_shard, read_shards, write_shard
from stereotalker.dataset.speech_corpus import (
    PARTS,
    REJECTED,
    read_index,
)
from stereotalker.errors import UserError
from stereotalker.records import Speech, save
from stereotalker.training.samples import read_people

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("dataset")]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.tar"))}


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
    monkeypatch.setattr(build, "write_identity", lambda job: made.append(job) or "not now")
    monkeypatch.setattr(build, "pool", lambda *_: _Here())

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
        metadata = json.loads(tar.extractfile("000000-0.json").read())
    assert {name.split(".")[0] for name in names} == {"000000-0"} and "000000-0.c2.t0000.depth.png" in names
    assert (
        metadata["utterance"]["file"] in {row.file for row in read_index(corpus / "train")}
        and metadata["regions"][3] == "mouth"
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
    monkeypatch.setattr(build, "pool", lambda *_: _Here())
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
    monkeypatch.setattr(build, "write_identity", lambda job: made.append(job) or "not now")
    monkeypatch.setattr(build, "pool", lambda *_: _Here())
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


PARENT = """
import os, sys, time
from multiprocessing import forkserver
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
import work_of_pool
from stereotalker.runtime.process_pool import pool

if __name__ == "__main__":
    with pool("work_of_pool", 1) as workers:
        print(forkserver._forkserver._forkserver_pid, flush=True)
        list(workers.map(work_of_pool.wait, [0]))
"""
WORK = """
import os, time
IMPORTED_BY = os.getpid()

def wait(_):
    print(os.getpid(), IMPORTED_BY, flush=True)
    time.sleep(600)
"""


def test_workers_share_the_imports_of_a_server_and_end_with_a_killed_parent(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    (tmp_path / "work_of_pool.py").write_text(WORK)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    server = psutil.Process(int(parent.stdout.readline()))
    number, imported_by = map(int, parent.stdout.readline().split())
    worker = psutil.Process(number)
    assert imported_by == server.pid and worker.ppid() == server.pid
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs([worker, server], timeout=20)
    assert not alive


def test_speech_without_times_is_refused(tiny_params, tmp_path):
    for part in PARTS:
        (tmp_path / "speech" / part).mkdir(parents=True)
        save(Speech(np.zeros(8000, np.float32), -20.0), tmp_path / "speech" / part / "silent.safetensors")
        (tmp_path / "speech" / part / "utterances.jsonl").write_text(
            '{"file": "silent.safetensors", "kind": "real", "language": "en", "voice": "x", "text": "", '
            '"seconds": 0.5}\n'
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
