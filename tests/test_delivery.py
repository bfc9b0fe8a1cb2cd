"""Where the videos of a batch lie, which clips are made again, and how a finished batch is confirmed."""

from pathlib import Path

import pytest
from batch_helpers import cli, write_batch
from PIL import Image

from stereotalker.errors import UserError
from stereotalker.media.video_files import read_frames
from stereotalker.production import clip as clip_module
from stereotalker.production import quality
from stereotalker.production.clip_stages import ClipMaker
from stereotalker.production.delivery import Places, deliver, supersede
from stereotalker.production.manifest import Clip
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import Again, BatchSummary, ClipResult
from stereotalker.render.renderer import Renderer
from stereotalker.store.digests import file_digest

pytestmark = pytest.mark.integration


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.m[po][4v]")}


def test_a_video_lies_in_the_folder_of_its_verdict_alone(tmp_path):
    outputs, clip = Outputs(tmp_path / "out"), Clip(id="a", avatar="ava", script="hi")
    (tmp_path / "v.mp4").write_bytes(b"new")
    places = []
    for verdict in ("pass", "review", "fail", "pass"):
        where = Places.of(clip, verdict)
        deliver(outputs, clip, where, tmp_path / "v.mp4", tmp_path / "v.mp4", b"{}")
        places.append(files_of(tmp_path / "out") - {"superseded/a.mp4"})
        assert places[-1] == {where.video}
        records = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.json")}
        assert records - {"superseded/a.json"} == {where.record}
    assert places == [{"clips/a.mp4"}, {"review/a.mp4"}, {"rejected/a.mp4"}, {"clips/a.mp4"}]
    (tmp_path / "v.mov").write_bytes(b"transparent")
    clear = clip.model_copy(update={"background": "transparent"})
    deliver(outputs, clear, Places.of(clear, "pass"), tmp_path / "v.mov", tmp_path / "v.mov", b"{}")
    assert files_of(tmp_path / "out") == {"clips/a.mov", "superseded/a.mp4"}
    supersede(outputs, "a")
    assert files_of(tmp_path / "out") == {"superseded/a.mov", "superseded/a.mp4"}


@pytest.mark.parametrize("how", ["fails", "is refused"])
def test_a_clip_that_is_not_made_leaves_no_older_video(run_batch, tmp_path, monkeypatch, how):
    batch = write_batch(tmp_path, [{"id": "a", "script": "one"}, {"id": "b", "script": "two"}])
    run_batch(batch)
    clip = {"id": "a", "script": "one", "seed": 1} if how == "fails" else {"id": "a", "avatar": "zoe", "script": "one"}
    if how == "fails":
        monkeypatch.setattr(ClipMaker, "performers", lambda *_: 1 / 0)
    row = run_batch(write_batch(tmp_path, [clip, {"id": "b", "script": "two"}])).results
    assert [r.shown for r in row] == ["failed", "pass"]  # b is finished, so nothing is asked of the broken stage
    assert files_of(tmp_path / "out") == {"clips/b.mp4", "superseded/a.mp4"}


def test_a_renderer_that_paints_black_stops_the_batch_and_its_frames_are_made_again(run_batch, tmp_path, monkeypatch):
    batch = write_batch(tmp_path, [{"id": f"c{k}", "script": "one", "seed": k} for k in range(6)])
    judge = quality.judge
    with monkeypatch.context() as black:
        black.setattr(quality, "judge", lambda m, *more: judge(m | {"darkest_frame": -1.0}, *more))
        first = run_batch(batch, breaker=3)
    assert [row.shown for row in first.results] == ["fail"] * 3 + ["stopped"] * 3 and first.end.stopped_by_breaker
    assert files_of(tmp_path / "out") == {f"rejected/c{k}.mp4" for k in range(3)}
    again = run_batch(batch, again=Again(states=frozenset({"fail", "failed", "stopped"})), breaker=3)
    assert [row.shown for row in again.results] == ["pass"] * 6
    assert all("render" in row.made and "quality" in row.made for row in again.results)
    assert {name for name in files_of(tmp_path / "out") if "superseded" not in name} == {
        f"clips/c{k}.mp4" for k in range(6)
    }


