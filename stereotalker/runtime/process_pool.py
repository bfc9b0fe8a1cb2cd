"""Processes that share a stage's work, and end with it however it ends."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

_LOOK_S = 1.0


def pool(count: int | None = None) -> ProcessPoolExecutor:
    """A pool of `count` fresh processes (None: one a core). Killed with -9, the parent takes them along within a second or so."""
    return ProcessPoolExecutor(
        count or os.cpu_count(), mp_context=get_context("spawn"), initializer=_end_with, initargs=(os.getpid(),)
    )


def _end_with(parent: int) -> None:
    """A worker of concurrent.futures waits for ever on the queue of a dead parent: this one looks."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
