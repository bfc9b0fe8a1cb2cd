"""A word to people when a batch ends: Apprise URLs, or Prefect's notification blocks."""

from __future__ import annotations

import sys

import apprise
from prefect.blocks.core import Block


def notify(targets: list[str], title: str, text: str) -> None:
    """targets: "json://host/path", "mailto://..." and the like, or a saved block as "slack-webhook/name". A message that is lost is said on stderr."""
    for target in targets:
        try:
            if "://" in target:
                sender = apprise.Apprise()
                if not sender.add(target) or not sender.notify(body=text, title=title):
                    raise ConnectionError("not delivered")
            else:
                Block.load(target).notify(text, subject=title)
        except Exception as error:  # whatever a messenger does, the batch is done
            kind = target.split(":")[0]  # the rest may hold a password
            print(
                f"the notice through {kind} was lost: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                file=sys.stderr,
            )
