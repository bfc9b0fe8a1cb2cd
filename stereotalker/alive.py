"""Which process made a record, and whether it still lives: so that what a killed driver left open can be closed."""

from __future__ import annotations

import socket

import psutil

HOST = socket.gethostname()


def identity() -> str:
    """host/pid/start of this process; a pid that is used again later has another start."""
    return _identity(psutil.Process())


def is_dead(owner: str) -> bool:
    """True when `identity()` of that process was of this machine and it is gone; of another machine nobody here can tell."""
    host, _, rest = owner.partition("/")
    pid = rest.split("/")[0]
    if host != HOST or not pid.isdigit():
        return False
    try:
        process = psutil.Process(int(pid))
        return _identity(process) != owner or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _identity(process: psutil.Process) -> str:
    return f"{HOST}/{process.pid}/{process.create_time():.0f}"