def test_a_clip_that_is_made_again_is_delivered_with_its_new_frames(run_batch, tmp_path, monkeypatch):
    """The frames differ although their key does not, as after a fault of a GPU. The signed video must not be old."""
    batch = write_batch(tmp_path, [{"id": "a", "script": "one"}])
    with monkeypatch.context() as broken:
        segment = Renderer.segment
        broken.setattr(Renderer, "segment", lambda *arguments: segment(*arguments) // 2)
        first = run_batch(batch)
    dark = read_frames(tmp_path / "out" / first.results[0].video).mean()
    again = run_batch(batch, again=Again(clips=frozenset("a")))
    assert read_frames(tmp_path / "out" / again.results[0].video).mean() > 1.5 * dark
    assert again.results[0].sha256 != first.results[0].sha256


def test_what_a_stopped_batch_has_rendered_is_not_rendered_again(run_batch, tmp_path, monkeypatch):
    batch = write_batch(tmp_path, [{"id": "a", "script": "one two three four"}])
    with monkeypatch.context() as full:
        no_space = OSError(28, "No space left on device")
        full.setattr(clip_module, "make_video", lambda *_: (_ for _ in ()).throw(no_space))
        assert run_batch(batch).results[0].state == "stopped"
    again = run_batch(batch, again=Again(states=frozenset({"fail", "failed", "stopped"})))
    assert again.results[0].shown == "pass" and again.results[0].rendered == 0


def test_a_refused_clip_is_told_whatever_is_made_again(run_batch, tmp_path):
    batch = write_batch(tmp_path, [{"id": "a", "script": "one"}, {"id": "b", "script": "two"}])
    run_batch(batch)
    refused = write_batch(tmp_path, [{"id": "a", "avatar": "zoe", "script": "one"}, {"id": "b", "script": "two"}])
    rows = run_batch(refused, again=Again(clips=frozenset("b"))).results
    assert [row.shown for row in rows] == ["failed", "pass"]
    assert files_of(tmp_path / "out") == {"clips/b.mp4", "superseded/a.mp4"}
    with pytest.raises(UserError, match="--again typo: the manifest has no such clip"):
        run_batch(batch, again=Again(clips=frozenset({"typo"})))


def test_an_input_that_is_replaced_while_a_clip_is_made_is_not_remembered(run_batch, tmp_path, monkeypatch, home):
    Image.new("RGB", (64, 64), (0, 200, 0)).save(tmp_path / "wall.png")
    batch = write_batch(tmp_path, [{"id": "a", "script": "one", "background": "wall.png"}])
    original = ClipMaker.sign

    def replace_wall(self, *arguments):
        Image.new("RGB", (64, 64), (200, 0, 0)).save(tmp_path / "wall.png")
        return original(self, *arguments)

    with monkeypatch.context() as replaced:
        replaced.setattr(ClipMaker, "sign", replace_wall)
        first = run_batch(batch)
    again = run_batch(batch)
    assert "render" in again.results[0].made and again.results[0].sha256 != first.results[0].sha256


def test_clips_are_made_again_by_status_and_by_name(run_batch, tmp_path, home):
    batch = write_batch(tmp_path, [{"id": name, "script": "one"} for name in "ab"])
    run_batch(batch)
    rows = run_batch(batch, again=Again(clips=frozenset("b"))).results
    assert not rows[0].attempts > 1 and "render" in rows[1].made and rows[0] != rows[1]
    again = run_batch(batch, again=Again(states=frozenset({"review"})))
    assert [row.made for row in again.results] == [row.made for row in rows]  # nothing waits for a review
    planned = cli("produce", batch, "--out", tmp_path / "out", "--again", "b", "--dry-run", home=home)
    assert "1 of 1 clips can be made" in planned.stdout and planned.returncode == 0
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
