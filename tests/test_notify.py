"""Notices at the end of a batch, sent to a web server on loopback."""

import pytest
from batch_helpers import write_batch

from stereotalker.tasks.notify import notify

pytestmark = pytest.mark.integration


def test_a_notice_says_how_the_batch_ended(run_batch, tmp_path, listener):
    port, received = listener
    run_batch(
        write_batch(tmp_path, [{"id": "a", "avatar": "zoe", "script": "hi"}], "night"),
        notify=[f"json://127.0.0.1:{port}/"],
    )
    assert received[0]["title"] == "night: 1 clips: 1 failed" and received[0]["message"].endswith("report.html")


def test_a_lost_notice_is_reported_without_its_password(capsys):
    notify(["json://user:secret@127.0.0.1:1/", "nonsense://x", "slack-webhook/not-there"], "title", "text")
    words = capsys.readouterr().err
    assert words.count("was lost") == 3 and "secret" not in words
