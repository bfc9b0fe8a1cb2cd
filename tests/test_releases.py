"""Releases: their files and signatures, the ledger, one move for all stages, and what a batch uses."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from batch_helpers import cli, write_batch
from cryptography.hazmat.primitives.asymmetric import ec
from release_helpers import other_weights, register

from stereotalker.errors import Unavailable, UserError
from stereotalker.flows.produce import produce
from stereotalker.production.clip_stages import ClipMaker
from stereotalker.production.manifest import read_manifest
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import unfinished_batch
from stereotalker.releases import signing
from stereotalker.releases.ledger import START, Entry, Ledger
from stereotalker.releases.model_store import MANIFEST, ModelStore
from stereotalker.releases.release import FILES, Release, mismatch, shipped_files, shipped_release
from stereotalker.store.digests import file_digest
from stereotalker.tasks.registry import Registry, TrackingUnavailable, resolve
from stereotalker.tasks.tracking import CHAMPION, ModelRegistry
from stereotalker.weights import FOLDER

pytestmark = pytest.mark.integration


@pytest.fixture
def registry(home, tiny_params) -> Registry:
    return Registry(home, tiny_params.releases)


@pytest.fixture
def two(registry, tiny_models, tmp_path):
    """Two releases of tiny weights, whose masks differ."""
    first = register(registry, tiny_models.folder)
    return first, register(registry, other_weights(tiny_models.folder, tmp_path / "other", 1))


def test_the_shipped_release_is_the_package(home, tiny_params):
    release = shipped_release()
    assert set(release.files) == set(FILES) and all(len(digest) == 64 for digest in release.files.values())
    assert Release.from_json(release.to_json()) == release
    source = resolve(home, tiny_params.releases)
    assert source.folder == FOLDER and source.number == 0 and source.release == release.digest
    with pytest.raises(UserError, match="cannot be read"):
        Release.from_json(b'{"files": {}}')


def test_the_ledger_notices_every_change(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.entries() == [] and ledger.head() == START
    for number in range(4):
        ledger.append(Entry("promoted", f"r{number}", number, why=f"reason {number}"))
    assert [entry.number for entry in ledger.entries()] == [0, 1, 2, 3]
    whole = ledger.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = {
        "changed": whole.replace(b"reason 1", b"reason 9"),
        "removed": b"".join(lines[:1] + lines[2:]),
        "swapped": b"".join([lines[1], lines[0], *lines[2:]]),
        "inserted": b"".join([*lines[:2], lines[1], *lines[2:]]),
        "not JSON": b"".join([lines[0], b"?\n", *lines[1:]]),
    }
    for how, content in damaged.items():
        ledger.path.write_bytes(content)
        with pytest.raises(UserError, match="line [123]"):
            ledger.entries()
            pytest.fail(how)
    ledger.path.write_bytes(whole + b'{"previous": "cut o')  # a process was killed while it wrote
    ledger.append(Entry("promoted", "r4", 4))
    assert [entry.number for entry in ledger.entries()] == [0, 1, 2, 3, 4]


def test_a_signature_covers_the_manifest_and_needs_the_key(tmp_path):
    private, public = signing.key_pair(None, tmp_path / "keys")
    assert private.stat().st_mode & 0o077 == 0
    signature = signing.sign(b"manifest", private)
    assert signing.is_signed(b"manifest", signature, public)
    assert not signing.is_signed(b"another", signature, public) and not signing.is_signed(b"manifest", b"?", public)
    studio = tmp_path / "studio.pem"
    studio.write_bytes(signing._pem(ec.generate_private_key(ec.SECP256R1())))
    _, studio_public = signing.key_pair(studio, tmp_path / "studio")
    assert not signing.is_signed(b"manifest", signature, studio_public)
    with pytest.raises(Unavailable, match="cannot be read"):
        signing.key_pair(tmp_path / "absent.pem", tmp_path / "keys")


def test_a_store_of_releases_refuses_what_was_changed(two, registry, tmp_path):
    _, release = two
    folder = registry.store.checkout(release.digest)
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert registry.faults(release) == []
    masks = tmp_path / "masks"
    stored = registry.store.file(registry.manifest(release).files["masks.safetensors"])
    shutil.copy(stored, masks)
    stored.unlink()  # the checkout links to the same bytes
    stored.write_bytes(masks.read_bytes()[:-1] + b"!")
    [fault] = registry.faults(release)
    assert "was changed" in fault and str(stored) in fault
    with pytest.raises(UserError, match="was changed"):
        registry.promote(release, "damaged")
    stored.unlink()
    assert "is not there" in registry.faults(release)[0]
    shutil.copy(masks, stored)
    manifest = registry.store._folder / "releases" / release.digest / MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b"masks", b"tasks"))
    assert "was changed" in registry.faults(release)[0]


def test_releases_lie_at_a_url_as_well(two, registry, tmp_path):
    _, release = two
    remote = ModelStore(f"memory://{tmp_path.name}", tmp_path / "here")
    remote.add(registry.manifest(release), registry.files(release))
    elsewhere = ModelStore(f"memory://{tmp_path.name}", tmp_path / "there")  # another machine
    folder = elsewhere.checkout(release.digest)
    assert all(file_digest(folder / name) == digest for name, digest in elsewhere.release(release.digest).files.items())
    with pytest.raises(Unavailable, match="is not there"):
        elsewhere.release("0" * 64)


def test_one_move_changes_all_stages_and_the_ledger_says_who_and_why(two, registry, home):
    first, second = two
    assert registry.challenger() == second and registry.champion().number == 0
    registry.promote(first, "it is better", ({"measure": "lips_closed"},))
    registry.promote(second, "it is better still")
    assert (registry.champion(), registry.previous(), registry.challenger()) == (second, first, None)
    with pytest.raises(UserError, match="is the champion already"):
        registry.promote(second, "again")
    assert registry.roll_back(why="its hands") == first and registry.champion() == first
    assert registry.roll_back(registry.find(0)).number == 0 and registry.champion().number == 0
    moves = [(e.action, e.number, e.why) for e in registry.ledger.entries() if e.action != "registered"]
    assert moves == [
        ("promoted", 1, "it is better"), ("promoted", 2, "it is better still"), ("rolled back", 1, "its hands"),
        ("rolled back", 0, ""),
    ]  # fmt: skip
    assert all("@" in entry.who and entry.when.endswith("+00:00") for entry in registry.ledger.entries())
    assert registry.ledger_faults() == []
    with pytest.raises(UserError, match="release 7 is unknown; known are 0, 1, 2"):
        registry.find(7)
    ModelRegistry(home).point(CHAMPION, 2)
    assert "moved by hand" in registry.ledger_faults()[0]
    text = registry.ledger.path.read_text()
    registry.ledger.path.write_text(text[: text.rindex("\n", 0, -1) + 1])  # the last line is cut off
    assert "its mirror in MLflow" in registry.ledger_faults()[0]


def test_secrets_of_a_studio_are_in_no_record(registry, tiny_params, run, tmp_path, home):
    params = tiny_params.with_produce({"notify": ["json://user:hunter2@localhost"]})
    produce(small(tmp_path), tmp_path / "out", params, home, "inline")
    texts = [path.read_text() for path in (tmp_path / "out").rglob("*.json")]
    assert texts and not any("hunter2" in text for text in [*texts, json.dumps(params.of_models())])


def test_weights_that_do_not_fit_together_are_no_champion(registry, tiny_models):
    files = shipped_files() | {name: path for name, path in tiny_files(tiny_models).items() if name.startswith("audio")}
    assert "makes 56 features, but motion.safetensors expects 264: train both" in mismatch(files)
    assert mismatch(shipped_files()) == mismatch(tiny_files(tiny_models)) == ""
    release = shipped_release()
    broken = replace(release, files={name: file_digest(path) for name, path in files.items()})
    registered = registry.register(broken, files, "")
    with pytest.raises(UserError, match="is not promoted: .* cannot run: audio.safetensors makes 56"):
        registry.promote(registered, "by mistake")


def tiny_files(models) -> dict[str, Path]:
    return shipped_files() | {path.name: path for path in models.folder.glob("*.safetensors")}


def test_a_release_is_registered_once(registry, tiny_models):
    assert register(registry, tiny_models.folder) == register(registry, tiny_models.folder)
    assert len(registry.all()) == 2


# Promotes release 1 in a forked process that ends itself, as kill -9 would, before or after the call number `step` of
# those that write. Then another process looks what is there.
KILLED = """
import json, os, sys
from pathlib import Path
from stereotalker.runtime.environment import set_library_defaults
set_library_defaults()
from stereotalker.params import load_params
from stereotalker.runtime.home import Home
from stereotalker.releases.ledger import Ledger
from stereotalker.tasks import registry as module
from stereotalker.tasks.tracking import ModelRegistry

