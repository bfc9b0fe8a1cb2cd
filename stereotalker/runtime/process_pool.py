"""A pool of processes that share the work of one stage, and that end when their parent does, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor


def pool(module: str, count: int | None = None) -> ProcessPoolExecutor:
    """A pool of `count` new processes; None: one for each core.

    module: name of the module whose functions they run. It is imported once, in a server from which they are forked
    (its imports take seconds, most of them torch's). They end with their parent, even if it was killed with SIGKILL.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])  # has no effect if the server runs already; then each process imports it
    return ProcessPoolExecutor(count or os.cpu_count(), mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End this process when its parent has ended.

    Without this, a worker of concurrent.futures would wait forever for the queue of its dead parent.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
