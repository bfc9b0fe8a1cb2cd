"""Where good parts meet: keys and what they stand for, verdicts and folders, workers that are broken, records."""

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from batch_helpers import cli, write_batch
from mlflow import MlflowClient

from stereotalker.avatar.library import Library
from stereotalker.errors import ClipError, Unavailable, UserError, is_transient, shared_fault
from stereotalker.media import audio_files
from stereotalker.media.content_credentials import _is_pair, _local_signer, open_signer
from stereotalker.media.video_files import frame_rate, write_video
from stereotalker.models import Models, weights_file
from stereotalker.params import load_params
from stereotalker.production import quality
from stereotalker.production.clip import ClipMaker
from stereotalker.production.delivery import deliver, supersede
from stereotalker.production.manifest import Clip, read_manifest
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import Again, BatchSummary, ClipResult
from stereotalker.production.retention import collect, usage
from stereotalker.records import Speech, save
from stereotalker.runtime import process_identity
from stereotalker.runtime.device import arithmetic, check_device
from stereotalker.runtime.home import Home
from stereotalker.store import code, keys
from stereotalker.store.digests import file_digest
from stereotalker.store.local import Store
from stereotalker.tasks import flowrun
from stereotalker.tasks.tracking import Tracker
from stereotalker.tasks.worker import RenderWorker, versions_of
from stereotalker.weights import load_weights, save_weights

pytestmark = pytest.mark.integration


# ---- faults by kind ----


class DriverError(Exception):
    """An error as libraries written in Rust raise it: the number is in the text only."""


def caused(outer, inner):
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OSError(28, "No space left on device", "/mnt/x"), "No space left on device: /mnt/x"),
        (caused(RuntimeError("could not save"), OSError(30, "Read-only file system")), "Read-only file system"),
        (DriverError("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left"),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), "database or disk is full"),
        (UserError("a.mp4: ffmpeg could not write the video: No space left on device"), "No space left on device"),
        (OSError(5, "Input/output error", "/mnt/x"), "Input/output error"),
        (OSError(107, "Transport endpoint is not connected"), "endpoint is not connected"),
        (caused(OSError("read failed"), Unavailable("s3://night did not answer")), "s3://night did not answer"),
        (ClipError("no face"), ""),
        (FileNotFoundError(2, "No such file or directory"), ""),
        (ValueError("28"), ""),
    ],
)
def test_faults_that_every_clip_would_meet_are_recognized(error, fault):
    assert fault in shared_fault(error) and bool(shared_fault(error)) == bool(fault)
    assert not (fault and is_transient(error))


def test_a_chain_of_causes_that_ends_in_itself_is_walked_once():
    error = RuntimeError("a")
    error.__context__ = caused(RuntimeError("b"), error)
    assert shared_fault(error) == ""


# ---- keys ----

KEY_ARGUMENTS = {
    keys.speech_key: [("script", "hi", "en-us", "", 165), -20.0],
    keys.motion_key: ["s", "c", 25.0, 8, ["a", "b", "m"], {"steps": 4}, 2],
    keys.portrait_key: [["picture"], ["mediapipe 1", "model"], 1024, ["body", "native"], "calibration"],
    keys.avatar_key: ["record", "portrait"],
    keys.clip_render_key: ["m", "a", ["body", "masks", "render"], [64, 64], {"steps": 1}, 3, "cpu bfloat16"],
    keys.segment_key: ["clip", 0, 8],
    keys.video_key: [[[0, 8, "k"]], "s", 25.0, "a.mp4", None, {"crf": 18}],
    keys.quality_key: ["v", "m", "a", -20.0, [{}], {"black": 12}],
    keys.provenance_key: ["v", "signer", {"clip": "a"}],
}


def changed(value):
    if isinstance(value, str | None):
        return f"{value}!"
    if isinstance(value, int | float):
        return value + 1
    return {**value, "new": 1} if isinstance(value, dict) else [*value, "new"]


@pytest.mark.parametrize("make", KEY_ARGUMENTS, ids=lambda make: make.__name__)
def test_every_input_of_a_key_changes_it(make, monkeypatch):
    arguments = KEY_ARGUMENTS[make]
    found = {make(*arguments)}
    for place in range(len(arguments)):
        found.add(make(*arguments[:place], changed(arguments[place]), *arguments[place + 1 :]))
    if make is not keys.segment_key:  # it holds the key of its clip, which holds the code
        monkeypatch.setattr(keys, "stage_version", lambda stage: "another")
        found.add(make(*arguments))
    assert len(found) == len(arguments) + 1 + (make is not keys.segment_key)
    assert all(len(key) == 40 for key in found)