home, params = Home(Path(sys.argv[1])), load_params().releases
calls = 0

def deadly(owner, name, step, after):
    original = getattr(owner, name)
    def call(*arguments, **options):
        global calls
        calls += 1
        number = calls
        if number == step and not after:
            os._exit(9)
        result = original(*arguments, **options)
        if number == step:
            os._exit(9)
        return result
    setattr(owner, name, call)

def forked(work):
    process = os.fork()
    if not process:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def promote(step, after):
    deadly(module, "write_atomic", step, after), deadly(Ledger, "append", step, after)
    deadly(ModelRegistry, "point", step, after), deadly(ModelRegistry, "tag", step, after)
    deadly(Path, "unlink", step, after)
    registry = module.Registry(home, params)
    registry.promote(registry.find(1), "the reason")

def look():
    registry = module.Registry(home, params)
    found = [registry.champion().number, registry.previous().number, registry.ledger_faults(),
             [e.action for e in registry.ledger.entries()][1:]]
    Path(sys.argv[2]).write_text(json.dumps(found))
    if found[0]:
        registry.roll_back(registry.find(0))

results = []
for after in (False, True):
    for step in range(1, 20):
        code = forked(lambda: promote(step, after))
        assert forked(look) == 0
        results.append((code, *json.loads(Path(sys.argv[2]).read_text())))
        if code == 0:
            break
