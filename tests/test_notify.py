"""Notices at a batch's end, to a web server on loopback."""

import pytest
from batch_helpers import write_batch

from stereotalker.tasks.notify import notify

pytestmark = pytest.mark.integration


def test_a_batch_tells_how_it_ended(run, tmp_path, listener):
    port, came = listener
    run(
        write_batch(tmp_path, [{"id": "a", "avatar": "zoe", "script": "hi"}], "night"),
        notify=[f"json://127.0.0.1:{port}/"],
    )
    assert came[0]["title"] == "night: 1 clips: 1 failed" and came[0]["message"].endswith("report.html")


def test_a_lost_notice_is_said_and_its_password_is_not(capsys):
    notify(["json://user:secret@127.0.0.1:1/", "nonsense://x", "slack-webhook/not-there"], "title", "text")
    words = capsys.readouterr().err
    assert words.count("was lost") == 3 and "secret" not in words
