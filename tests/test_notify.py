"""Notices at the end of a batch, sent to a web server on loopback."""

import pytest
from batch_helpers import write_batch

from stereotalker.errors import UserError
from stereotalker.tasks.notify import failures_notified, notify

pytestmark = pytest.mark.integration


def test_a_notice_says_how_the_batch_ended(run_batch, tmp_path, listener):
    port, received = listener
    run_batch(
        write_batch(tmp_path, [{"id": "a", "avatar": "zoe", "script": "hi"}], "night"),
        notify=[f"json://127.0.0.1:{port}/"],
    )
    page, reason = received[0]["message"].splitlines()
    assert received[0]["title"] == "night: 1 clips: 1 failed"
    assert page.endswith("report.html") and reason.startswith("1 x avatar 'zoe' is unknown")


def test_a_notice_says_why_nothing_could_start(tmp_path, listener):
    port, received = listener
    faults = "\n".join(f"row {k}: no" for k in range(7))
    with pytest.raises(UserError), failures_notified([f"json://127.0.0.1:{port}/"], "night"):
        raise UserError(faults)
    assert received[0]["title"] == "night: did not start, or broke off"
    assert received[0]["message"].splitlines() == [f"row {k}: no" for k in range(5)] + ["and 2 more"]


def test_a_lost_notice_is_reported_without_its_password(capsys):
    notify(["json://user:secret@127.0.0.1:1/", "nonsense://x", "slack-webhook/not-there"], "title", "text")
    words = capsys.readouterr().err
    assert words.count("was lost") == 3 and "secret" not in words
