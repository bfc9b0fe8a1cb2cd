"""Audits: from a video back to its sound, consent, release and trainings, and every link that can break."""

import json
import re
import shutil
import subprocess
from datetime import date, timedelta

import numpy as np
import pytest
import yaml
from batch_helpers import SMALL, SMALL_AVATAR, cli
from imageio_ffmpeg import get_ffmpeg_exe
from mlflow import MlflowClient
from release_helpers import register
from scipy.io import wavfile

from stereotalker.avatar.consent import Consent
from stereotalker.avatar.library import CARD, Library
from stereotalker.flows.produce import produce
from stereotalker.params import ROOT
from stereotalker.production.clip_record import record_digest
from stereotalker.runtime.home import Home
from stereotalker.store.local import Store
from stereotalker.tasks.audit import Auditor, NotOurs
from stereotalker.tasks.registry import Registry
from stereotalker.tasks.tracking import Tracker

pytestmark = pytest.mark.integration


@pytest.fixture
def night(home, tiny_models, tiny_params, tmp_path):
    """Two batches of two clips, see `make_nights`."""
    return make_nights(home, tiny_models, tiny_params, tmp_path, 1)


def make_nights(home, tiny_models, tiny_params, tmp_path, pairs):
    """Two batches, each with another release, of an own avatar with a recording, and of a shipped one with a script.

    pairs: of clips in each batch. Returns the auditor, and the folder of the outputs.
    """
    rng = np.random.default_rng(0)
    for k in range(3):
        sound = np.repeat(rng.normal(0, 3000, 40), 400).clip(-9000, 9000).astype(np.int16)
        wavfile.write(tmp_path / f"take{k}.wav", 16000, sound)
    consent = Consent(holder="Ann Example", scope="training films", expires=date.today() + timedelta(days=30))
    give_consent(home, consent)
    registry = Registry(home, tiny_params.releases)
    tracker = Tracker(home, "training")
    run = tracker.start("audio", tags={"stage": "audio"})
    tracker.end(run)
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    for night in range(2):
        release = register(registry, tiny_models.folder, f"2026-11-2{night}", runs={"audio": run}, commit=commit)
        registry.promote(release, "better")
        clips = [{"id": f"n{night}a", "avatar": SMALL_AVATAR, "audio": f"take{night}.wav"}]
        clips += [{"id": f"n{night}b", "avatar": "ava", "script": f"Night number {night}."}]
        clips += [{"id": f"n{night}-{k}", "avatar": SMALL_AVATAR, "script": f"Clip {k}."} for k in range(2 * pairs - 2)]
        path = tmp_path / f"night{night}.yaml"
        path.write_text(yaml.safe_dump({"defaults": SMALL, "clips": clips}))
        done = produce(path, tmp_path / "out" / str(night), tiny_params, home, "inline")
        assert done.end.status in (0, 4), done.results
    return Auditor(home, tiny_params.releases), tmp_path / "out"


def give_consent(home, consent):
    card = home.avatars / SMALL_AVATAR / CARD
    values = json.loads(card.read_text())
    card.write_text(json.dumps(values | {"consent": consent and consent.model_dump(mode="json")}))


def videos(folder) -> dict[str, object]:
    return {path.stem: path for path in folder.rglob("*.mp4")}


def broken(audit) -> set[str]:
    return {link.name for link in audit.links if link.state == "broken"}


def test_every_clip_of_two_nights_is_whole_and_says_where_it_comes_from(home, tiny_models, tiny_params, tmp_path):
    auditor, out = make_nights(home, tiny_models, tiny_params, tmp_path, 8)
    found = videos(out)
    assert len(found) == 32
    for name, path in found.items():
        audit = auditor.of_file(path)
        assert audit.is_whole and audit.clip == name, audit.links
        names = [link.name for link in audit.links]
        assert names[:4] == ["video", "credentials", "record", "MLflow"] and names[-3:] == [
            "trainings",
            "data",
            "commit",
        ]
        path.with_suffix(".json").unlink()
        audit = auditor.of_file(path)  # MLflow has the record
        assert broken(audit) == {"record"} and "MLflow's copy was read" in str(audit.links)
    text = {link.name: link.text for link in auditor.of_clip("n1a").links}
    assert "Ann Example: training films" in text["consent"] and "release 2" in text["release"]
    assert "LibriSpeech" in text["data"] and "promoted" in text["ledger"]


