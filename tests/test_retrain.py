"""Retraining end to end at scale tiny: data, trainings, judgement, and what production uses afterwards."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from batch_helpers import cli, copy_home, write_batch
from release_helpers import other_weights, register
from scipy.io import wavfile

from stereotalker.dataset.recordings import add_recordings, read_cards
from stereotalker.dataset.speech_corpus import read_index
from stereotalker.dataset.test_set import leaks
from stereotalker.errors import Unavailable, UserError
from stereotalker.evaluation.release_comparison import Comparison, GateRow, Measure, judge
from stereotalker.flows import retrain as flow
from stereotalker.flows.produce import produce
from stereotalker.params import ROOT, Gate, load_params
from stereotalker.production.clip_stages import ClipMaker
from stereotalker.records import Speech, load, save
from stereotalker.runtime.process_identity import identity
from stereotalker.store.digests import file_digest
from stereotalker.tasks import compute_lock, working_copy
from stereotalker.tasks.registry import Registry, resolve

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("prefect")]
HIGHER = Gate(better="higher", floor=0.5, tolerance=0.1)


def measure(values, groups=None) -> Measure:
    return Measure(np.asarray(values, float), np.arange(len(values)) if groups is None else np.asarray(groups))


def result(before, after, gate=HIGHER, groups=None, level=0.05) -> GateRow:
    return judge("m", measure(before, groups), measure(after, groups), gate, 500, 0, level)


def test_a_gate_is_judged_by_pairs_of_clips():
    rng = np.random.default_rng(0)
    before = rng.normal(0.7, 0.2, 60)
    same = rng.normal(0, 0.01, 60)
    assert result(before, before + 0.05 + same).result == "better"
    assert result(before, before + same).result == "holds"
    assert result(before, before - 0.05 + same).result == "holds"  # within the tolerance
    assert result(before, before - 0.15 + same).result == "worse"
    assert result(before - 0.3, before - 0.25).result == "below floor"
    error = Gate(better="lower", floor=None, tolerance=0.1)
    row = result(before, before - 0.05 + same, error)
    assert row.result == "better" and row.difference == pytest.approx(0.05, abs=0.01) and row.low < row.difference
    assert result(before, before + 0.15, error).result == "worse"


def test_clips_of_one_voice_count_as_one():
    rng = np.random.default_rng(1)
    before, voices = rng.normal(0.7, 0.05, 60), np.repeat(np.arange(6), 10)
    after = before + np.repeat([0.2, -0.1, 0.2, -0.1, 0.1, -0.1], 10)  # three voices better, three worse
    assert result(before, after).result == "better" and result(before, after, groups=voices).result == "holds"
    two = np.repeat([0, 1], 30)
    assert result(before, before + 0.3, groups=two).result == "holds"  # two voices prove nothing


def test_equal_weights_are_seldom_called_better():
    rng = np.random.default_rng(2)
    found = [result(before := rng.normal(0.7, 0.2, 40), before + rng.normal(0, 0.05, 40), level=0.05 / 9).result
             for _ in range(300)]  # fmt: skip
    assert found.count("better") <= 6  # 0.3 % a measure, and some more because a bootstrap of 40 is narrow


def test_a_measure_that_is_missing_fails_and_one_that_no_clip_has_is_named():
    values = np.array([0.7, 0.8, 0.75, np.nan])
    row = result(values, values + 0.1)
    assert row.clips == 3 and row.result == "better"
    lost = result(values, np.array([0.9, np.nan, 0.9, np.nan]))
    nothing = result(values * np.nan, values * np.nan)
    assert lost.result == nothing.result == "not measured"
    assert not Comparison((row, lost), "version 1").passes and Comparison((row,), "version 1").passes
    assert not Comparison((replace(row, result="holds"),), "version 1").passes  # nothing is better
    assert "no measure is better" in Comparison((replace(row, result="holds"),), "").table()


def recordings(folder: Path, count: int = 2, text: str = "one two three") -> Path:
    folder.mkdir()
    rng = np.random.default_rng(1)
    for k in range(count):
        wavfile.write(folder / f"{k}.wav", 16000, rng.normal(0, 2000, 16000).astype(np.int16))
    lines = ["path,speaker,lang,text", *(f"{k}.wav,somebody,en,{text} {k}" for k in range(count))]
    (folder / "transcripts.csv").write_text("\n".join(lines))
    return folder


def test_recordings_are_added_with_their_licence(tmp_path, home):
    folder = recordings(tmp_path / "mine")
    card = add_recordings(folder, tmp_path / "sets", "mine", "CC0-1.0", "the speaker, for training")
    assert (card.recordings, card.speakers, card.seconds) == (2, 1, 2.0)
    assert read_cards(tmp_path / "sets") == [card] and len(list((tmp_path / "sets" / "mine").iterdir())) == 4
    faults = {
        "exists": dict(name="mine"),
        "expected letters": dict(name="../x"),
        "must say": dict(licence=" "),
    }
    for text, change in faults.items():
        with pytest.raises(UserError, match=text):
            add_recordings(folder, **dict(sets=tmp_path / "sets", name="other", licence="CC0", consent="x") | change)
    table = folder / "transcripts.csv"
    for text, content in {
        "columns speaker": "path,lang,text\n0.wav,en,hi",
        "line 2: text is empty": "path,speaker,lang,text\n0.wav,a,en,",
        "line 2: away.wav not found": "path,speaker,lang,text\naway.wav,a,en,hi",
        "no rows": "path,speaker,lang,text\n",
        "line 2 has too many fields": "path,speaker,lang,text\n0.wav,a,en,Good, morning",
        "line 3: 0.wav is there twice": "path,speaker,lang,text\n0.wav,a,en,hi\n0.wav,a,en,ho",
        "line 2: ../out.wav lies outside": "path,speaker,lang,text\n../out.wav,a,en,hi",
    }.items():
        table.write_text(content)
        with pytest.raises(UserError, match=text):
            add_recordings(folder, tmp_path / "sets", "other", "CC0", "x")
    table.write_bytes("path,speaker,lang,text\n0.wav,a,de,Grüß".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        add_recordings(folder, tmp_path / "sets", "other", "CC0", "x")
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["mine"]
    arguments = ["--name", "x", "--licence", "CC0", "--consent", "y", "--out", tmp_path / "sets"]
    assert cli("dataset", "add", tmp_path / "nowhere", *arguments, home=home).returncode == 2


def test_batches_come_first_and_there_is_one_retraining(home):
    assert not compute_lock.is_batch_running(home)
    with compute_lock.BatchTurn(home) as first, compute_lock.BatchTurn(home) as second:
        assert not compute_lock.is_batch_running(home)  # both wait for their time of the day
        first.begin(), second.begin(), first.begin()
        assert compute_lock.is_batch_running(home)
        first.__exit__()
        assert compute_lock.is_batch_running(home)
    assert not compute_lock.is_batch_running(home) and not list((home.root / "locks").glob("batch-*"))
    with compute_lock.retraining_of(home):
        with pytest.raises(Unavailable, match="a retraining is running since"), compute_lock.retraining_of(home):
            pass
    with compute_lock.retraining_of(home):
        pass


def test_a_training_waits_for_a_batch_and_is_never_stopped_while_it_writes(home, tmp_path, monkeypatch):
    """The processes of a training are stopped for a batch, but not in the middle of a write to MLflow's database."""
    (tmp_path / "dvc").mkdir(), (tmp_path / "dvc" / "__init__.py").touch()
    program = (
        "import pathlib, time\nfor k in range(400):\n    pathlib.Path('ticks').write_text(str(k)); time.sleep(0.02)"
    )
    (tmp_path / "dvc" / "__main__.py").write_text(program)
    monkeypatch.setattr(working_copy, "_POLL_S", 0.05)
    copy = working_copy.WorkingCopy(tmp_path, tmp_path, home)
    ticks, seen, wanted = tmp_path / "ticks", [], []
    database = sqlite3.connect(home.root / "mlflow.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")

    def must_wait():
        if not ticks.is_file():
            return False
        wanted.append(int(ticks.read_text() or 0))
        if len(wanted) == 4:
            database.execute("ROLLBACK")
        if 8 < len(wanted) <= 12:
            seen.append(wanted[-1])
        return len(wanted) <= 12

    copy._run_dvc(("repro", "audio"), must_wait)
    assert wanted[3] > wanted[0]  # it went on while the database was locked
    assert len(set(seen[1:])) == 1 and int(ticks.read_text()) == 399  # it stood still, and went on to its end


