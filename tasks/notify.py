"""Sends a message to people when a batch ends, through Apprise URLs or Prefect's notification blocks."""

from __future__ import annotations

import sys

import apprise
from prefect.blocks.core import Block


def notify(targets: list[str], title: str, text: str) -> None:
    """Send a message to all targets. One that cannot be sent is reported on stderr.

    targets: Apprise URLs like "json://host/path" or "mailto://...", or saved Prefect blocks like "slack-webhook/name".
    """
    for target in targets:
        try:
            if "://" in target:
                sender = apprise.Apprise()
                if not sender.add(target) or not sender.notify(body=text, title=title):
                    raise ConnectionError("not delivered")
            else:
                Block.load(target).notify(text, subject=title)  # type: ignore[union-attr]  # this is synchronous code
        except Exception as error:  # the batch is done, whatever error a messenger raises
            kind = target.split(":")[0]  # the rest may contain a password
            message = str(error).splitlines()[0] if str(error) else ""
            print(f"the notice through {kind} was lost: {type(error).__name__}: {message}", file=sys.stderr)