def damaged_bytes(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(bytes(data))


def through_ffmpeg(path, *options):
    target = path.with_name("again.mp4")
    command = [get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(path), *options, str(target)]
    subprocess.run(command, check=True)
    shutil.move(target, path)


def mlflow_run(home, record):
    """A client, and the id of the run of a clip."""
    client = MlflowClient(home.tracking_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    [run] = client.search_runs(experiments, f"tags.record = '{record['digest']}'")
    return client, run


def change_mlflow(home, path, record):
    client, run = mlflow_run(home, record)
    client.set_tag(run.info.run_id, "sha256", "0" * 64)
    return lambda: client.set_tag(run.info.run_id, "sha256", run.data.tags["sha256"])


def remove_mlflow_run(home, path, record):
    client, run = mlflow_run(home, record)
    client.delete_run(run.info.run_id)
    return lambda: client.restore_run(run.info.run_id)


def withdraw(home):
    Library(home.avatars).withdraw_consent(SMALL_AVATAR, date.today())


def change_ledger(home):
    path = home.releases / "ledger.jsonl"
    path.write_text(path.read_text().replace('"why": "better"', '"why": "bribed"', 1))


def change_record(path):
    beside = path.with_suffix(".json")
    beside.write_text(beside.read_text().replace('"seed": 0', '"seed": 1'))


def weights_of(home, record):
    return home.models / "sha256" / record["made"]["models"]["masks"]


DAMAGES = {
    "sound": ("sound", lambda home, path, record: damaged_bytes(path.parents[3] / "take1.wav")),
    "sound is gone": ("sound", lambda home, path, record: (path.parents[3] / "take1.wav").unlink()),
    "consent withdrawn": ("consent", lambda home, path, record: withdraw(home)),
    "consent card changed": (
        "consent",
        lambda home, path, record: give_consent(home, Consent(holder="Ann Example", scope="everything")),
    ),
    "avatar": ("avatar", lambda home, path, record: damaged_bytes(home.avatars / SMALL_AVATAR / "avatar.safetensors")),
    "weights": ("weights", lambda home, path, record: damaged_bytes(weights_of(home, record))),
    "weights are gone": ("weights", lambda home, path, record: weights_of(home, record).unlink()),
    "ledger": ("ledger", lambda home, path, record: change_ledger(home)),
    "MLflow row": ("MLflow", change_mlflow),
    "MLflow row is gone": ("MLflow", remove_mlflow_run),
    "record": ("record", lambda home, path, record: change_record(path)),
    "encoded again": (
        "video",
        lambda home, path, record: through_ffmpeg(path, "-c:v", "libx264", "-crf", "30"),
    ),
    "credentials stripped": ("credentials", lambda home, path, record: through_ffmpeg(path, "-c", "copy")),
}


def test_every_damaged_link_is_named(night, home, tmp_path):
    """One link after the other is damaged, and mended again."""
    auditor, out = night
    path = videos(out)["n1a"]
    record = json.loads(path.with_suffix(".json").read_text())
    folders = [home.models, home.releases, home.avatars, out]
    copies = [tmp_path / f"whole-{k}" for k in range(len(folders))]
    for folder, copy in zip(folders, copies, strict=True):
        shutil.copytree(folder, copy)
    sound = (tmp_path / "take1.wav").read_bytes()
    for what, (name, damage) in DAMAGES.items():
        mend = damage(home, path, record)
        audit = auditor.of_file(path)
        assert name in broken(audit), (what, audit.links)
        also = {"video", "credentials"} if name in ("video", "credentials") else {name}
        assert broken(audit) <= also, (what, audit.links)
        assert not audit.is_whole
        for folder, copy in zip(folders, copies, strict=True):
            shutil.rmtree(folder), shutil.copytree(copy, folder)
        (tmp_path / "take1.wav").write_bytes(sound)
        if callable(mend):
            mend()
    assert auditor.of_file(path).is_whole


def test_backwards_every_clip_is_listed(night, home):
    auditor, _ = night
    registry = Registry(home, auditor._params)
    assert {row.clip for row in auditor.clips(consent="Ann Example")} == {"n0a", "n1a"}
    assert {row.clip for row in auditor.clips(avatar="ava")} == {"n0b", "n1b"}
    first = registry.find(1)
    assert {row.clip for row in auditor.clips(release=first.digest)} == {"n0a", "n0b"}
    commit = registry.manifest(first).commit
    assert [r.number for r in auditor.releases_of_data(commit[:10])] == [1, 2]
    answer = cli("audit", "--release", "2", home=home)
    assert answer.returncode == 0 and "2 clips" in answer.stdout and "n1a" in answer.stdout
    rows = json.loads(cli("audit", "--consent", "Ann Example", "--json", home=home).stdout)
    assert {row["clip"] for row in rows} == {"n0a", "n1a"} and all(len(row["sha256"]) == 64 for row in rows)
    assert "0 clips" in cli("audit", "--data", "ffffffffff", home=home).stdout


def test_the_command_prints_the_chain_writes_a_page_and_knows_what_is_not_ours(night, home, tmp_path):
    _, out = night
    path = videos(out)["n0a"]
    answer = cli("audit", path, "--html", tmp_path / "page.html", home=home)
    assert answer.returncode == 0 and re.search(r"whole +consent +Ann Example", answer.stdout)
    page = (tmp_path / "page.html").read_text()
    assert "Ann Example" in page and "CC BY 4.0" in page and "http" not in page
    values = json.loads(cli("audit", "--clip", "n0a", "--json", home=home).stdout)
    assert values["whole"] and values["record"]["digest"] == record_digest(values["record"]["made"])
    (tmp_path / "take0.wav").unlink()
    answer = cli("audit", path, "--html", tmp_path / "page.html", home=home)
    assert answer.returncode == 1 and "broken: sound" in (tmp_path / "page.html").read_text()
    foreign = tmp_path / "foreign.mp4"
    command = [get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "testsrc=d=1:s=64x64", str(foreign)]
    subprocess.run(command, check=True)
    assert cli("audit", foreign, home=home).returncode == 2
    wrong = [["nowhere.mp4"], ["--clip", "zoe"], [], [path, "--clip", "n0a"], ["--release", "77"], [path.parent]]
    wrong += [[path.with_suffix(".json")], ["--avatar", "ava", "--html", "a.html"], [path, "--html", "nodir/a.html"]]
    for arguments in wrong:
        assert cli("audit", *arguments, home=home).returncode == 2, arguments


def test_a_forgotten_avatar_leaves_a_receipt_and_no_picture(night, home, tmp_path):
    auditor, out = night
    store = Store(home.store)
    entries = {(entry.stage, entry.key) for entry in store.entries()}
    record = json.loads(videos(out)["n1a"].with_suffix(".json").read_text())
    answer = cli("avatar", "withdraw", SMALL_AVATAR, home=home)
    assert answer.stdout.count("take down") == 2 and "n1a" in answer.stdout
    answer = cli("forget", SMALL_AVATAR, home=home)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert set(videos(out)) == {"n0b", "n1b"} and not (home.avatars / SMALL_AVATAR).exists()
    left = {(entry.stage, entry.key) for entry in store.entries()}
    gone = entries - left
    assert {("render", key) for key in record["made"]["store"]["render"]} <= gone
    assert {"render", "video", "quality", "provenance", "avatar"} <= {stage for stage, _ in gone}
    [receipt] = (home.root / "receipts").iterdir()
    values = json.loads(receipt.read_text())
    assert values["consent"] == "Ann Example" and len(values["clips"]) == 2 and values["not_removed"] == []
    links = {link.name: link for link in auditor.of_clip("n1a").links}
    assert links["video"].state == links["avatar"].state == "broken" and "was forgotten on" in links["avatar"].text
    for name in ("zoe", "ava"):  # nobody, and a shipped one
        assert cli("forget", name, home=home).returncode == 2
    assert {"n0b", "n1b"} == set(videos(out))


def test_another_persons_video_under_the_same_name_is_not_removed(night, home):
    _, out = night
    path = videos(out)["n1a"]
    path.write_bytes(b"another person, delivered later under the same id")
    answer = cli("forget", SMALL_AVATAR, home=home)
    assert answer.returncode == 1 and "it was moved, or replaced" in answer.stdout and path.is_file()
    assert set(videos(out)) == {"n0b", "n1b", "n1a"}


def test_a_moved_home_and_results_made_by_a_relative_path_are_audited(night, home, tmp_path):
    auditor, out = night
    path = videos(out)["n0a"]
    moved = Home(tmp_path / "moved")
    shutil.move(home.root, moved.root)
    auditor = Auditor(moved, auditor._params)
    assert auditor.of_file(path).is_whole
    path.with_suffix(".json").write_text("{")
    audit = auditor.of_file(path)
    assert broken(audit) == {"record"} and "cannot be read" in str(audit.links)


def test_a_video_whose_record_is_lost_is_ours_and_not_whole(night, home):
    auditor, out = night
    path = videos(out)["n0b"]
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").unlink()
    remove_mlflow_run(home, path, record)
    audit = auditor.of_file(path)
    assert broken(audit) == {"record"} and audit.clip == "n0b"
    assert cli("audit", path, "--html", out / "page.html", home=home).returncode == 2


def test_a_renewed_consent_is_whole_and_a_forged_delivery_is_not(night, home):
    auditor, out = night
    path = videos(out)["n0a"]
    give_consent(
        home, Consent(holder="Ann Example", scope="training films", expires=date.today() + timedelta(days=900))
    )
    assert auditor.of_file(path).is_whole
    beside = path.with_suffix(".json")
    record = json.loads(beside.read_text())
    record["delivered"]["when"] = "2020-01-01T00:00:00+0000"
    beside.write_text(json.dumps(record))
    assert "MLflow" in broken(auditor.of_file(path))


def test_a_clip_of_a_withdrawn_consent_is_not_made(night, home, tiny_params, tmp_path):
    Library(home.avatars).withdraw_consent(SMALL_AVATAR, date.today())
    [row] = [
        r
        for r in produce(tmp_path / "night1.yaml", tmp_path / "new", tiny_params, home, "inline").results
        if r.id == "n1a"
    ]
    assert row.state == "failed" and "withdrew the consent" in row.error


def test_an_audit_without_mlflow_says_what_it_could_not_check(night, home, monkeypatch):
    auditor, out = night
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    auditor = Auditor(home, auditor._params)
    audit = auditor.of_file(videos(out)["n0a"])
    unchecked = {link.name for link in audit.links if link.state == "not checked"}
    assert audit.is_whole and {"MLflow", "release"} <= unchecked
    answer = cli("audit", "--clip", "n0a", home=home)
    assert answer.returncode == 2 and "cannot be looked up; give its file" in answer.stderr


def test_a_video_of_nobody_is_not_ours(home, tiny_params, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(NotOurs):
        Auditor(home, tiny_params.releases).of_file(tmp_path / "a.mp4")


def test_a_person_approves_a_clip(night, home):
    auditor, out = night
    path = videos(out)["n1b"]
    assert cli("approve", path, "--because", "hands and lips", home=home).returncode == 0
    audit = auditor.of_file(path)
    assert audit.is_whole and "hands and lips" in {link.name: link.text for link in audit.links}["approval"]
    assert "--because must say" in cli("approve", path, "--because", " ", home=home).stderr
    damaged_bytes(path)
    assert "is not the delivered file" in cli("approve", path, "--because", "again", home=home).stderr
    path.with_suffix(".json").unlink()
    assert "has no record" in cli("approve", path, "--because", "again", home=home).stderr
