"""The report page: its contents, the exit status of a batch, and the page in a real browser, without a network."""

import shutil

import numpy as np
import pytest
from PIL import Image

from stereotalker.media import audio_files
from stereotalker.media.video_files import write_video
from stereotalker.params import ROOT, load_params
from stereotalker.production.outputs import Outputs
from stereotalker.production.report import (
    BatchRecord,
    BatchSummary,
    ClipResult,
    contact_sheet,
    duration,
    previous_results,
    write_report,
)

BATCH = BatchRecord(
    "night",
    "night.yaml",
    "2026-11-23T20:00:00",
    "ef56",
    3,
    {"render": "ab12"},
    "c0de",
    "f00",
    "9a",
)


# Scripts for the browser: the length in s of every video of the page, and the width in px of its poster.
VIDEO_LENGTHS = """
Promise.all([...document.querySelectorAll('video')].map(v => new Promise((yes, no) => {
  v.onloadedmetadata = () => yes(v.duration); v.onerror = () => no(v.src); v.preload = 'auto'; v.load();
})))
"""
POSTER_WIDTHS = """
Promise.all([...document.querySelectorAll('video')].map(v => new Promise((yes, no) => {
  const i = new Image(); i.onload = () => yes(i.width); i.onerror = () => no(i.src); i.src = v.poster;
})))
"""


@pytest.fixture
def report(tmp_path):
    """A report with a clip of every state, names that need escaping, and real files: (folder, outputs, batch end)."""
    outputs = Outputs(tmp_path)
    (tmp_path / "clips").mkdir(), (tmp_path / "posters").mkdir(), (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "broken.txt").write_text("Traceback")
    (tmp_path / "s.wav").write_bytes(audio_files.wav_bytes(np.zeros((2, 48000), np.float32)))
    frames = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, None, :, None], (25, 64, 1, 3))
    for name in ("good", "strange #1%"):
        write_video(
            tmp_path / "clips" / f"{name}.mp4",
            [frames],
            (64, 64),
            25.0,
            tmp_path / "s.wav",
            1.0,
            load_params(ROOT / "params.yaml").video,
            "t",
        )
        Image.fromarray(frames[0]).save(tmp_path / "posters" / f"{name}.jpg")

    def done_clip(row, name, verdict, reasons=()):
        return ClipResult(
            name,
            row,
            "done",
            "",
            verdict,
            reasons,
            {"faces": 1.0, "lip_lag_frames": float("nan")},
            video=f"clips/{name}.mp4",
            poster=f"posters/{name}.jpg",
            frames=25,
            seconds={"audio": 0.5, "render": 90.0},
            made=["render"],
        )

    rows = [
        done_clip(1, "good", "pass"),
        done_clip(2, "strange #1%", "review", ("loudness is <odd>",)),
        ClipResult("broken", 3, "failed", "unexpected <b>Error</b>", log="logs/broken.txt"),
        ClipResult("later", 4, "stopped", "the budget is spent"),
    ]
    end = BatchSummary(rows, "the budget is spent", 5000.0, 7200.0, 360.0)
    write_report(outputs, BATCH, end)
    return tmp_path, outputs, end


def test_every_clip_and_every_reason_is_in_the_report(report):
    folder, outputs, end = report
    text = (folder / "report.html").read_text()
    assert (
        text.count("<article") == 4
        and "&lt;odd&gt;" in text
        and "<b>Error</b>" not in text
        and "2.00 worker-hours that succeeded, 0.10 lost" in text
    )
    for needed in (
        "<td>3 <code>ef56</code>",
        "ab12",
        "all clips, render",
        "logs/broken.txt",
        "Stopped before the end: the budget is spent",
    ):
        assert needed in text
    assert "http://" not in text and "https://" not in text
    assert [row.shown for row in previous_results(outputs).values()] == ["pass", "review", "failed", "stopped"]
    assert (
        end.status == 1
        and end.summary() == "4 clips: 1 pass, 1 review, 1 failed, 1 stopped; stopped: the budget is spent"
    )


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ((), 0),
        (("pass",), 0),
        (("pass", "review"), 4),
        (("review", "stopped"), 3),
        (("fail", "stopped"), 1),
        (("failed",), 1),
    ],
)
def test_the_exit_status_follows_the_worst_clip(rows, status):
    results = [
        ClipResult("x", 1, "done", verdict=shown) if shown in ("pass", "review", "fail") else ClipResult("x", 1, shown)
        for shown in rows
    ]
    assert BatchSummary(results, "", 1, 1, 0).status == status


def test_the_contact_sheet_holds_posters_and_durations_are_readable(report):
    _, outputs, end = report
    assert (
        contact_sheet(outputs, end.results).startswith("data:image/jpeg;base64,")
        and contact_sheet(outputs, end.results[2:]) == ""
    )
    assert [duration(s) for s in (3.21, 600, 90000)] == ["3.2 s", "10 min", "25.0 h"]


@pytest.fixture
def browser():
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not executable:
        pytest.skip("no Chromium on this machine; on Debian `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        flags = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
        ]
        chromium = play.chromium.launch(executable_path=executable, args=flags)
        yield chromium
        chromium.close()


def test_the_page_works_from_disk_in_chromium(report, browser):
    folder, *_ = report
    tab, requests, errors = browser.new_page(), [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto((folder / "report.html").as_uri())

    def visible_cards():
        return [card.get_attribute("id") for card in tab.query_selector_all("article") if card.is_visible()]

    assert len(visible_cards()) == 4
    tab.click("button[data-show=failed]")
    tab.wait_for_function("location.hash == '#show=failed'")
    assert (
        visible_cards() == ["clip-broken"] and tab.get_attribute("button[data-show=failed]", "aria-pressed") == "true"
    )
    tab.goto((folder / "report.html").as_uri() + "#show=review")
    tab.reload()
    assert visible_cards() == ["clip-strange #1%"]
    lengths = tab.evaluate(VIDEO_LENGTHS)
    assert lengths == [pytest.approx(1.0, abs=0.05)] * 2  # Both play, and so does the name that needs escaping.
    posters = tab.evaluate(POSTER_WIDTHS)
    assert posters == [64, 64]
    assert not errors and all(url.startswith(("file://", "data:")) for url in requests)