def test_the_code_of_a_stage_is_what_it_imports():
    own, libraries = code._imports("video")
    assert "stereotalker.media.stereo" in own and "stereotalker.avatar.fit_portrait" not in own
    assert {"numpy", "ffmpeg", "imageio_ffmpeg"} <= libraries and "json" not in libraries
    assert not any(module.startswith(("stereotalker.cli", "stereotalker.tasks")) for s in code.STAGE_MODULES
                   for module in code._imports(s)[0])  # fmt: skip
    assert "mediapipe" in code._imports("portrait")[1]


def test_comments_and_docstrings_do_not_change_the_code_but_versions_do(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "_PACKAGE", tmp_path)
    texts = ['"""Doc."""\nX = 1  # why\n\n\ndef f():\n    """Doc."""\n', "X = 1\n\n\ndef f():\n    pass\n",
             "X = 2\n\n\ndef f():\n    pass\n"]  # fmt: skip
    for k, text in enumerate(texts):
        ast.parse(text)
        (tmp_path / f"m{k}.py").write_text(text)
    digests = [code._module_digest.__wrapped__(f"package.m{k}") for k in range(3)]
    assert digests[0] == digests[1] != digests[2]
    monkeypatch.undo()
    before = code.stage_version.__wrapped__("audio")
    monkeypatch.setattr(code, "version", lambda name: "0.0")
    assert code.stage_version.__wrapped__("audio") != before