def test_a_training_that_a_killed_retraining_left_is_ended(home, tmp_path):
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    copy = working_copy.WorkingCopy(tmp_path, tmp_path, home)
    copy._process_file.parent.mkdir(parents=True)
    copy._process_file.write_text(identity(left.pid))
    copy._end_left_over()
    assert left.wait(timeout=10) == -9 and not copy._process_file.exists()
    copy._end_left_over()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout of the project at scale tiny, as far as training needs it."""
    project = tmp_path_factory.mktemp("checkout") / "project"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    left_out = ("docs/", "metrics/", "benchmarks/", "findings/", "tests/", "dvc.lock")
    for name in listed:
        source = ROOT / name
        if name and not name.startswith(left_out) and (source.is_file() or source.is_symlink()):
            target = project / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target, follow_symlinks=False)
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("scale: mini", "scale: tiny"))
    commit(project, "Begin")
    return project


def commit(project: Path, message: str) -> None:
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    if not (project / ".git").exists():
        subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run([*git, "add", "-A"], cwd=project, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", message], cwd=project, check=True)


@pytest.fixture(scope="module")
def studio(tmp_path_factory, home_template, checkout):
    """A home with a running Prefect server, for the checkout."""
    from stereotalker.tasks.server import ensure_server, stop_server

    home = copy_home(home_template, tmp_path_factory.mktemp("studio") / "home")
    before = dict(os.environ)
    os.environ["STEREOTALKER_HOME"] = str(home.root)
    ensure_server(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(working_copy, "ROOT", checkout)
        patch.setattr("stereotalker.tasks.audit.ROOT", checkout)
        yield home
    stop_server(home)
    os.environ.clear()
    os.environ.update(before)


def shuffle_labels(folder: Path) -> None:
    """Give the phonemes of every utterance to other times."""
    rng = np.random.default_rng(0)
    for file in sorted(folder.glob("*.safetensors")):
        speech = load(Speech, file)
        texts = [phoneme.text for phoneme in speech.phonemes]
        rng.shuffle(texts)
        shuffled = tuple(replace(p, text=text) for p, text in zip(speech.phonemes, texts, strict=True))
        save(replace(speech, phonemes=shuffled), file)


def test_a_bad_challenger_is_refused_and_a_better_one_is_promoted(studio, checkout, tmp_path, monkeypatch):
    """The first one trains on shuffled labels, against the shipped release. The second one trains properly, against
    weights that hardly trained, which a person has promoted. New recordings come with the second one."""
    params = load_params(checkout / "params.yaml")
    registry = Registry(studio, params.releases)
    stage = checkout / "stereotalker" / "stages" / "speech.py"
    honest = stage.read_text()
    stage.write_text(
        honest.rstrip()
        + "\n    from stereotalker.shuffled import shuffle_labels\n\n    shuffle_labels(SPEECH / 'train')\n"
    )
    source = "from dataclasses import replace\nfrom pathlib import Path\n\nimport numpy as np\n\n"
    source += "from stereotalker.records import Speech, load, save\n\n\n" + get_source(shuffle_labels)
    (checkout / "stereotalker" / "shuffled.py").write_text(source)
    commit(checkout, "Shuffle the labels")
    with monkeypatch.context() as broken:
        broken.setattr(flow, "judge", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            flow.retrain(("audio", "motion"))
    assert [entry.action for entry in registry.ledger.entries()] == ["registered"]
    assert flow.retrain(("audio", "motion")) is False  # what was trained is judged now
    assert len(registry.all()) == 2
    refused = registry.all()[-1]
    entry = registry.ledger.entries()[-1]
    assert entry.action == "refused" and entry.release == refused.digest and registry.champion().number == 0
    assert {"lips_closed", "lip_correlation", "lip_error_mm"} <= {row["measure"] for row in entry.gates}
    assert all(row["result"] == "worse" for row in entry.gates if not row["measure"].startswith("lips."))
    card = registry.store.read(refused.digest, "card.md").decode()
    assert "| lip_correlation |" in card and "worse" in card
    assert not (checkout / "artifacts").exists() and not (checkout / "dvc.lock").exists()

    # The weights that hardly trained become the champion by hand. Then the labels are right, and training is longer.
    registry.promote(refused, "for the test")
    stage.write_text(honest), (checkout / "stereotalker" / "shuffled.py").unlink()
    longer = yaml.safe_load((checkout / "params.yaml").read_text())
    longer["audio"]["tiny"]["training"] = {"steps": 250, "batch": 4, "learning_rate": 2e-3, "seed": 3}
    longer["releases"]["data"] = "../remote"
    longer["motion"]["tiny"] |= {
        "examples": 12, "training": {"steps": 300, "batch": 4, "learning_rate": 2e-3, "seed": 4}
    }  # fmt: skip
    (checkout / "params.yaml").write_text(yaml.safe_dump(longer))
    commit(checkout, "Train longer")
    add_recordings(recordings(tmp_path / "mine"), checkout / "data/recordings", "mine", "CC0-1.0", "the speaker")
    with ThreadPoolExecutor() as threads:
        training = threads.submit(flow.retrain, ("audio", "motion"))
        check_batch_is_undisturbed(studio, params, registry, refused, training, tmp_path, monkeypatch)
        assert training.result() is True
    champion = registry.champion()
    release = registry.manifest(champion)
    assert champion.number == refused.number + 1 and registry.previous() == refused
    assert set(release.runs) == {"audio", "motion"} and {"data/speech", "data/recordings/mine"} <= set(release.data)
    cards = cli("models", "show", str(champion.number), "--cards", home=studio).stdout
    assert "## Compared with release 1" in cards and "| mine | 2 | 1 | 0.0 | CC0-1.0 | the speaker |" in cards
    assert "| training | synthetic | en-us |" in cards and "Version 1, digest" in cards
    assert any("mine" in source.source and source.licence == "CC0-1.0" for source in release.sources)
    assert resolve(studio, params.releases).number == champion.number  # the next batch uses it, without a restart
    assert registry.faults(champion) == [] and registry.ledger_faults() == []
    check_data_can_be_fetched(checkout, release, tmp_path / "elsewhere")
    with pytest.raises(UserError, match="nothing was trained anew"):
        flow.retrain(("audio", "motion"))
    registry.roll_back()
    with pytest.raises(UserError, match="these weights were judged before, as release 2"):
        flow.retrain(("audio", "motion"))
    with pytest.raises(UserError, match="stage audo is unknown"):
        flow.run_retrain(("audo",), None)
    assert resolve(studio, params.releases).number == refused.number
    with pytest.raises(UserError, match="release 1 .* is the champion"):
        flow.judge_again(refused.number)
    assert flow.judge_again(champion.number) is True  # nothing is trained for it
    assert [entry.action for entry in registry.ledger.entries()][-1] == "promoted"
    assert registry.champion() == champion


def check_data_can_be_fetched(checkout, release, elsewhere):
    """Another machine gets the commit of a release from the checkout, and its data from the remote."""
    assert not any("curves" in name for name in release.data)
    git = ("git", "-C", str(elsewhere))
    remote = ("remote", "add", "--local", "-q", "--default", "studio", str(checkout.parent / "remote"))
    for command in (
        ("git", "clone", "-q", str(checkout), str(elsewhere)),
        (*git, "fetch", "-q", "origin", "refs/retrain/*:refs/retrain/*"),
        (*git, "checkout", "-q", release.commit),
        (sys.executable, "-m", "dvc", *remote),
        (sys.executable, "-m", "dvc", "pull", "-q", "artifacts/weights/audio.safetensors", "data/recordings/mine"),
    ):
        cwd = elsewhere if elsewhere.exists() else checkout
        answer = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
        assert answer.returncode == 0, (command, answer.stderr[-1000:])
    assert file_digest(elsewhere / "artifacts/weights/audio.safetensors") == release.files["audio.safetensors"]
    assert len(list((elsewhere / "data/recordings/mine").iterdir())) == 4


def check_batch_is_undisturbed(studio, params, registry, champion, training, tmp_path, monkeypatch):
    """Twenty clips, all of one release, while a retraining trains. After the third clip another release is promoted,
    and after the tenth the champion is rolled back."""
    curve, deadline = studio.root / "retrain" / "work" / "data" / "logs" / "audio" / "loss.tsv", time.monotonic() + 300
    curve.unlink(missing_ok=True)
    while not curve.exists():
        assert time.monotonic() < deadline and not training.done()
        time.sleep(0.05)
    made, original = [], ClipMaker.speech

    def disturb(self, clip, timings):
        made.append(clip.id)
        if len(made) == 3:
            registry.promote(registry.find(0), "in the middle of the night")
        if len(made) == 10:
            registry.roll_back()
        return original(self, clip, timings)

    batch = write_batch(tmp_path, [{"id": f"c{k}", "script": f"Clip number {k}."} for k in range(20)])

    def run(name, release=None):
        own_store = params.with_produce({"store": str(tmp_path / f"{name}-store")})
        assert len(produce(batch, tmp_path / name, own_store, studio, "inline", release=release).results) == 20
        return [json.loads(path.read_text())["made"] for path in sorted((tmp_path / name).glob("*/*.json"))]

    with monkeypatch.context() as disturbed:
        disturbed.setattr(ClipMaker, "speech", disturb)
        busy = run("busy")
    assert not training.done() and registry.champion() == champion  # the training waited
    calm = run("calm", release=champion.number)
    assert len(made) == len(busy) == 20 and [record["video"] for record in busy] == [record["video"] for record in calm]
    assert {record["release"]["digest"] for record in busy} == {champion.digest}


def get_source(function) -> str:
    import inspect

    return inspect.getsource(function)


def test_a_person_decides_while_the_flow_waits(studio, tiny_params, tiny_models, tmp_path, monkeypatch):
    """The flow pauses for input, as Prefect's page asks for it; the answer promotes."""
    from prefect import flow as prefect_flow
    from prefect.client.orchestration import get_client
    from prefect.flow_runs import resume_flow_run

    rules = tiny_params.releases.model_copy(update={"promotion": "person", "wait_hours": 0.05})
    registry = Registry(studio, rules)
    challenger = register(registry, other_weights(tiny_models.folder, tmp_path / "w", 5), "2026-11-30")
    champion = registry.champion()
    better = replace(result(np.full(9, 0.6), np.full(9, 0.9)), measure="lips_closed")
    comparison = Comparison((better,), "version 1")
    run = flow.Retraining(tiny_params.model_copy(update={"releases": rules}), studio, None, registry, ("audio",))

    @prefect_flow(name="decision", persist_result=False)
    def wait_for_decision():
        return flow._decided(run, champion, challenger, comparison)

    def answer():
        with get_client(sync_client=True) as client:
            for _ in range(200):
                paused = [r for r in client.read_flow_runs() if r.state_name == "Paused"]
                if paused:
                    resume_flow_run(paused[0].id, run_input={"promote": True, "because": "I looked"})
                    return
                threading.Event().wait(0.3)

    thread = threading.Thread(target=answer)
    thread.start()
    assert wait_for_decision() is True
    thread.join()
    assert registry.champion() == challenger
    assert "I looked" in registry.ledger.entries()[-1].why
    actions = [entry.action for entry in registry.ledger.entries()]
    assert actions[-2:] == ["waiting", "promoted"]
    # A challenger that was compared with another champion waits.
    older = register(registry, other_weights(tiny_models.folder, tmp_path / "v", 6), "2026-12-01")
    assert flow.decide.fn(run, champion, older, comparison, "") is False
    assert registry.ledger.entries()[-1].action == "waiting" and registry.champion() == challenger


def test_the_test_set_shares_nothing_with_the_training(studio):
    work = studio.root / "retrain" / "work" / "data"
    assert leaks(work / "test_set", work / "speech", work / "people") == []
    train = work / "speech" / "train" / "utterances.jsonl"
    text, stolen = train.read_text(), read_index(work / "test_set" / "speech")[0]
    text_of_other_hands = stolen.text.upper().replace(",", "")
    row = {"file": "x", "kind": "real", "language": "en", "voice": "me", "text": text_of_other_hands, "seconds": 1}
    train.write_text(text + json.dumps(row) + "\n")
    try:
        [leak] = leaks(work / "test_set", work / "speech", work / "people")
        assert leak.startswith("train: 1 sentences of the test set")
    finally:
        train.write_text(text)


def test_an_installed_package_cannot_be_retrained(home, monkeypatch, tmp_path):
    monkeypatch.setattr(working_copy, "ROOT", tmp_path)
    with pytest.raises(UserError, match="is no checkout with a dvc.yaml"):
        working_copy.WorkingCopy.open(home)
