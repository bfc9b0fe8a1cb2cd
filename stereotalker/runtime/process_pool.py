"""A pool of processes that share the work of one stage, and that end when their parent does, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver


def pool(module: str, count: int | None = None) -> ProcessPoolExecutor:
    """A pool of `count` new processes; None: one for each core.

    module: name of the module whose functions they run. A server imports it once (torch alone takes seconds) and forks
    the processes. All of them end with this process, even if it is killed with SIGKILL.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])  # has no effect if the server runs already; then each process imports it
    with _module_path():
        forkserver.ensure_running()
    return ProcessPoolExecutor(count or os.cpu_count(), mp_context=context, initializer=_end_with_parent)


@contextmanager
def _module_path() -> Iterator[None]:
    """Let a process that is started in the block find the modules that this one finds.

    Python 3.11's server does not take over sys.path, and would import another checkout that is installed.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


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