def test_weights_that_are_replaced_after_the_preflight_are_not_used(tiny_models, tmp_path):
    for path in tiny_models.folder.iterdir():
        shutil.copy(path, tmp_path)
    models, untouched = Models(tiny_models.params, tmp_path), Models(tiny_models.params, tiny_models.folder)
    before = models.digests["masks"]
    weights_file("masks", tmp_path).write_bytes(b"another night's training")
    assert models.digests["masks"] == before
    for (name, ours), theirs in zip(
        models.renderer.masks.state_dict().items(), untouched.renderer.masks.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_a_worker_with_another_version_of_anything_is_refused(tiny_models, tmp_path):
    versions = versions_of(tiny_models)
    arguments = [tiny_models.params.model_dump_json(), str(tiny_models.folder)]
    RenderWorker(*arguments, versions, str(tmp_path), str(tmp_path))
    for name in versions:
        with pytest.raises(Unavailable, match=f"this machine's {name} differ"):
            RenderWorker(*arguments, versions | {name: "another"}, str(tmp_path), str(tmp_path))


def test_a_renderer_computes_on_the_processor_unless_workers_have_a_gpu(tiny_models):
    assert str(tiny_models.renderer.device) == "cpu" and tiny_models.arithmetic == arithmetic("cpu")
    params = tiny_models.params.with_produce({"worker": {"gpus": 1}})
    assert replace(tiny_models, params=params).arithmetic == "cuda bfloat16"
    if not torch.cuda.is_available():
        with pytest.raises(Unavailable, match="no"):
            check_device("cuda")


# ---- verdicts, folders and what is made again ----


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.m[po][4v]")}


def test_a_video_lies_in_the_folder_of_its_verdict_alone(tmp_path):
    outputs, clip = Outputs(tmp_path / "out"), Clip(id="a", avatar="ava", script="hi")
    (tmp_path / "v.mp4").write_bytes(b"new")
    places = []
    for verdict in ("pass", "review", "fail", "pass"):
        name, _ = deliver(outputs, clip, verdict, tmp_path / "v.mp4", tmp_path / "v.mp4")
        places.append(files_of(tmp_path / "out") - {"superseded/a.mp4"})
        assert places[-1] == {name}
    assert places == [{"clips/a.mp4"}, {"review/a.mp4"}, {"rejected/a.mp4"}, {"clips/a.mp4"}]
    (tmp_path / "v.mov").write_bytes(b"transparent")
    deliver(
        outputs, clip.model_copy(update={"background": "transparent"}), "pass", tmp_path / "v.mov", tmp_path / "v.mov"
    )
    assert files_of(tmp_path / "out") == {"clips/a.mov", "superseded/a.mp4"}
    supersede(outputs, "a")
    assert files_of(tmp_path / "out") == {"superseded/a.mov", "superseded/a.mp4"}


@pytest.mark.parametrize("how", ["fails", "is refused"])
def test_a_clip_that_is_not_made_leaves_no_older_video(run_batch, tmp_path, monkeypatch, how):
    batch = write_batch(tmp_path, [{"id": "a", "script": "one"}, {"id": "b", "script": "two"}])
    run_batch(batch)
    clip = {"id": "a", "script": "one", "seed": 1} if how == "fails" else {"id": "a", "avatar": "zoe", "script": "one"}
    if how == "fails":
        monkeypatch.setattr(ClipMaker, "motion", lambda *_: 1 / 0)
    row = run_batch(write_batch(tmp_path, [clip, {"id": "b", "script": "two"}])).results
    assert [r.shown for r in row] == ["failed", "pass"]  # b is finished, so nothing is asked of the broken stage
    assert files_of(tmp_path / "out") == {"clips/b.mp4", "superseded/a.mp4"}


def test_a_renderer_that_paints_black_stops_the_batch_and_its_frames_are_made_again(run_batch, tmp_path, monkeypatch):
    batch = write_batch(tmp_path, [{"id": f"c{k}", "script": "one", "seed": k} for k in range(6)])
    judge = quality.judge
    with monkeypatch.context() as black:
        black.setattr(quality, "judge", lambda m, fps, limits: judge(m | {"darkest_frame": -1.0}, fps, limits))
        first = run_batch(batch, breaker=3)
    assert [row.shown for row in first.results] == ["fail"] * 3 + ["stopped"] * 3 and first.end.stopped_by_breaker
    assert files_of(tmp_path / "out") == {f"rejected/c{k}.mp4" for k in range(3)}
    again = run_batch(batch, again=Again(states=frozenset({"fail", "failed", "stopped"})), breaker=3)
    assert [row.shown for row in again.results] == ["pass"] * 6
    assert all("render" in row.made and "quality" in row.made for row in again.results)
    assert {name for name in files_of(tmp_path / "out") if "superseded" not in name} == {
        f"clips/c{k}.mp4" for k in range(6)
    }


def test_clips_are_made_again_by_status_and_by_name(run_batch, tmp_path, home):
    batch = write_batch(tmp_path, [{"id": name, "script": "one"} for name in "ab"])
    run_batch(batch)
    rows = run_batch(batch, again=Again(clips=frozenset("b"))).results
    assert not rows[0].attempts > 1 and "render" in rows[1].made and rows[0] != rows[1]
    again = run_batch(batch, again=Again(states=frozenset({"review"})))
    assert [row.made for row in again.results] == [row.made for row in rows]  # nothing waits for a review
    answer = cli("produce", batch, "--out", tmp_path / "out", "--status", "lovely", "--executor", "inline", home=home)
    assert answer.returncode == 2 and "expected some of pass, review, fail, failed, stopped" in answer.stderr


def test_a_finished_batch_is_confirmed_without_workers(run_batch, tmp_path, monkeypatch, home):
    batch = write_batch(tmp_path, [{"id": f"c{k}", "script": "one", "seed": k} for k in range(4)])
    first = run_batch(batch)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mp4")}
    monkeypatch.setattr("stereotalker.flows.produce.LocalSlot", lambda *_: pytest.fail("a worker was started"))
    monkeypatch.setattr(ClipMaker, "speech", lambda *_: pytest.fail("a stage was looked up"))
    again = run_batch(batch)
    assert again.end.status == 0 and [row.sha256 for row in again.results] == [row.sha256 for row in first.results]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mp4")}
    monkeypatch.undo()
    (tmp_path / "out" / "clips" / "c2.mp4").write_bytes(b"damaged")
    assert run_batch(batch).end.status == 0
    assert {path: file_digest(path) for path in before} == {
        tmp_path / "out" / row.video: row.sha256 for row in first.results
    }


def test_a_notice_names_the_commonest_reasons_first():
    rows = [ClipResult(f"a{k}", k, "failed", f"frames {k}-9 do not fit") for k in range(3)]
    rows += [
        ClipResult("b", 4, "done", verdict="review", reasons=("soft",)),
        ClipResult("c", 5, "done", verdict="pass"),
    ]
    assert BatchSummary(rows, "", 1, 1, 0).reasons() == ["3 x frames 0-9 do not fit", "1 x soft"]


# ---- what is kept of the store ----


def age(store, days):
    """Make every entry as old as if it had been used last so many days ago."""
    for marker in store.glob("*/*/done.json"):
        os.utime(marker, (time.time() - days * 24 * 3600, marker.stat().st_mtime))


def test_old_entries_are_collected_and_those_of_listed_batches_kept(run_batch, tmp_path, home, tiny_models):
    batches = [write_batch(tmp_path, [{"id": "a", "script": word}], word) for word in ("one", "two")]
    for batch in batches:
        run_batch(batch, out=batch.stem)
    before = usage(Store(home.store))
    assert before["render"].entries == 2 and before["render"].bytes > 0
    age(home.store, 31)
    maker = ClipMaker(tiny_models, Store(home.store), open_signer(load_params().provenance, home.credentials),
                      Library(home.avatars))  # fmt: skip
    kept = [read_manifest(batches[0])]
    would = collect(maker.store, 30, kept, maker, dry_run=True)
    assert usage(maker.store) == before
    age(home.store, 31)
    removed = collect(maker.store, 30, kept, maker, dry_run=False)
    assert removed == would and 0 < removed.entries < sum(u.entries for u in before.values())
    monkeyed = run_batch(batches[0], out="again").results[0]
    assert monkeyed.made == []  # nothing of the listed batch was removed
    assert "render" in run_batch(batches[1], out="again2").results[0].made
    assert collect(maker.store, 30, [], maker, dry_run=False).entries == 0  # everything was used just now


def test_nothing_is_collected_while_a_batch_uses_the_store(tmp_path, tiny_models):
    store = Store(tmp_path)
    store.make("stage", "key", lambda folder: (folder / "a").write_text("x"))
    age(tmp_path, 100)
    with store.in_use(), pytest.raises(Unavailable, match="is in use by"):
        collect(store, 30, [], ClipMaker(tiny_models, store), dry_run=False)
    (tmp_path / ".running").mkdir(exist_ok=True)
    (tmp_path / ".running" / "killed").write_text(f"{process_identity.HOST}/999999/1")  # it left its note behind
    assert collect(store, 30, [], ClipMaker(tiny_models, store), dry_run=False).entries == 1
    assert not store.has("stage", "key")


def test_the_store_is_shown_and_cleared_from_the_command_line(home):
    store = Store(home.store)
    store.make("render", "key", lambda folder: (folder / "a").write_bytes(bytes(1_000_000)))
    shown = cli("store", "du", home=home)
    assert shown.returncode == 0 and "render" in shown.stdout and "1.0 MB" in shown.stdout
    assert "removed 0 entries" in cli("store", "gc", home=home).stdout
    age(home.store, 40)
    assert "would remove 1 entries" in cli("store", "gc", "--dry-run", home=home).stdout
    age(home.store, 40)
    assert "removed 0 entries" in cli("store", "gc", "--keep", "8w", home=home).stdout
    assert "removed 1 entries, 1.0 MB" in cli("store", "gc", "--keep", "30d", home=home).stdout
    assert cli("store", "gc", "--keep", "soon", home=home).returncode == 2


# ---- what a home makes at its first use ----


def test_processes_that_use_a_new_home_at_once_find_it_whole(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom stereotalker.runtime.home import Home\n"
        "from stereotalker.tasks.tracking import Tracker\n"
        "from stereotalker.media.content_credentials import _local_signer\n"
        "home = Home(Path(sys.argv[1])); _local_signer(home.credentials); Tracker(home, 'batch').start('x')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "home")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    home = Home(tmp_path / "home")
    assert _is_pair(_local_signer(home.credentials))
    client = MlflowClient(home.tracking_uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "stereotalker-batches"]
    assert len(client.search_runs([experiment.experiment_id])) == 3


def test_a_key_without_its_certificate_is_made_anew(tmp_path):
    _local_signer(tmp_path / "a")
    shutil.copy(tmp_path / "a" / "local-key.pem", _made(tmp_path / "b") / "local-key.pem")  # killed between the two
    assert _is_pair(_local_signer(tmp_path / "b")) and _is_pair(_local_signer(tmp_path / "b"))


def _made(folder: Path) -> Path:
    _local_signer(folder)
    return folder


def test_a_moved_home_keeps_its_new_records_in_its_new_place(home, tmp_path):
    before = Tracker(home, "batch")
    before.attach(before.start("x"), "a.txt", b"old")
    moved = Home(home.root.rename(tmp_path / "moved"))
    (tmp_path / home.root.name).write_text("something else stands in the old place")
    tracker = Tracker(moved, "batch")
    tracker.attach(tracker.start("y"), "a.txt", b"new")
    assert [path.read_bytes() for path in sorted(moved.root.rglob("a.txt"), key=lambda p: p.stat().st_mtime)] == [
        b"old",
        b"new",
    ]
    assert Tracker(moved, "batch").experiment == tracker.experiment


def test_what_could_not_be_measured_is_left_out_of_the_records(home):
    tracker = Tracker(home, "batch")
    run = tracker.start("x")
    tracker.note(run, metrics={"lufs": -np.inf, "sharpness": np.nan, "frames": 8})
    data = MlflowClient(home.tracking_uri).get_run(run).data
    assert data.metrics == {"frames": 8} and data.tags["not_measured"] == "lufs, sharpness"


def test_records_never_fail_a_batch(run_batch, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Tracker, "attach", lambda *_: (_ for _ in ()).throw(NotADirectoryError("moved away")))
    assert run_batch(write_batch(tmp_path, [{"id": "a", "script": "one"}])).end.status == 0
    assert "moved away" in capsys.readouterr().err


def test_containers_of_one_host_name_are_told_apart(monkeypatch):
    def host(namespace, boot="b"):
        monkeypatch.setattr(process_identity.os, "readlink", lambda path: namespace)
        monkeypatch.setattr(process_identity.Path, "read_text", lambda self, **_: boot)
        return process_identity._host()

    machine = host("pid:[4026531836]")
    containers = [host("pid:[4026532001]"), host("pid:[4026532002]"), host("pid:[4026532001]", "after a restart")]
    assert len({machine, *containers}) == 4 and "-" not in machine.removeprefix(process_identity.socket.gethostname())
    assert "/" not in "".join(containers)


# ---- files ----


def test_equal_records_and_weights_give_equal_bytes(tiny_models, tmp_path):
    speech = Speech(np.zeros(8000, np.float32), -20.0)
    masks = tiny_models.renderer.masks
    for k in range(4):
        save(speech, tmp_path / f"speech{k}")
        save_weights(masks, tmp_path / f"weights{k}")
    for kind in ("speech", "weights"):
        assert len({file_digest(tmp_path / f"{kind}{k}") for k in range(4)}) == 1
    size = int.from_bytes((tmp_path / "weights0").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "weights0").read_bytes()[8 : 8 + size])
    assert len(header["__metadata__"]) == 1
    again = load_weights(type(masks), type(masks.config), tmp_path / "weights0")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), masks.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("written", "meant"), [(23.98, "24000/1001"), (23.976, "24000/1001"), (29.97, "30000/1001"), (59.94, "60000/1001"),
                           (24, "24"), (25.0, "25"), (12.5, "25/2"), (30, "30")]
)  # fmt: skip
def test_the_broadcast_rate_that_people_write_is_the_one_they_mean(written, meant):
    assert str(frame_rate(written)) == meant


