"""Sends a message to people when a batch ends, through Apprise URLs or Prefect's notification blocks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MAX_LINES = 5  # of the faults of a batch that could not start


def notify(targets: list[str], title: str, text: str) -> None:
    """Send a message to all targets. One that cannot be sent is reported on stderr.

    targets: Apprise URLs like "json://host/path" or "mailto://...", or saved Prefect blocks like "slack-webhook/name".
    """
    for target in targets:
        try:
            if "://" in target:
                import apprise

                sender = apprise.Apprise()
                if not sender.add(target) or not sender.notify(body=text, title=title):
                    raise ConnectionError("not delivered")
            else:
                # Not at the top: Prefect reads its settings when it is imported, and the command line makes them.
                from prefect.blocks.core import Block

                Block.load(target).notify(text, subject=title)  # type: ignore[union-attr]  # this is synchronous code
        except Exception as error:  # the batch is done, whatever error a messenger raises
            kind = target.split(":")[0]  # the rest may contain a password
            message = str(error).splitlines()[0] if str(error) else ""
            print(f"the notice through {kind} was lost: {type(error).__name__}: {message}", file=sys.stderr)


@contextmanager
def failures_notified(targets: list[str], batch: str) -> Iterator[None]:
    """Send a message if the block raises, because then the batch did not start, or broke off without its own message.

    batch: its name. The error goes on.
    """
    try:
        yield
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        more = [f"and {len(lines) - _MAX_LINES} more"] if len(lines) > _MAX_LINES else []
        notify(targets, f"{batch}: did not start, or broke off", "\n".join(lines[:_MAX_LINES] + more))
        raise
