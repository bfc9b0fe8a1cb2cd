"""A pool of processes that share the work of one stage, and that end when their parent does, however it ends."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

_POLL_S = 1.0  # seconds between two checks whether the parent still runs


def pool(count: int | None = None) -> ProcessPoolExecutor:
    """A pool of `count` new processes; None: one for each core.

    They end about a second after their parent, even if it was killed with SIGKILL.
    """
    return ProcessPoolExecutor(
        count or os.cpu_count(), mp_context=get_context("spawn"), initializer=_end_with, initargs=(os.getpid(),)
    )


def _end_with(parent: int) -> None:
    """End this process when its parent has ended.

    Without this, a worker of concurrent.futures would wait forever for the queue of its dead parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