@pytest.mark.parametrize(("ending", "channels"), [(".mp4", 3), (".mov", 4)])
def test_videos_say_in_which_colors_they_are(tmp_path, ending, channels):
    (tmp_path / "s.wav").write_bytes(audio_files.wav_bytes(np.zeros((2, 24000), np.float32)))
    frames = np.full((5, 64, 64, channels), 128, np.uint8)
    path = tmp_path / f"a{ending}"
    write_video(path, [frames], (64, 64), 10.0, tmp_path / "s.wav", 0.5, load_params().video, "a")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace) == (1, 1, 1)  # bt709


# ---- Prefect ----


def test_only_our_own_silent_flow_runs_are_crashed(monkeypatch):
    """On a server that other teams use, too: the trigger asks for our tag, and an older one without it is replaced."""
    registered, deleted = [], []

    class FakeAutomation:
        def __init__(self, **values):
            self.trigger, self.values = values["trigger"], values

        @classmethod
        def read(cls, name):
            if not registered:
                raise ValueError(name)
            return registered[-1]

        def create(self):
            registered.append(self)

        def delete(self):
            deleted.append(self)

    monkeypatch.setattr(flowrun, "Automation", FakeAutomation)
    flowrun.register_silence_automation()
    flowrun.register_silence_automation()
    assert len(registered) == 1 and not deleted
    related = registered[0].trigger.match_related.model_dump()
    assert related == {"prefect.resource.id": f"prefect.tag.{flowrun.TAG}", "prefect.resource.role": "tag"}
    registered[0].trigger = registered[0].trigger.model_copy(update={"match_related": {}})
    flowrun.register_silence_automation()
    assert len(registered) == 2 and len(deleted) == 1


def test_many_stores_of_one_name_work_at_once(tmp_path):
    """The check whether a place can be written, by many batches at the same moment, in a folder that does not exist."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: Outputs(tmp_path / "new" / "store").check("produce.store"), range(64)))
    assert not list(tmp_path.iterdir())
    with ThreadPoolExecutor(8) as threads:
        made = list(
            threads.map(lambda k: Store(tmp_path).make("stage", "key", lambda f: (f / "a").write_text("x")), range(64))
        )
    assert len(set(made)) == 1 and Store(tmp_path).has("stage", "key") and not list(tmp_path.glob("*/*.tmp"))
    Store(tmp_path).discard("stage", "key")
    assert not Store(tmp_path).has("stage", "key")
