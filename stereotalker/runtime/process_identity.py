"""Which process made a record, and whether it still lives: so that what a killed driver left open can be closed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

HOST = socket.gethostname()


def identity() -> str:
    """host/pid/start of this process; a pid that is used again later has another start."""
    return f"{HOST}/{os.getpid()}/{_start(os.getpid())}"


def is_dead(owner: str) -> bool:
    """True when `identity()` of that process was of this machine and it is gone; of another machine nobody here can tell."""
    host, _, rest = owner.partition("/")
    pid = rest.split("/")[0]
    if host != HOST or not pid.isdigit():
        return False
    try:
        return f"{HOST}/{pid}/{_start(int(pid))}" != owner or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _start(pid: int) -> str:
    """Clock ticks from the machine's start to the process's: a wall clock that is set moves nothing. Raises psutil.NoSuchProcess."""
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return f"{psutil.Process(pid).create_time():.0f}"
    try:
        return stat.read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        raise psutil.NoSuchProcess(pid) from None