print(json.dumps(results))
"""


def test_a_promotion_that_is_killed_at_any_step_happens_as_a_whole_or_not_at_all(registry, tiny_models, home, tmp_path):
    register(registry, tiny_models.folder)
    command = [sys.executable, "-c", KILLED, str(home.root), str(tmp_path / "found")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert answer.returncode == 0, answer.stderr[-3000:]
    results = json.loads(answer.stdout)
    codes = [code for code, *_ in results]
    assert codes.count(0) == 2 and codes.count(9) >= 10, results  # each series ends with a promotion that nobody killed
    promotions = 0
    for code, champion, previous, faults, actions in results:
        promoted_now = actions.count("promoted") > promotions
        promotions = actions.count("promoted")
        assert faults == [] and previous == 0 and champion == int(promoted_now), (code, champion, actions)
        assert promoted_now or code == 9
    assert len({champion for _, champion, *_ in results}) == 2  # some were killed before they began


def small(tmp_path, count=1):
    return write_batch(tmp_path, [{"id": f"c{k}", "script": f"Clip number {k}."} for k in range(count)])


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/*.json"))]


def test_the_next_batch_uses_the_new_champion_and_a_rollback_gives_identical_bytes(two, registry, home, tmp_path, run):
    first, second = two
    registry.promote(first, "better")
    before = run(small(tmp_path), "one")
    registry.promote(second, "better")
    after = run(small(tmp_path), "two")
    assert [e.batch for e in registry.ledger.entries() if e.action == "used"] == ["batch", "batch"]
    registry.roll_back()
    home_before = {path.name for path in (home.store / "render").iterdir()}
    again = run(small(tmp_path), "three", fresh_store=tmp_path / "store")
    videos = [
        record["made"]["video"]["sha256"] for out in ("one", "two", "three") for record in records(tmp_path / out)
    ]
    assert videos[0] == videos[2] != videos[1]
    assert {path.name for path in (tmp_path / "store" / "render").iterdir()} < home_before
    assert all(result.end.status in (0, 4) for result in (before, after, again))
    numbers = [record["made"]["release"]["number"] for out in ("one", "two") for record in records(tmp_path / out)]
    assert numbers == [1, 2]


@pytest.fixture
def run(home, tiny_params, tmp_path):
    """A function that produces a batch with the champion."""

    def produce_with_champion(manifest, out, fresh_store=None, release=None):
        params = tiny_params.with_produce({"store": str(fresh_store) if fresh_store else None})
        return produce(manifest, tmp_path / out, params, home, "inline", release=release)

    return produce_with_champion


def test_a_batch_that_was_stopped_goes_on_with_its_release(two, registry, run, tmp_path, monkeypatch):
    first, second = two
    registry.promote(first, "better")
    original = ClipMaker.speech

    def stop(self, clip, timings):
        if clip.id == "c1":
            raise Unavailable("the disk of the store is away")
        return original(self, clip, timings)

    with monkeypatch.context() as broken:
        broken.setattr(ClipMaker, "speech", stop)
        assert run(small(tmp_path, 3), "out").end.count("stopped") == 2
    registry.promote(second, "better")
    run(small(tmp_path, 3), "out")
    assert {r["made"]["release"]["number"] for r in records(tmp_path / "out")} == {1}
    run(small(tmp_path, 3), "out")  # it has ended, so that it is made with the champion of today
    assert {r["made"]["release"]["number"] for r in records(tmp_path / "out")} == {2}
    run(small(tmp_path, 1), "chosen", release=1)
    assert {r["made"]["release"]["number"] for r in records(tmp_path / "chosen")} == {1}


def test_without_mlflow_a_batch_is_made_with_the_release_that_was_resolved_last(
    two, registry, run, home, tiny_params, tmp_path, monkeypatch, capsys
):
    first, _ = two
    registry.promote(first, "better")
    assert resolve(home, tiny_params.releases).number == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    source = resolve(home, tiny_params.releases)
    assert source.release == first.digest and "does not answer" in source.note and "release 1 is used" in source.note
    with pytest.raises(TrackingUnavailable):
        resolve(home, tiny_params.releases, number=1)
    done = run(small(tmp_path), "out")
    text = capsys.readouterr().err
    assert done.end.status in (0, 4) and done.run == "" and "MLflow did not take the record" in text
    assert records(tmp_path / "out")[0]["made"]["release"]["number"] == 1


def test_a_batch_that_began_with_another_package_goes_on_with_the_new_one(run, tmp_path, capsys):
    begun = run(small(tmp_path), "out")
    path = tmp_path / "out" / "batch.json"
    values = json.loads(path.read_text())
    assert values["release_number"] == 0 and values["has_ended"] and begun.end.status in (0, 4)
    path.write_text(json.dumps(values | {"release": "0" * 64, "has_ended": False}))
    run(small(tmp_path), "out")
    assert "the package was changed since this batch began" in capsys.readouterr().err
    manifest, outputs = read_manifest(small(tmp_path)), Outputs(tmp_path / "out")
    path.write_text(json.dumps(values | {"has_ended": False}))
    assert unfinished_batch(outputs, manifest).release_number == 0
    path.write_text(json.dumps(values | {"has_ended": False, "manifest": "/another.yaml"}))
    assert unfinished_batch(outputs, manifest) is None
    path.write_text("no JSON")
    assert unfinished_batch(outputs, manifest) is None


def test_the_command_line_lists_shows_compares_moves_and_verifies(two, home):
    assert "challenger" in cli("models", "list", home=home).stdout
    assert "file     masks.safetensors" in cli("models", "show", "1", home=home).stdout
    assert cli("models", "show", "0", "--cards", home=home).stdout.startswith("# StereoTalker, model card")
    assert "masks.safetensors" in cli("models", "compare", "1", "2", home=home).stdout
    assert "they do not differ" in cli("models", "compare", "1", "1", home=home).stdout
    assert "never judged; see" in cli("models", "promote", "2", home=home).stderr
    promote = ("models", "promote", "2", "--because", "I looked at it", "--anyway")
    assert "is the champion" in cli(*promote, home=home).stdout
    assert "promoted        champion" in cli("models", "list", home=home).stdout
    assert "I looked at it" in cli("models", "show", "2", home=home).stdout
    assert "release 0" in cli("models", "rollback", home=home).stdout
    assert "was rolled back from; if you mean it, say `--to 2`" in cli("models", "rollback", home=home).stderr
    assert cli("models", "verify", home=home).returncode == 0
    assert cli("models", "promote", "9", home=home).returncode == 2
    signature = next((home.models / "releases").glob("*/release.sig"))
    signature.write_bytes(b"?")
    answer = cli("models", "verify", home=home)
    assert answer.returncode == 1 and "signature" in answer.stdout
    assert all("is signed" in cli("models", "sign", number, home=home).stdout for number in ("1", "2"))
    assert cli("models", "verify", home=home).returncode == 0


def test_release_manifests_differ_if_anything_in_them_does(two, registry):
    release = registry.manifest(two[0])
    others = [replace(release, commit="x"), replace(release, lock="x"), replace(release, runs={"audio": "r"})]
    assert len({r.digest for r in (release, *others)}) == 4


def test_the_canary_judges_clips_of_the_challenger_and_delivers_none(two, registry, home, tiny_params, tmp_path):
    first, second = two
    registry.promote(first, "better")
    params = tiny_params.model_copy(update={"releases": tiny_params.releases.model_copy(update={"canary": 2})})
    produce(small(tmp_path, 3), tmp_path / "out", params, home, "inline")
    table = json.loads((tmp_path / "out" / "canary.json").read_text())
    assert [row["clip"] for row in table["clips"]] == ["c0", "c1"] and table["challenger"]["number"] == second.number
    assert all(row["challenger"]["verdict"] in ("pass", "review", "fail") for row in table["clips"])
    entry = registry.ledger.entries()[-1]
    assert entry.action == "canary" and entry.release == second.digest and "of 2 clips came out worse" in entry.why
    assert {r["made"]["release"]["number"] for r in records(tmp_path / "out")} == {1}
    registry.promote(second, "better")
    produce(small(tmp_path, 3), tmp_path / "two", params, home, "inline")  # there is no challenger any more
    assert not (tmp_path / "two" / "canary.json").exists()


def test_settings_that_differ_from_those_of_the_judgement_are_named(
    registry, tiny_models, tiny_params, run, tmp_path, capsys
):
    values = tiny_params.of_models()
    values = values | {"motion": values["motion"] | {"guidance": 7.0, "training": {}}}
    registry.promote(register(registry, tiny_models.folder, params=values), "better")
    run(small(tmp_path), "out")
    assert "release 1 was judged with other values of motion.guidance" in capsys.readouterr().err
